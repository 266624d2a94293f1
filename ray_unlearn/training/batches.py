"""The order and augmentation of batches: pure functions of a generator, drawn on the CPU.

    for positions in shuffled(len(images), batch_size, generator):   # one epoch
        batch = load(images, positions, recipe, generator)

A last batch of a single image joins no epoch (unless it is the only one): batch normalisation over 1x1 maps has no
variance there, and PyTorch refuses it.

Does not cover: the optimiser (`loop`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional as F  # noqa: N812 - its usual name

from ray_unlearn.data.images import ImageSet
from ray_unlearn.study.recipe import Augment, Recipe


@dataclass(frozen=True, slots=True)
class Batch:
    """Images and labels on the device."""

    images: torch.Tensor
    """float32 [B, 3, H, W], scaled as the study says."""
    labels: torch.Tensor
    """int64 [B]."""

    def __len__(self) -> int:
        return len(self.labels)


def batches_per_epoch(num_images: int, batch_size: int) -> int:
    """Return how many batches `shuffled` yields."""
    full, rest = divmod(num_images, batch_size)
    return full + (rest > 1 or full == 0)


def shuffled(num_images: int, batch_size: int, generator: torch.Generator) -> Iterator[np.ndarray]:
    """Yield the positions of one epoch in a fresh order."""
    order = torch.randperm(num_images, generator=generator).numpy()
    for i in range(batches_per_epoch(num_images, batch_size)):
        yield order[i * batch_size : (i + 1) * batch_size]


def endless(num_images: int, batch_size: int, generator: torch.Generator) -> Iterator[np.ndarray]:
    """Yield batch after batch, reshuffled whenever the set is through."""
    while True:
        yield from shuffled(num_images, batch_size, generator)


def load(images: ImageSet, positions: np.ndarray, recipe: Recipe, generator: torch.Generator) -> Batch:
    """Gather, augment and scale one batch."""
    raw_BHWC = augment(images.raw(positions), recipe.augment, generator)
    scaled = images.scaling.apply(raw_BHWC)
    return Batch(scaled if recipe.channels_last else scaled.contiguous(), images.labels(positions))


def augment(raw_BHWC: torch.Tensor, how: Augment, generator: torch.Generator) -> torch.Tensor:
    """Crop after zero padding and mirror, each image by its own draw; uint8 in, uint8 out, on the images' device."""
    size, height, width, _ = raw_BHWC.shape
    if how.crop:
        offsets = torch.randint(0, 2 * how.crop + 1, (2, size), generator=generator).to(raw_BHWC.device)
        padded = F.pad(raw_BHWC, (0, 0, how.crop, how.crop, how.crop, how.crop))
        rows = offsets[0][:, None] + torch.arange(height, device=raw_BHWC.device)
        columns = offsets[1][:, None] + torch.arange(width, device=raw_BHWC.device)
        which = torch.arange(size, device=raw_BHWC.device)[:, None, None]
        raw_BHWC = padded[which, rows[:, :, None], columns[:, None, :]]
    if how.flip:
        mirrored = (torch.rand(size, generator=generator) < 0.5).to(raw_BHWC.device)
        raw_BHWC = torch.where(mirrored[:, None, None, None], raw_BHWC.flip(2), raw_BHWC)
    return raw_BHWC
