"""Mapped shards as one indexed set, and views of it that give batches on a device.

    pixels = Pixels(shards, device, budget_bytes=8 << 30)
    retain = ImageSet(pixels, splits.retain, Scaling.of("standard"))
    images_BCHW, labels_B = retain.batch(np.array([0, 5, 9]))

Pixels stay uint8 until they are on the device; scaling happens there. On a GPU the decoded set lives in its memory
where it fits the budget, else each batch is gathered into pinned memory and copied while the GPU works on the last one.
The budget is one process's: four workers on a GPU may each fill it. A set larger than memory is read ahead (`reading`).

Does not cover: order and augmentation (`training.batches`).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from typing import Any

import numpy as np
import torch

from ray_unlearn.data.reading import Reading, exceeds_memory
from ray_unlearn.data.shards import Shard
from ray_unlearn.study.schema import Normalize
from ray_unlearn.study.shuffle import Shuffle


class Pixels:
    """All images of a study under one index: train rows, then validation's, then test's."""

    shuffle = Shuffle()
    """Order of an epoch's images."""
    _reading: Reading | None = None

    def __init__(
        self, shards: Sequence[Shard], device: torch.device, budget_bytes: float = 0, shuffle: Shuffle | None = None
    ) -> None:
        self.device = device
        self.shuffle = shuffle or Shuffle()
        self._shards = tuple(shards)
        self.labels_N = np.concatenate([shard.labels_N for shard in shards])
        self.ages_N = np.concatenate([shard.table.column("age").to_numpy() for shard in shards])
        self._blocks = [shard.pixels_NHWC for shard in shards]
        self._starts = np.cumsum([0, *(len(block) for block in self._blocks)])
        self.resident = self._as_one_tensor(budget_bytes)
        """All pixels, uint8 [N, H, W, 3] on the device; None where batches are gathered on the CPU and copied."""
        self._labels = torch.from_numpy(self.labels_N).to(device)
        self._reading = self._as_read_ahead()

    @cached_property
    def ids(self) -> list[str]:
        """Image ids; the list is made at the first use."""
        return _text(self._shards, "image_id")

    @cached_property
    def groups(self) -> list[str]:
        """Group (person) of each image; empty where it has none."""
        return _text(self._shards, "group")

    @cached_property
    def ages(self) -> np.ndarray:
        """Age in years of each image: int64, and float64 with NaN only if the source has fractions.

        An unknown age is -1, and 0 if the source has none for any image: code that indexes by age runs all the same.
        """
        known = np.isfinite(self.ages_N)
        if not known.any():
            return np.zeros(len(self), np.int64)
        if not np.array_equal(self.ages_N[known], np.floor(self.ages_N[known])):
            return self.ages_N
        return np.where(known, self.ages_N, -1).astype(np.int64)

    @cached_property
    def persons_N(self) -> np.ndarray:
        """int64 number of each image's group.

        The group itself where all are different whole numbers, else its place in the sorted order of all groups; -1
        where an image has none, and 0 if none has one.
        """
        names = sorted({*self.groups} - {""})
        if not names:
            return np.zeros(len(self), np.int64)
        numbers = [int(name) for name in names if name.isdecimal() and len(name) <= 18]
        if len({*numbers}) < len(names):
            numbers = list(range(len(names)))
        number_of = {"": -1, **dict(zip(names, numbers, strict=True))}
        return np.array([number_of[group] for group in self.groups], np.int64)

    @cached_property
    def given(self) -> list[str]:
        """Set in which the source puts each image; empty where it names none."""
        return _text(self._shards, "given")

    def __len__(self) -> int:
        return len(self.labels_N)

    @property
    def image_size(self) -> int:
        """Pixels per side."""
        return int(self._blocks[0].shape[1])

    def take(self, indices: np.ndarray) -> torch.Tensor:
        """Return uint8 [B, H, W, 3] on the device."""
        self.prefetch(indices)
        rows_B = torch.from_numpy(indices)
        return self.rows(rows_B if self.resident is None else rows_B.to(self.device))

    def rows(self, rows_B: torch.Tensor) -> torch.Tensor:
        """Return uint8 [B, H, W, 3] on the device, without waiting for it.

        Args:
            rows_B: int64; on the device where the pixels are resident, else on the CPU.

        """
        if self.resident is not None:
            return self.resident.index_select(0, rows_B)
        return upload(torch.from_numpy(self._copied(rows_B.numpy())), self.device)

    def prefetch(self, indices: np.ndarray) -> None:
        """Start to read these images, where not all are in memory; does not wait."""
        if self._reading is not None:
            self._reading.prefetch(indices)

    def labels(self, indices: np.ndarray) -> torch.Tensor:
        """Return int64 [B] on the device."""
        return self._labels[torch.from_numpy(indices).to(self.device)]

    def gather(self, indices: np.ndarray) -> np.ndarray:
        """Return a copy, uint8 [B, H, W, 3], on the CPU."""
        self.prefetch(indices)
        return self._copied(indices)

    @property
    def read_ahead(self) -> bool:
        """Whether images come from files that are not all in memory, so that prefetching the next ones pays."""
        return self._reading is not None

    def _as_read_ahead(self) -> Reading | None:
        """Return the reader that prefetches; None for pixels on a GPU, and for sets that fit into memory."""
        on_gpu = self.resident is not None and self.device.type != "cpu"
        large = self.shuffle.window or exceeds_memory(sum(block.nbytes for block in self._blocks))
        return Reading(self._blocks) if large and not on_gpu else None

    def _copied(self, indices: np.ndarray) -> np.ndarray:
        """Gather once per shard that the batch touches."""
        block_B = np.searchsorted(self._starts, indices, side="right") - 1
        out_BHWC = np.empty((len(indices), *self._blocks[0].shape[1:]), np.uint8)
        for block in np.unique(block_B):
            here = block_B == block
            out_BHWC[here] = self._blocks[block][indices[here] - self._starts[block]]
        return out_BHWC

    def _as_one_tensor(self, budget_bytes: float) -> torch.Tensor | None:
        """Return the mapped block itself on a CPU, a copy on a GPU; None for several blocks, or too large ones."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="The given NumPy array is not writable")  # never written to
            blocks = [torch.from_numpy(block) for block in self._blocks]
        if self.device.type == "cpu":
            return blocks[0] if len(blocks) == 1 else None
        if sum(block.nbytes for block in blocks) > budget_bytes:
            return None
        resident = torch.empty((len(self), *blocks[0].shape[1:]), dtype=torch.uint8, device=self.device)
        for start, block in zip(self._starts, blocks, strict=False):
            resident[start : start + len(block)].copy_(block)
        return resident


def upload(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Return a CPU tensor on the device; without waiting for a GPU: the copy goes through pinned memory, in order."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def _text(shards: Sequence[Shard], column: str) -> list[str]:
    return [value for shard in shards for value in shard.table.column(column).to_pylist()]


@dataclass(frozen=True, slots=True)
class Scaling:
    """x -> (x - shift) / scale, per channel, for x in 0..255."""

    shift: tuple[float, float, float]
    scale: tuple[float, float, float]

    @classmethod
    def of(cls, normalize: str | Normalize) -> Scaling:
        """Return the scaling of `data.normalize`."""
        if isinstance(normalize, Normalize):
            mean, std = normalize.mean, normalize.std
            return cls((255 * mean[0], 255 * mean[1], 255 * mean[2]), (255 * std[0], 255 * std[1], 255 * std[2]))
        return {
            "raw": cls((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
            "unit": cls((0.0, 0.0, 0.0), (255.0, 255.0, 255.0)),
            "standard": cls((127.5, 127.5, 127.5), (63.75, 63.75, 63.75)),
        }[normalize]

    def apply(self, images_BHWC: torch.Tensor) -> torch.Tensor:
        """Return float32 [B, 3, H, W] of uint8 [B, H, W, 3], in channels_last memory."""
        batch, height, width, channels = images_BHWC.shape
        shift, scale = _along_a_row(self, width, images_BHWC.device)
        rows = images_BHWC.reshape(batch * height, width * channels)  # long rows vectorise, rows of three do not
        return torch.sub(rows, shift).div_(scale).view(images_BHWC.shape).permute(0, 3, 1, 2)

    def by_channel(self, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        """Return shift and scale, [3, 1, 1] each."""
        shift, scale = (torch.tensor(each, device=device).view(3, 1, 1) for each in (self.shift, self.scale))
        return shift, scale


@cache  # each copy from Python waits for the GPU; never dropped, because captured steps hold the addresses
def _along_a_row(scaling: Scaling, width: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Return shift and scale of every value in a row of pixels, float32 [3 W] each."""
    shift, scale = (_row(values, width, device) for values in (scaling.shift, scaling.scale))
    return shift, scale


