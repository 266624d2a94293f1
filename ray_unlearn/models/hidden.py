"""What a factory's net keeps outside its state dict: found before any work, because a checkpoint would not hold it.

    check_state(model, other, images_BCHW, arch="nets:tiny")     # ModelError names attributes
    list(untrained(model))                       # ["'scale' is a tensor that ..."]

A net that counts its steps, or averages activations into a plain attribute, gives outputs in training that no fresh net
with its weights gives; so does one whose layers are in a Python list. Both nets are left as they are.

Does not cover: what a script leaves on a net (`run.taken_back`), effects that begin after a few steps, which fail runs.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator
from typing import Any

import torch
from torch import nn

from ray_unlearn.errors import ModelError
from ray_unlearn.models.template import Template
from ray_unlearn.seeds import Seeds

_TOLERANCE = 1e-5
"""Relative difference of logits on one machine from which on two nets are not the same."""
_PASSES = 2
"""Passes in training mode after which outputs are compared."""
_SHOWN = 3  # names in a message


def check_state(model: nn.Module, other: nn.Module, images_BCHW: torch.Tensor, arch: str) -> None:
    """Check that a net's state dict, loaded into another net of its factory, gives its outputs, also after training.

    Args:
        model: the net on the CPU.
        other: one that the factory made with another seed.
        images_BCHW: two or more images as methods get them.
        arch: its name, for messages.

    Raises:
        ModelError: it gives others, or does not fit.

    """
    for name, value in model.state_dict().items():
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise ModelError(
                f"model {arch}: {name!r} holds NaN or infinity, which no run may publish; begin with a number"
            )
    net, fresh = Template(model).copy(), Template(other).copy()
    with torch.no_grad(), Seeds(study=0).global_state("trial"):
        for _ in range(_PASSES):
            with contextlib.suppress(Exception, SystemExit):  # a net that only scripts train may fail here
                net.train()(images_BCHW.clone())
        try:
            fresh.load_state_dict(net.state_dict())
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:300]
            raise ModelError(f"model {arch}: its state dict does not load into another net of it: {reason}") from error
        difference = _difference(_outputs(net, images_BCHW), _outputs(fresh, images_BCHW))
    if difference > _TOLERANCE:
        names = sorted(_differing(net, fresh))[:_SHOWN]
        what = f"{', '.join(map(repr, names))} outside" if names else "something outside"
        raise ModelError(
            f"model {arch}: another net with its state dict gives other outputs (logits differ by {difference:.2g} of "
            f"the largest): it keeps {what} its state dict, which is all that a checkpoint holds; register tensors as "
            "buffers (self.register_buffer) or nn.Parameter, and layers in an nn.ModuleList"
        )


def _outputs(net: nn.Module, images_BCHW: torch.Tensor) -> torch.Tensor:
    with Seeds(study=0).global_state("probe"):  # one that draws at evaluation draws the same
        return net.eval()(images_BCHW.clone()).float()  # type: ignore[no-any-return]


def _difference(one: torch.Tensor, other: torch.Tensor) -> float:
    finite = torch.isfinite(one) & torch.isfinite(other)
    if not finite.any():
        return 0.0
    return float((one - other)[finite].abs().max()) / max(1.0, float(one[finite].abs().max()))


def _differing(net: nn.Module, other: nn.Module) -> Iterator[str]:
    """Yield the attributes that differ and that no state dict holds, as `module.name`."""
    others = dict(other.named_modules())
    for place, module in net.named_modules():
        twin = others.get(place)
        kept = {name: module._buffers[name] for name in module._non_persistent_buffers_set}
        for name, value in {**_plain(module), **kept}.items():
            if twin is not None and not _equal(value, getattr(twin, name, None)):
                yield f"{place}.{name}".lstrip(".")


def seeds_itself(model: nn.Module, images_BCHW: torch.Tensor) -> bool:
    """Return whether a pass in training mode sets torch's seed, so that draws after it repeat."""
    net, found = Template(model).copy().train(), []
    with torch.no_grad(), contextlib.suppress(Exception, SystemExit):
        for seed in range(2):
            with Seeds(study=seed).global_state("trial"):
                net(images_BCHW.clone())
                found.append(torch.get_rng_state())
    return len(found) == 2 and torch.equal(*found)


def untrained(model: nn.Module) -> Iterator[str]:
    """Yield lines about attributes that look like parameters and are none, and about generators."""
    known = {id(one) for one in model.parameters()}
    for place, module in model.named_modules():
        for name, value in _plain(module).items():
            where = repr(f"{place}.{name}".lstrip("."))
            if isinstance(value, torch.Generator):
                yield f"{where} is a generator of its own: every run draws the same numbers from it"
            elif isinstance(value, torch.Tensor) and value.requires_grad:
                yield f"{where} is a tensor that is no nn.Parameter: no step changes it, and no checkpoint holds it"
            elif any(isinstance(one, nn.Module) and not _known(one, known) for one in _items(value)):
                yield f"{where} is a {type(value).__name__} of modules: no step changes them; use nn.ModuleList"


def _known(module: nn.Module, parameters: Collection[int]) -> bool:
    return all(id(one) in parameters for one in module.parameters())


def _plain(module: nn.Module) -> dict[str, Any]:
    """Return the attributes that torch does not know of."""
    return {name: value for name, value in vars(module).items() if name != "training" and not name.startswith("_")}


def _items(value: Any) -> list[Any]:
    return list(value.values()) if isinstance(value, dict) else list(value) if isinstance(value, list | tuple) else []


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, nn.Module) and isinstance(other, nn.Module):
        return all(map(torch.equal, one.state_dict().values(), other.state_dict().values()))
    if isinstance(one, torch.Tensor) or isinstance(other, torch.Tensor):
        return isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor) and torch.equal(one, other)
    if items := _items(one):
        others = _items(other)
        return len(items) == len(others) and all(map(_equal, items, others))
    return not isinstance(one, int | float) or one == other
