"""Parts of a net that methods choose by their place: the classifier, and the last units before it.

    head = classifier(model)
    last_units(model, 1, "stage")                # [layer4, fc] of torchvision's ResNet-18

Does not cover: what is done to them (`perturbations`), choosing by what was learned (`training.gradients`).
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from ray_unlearn.errors import MethodError


def classifier(model: nn.Module) -> nn.Linear:
    """Return the last linear layer.

    Raises:
        MethodError: there is none.

    """
    found = [layer for layer in model.modules() if isinstance(layer, nn.Linear)]
    if not found:
        raise MethodError("the method changes the classifier, and the model has no linear layer")
    return found[-1]


def last_units(model: nn.Module, k: int, unit: str) -> list[nn.Module]:
    """Return the last k units of a model and its classifier, in the model's order.

    A `block` is a child with parameters; a plain `nn.Sequential`, and any that holds the classifier, counts by its own
    children: torchvision's ResNets have residual blocks, a flat Sequential has layers. A `stage` is the same, but a
    Sequential that does not hold the classifier counts as one: torchvision's layer4. A `layer` is a convolution or a
    linear layer; the classifier is the first of the k. A child or layer whose parameters are all one-dimensional (a
    normalisation) belongs to the unit before it and comes right after it in the list.

    Raises:
        MethodError: there is no classifier, there are fewer units, or one child holds all before the classifier.

    """
    head = classifier(model)
    modules = _layers_before(model, head) if unit == "layer" else _children_before(model, head, unit == "block")
    units: list[list[nn.Module]] = []
    for module in modules:
        if units and all(parameter.ndim == 1 for parameter in module.parameters()):
            units[-1].append(module)
        else:
            units.append([module])
    if k and len(units) == 1:
        _check_no_backbone(model, units[0][0], unit)
    wanted = k - 1 if unit == "layer" else k
    if wanted > len(units):
        raise MethodError(f"k is {k}, but the model has {len(units)} {unit}s before its classifier")
    return [*(module for each in units[len(units) - max(0, wanted) :] for module in each), *[head] * (wanted >= 0)]


def _check_no_backbone(model: nn.Module, only: nn.Module, unit: str) -> None:
    """Check that the one unit before the classifier is a layer, not a whole net inside of another, as Transformers'."""
    if any(list(child.parameters()) for child in only.children()):
        name = next(name for name, module in model.named_modules() if module is only)
        other = "block or layer" if unit == "stage" and type(only) is nn.Sequential else "layer"
        raise MethodError(
            f"unit: {unit}: all of the model before its classifier is one {unit}, {name!r}, so nothing "
            f"would be frozen; set unit: {other}"
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
