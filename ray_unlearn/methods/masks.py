"""Masks over parameters: what may move, and by how much.

    scale = GradientScale({parameter: factor_like_parameter})
    fit(..., hooks=Hooks(after_backward=scale.apply))            # for example, kept gradients times 0.1
    held = Held({parameter: mask})                               # true where the parameter may move
    fit(..., hooks=Hooks(after_step=held.restore))               # momentum and weight decay included
    with trainable_only(model, parameters): fit(...)             # the rest has no gradients

Does not cover: how a mask is chosen.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import nn


class GradientScale:
    """Multiplies gradients element by element."""

    def __init__(self, factors: Mapping[nn.Parameter, torch.Tensor]) -> None:
        self._factors = factors

    @torch.no_grad()
    def apply(self) -> None:
        """Scale the gradients that there are; a hook for `after_backward`."""
        for parameter, factor in self._factors.items():
            if parameter.grad is not None:
                parameter.grad.mul_(factor)


class Held:
    """Keeps elements at the values that they had when this was made."""

    def __init__(self, moving: Mapping[nn.Parameter, torch.Tensor]) -> None:
        self._moving = moving
        self._before = {parameter: parameter.detach().clone() for parameter in moving}

    @torch.no_grad()
    def restore(self) -> None:
        """Put every element back that may not move, bit for bit; a hook for `after_step`."""
        for parameter, moving in self._moving.items():
            parameter.copy_(torch.where(moving, parameter, self._before[parameter]))


@contextlib.contextmanager
def trainable_only(model: nn.Module, parameters: Iterable[nn.Parameter]) -> Iterator[None]:
    """Give gradients to these parameters alone inside the block; before and after are as found.

    A parameter that was frozen before stays frozen, whether it is among them or not.
    """
    chosen = {parameter for parameter in parameters if parameter.requires_grad}
    before = {parameter: parameter.requires_grad for parameter in model.parameters()}
    try:
        for parameter in before:
            parameter.requires_grad_(parameter in chosen)
        yield
    finally:
        for parameter, flag in before.items():
            parameter.requires_grad_(flag)
