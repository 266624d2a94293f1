"""fit(): the one training loop.

    fit(model, data, recipe, rng)                                  # cross-entropy on retain
    fit(model, data, recipe, rng, sets=("retain", "forget"), loss=lambda model, retain, forget: ...)

The first set paces the epochs; batches of further sets come from endless reshuffled streams of their own. The loss is
summed on the device and looked at once per epoch, so that a GPU never waits inside one.

Does not cover: perturbations before training, and anything that happens once; methods do that around `fit`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 - its usual name

from ray_unlearn.data.images import ImageSet, RunData
from ray_unlearn.errors import MethodError, TrainingDiverged
from ray_unlearn.seeds import Seeds
from ray_unlearn.study.recipe import Recipe
from ray_unlearn.training.batches import Batch, batches_per_epoch, endless, load, shuffled
from ray_unlearn.training.optimizers import make_optimizer, set_rate

Loss = Callable[..., torch.Tensor]
"""loss(model, batch of the first set, batch of the second, ...) -> scalar tensor, the mean over the batch."""


def cross_entropy(weights_C: torch.Tensor | None = None) -> Loss:
    """Return the mean cross-entropy on the first batch; with weights, the weighted mean, as in torch."""

    def loss(model: nn.Module, batch: Batch) -> torch.Tensor:
        return F.cross_entropy(model(batch.images).float(), batch.labels, weight=weights_C)

    return loss


def class_weights(images: ImageSet, recipe: Recipe, num_classes: int) -> torch.Tensor | None:
    """Return the recipe's class weights, float32 [C] on the device; None where all classes count the same.

    `inverse` is 1 / images of the class, not normalised (the competition's recipe); classes without images get 0.

    Raises:
        MethodError: the study gives another number of weights than there are classes.

    """
    if recipe.class_weights == "none":
        return None
    if recipe.class_weights == "inverse":
        counts = torch.bincount(torch.from_numpy(images.labels_N), minlength=num_classes)
        weights = torch.where(counts > 0, 1 / counts.clamp(min=1), 0.0)
    else:
        weights = torch.tensor(recipe.class_weights)
        if len(weights) != num_classes:
            raise MethodError(f"class_weights: expected {num_classes} numbers, one per class; found {len(weights)}")
    return weights.float().to(images.pixels.device)


def fit(
    model: nn.Module,
    data: RunData,
    recipe: Recipe,
    rng: Seeds,
    *,
    sets: Sequence[str] = ("retain",),
    loss: Loss | None = None,
    purpose: str = "fit",
) -> None:
    """Train `model` in place.

    Args:
        model: on the data's device.
        data: what the run may see.
        recipe: optimiser, rates, epochs, batches, precision.
        rng: the run's streams; `fit` draws from `<purpose>-<set>`.
        sets: names of `data`'s sets; each step gets one batch of each.
        loss: objective; default cross-entropy on the first set, with the recipe's class weights.
        purpose: names the streams; a method that fits twice names its second fit differently.

    Raises:
        TrainingDiverged: an epoch's mean loss is NaN or infinite.
        MethodError: the class weights do not fit.

    """
    images = [_set(data, name) for name in sets]
    loss = loss or cross_entropy(class_weights(images[0], recipe, data.num_classes))
    generators = [rng.torch(f"{purpose}-{name}") for name in sets]
    streams = [_stream(*each, recipe) for each in zip(images[1:], generators[1:], strict=True)]
    model.train()
    model.to(memory_format=torch.channels_last if recipe.channels_last else torch.contiguous_format)
    optimizer = make_optimizer(model, recipe)
    per_epoch = batches_per_epoch(len(images[0]), recipe.batch_size)
    remaining = max(1, round(recipe.epochs * per_epoch))
    for epoch in range(math.ceil(remaining / per_epoch)):
        steps = min(per_epoch, remaining)
        order = itertools.islice(shuffled(len(images[0]), recipe.batch_size, generators[0]), steps)
        batches = (load(images[0], positions, recipe, generators[0]) for positions in order)
        total, count = torch.zeros((), device=data.device), 0
        for step, batch in enumerate(batches):
            set_rate(optimizer, recipe, epoch + step / per_epoch)
            value = _step(model, (batch, *map(next, streams)), loss, optimizer, recipe)
            total, count = total + value * len(batch), count + len(batch)
        _finish_epoch(model, data, epoch + 1, float(total) / count, recipe)
        remaining -= steps


def _step(
    model: nn.Module, batches: Sequence[Batch], loss: Loss, optimizer: torch.optim.Optimizer, recipe: Recipe
) -> torch.Tensor:
    """Take one step; return the loss, still on the device."""
    optimizer.zero_grad(set_to_none=True)
    with torch.autocast(batches[0].images.device.type, torch.bfloat16, enabled=recipe.precision == "bf16"):
        value = loss(model, *batches)
    value.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    return value.detach()


def _finish_epoch(model: nn.Module, data: RunData, epoch: int, mean: float, recipe: Recipe) -> None:
    if not math.isfinite(mean):
        raise TrainingDiverged(f"the training loss of epoch {epoch} is {mean}; a lower lr may help (lr {recipe.lr})")
    data.on_epoch(model, epoch, mean)
    model.train()


def _stream(images: ImageSet, generator: torch.Generator, recipe: Recipe) -> Iterator[Batch]:
    for positions in endless(len(images), recipe.batch_size, generator):
        yield load(images, positions, recipe, generator)


def _set(data: RunData, name: str) -> ImageSet:
    found = getattr(data, name)
    if found is None or not len(found):
        raise MethodError(f"the method trains on the {name} set, which this study does not have")
    return found  # type: ignore[no-any-return]
