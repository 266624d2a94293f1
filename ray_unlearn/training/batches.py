"""The order and augmentation of batches: drawn from a generator on the CPU, a whole epoch at once.

    epoch = draw(images, batch_size, recipe.augment, generator).on_device_of(images)
    for batch in batches(images, epoch, batch_size, recipe):
        ...

Random draws are copied to a GPU once per kind at the start of an epoch; a batch is then a slice of tensors on the
device. A last batch of a single image is left out of an epoch, unless it is the only one: batch normalisation over 1x1
maps has no variance for it, and PyTorch refuses it.

Does not cover: the optimiser (`loop`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch.nn import functional as F  # noqa: N812 - its usual name

from ray_unlearn.data.images import ImageSet, upload
from ray_unlearn.data.order import draw_order, reading_order
from ray_unlearn.seeds import rewind
from ray_unlearn.study.recipe import Augment, Recipe
from ray_unlearn.training.transforms import transformed


@dataclass(frozen=True, slots=True)
class Batch:
    """Images and labels on the device."""

    images: torch.Tensor
    """float32 [B, 3, H, W], scaled as the study sets it."""
    labels: torch.Tensor
    """int64 [B]."""

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, kw_only=True, slots=True)
class Draws:
    """Order of an epoch's images, and the augmentation of each."""

    rows_N: torch.Tensor
    """int64 rows of the study's pixels, in order."""
    labels_N: torch.Tensor
    """int64."""
    offsets_2N: torch.Tensor | None = None
    """int64 row and column of each crop in its padded image; None without crops."""
    mirrored_N: torch.Tensor | None = None
    """bool, whether an image is mirrored; None without flips."""
    seeds_N: torch.Tensor | None = None
    """int64 on the CPU, what the transforms of an image are drawn from; None without transforms."""

    def __len__(self) -> int:
        return len(self.labels_N)

    def on_device_of(self, images: ImageSet) -> Draws:
        """Return the draws on the device of the images' batches, without waiting for a GPU."""
        device = images.pixels.device
        rows = self.rows_N if images.pixels.resident is None else upload(self.rows_N, device)
        offsets, mirrored = (None if t is None else upload(t, device) for t in (self.offsets_2N, self.mirrored_N))
        labels = upload(self.labels_N, device)
        return replace(self, rows_N=rows, labels_N=labels, offsets_2N=offsets, mirrored_N=mirrored)

    def part(self, start: int, stop: int) -> Draws:
        """Return the draws of positions `start` to `stop`."""
        return replace(
            self,
            rows_N=self.rows_N[start:stop],
            labels_N=self.labels_N[start:stop],
            offsets_2N=None if self.offsets_2N is None else self.offsets_2N[:, start:stop],
            mirrored_N=None if self.mirrored_N is None else self.mirrored_N[start:stop],
            seeds_N=None if self.seeds_N is None else self.seeds_N[start:stop],
        )


def sizes_of(num_images: int, batch_size: int) -> list[int]:
    """Return the sizes of an epoch's batches."""
    full, rest = divmod(num_images, batch_size)
    return [batch_size] * full + [rest] * (rest > 1 or full == 0)


def draw(
    images: ImageSet, batch_size: int, how: Augment, generator: torch.Generator, steps: int | None = None
) -> Draws:
    """Draw an epoch, or its first `steps` batches: a fresh order, then each batch's crops and flips, batch by batch.

    The order is the study's `data.shuffle` for every method.
    """
    sizes = sizes_of(len(images), batch_size)[:steps]
    order = draw_order(len(images), images.pixels.shuffle, generator)[: sum(sizes)].numpy()
    offsets, mirrored, drawn = [], [], []
    for size in sizes:
        if how.crop:
            offsets.append(torch.randint(0, 2 * how.crop + 1, (2, size), generator=generator))
        if how.flip:
            mirrored.append(torch.rand(size, generator=generator) < 0.5)
        if how.transforms:
            drawn.append(torch.randint(2**32, (size,), generator=generator))
    return Draws(
        rows_N=torch.from_numpy(images.indices[order]),
        labels_N=torch.from_numpy(images.labels_N[order]),
        offsets_2N=torch.cat(offsets, 1) if offsets else None,
        mirrored_N=torch.cat(mirrored) if mirrored else None,
        seeds_N=torch.cat(drawn) if drawn else None,
    )


