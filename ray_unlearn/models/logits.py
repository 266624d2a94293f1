"""Nets that return more than logits: one hook that gives every caller plain logits.

    if returns_more(model, image_size=32):       # a forward pass returns no tensor
        model.register_forward_hook(plain_logits)                # the state dict is unchanged
    model(images_BCHW)                           # float32 [B, C] in both modes

Taken as the logits: the field or key `logits` of an object or mapping (Hugging Face classifiers, torchvision's
GoogLeNet and Inception in training), else the first of a tuple or list. What else the net returns is dropped, so
auxiliary heads are not trained.

Does not cover: whether the logits are one per class (`trial`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from ray_unlearn.errors import ModelError, first_line

_LAZY = (nn.parameter.UninitializedParameter, nn.parameter.UninitializedBuffer)


def logits_of(output: Any) -> torch.Tensor:
    """Return the logits of what a net returned.

    Raises:
        ModelError: it is no tensor, and holds none in a place where logits are looked for.

    """
    if isinstance(output, torch.Tensor):
        return output
    whole = output
    while isinstance(output, tuple | list) and output and isinstance(output[0], tuple | list):
        output = output[0]
    places = [getattr(output, "logits", None)]
    if isinstance(output, Mapping):
        places.append(output.get("logits"))
    elif isinstance(output, tuple | list):
        places += output[:1]
    found = next((one for one in places if isinstance(one, torch.Tensor)), None)
    if found is None:
        raise ModelError(
            f"its forward returns {described(whole)}; expected a tensor of logits, an object or a dict with `logits`, "
            "or a tuple that begins with them"
        )
    return found


def described(output: Any) -> str:
    """Return what a net returned, in words."""
    kind = type(output).__name__
    if isinstance(output, Mapping):
        return f"a {kind} with the keys {', '.join(map(str, output)) or '(none)'}"
    if isinstance(output, tuple | list):
        return f"a {kind} of {', '.join(type(one).__name__ for one in output) or 'nothing'}"
    return f"a {kind}"


def taken(output: Any) -> str:
    """Return which part of what a net returned is taken as its logits, in words."""
    named = isinstance(output, Mapping) or isinstance(getattr(output, "logits", None), torch.Tensor)
    return "its logits are taken" if named else "the first is taken as its logits"


def plain_logits(module: nn.Module, args: tuple[Any, ...], output: Any) -> torch.Tensor:
    """Forward hook of a net that returns more than logits."""
    return logits_of(output)


def returns_more(model: nn.Module, image_size: int) -> bool:
    """Return whether a net returns anything but a tensor, in either mode; the net is to be thrown away after it.

    A net that fails on blank images returns nothing more; `trial` says why it fails.
    """
    with torch.no_grad():
        for training in (False, True):
            try:
                output = model.train(training)(torch.zeros(2, 3, image_size, image_size))
            except (Exception, SystemExit):  # noqa: S112 - a module may raise anything
                continue
            if not isinstance(output, torch.Tensor):
                return True
    return False


def materialise(model: nn.Module, image_size: int | None, arch: str) -> None:
    """Give the parameters of lazy modules their shapes, and their first values, by one pass of blank images.

    Raises:
        ModelError: the images' size is unknown here, or the net fails on them.

    """
    if not any(isinstance(each, _LAZY) for each in _tensors(model)):
        return
    if image_size is None:
        raise ModelError(f"model {arch}: lazy modules need the size of the images")
    was = model.training
    try:
        with torch.no_grad():
            model.eval()(torch.zeros(2, 3, image_size, image_size))
    except (Exception, SystemExit) as error:  # a module may raise anything
        reason = first_line(error)
        raise ModelError(
            f"model {arch}: its lazy modules get no shape from images of {image_size}x{image_size} pixels: {reason}"
        ) from error
    model.train(was)
    left = [name for name, each in model.named_parameters() if isinstance(each, _LAZY)]
    if left:
        raise ModelError(f"model {arch}: the lazy parameter {left[0]!r} is not reached by a forward pass")


def _tensors(model: nn.Module) -> list[torch.Tensor]:
    return [*model.parameters(), *model.buffers()]
