"""Parts of a net that methods choose by their place: the classifier, and the last units before it.

    head = classifier(model, classes=9)
    last_units(model, head, 1, "stage")               # [layer4, fc] of torchvision's ResNet-18

Does not cover: what is done to them (`perturbations`), choosing by what was learned (`training.gradients`).
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn

from ray_unlearn.errors import MethodError

_COARSE = 0.9
"""Share of the parameters before the classifier above which a unit that holds a list of blocks is refused."""


def classifier(model: nn.Module, classes: int) -> nn.Linear:
    """Return the last linear layer, which has one output per class.

    Raises:
        MethodError: there is no linear layer, or the last one has other outputs: it is not what gives the logits.

    """
    found = [(name, layer) for name, layer in model.named_modules() if isinstance(layer, nn.Linear)]
    if not found:
        raise MethodError("the method changes the classifier, and the model has no linear layer")
    name, head = found[-1]
    if head.out_features != classes:
        fitting = ", ".join(repr(one) for one, layer in found if layer.out_features == classes)
        then = f"{fitting} does: create it last in the net's __init__" if fitting else "no linear layer does"
        raise MethodError(
            f"the method changes the classifier, for which it takes the last linear layer; {name!r} has "
            f"{head.out_features} outputs; expected {classes}, one per class; {then}"
        )
    return head


def check_classifier(model: nn.Module, options: object, classes: int) -> None:
    """Check before any run that a net has a classifier, as `classifier` does."""
    classifier(model, classes)


def last_units(model: nn.Module, head: nn.Linear, k: int, unit: str) -> list[nn.Module]:
    """Return the last k units of a model and its classifier, in the model's order.

    A `block` is a child with parameters; a plain `nn.Sequential`, and any that holds the classifier, counts by its own
    children: torchvision's ResNets have residual blocks, a flat Sequential has layers. A `stage` is the same, but a
    Sequential that does not hold the classifier counts as one: torchvision's layer4. An `encoder_layer` is an entry of
    the net's one list of equal blocks, as Transformers for images have it; layers between the last of them and the
    classifier belong to it. A `layer` is a convolution or a linear layer; the classifier is the first of the k. A
    child or layer whose parameters are all one-dimensional (a normalisation) belongs to the unit before it and comes
    right after it in the list.

    Raises:
        MethodError: there are fewer units, or one of the last k holds (nearly) all before the classifier.

    """
    units = _encoder_layers(model, head) if unit == "encoder_layer" else _with_normalisation(model, head, unit)
    wanted = k - 1 if unit == "layer" else k
    if k and len(units) == 1:
        _check_no_backbone(model, units[0][0], unit)
    if wanted > len(units):
        raise MethodError(f"k is {k}, but the model has {len(units)} {unit}s before its classifier")
    chosen = units[len(units) - max(0, wanted) :]
    for each in chosen:
        _check_not_coarse(model, head, each[0], unit)
    return [*(module for each in chosen for module in each), *[head] * (wanted >= 0)]


def _with_normalisation(model: nn.Module, head: nn.Linear, unit: str) -> list[list[nn.Module]]:
    """Return stages, blocks or layers, each with the normalisations after it."""
    modules = _layers_before(model, head) if unit == "layer" else _children_before(model, head, unit == "block")
    units: list[list[nn.Module]] = []
    for module in modules:
        if units and all(parameter.ndim == 1 for parameter in module.parameters()):
            units[-1].append(module)
        else:
            units.append([module])
    return units


def _encoder_layers(model: nn.Module, head: nn.Linear) -> list[list[nn.Module]]:
    """Return the entries of the one list of equal blocks, the last with all that comes before the classifier.

    Raises:
        MethodError: there is no such list, or there are several.

    """
    lists = _lists_of_blocks(model)
    if len(lists) != 1:
        found = ", ".join(name for name, module in model.named_modules() if module in lists) or "none"
        raise MethodError(
            f"unit: encoder_layer: expected one list of equal blocks, as Transformers for images have; found {found}; "
            "set unit: block or layer"
        )
    entries = list(lists[0].children())
    inside = set(lists[0].modules())
    order = list(_layers_before(model, head))
    after = max((place for place, layer in enumerate(order) if layer in inside), default=-1) + 1
    return [*([entry] for entry in entries[:-1]), [entries[-1], *order[after:]]]


def _lists_of_blocks(model: nn.Module) -> list[nn.Module]:
    """Return the lists of two or more modules of one class that have parts with parameters, in the model's order."""
    return [
        module
        for module in model.modules()
        if isinstance(module, nn.ModuleList | nn.Sequential)
        and len(module) > 1
        and len({type(entry) for entry in module}) == 1
        and all(_has_parts(entry) for entry in module)
    ]


def _has_parts(module: nn.Module) -> bool:
    return any(list(child.parameters()) for child in module.children())


def _check_not_coarse(model: nn.Module, head: nn.Linear, unit: nn.Module, name_of_unit: str) -> None:
    """Check that a unit is not all but all of the net: a Transformer's encoder, as torchvision's have it.

    Raises:
        MethodError: it holds a list of blocks, and more than 90 % of the parameters before the classifier.

    """
    own = sum(parameter.numel() for parameter in unit.parameters())
    whole = sum(parameter.numel() for parameter in model.parameters()) - sum(map(torch.numel, head.parameters()))
    lists = _lists_of_blocks(unit)
    if name_of_unit == "layer" or not lists or own <= _COARSE * whole:
        return
    name = next(name for name, module in model.named_modules() if module is unit)
    raise MethodError(
        f"unit: {name_of_unit}: {name!r} is one {name_of_unit}, and holds {100 * own / whole:.1f} % of the parameters "
        f"before the classifier, so next to nothing would be frozen; set unit: {_finer(model, unit, name_of_unit)}"
    )


def _finer(model: nn.Module, unit: nn.Module, than: str) -> str:
    """Return the units that divide a unit, in words."""
    units = ["block"] * (than == "stage" and type(unit) is nn.Sequential)
    lists = _lists_of_blocks(model)
    if len(lists) == 1:
        units.append(f"encoder_layer ({len(list(lists[0].children()))} of them)")
    return " or ".join([*units, "layer"])


def _check_no_backbone(model: nn.Module, only: nn.Module, unit: str) -> None:
    """Check that the one unit before the classifier is a layer, not a whole net inside of another, as Transformers'."""
    if _has_parts(only):
        name = next(name for name, module in model.named_modules() if module is only)
        raise MethodError(
            f"unit: {unit}: all of the model before its classifier is one {unit}, {name!r}, so nothing "
            f"would be frozen; set unit: {_finer(model, only, unit)}"
        )


def _layers_before(model: nn.Module, head: nn.Linear) -> Iterator[nn.Module]:
    """Yield the layers with parameters of their own before the classifier."""
    for layer in model.modules():
        if layer is head:
            return
        if list(layer.parameters(recurse=False)):
            yield layer


def _children_before(model: nn.Module, head: nn.Linear, opens_sequences: bool) -> Iterator[nn.Module]:
    for child in model.children():
        if child is head:
            return
        holds_head = any(module is head for module in child.modules())
        if holds_head or (opens_sequences and type(child) is nn.Sequential):
            yield from _children_before(child, head, opens_sequences)
        elif list(child.parameters()):
            yield child
        if holds_head:
            return