def _row(values: Sequence[float], width: int, device: torch.device) -> torch.Tensor:
    """Return float32 for any default type, which a script may have changed: the cache keeps the first result."""
    return torch.tensor(values, dtype=torch.float32, device=device).repeat(width)


@dataclass(frozen=True, slots=True)
class ImageSet:
    """Some images of a study, by position 0..len-1."""

    pixels: Pixels
    indices: np.ndarray
    """int64 [N] into `pixels`."""
    scaling: Scaling
    relabelled: np.ndarray | None = None
    """int64 [N] labels that a method gives the images; None for the source's labels."""

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def labels_N(self) -> np.ndarray:
        """int64 class of each image."""
        return np.asarray(self.pixels.labels_N[self.indices]) if self.relabelled is None else self.relabelled

    def raw(self, positions: np.ndarray) -> torch.Tensor:
        """Return uint8 [B, H, W, 3] on the device."""
        return self.pixels.take(self.indices[positions])

    def labels(self, positions: np.ndarray) -> torch.Tensor:
        """Return int64 [B] on the device."""
        if self.relabelled is None:
            return self.pixels.labels(self.indices[positions])
        return torch.from_numpy(self.relabelled[positions]).to(self.pixels.device)

    def batch(self, positions: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """Return scaled float32 [B, 3, H, W] and int64 [B] on the device."""
        return self.scaling.apply(self.raw(positions)), self.labels(positions)

    def in_order(self, size: int = 256) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield all images as `batch` returns them, `size` at a time: published logits are of batches of 256."""
        for start in range(0, len(self), size):
            yield self.batch(np.arange(start, min(start + size, len(self))))

    def subset(self, positions: np.ndarray) -> ImageSet:
        """Return the images at these positions, with the labels that they have here."""
        labels = None if self.relabelled is None else self.relabelled[positions]
        return ImageSet(self.pixels, self.indices[positions], self.scaling, labels)

    def with_labels(self, labels_N: np.ndarray) -> ImageSet:
        """Return the same images under other labels."""
        return ImageSet(self.pixels, self.indices, self.scaling, np.asarray(labels_N, np.int64))

    def joined(self, other: ImageSet) -> ImageSet:
        """Return these images and then the other's, each with its labels."""
        labels = np.concatenate([self.labels_N, other.labels_N])
        return ImageSet(self.pixels, np.concatenate([self.indices, other.indices]), self.scaling, labels)


def read_only(*arrays: np.ndarray) -> None:
    """Let writing on these arrays be a ValueError; tensors that share their memory stay as they are."""
    for array in arrays:
        array.setflags(write=False)


EpochHook = Callable[[torch.nn.Module, int, float], None]


def _no_count(images: int) -> None:
    """Count nothing."""


def _no_hook(model: torch.nn.Module, epoch: int, loss: float) -> None:
    """Do nothing after an epoch."""


@dataclass(frozen=True, slots=True)
class RunData:
    """Data that a method may use: never the test images."""

    train: ImageSet
    """Retain and forget images together, on which originals are trained."""
    retain: ImageSet
    forget: ImageSet
    validation: ImageSet | None
    num_classes: int
    device: torch.device
    on_epoch: EpochHook = field(default=_no_hook)
    """Function that `fit` calls after every epoch with (model, epoch from 1, mean loss)."""
    on_images: Callable[[int], None] = field(default=_no_count)
    """Function that `fit` calls after every epoch with the number of images that it trained on."""
    engines: Any = None
    """The worker's captured steps (`training.fast.cuda_graph.Engines`), kept between its runs; None without a GPU."""

    resuming: Any = None
    """Saves and restores the run's state between epochs (`training.resuming.Resuming`); None where a run is made in one
    go."""
    slot: Any = None
    """The run's place among runs that are trained in one step (`training.packed.Slot`); None where it is alone."""

    def unobserved(self) -> RunData:
        """Return the same sets without the epoch hook, for training an auxiliary model that is not the run's."""
        return replace(self, on_epoch=_no_hook)
