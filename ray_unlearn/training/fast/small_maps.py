"""Convolutions over maps of a pixel or a few, without the kernel taps that only ever see padding.

    trim(model)                                  # every plain nn.Conv2d; weights, names and state dict do not change

At 32x32, the last stage of a stock ResNet-18 convolves 1x1 maps with 3x3 kernels, of which one tap in nine meets a
pixel; the stage before it works on 2x2 maps, where four in nine do. Where a convolution gives at most four pixels and
loses taps to the padding, each pixel is a matrix product of the pixels and the taps that meet. Only products with zeros
are left out: the sums are the same in another order, equal to rounding. A strided 1x1 convolution to small maps is one
matrix product of the pixels that it reads.

This is done on the CPU only, where arithmetic is the cost. On other devices, for larger maps, and for grouped, dilated
or other kinds of convolutions, the module is an ordinary nn.Conv2d.

A weight whose convolution gives a single pixel can be held without its dead taps for an epoch (`LiveConv2d`);
`live_taps` then updates the dead taps.

Does not cover: leaving dead taps out of gradients and optimiser steps; weight decay still changes them, as it should.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 - its usual name

from ray_unlearn.errors import ModelError

_MAX_PIXELS = 4  # above, fewer taps are dead, and one product per pixel no longer pays
_MAX_SKIPPING_PIXELS = 16  # of a strided 1x1 convolution; above, PyTorch's own is no slower

Window = tuple[slice, slice]
"""Of one output row (or column): the input rows that it reads, and the kernel rows that meet them."""


def trim(model: nn.Module) -> nn.Module:
    """Make every plain convolution of a model skip dead taps, in place; return the model."""
    for module in model.modules():
        if type(module) is nn.Conv2d and _is_plain(module):
            module.__class__ = TrimmedConv2d
    return model


def untrimmed(model: nn.Module) -> nn.Module:
    """Make every convolution of a model an ordinary one again, in place; return the model."""
    for module in model.modules():
        if type(module) is TrimmedConv2d:
            module.__class__ = nn.Conv2d  # type: ignore[assignment]
    return model


class TrimmedConv2d(nn.Conv2d):
    """An nn.Conv2d that skips taps which no pixel meets, and pixels which no tap meets, where that pays."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Return the convolution of [B, C, H, W]."""
        if type(input) is not torch.Tensor or input.dim() != 4 or input.device.type != "cpu":
            return super().forward(input)  # also for stand-ins of tracers
        rows, columns = (self._windows(input, axis) for axis in (0, 1))
        if self._skips_pixels(len(rows) * len(columns)):
            seen_BHWC = input.permute(0, 2, 3, 1)[:, :: self.stride[0], :: self.stride[1]]
            return F.linear(seen_BHWC, self.weight.flatten(1), self.bias).permute(0, 3, 1, 2)
        if not self._pays(rows, columns):
            return super().forward(input)
        product = self._product(input.permute(0, 2, 3, 1), [(row, column) for row in rows for column in columns])
        return product.view(len(input), len(rows), len(columns), self.out_channels).permute(0, 3, 1, 2)

    def _product(self, input_BHWC: torch.Tensor, spans: list[tuple[Window, Window]]) -> torch.Tensor:
        """Return the output pixels [B, pixels x O]; in one product if all of them read the same input pixels."""
        one = all((row[0], column[0]) == (spans[0][0][0], spans[0][1][0]) for row, column in spans)
        taps = [(row[1], column[1]) for row, column in spans]
        weights = _Taps.apply(self.weight, taps, _product_dtype(self.weight), one)
        bias = None if self.bias is None else self.bias.repeat(len(spans)) if one else self.bias
        products = [
            F.linear(input_BHWC[:, row[0], column[0]].flatten(1), weight, bias)
            for (row, column), weight in zip(spans, weights, strict=False)
        ]
        return products[0] if one else torch.stack(products, 1)

    def _windows(self, images: torch.Tensor, axis: int) -> list[Window]:
        size, kernel = images.shape[2 + axis], self.kernel_size[axis]
        return windows(size, kernel, self.stride[axis], int(self.padding[axis]))

    def _skips_pixels(self, pixels: int) -> bool:
        return (
            self.kernel_size == (1, 1)
            and self.padding == (0, 0)
            and max(self.stride) > 1
            and 1 <= pixels <= _MAX_SKIPPING_PIXELS
        )

    def _pays(self, rows: list[Window], columns: list[Window]) -> bool:
        if not 1 <= len(rows) * len(columns) <= _MAX_PIXELS:
            return False
        met = [(w[1].stop - w[1].start, k) for ws, k in ((rows, 0), (columns, 1)) for w in ws]
        return any(count < self.kernel_size[axis] for count, axis in met) and all(count > 0 for count, _ in met)


