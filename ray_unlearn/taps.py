"""Convolutions over maps of a pixel or a few, without the kernel taps that only ever see padding.

    trim(model)                                  # every plain nn.Conv2d; weights, names and state dict stay as they are

At 32x32, the last stage of a stock ResNet-18 convolves 1x1 maps with 3x3 kernels, of which one tap in nine meets a
pixel; the stage before it works on 2x2 maps, where four in nine do. Where a convolution gives at most four pixels and
loses taps to the padding, each pixel is a matrix product of the pixels and the taps that meet. Left out are products
with zeros: the same sums in another order, equal to rounding.

On the CPU only: there the arithmetic is the cost. Elsewhere, for larger maps, and for grouped, dilated or other kinds
of convolutions, the module is an ordinary nn.Conv2d.

Does not cover: leaving dead taps out of gradients and optimiser steps; weight decay still moves them, as it should.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 - its usual name

_MAX_PIXELS = 4  # above, fewer taps are dead, and one product per pixel no longer pays

Window = tuple[slice, slice]
"""Of one output row (or column): the input rows that it sees, and the kernel rows that see them."""


def trim(model: nn.Module) -> nn.Module:
    """Let every plain convolution of a model skip dead taps, in place; return the model."""
    for module in model.modules():
        if type(module) is nn.Conv2d and _is_plain(module):
            module.__class__ = TrimmedConv2d
    return model


class TrimmedConv2d(nn.Conv2d):
    """An nn.Conv2d that skips taps which no pixel meets, where that pays."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Return the convolution of [B, C, H, W]."""
        if type(input) is not torch.Tensor or input.dim() != 4 or input.device.type != "cpu":
            return super().forward(input)  # tracers' stand-ins, too
        rows, columns = (self._windows(input, axis) for axis in (0, 1))
        if not self._pays(rows, columns):
            return super().forward(input)
        spans = [(row, column) for row in rows for column in columns]
        weights = _Taps.apply(self.weight, [(r[1], c[1]) for r, c in spans], _product_dtype(self.weight))
        pixels_BHWC = input.permute(0, 2, 3, 1)
        products = [
            F.linear(pixels_BHWC[:, row[0], column[0]].flatten(1), weight, self.bias)
            for (row, column), weight in zip(spans, weights, strict=True)
        ]
        size, channels = len(input), self.out_channels
        return torch.stack(products, 1).view(size, len(rows), len(columns), channels).permute(0, 3, 1, 2)

    def _windows(self, images: torch.Tensor, axis: int) -> list[Window]:
        size, kernel = images.shape[2 + axis], self.kernel_size[axis]
        return windows(size, kernel, self.stride[axis], int(self.padding[axis]))

    def _pays(self, rows: list[Window], columns: list[Window]) -> bool:
        if not 1 <= len(rows) * len(columns) <= _MAX_PIXELS:
            return False
        met = [(w[1].stop - w[1].start, k) for ws, k in ((rows, 0), (columns, 1)) for w in ws]
        return any(count < self.kernel_size[axis] for count, axis in met) and all(count > 0 for count, _ in met)


def windows(size: int, kernel: int, stride: int, padding: int) -> list[Window]:
    """Return, for each output position along one axis, which pixels and which taps meet.

    Args:
        size: pixels along the axis.
        kernel: taps along the axis.
        stride: pixels between output positions.
        padding: zeros on either side.

    """
    found = []
    for position in range((size + 2 * padding - kernel) // stride + 1):
        start = position * stride - padding
        first, last = max(0, -start), max(0, min(kernel, size - start))
        found.append((slice(start + first, start + last), slice(first, last)))
    return found


def _is_plain(layer: nn.Conv2d) -> bool:
    ungrouped = layer.groups == 1 and layer.dilation == (1, 1)
    return ungrouped and layer.padding_mode == "zeros" and not isinstance(layer.padding, str)


def _product_dtype(weight: torch.Tensor) -> torch.dtype:
    """Return what F.linear will compute in: taps are cast as they are gathered, not a second time there."""
    return torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else weight.dtype


class _Taps(torch.autograd.Function):
    """Weight [O, I, kH, kW] and windows -> one matrix [O, taps x I] each.

    Plain slicing would do; its gradient writes a zero-filled copy of the whole weight for every slice, and in another
    memory layout than a channels_last weight has, which autograd then copies once more.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(
        weight_OIHW: torch.Tensor, taps: Sequence[tuple[slice, slice]], dtype: torch.dtype
    ) -> tuple[torch.Tensor, ...]:
        weight_OHWI = weight_OIHW.permute(0, 2, 3, 1)
        return tuple(weight_OHWI[:, rows, columns].to(dtype, copy=True).flatten(1) for rows, columns in taps)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[torch.Tensor, ...]) -> None:
        weight_OIHW, ctx.taps, _ = inputs
        ctx.shape, ctx.dtype = weight_OIHW.permute(0, 2, 3, 1).shape, weight_OIHW.dtype
        ctx.in_place = weight_OIHW.is_contiguous(memory_format=torch.channels_last)

    @staticmethod
    def backward(ctx: Any, *gradients_OK: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        gradient_OHWI = gradients_OK[0].new_zeros(ctx.shape, dtype=ctx.dtype)
        for (rows, columns), gradient_OK in zip(ctx.taps, gradients_OK, strict=True):
            window = gradient_OHWI[:, rows, columns]
            window += gradient_OK.reshape(window.shape)
        gradient_OIHW = gradient_OHWI.permute(0, 3, 1, 2)  # as a channels_last weight lies in memory
        return gradient_OIHW if ctx.in_place else gradient_OIHW.contiguous(), None, None