def batches(images: ImageSet, epoch: Draws, batch_size: int, recipe: Recipe) -> Iterator[Batch]:
    """Yield an epoch's batches; images on disk are requested ahead of time."""
    for drawn in parts(images, epoch, batch_size):
        yield load(images, drawn, recipe)


def parts(images: ImageSet, epoch: Draws, batch_size: int, first: int = 0) -> Iterator[Draws]:
    """Yield the draws of an epoch's batches, from number `first` on; images on disk are requested ahead of time."""
    announce = _announcer(images, epoch, batch_size)
    for start in range(first * batch_size, len(epoch), batch_size):
        announce(start)
        yield epoch.part(start, start + batch_size)


def _announcer(images: ImageSet, epoch: Draws, batch_size: int) -> Callable[[int], None]:
    """Return a function of a batch's position, which requests the images of one batch, or one window, later."""
    pixels = images.pixels
    if not pixels.read_ahead:
        return lambda start: None
    ahead_N, lead = reading_order(epoch.rows_N.numpy(), pixels.shuffle), pixels.shuffle.window or batch_size
    pixels.prefetch(ahead_N[:lead])
    return lambda start: pixels.prefetch(ahead_N[start + lead : start + lead + batch_size])


class Stream:
    """Draws of one batch of a set after another, without end; reshuffled at the end of each pass through the set."""

    def __init__(self, images: ImageSet, batch_size: int, recipe: Recipe, generator: torch.Generator) -> None:
        self.images = images
        self._size, self._recipe, self._generator = batch_size, recipe, generator
        self._pass: Iterator[Draws] = iter(())
        self.taken = 0
        """Number of batches taken from the pass."""
        self.before: torch.Tensor | None = None
        """State of the generator that the pass was drawn from; None before the first pass."""

    def __next__(self) -> Draws:
        """Return the draws of the next batch, on the device of the set's batches."""
        drawn = next(self._pass, None)
        if drawn is None:
            self.begin(self._generator.get_state())
            drawn = next(self._pass)
        self.taken += 1
        return drawn

    def begin(self, state: torch.Tensor, taken: int = 0) -> None:
        """Draw the pass that the generator gives in this state, and go to its batch number `taken`."""
        self.before, self.taken = state, taken
        rewind(self._generator, state)
        epoch = draw(self.images, self._size, self._recipe.augment, self._generator).on_device_of(self.images)
        self._pass = parts(self.images, epoch, self._size, taken)

    def batch(self) -> Batch:
        """Return the next batch."""
        return load(self.images, next(self), self._recipe)


def load(images: ImageSet, draws: Draws, recipe: Recipe) -> Batch:
    """Gather, augment and scale one batch."""
    raw_BHWC = augment(images.pixels.rows(draws.rows_N), recipe.augment, draws)
    scaled = images.scaling.apply(raw_BHWC)
    return Batch(scaled if recipe.channels_last else scaled.contiguous(), draws.labels_N)


def augment(raw_BHWC: torch.Tensor, how: Augment, draws: Draws) -> torch.Tensor:
    """Crop after zero padding, mirror and transform, as drawn; uint8 in, uint8 out, on the images' device."""
    if draws.offsets_2N is not None:
        raw_BHWC = _cropped(raw_BHWC, how.crop, draws.offsets_2N)
    if draws.mirrored_N is not None:
        raw_BHWC = torch.where(draws.mirrored_N[:, None, None, None], raw_BHWC.flip(2), raw_BHWC)
    if draws.seeds_N is not None:
        raw_BHWC = transformed(raw_BHWC, how.transforms, draws.seeds_N)
    return raw_BHWC


def _cropped(raw_BHWC: torch.Tensor, crop: int, offsets_2B: torch.Tensor) -> torch.Tensor:
    size, height, width, channels = raw_BHWC.shape
    padded = F.pad(raw_BHWC, (0, 0, crop, crop, crop, crop))
    image, row, value, _ = padded.stride()
    # Every window of every image, as a view: one gather of whole windows is five times a gather of pixels.
    windows = padded.as_strided(
        (size, 2 * crop + 1, 2 * crop + 1, height, width * channels), (image, row, value, row, 1)
    )
    which = torch.arange(size, device=raw_BHWC.device)
    return windows[which, offsets_2B[0], offsets_2B[1]].view(size, height, width, channels)