class LiveConv2d(TrimmedConv2d):
    """A convolution with one output pixel, whose weight holds only its live taps: [O, taps x I]."""

    sees: tuple[int, int]
    """Height and width, in pixels, of the maps for which the weight was cut."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Return the convolution of [B, C, H, W].

        Raises:
            ModelError: the maps have another size than those that the weight was cut for.

        """
        if tuple(input.shape[2:]) != self.sees:
            raise ModelError(
                f"a convolution met maps of {self.sees[0]}x{self.sees[1]} pixels at first and now of "
                f"{input.shape[2]}x{input.shape[3]}; set model.trim_dead_taps: false"
            )
        (rows, _), (columns, _) = self._windows(input, 0)[0], self._windows(input, 1)[0]
        product = F.linear(input.permute(0, 2, 3, 1)[:, rows, columns].flatten(1), self.weight, self.bias)
        return product.view(len(input), 1, 1, self.out_channels).permute(0, 3, 1, 2)


def live_window(layer: TrimmedConv2d, height: int, width: int) -> tuple[slice, slice] | None:
    """Return the rows and columns of live taps for such maps, if the layer gives one pixel and has dead taps.

    None for all other layers and maps.
    """
    image = torch.empty(0, layer.in_channels, height, width)
    rows, columns = layer._windows(image, 0), layer._windows(image, 1)
    if len(rows) * len(columns) != 1 or not layer._pays(rows, columns):
        return None
    return rows[0][1], columns[0][1]


def windows(size: int, kernel: int, stride: int, padding: int) -> list[Window]:
    """Return, for each output position along one axis, the pixels and the taps that meet.

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
    """Return the dtype in which F.linear will compute: taps are cast once, when they are gathered."""
    return torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else weight.dtype


class _Taps(torch.autograd.Function):
    """Weight [O, I, kH, kW] and windows -> one matrix [O, taps x I] each, or all of them below each other.

    Plain slicing gives the same result, but its gradient writes a zero-filled copy of the whole weight for every slice,
    in another memory layout than a channels_last weight has, which autograd then copies once more.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(
        weight_OIHW: torch.Tensor, taps: Sequence[tuple[slice, slice]], dtype: torch.dtype, one: bool
    ) -> tuple[torch.Tensor, ...]:
        # Casts of a contiguous tensor are several times as fast as casts of slices: cast first if that is no more work.
        weight_OHWI = weight_OIHW.permute(0, 2, 3, 1)
        met = sum((rows.stop - rows.start) * (columns.stop - columns.start) for rows, columns in taps)
        often = met >= weight_OHWI[0, :, :, 0].numel()
        source_OHWI = weight_OHWI.to(dtype) if often else weight_OHWI
        windows = [source_OHWI[:, rows, columns] for rows, columns in taps]
        if not one:
            return tuple(window.clone(memory_format=torch.contiguous_format).to(dtype).flatten(1) for window in windows)
        return (torch.stack(windows).to(dtype).flatten(0, 1).flatten(1),)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[torch.Tensor, ...]) -> None:
        weight_OIHW, ctx.taps, _, ctx.one = inputs
        ctx.shape, ctx.dtype = weight_OIHW.permute(0, 2, 3, 1).shape, weight_OIHW.dtype
        ctx.in_place = weight_OIHW.is_contiguous(memory_format=torch.channels_last)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
        whole = [gradient.to(ctx.dtype) for gradient in gradients]
        parts = whole[0].view(len(ctx.taps), ctx.shape[0], -1) if ctx.one else whole
        gradient_OHWI = whole[0].new_zeros(ctx.shape)
        for (rows, columns), part in zip(ctx.taps, parts, strict=True):
            window = gradient_OHWI[:, rows, columns]
            window += part.reshape(window.shape)
        gradient_OIHW = gradient_OHWI.permute(0, 3, 1, 2)  # the memory layout of a channels_last weight
        return gradient_OIHW if ctx.in_place else gradient_OIHW.contiguous(), None, None, None
