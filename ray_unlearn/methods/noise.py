"""Normal numbers that a step of a training reads: drawn on the CPU before the step, at fixed addresses on the device.

    noise = StepNoise([(64, 3, 32, 32)], rng.torch("image-noise"), data.device)
    fit(model, data, options, rng, loss=loss, hooks=Hooks(before_step=noise.draw_rows))      # loss reads noise.tensors

All draws are the CPU's (`seeds`), and a step that is captured may not draw there (`training.step`).

Does not cover: noise between epochs (`perturbations.add_noise`).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ray_unlearn.data.images import ImageSet, upload


def shape_of(images: ImageSet, count: int) -> tuple[int, int, int, int]:
    """Return the shape of a batch of so many images, or of all where there are fewer."""
    size = images.pixels.image_size
    return min(count, len(images)), 3, size, size


class StepNoise:
    """Tensors of N(0, 1), float32."""

    def __init__(self, shapes: Sequence[Sequence[int]], generator: torch.Generator, device: torch.device) -> None:
        self.tensors = [torch.zeros(tuple(shape), device=device) for shape in shapes]
        self._generator = generator

    def draw(self, sizes: tuple[int, ...]) -> None:
        """Draw every tensor anew, in order; a hook for `before_step`."""
        for tensor in self.tensors:
            self._draw(tensor)

    def draw_rows(self, sizes: tuple[int, ...]) -> None:
        """Draw as many first rows of every tensor as the step's first batch has images; a hook for `before_step`."""
        for tensor in self.tensors:
            self._draw(tensor[: sizes[0]])

    def _draw(self, tensor: torch.Tensor) -> None:
        tensor.copy_(upload(torch.randn(tensor.shape, generator=self._generator), tensor.device))
