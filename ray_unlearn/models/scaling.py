"""Nets that scale their images themselves, found by what reaches the first layer with parameters.

    scaled_twice(model, images_BCHW, Scaling.of("standard"))     # a line, or None

The first such layer gets a x + b of the images, per channel, in a net that divides by 255 or has a Normalize in it.
That is meant where the study hands out raw pixels (0..255) or pixels in 0..1. After mean and standard deviation it is
not, unless it replaces these: torchvision's GoogLeNet and Inception make -1..1 of what is standard for ImageNet.

Does not cover: a net that does more to its images first (noise, patches, other colours), and one that begins with
batch normalisation, which needs no scaling.
"""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from torch import nn

from ray_unlearn.data.images import Scaling
from ray_unlearn.models.template import Template
from ray_unlearn.seeds import nothing_drawn

_SPANS = 0.25, 256.0
"""Least and largest difference, at the first layer, between a white and a black image that the net alone scaled: 1 for
pixels in 0..1, about 4.5 for mean and standard deviation of a data set, 255 where only a mean is subtracted."""
_REPLACED_SPANS = 0.9, 6.0
"""The same where the net replaces the study's mean and standard deviation by others, with 0 near the middle."""
_TOLERANCE = 1e-3


class _ReachedError(Exception):
    """The first layer is reached; the rest of the pass is not needed."""


def scaled_twice(model: nn.Module, images_BCHW: torch.Tensor, scaling: Scaling) -> str | None:
    """Return a line about a net that scales images which the study has scaled already; None where it does not.

    Args:
        model: the net on the CPU; a copy of it is tried.
        images_BCHW: images as methods get them.
        scaling: the study's.

    """
    reached = _first_input(model, images_BCHW)
    fitted = None if reached is None else _affine(images_BCHW, reached)
    if fitted is None:
        return None
    factors, offsets = fitted
    if torch.allclose(factors, torch.ones(3), atol=_TOLERANCE) and torch.allclose(offsets, torch.zeros(3), atol=0.01):
        return None
    shift, scale = torch.tensor(scaling.shift), torch.tensor(scaling.scale)
    black, white = (factors * (pixel - shift) / scale + offsets for pixel in (0.0, 255.0))
    if _is_once(black, white, after_mean=bool(shift.any())):
        return None
    there, here = f"{_mean(black)} to {_mean(white)}", f"{_mean(-shift / scale)} to {_mean((255 - shift) / scale)}"
    return (
        f"its forward scales images as well, by a factor of {_mean(factors)}, so that black to white is {there} at its "
        f"first layer, and data.normalize makes it {here}; scale in one of the two: data.normalize: raw hands out "
        "0..255, and unit 0..1"
    )


def _is_once(black: torch.Tensor, white: torch.Tensor, *, after_mean: bool) -> bool:
    """Return whether black and white at the first layer are those of images with one scaling."""
    span, middle = float((white - black).abs().mean()), float((white + black).mean()) / 2
    if not after_mean:
        return _SPANS[0] <= span <= _SPANS[1]
    undone = float(black.abs().max()) < 0.01 and any(torch.allclose(white, torch.tensor(top)) for top in (1.0, 255.0))
    return undone or (_REPLACED_SPANS[0] <= span <= _REPLACED_SPANS[1] and abs(middle) <= span / 5)


def _mean(values_C: torch.Tensor) -> str:
    return f"{round(float(values_C.mean()), 6) + 0.0:.3g}"


def _first_input(model: nn.Module, images_BCHW: torch.Tensor) -> torch.Tensor | None:
    """Return what the first layer with parameters gets, where it has the images' shape."""
    net, found = Template(model).copy().eval(), []

    def look(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        found.append(inputs[0] if inputs else None)
        raise _ReachedError

    for module in net.modules():
        if any(True for _ in module.parameters(recurse=False)) and not any(True for _ in module.children()):
            module.register_forward_pre_hook(look)
    with (
        contextlib.suppress(Exception, SystemExit),
        torch.no_grad(),
        nothing_drawn(torch.device("cpu")),
    ):  # the trial names errors
        net(images_BCHW.clone())
    first = found[0] if found else None
    return first if isinstance(first, torch.Tensor) and first.shape == images_BCHW.shape else None


def _affine(images_BCHW: torch.Tensor, reached_BCHW: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Return factors and offsets per channel, float32 [3] each, of which the one is the other; None where it is not."""
    x, y = (tensor.double().transpose(0, 1).flatten(1) for tensor in (images_BCHW, reached_BCHW))
    spread = x - x.mean(1, keepdim=True)
    if not (spread.abs().amax(1) > 0).all():
        return None
    factors = (spread * y).sum(1) / (spread**2).sum(1)
    offsets = y.mean(1) - factors * x.mean(1)
    error = (y - factors[:, None] * x - offsets[:, None]).abs().amax()
    if not error <= _TOLERANCE * y.abs().amax():
        return None
    return factors.float(), offsets.float()
