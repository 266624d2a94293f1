"""Weights that can never get a gradient: kernel taps that meet only zero padding, for every image.

    dead = dead_weights(model, data.retain)          # {weight: bool like the weight, true where dead}
    sum(int(mask.sum()) for mask in dead.values())   # 6,946,816 of a stock ResNet-18's at 32x32 pixels

At 32x32 pixels the last stage of a stock ResNet-18 convolves 1x1 maps with 3x3 kernels, of which one tap in nine meets
a pixel. Dead taps would dominate a ranking by |gradient| over all weights, because their gradient is exactly zero. The
result has only convolutions with dead taps.

Does not cover: units that are inactive for some images (a ReLU that never fires); another image can activate them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from ray_unlearn.data.images import ImageSet
from ray_unlearn.seeds import nothing_drawn


@torch.no_grad()
def dead_weights(model: nn.Module, images: ImageSet) -> dict[nn.Parameter, torch.Tensor]:
    """Return a mask for each convolution weight that has dead taps; one image is passed to find the sizes of maps.

    The model is in evaluation mode afterwards; neither its buffers nor a random stream change.
    """
    model.eval()
    live: dict[nn.Parameter, torch.Tensor] = {}

    def note(layer: Any, args: tuple[Any, ...], named: dict[str, Any]) -> None:
        (maps,) = (*args, *named.values())
        seen = _live_taps(layer, tuple(maps.shape[-2:]))
        live[layer.weight] = live[layer.weight] | seen if layer.weight in live else seen

    layers = [layer for layer in model.modules() if isinstance(layer, nn.Conv2d)]
    handles = [layer.register_forward_pre_hook(note, with_kwargs=True) for layer in layers]
    try:
        with nothing_drawn(images.pixels.device):
            model(images.batch(np.arange(1))[0])
    finally:
        for handle in handles:
            handle.remove()
    return {
        weight: (~taps).to(weight.device).expand(weight.shape) for weight, taps in live.items() if not bool(taps.all())
    }


def _live_taps(layer: nn.Conv2d, size: tuple[int, int]) -> torch.Tensor:
    """Return bool [kH, kW]: whether a tap meets a pixel of such maps; all true if the padding is not zeros."""
    if layer.padding_mode != "zeros" or isinstance(layer.padding, str):
        return torch.ones(layer.kernel_size, dtype=torch.bool)
    rows, columns = (
        [
            _meets_a_pixel(tap, size[axis], layer.kernel_size[axis], layer.stride[axis], pad, layer.dilation[axis])
            for tap in range(layer.kernel_size[axis])
        ]
        for axis, pad in enumerate(layer.padding)
    )
    return torch.tensor(rows)[:, None] & torch.tensor(columns)[None, :]


def _meets_a_pixel(tap: int, size: int, kernel: int, stride: int, padding: int, dilation: int) -> bool:
    """Return whether a tap meets a pixel at any position along one axis of `size` pixels."""
    positions = (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
    return any(0 <= position * stride - padding + tap * dilation < size for position in range(positions))
