"""fit(): the one training loop; `Training` is the same, one epoch at a time.

    fit(model, data, recipe, rng)                                  # cross-entropy on retain
    fit(model, data, recipe, rng, sets=("retain", "forget"), loss=lambda model, retain, forget: ...)
    training = Training(model, data, recipe, rng)                  # to alternate, or to change the model in between
    training.epoch()

The first set paces the epochs; batches of further sets come from endless reshuffled streams of their own. The loss is
summed on the device and looked at once per epoch, so that a GPU never waits inside one.

Does not cover: perturbations before training, and anything that happens once; methods do that around `fit`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 - its usual name

from ray_unlearn.data.images import ImageSet, RunData
from ray_unlearn.errors import MethodError, TrainingDiverged
from ray_unlearn.seeds import Seeds
from ray_unlearn.study.recipe import Recipe
from ray_unlearn.training.batches import Batch, batches_per_epoch, endless, load, shuffled
from ray_unlearn.training.optimizers import make_optimizer, rate_factor, set_rate

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
        return inverse_counts(images, num_classes)
    weights = torch.tensor(recipe.class_weights)
    if len(weights) != num_classes:
        raise MethodError(f"class_weights: expected {num_classes} numbers, one per class; found {len(weights)}")
    return weights.float().to(images.pixels.device)


def inverse_counts(images: ImageSet, num_classes: int) -> torch.Tensor:
    """Return 1 / images of each class, float32 [C] on the device; classes without images get 0."""
    counts = torch.bincount(torch.from_numpy(images.labels_N), minlength=num_classes)
    return torch.where(counts > 0, 1 / counts.clamp(min=1), 0.0).float().to(images.pixels.device)


@dataclass(frozen=True, kw_only=True, slots=True)
class Hooks:
    """What a method may do inside a step; the defaults do nothing."""

    after_backward: Callable[[], None] = lambda: None
    """Scale or mask gradients, before the optimiser sees them."""
    after_step: Callable[[], None] = lambda: None
    """Put masked weights back, after weight decay and momentum moved them."""


class Training:
    """One objective with its optimiser, schedule and order of batches, one epoch at a time.

    `fit` runs one to its end. A method that alternates objectives, or changes the model between epochs, keeps several
    and calls `epoch` on each in turn; momentum and streams go on where they were.
    """

    def __init__(
        self,
        model: nn.Module,
        data: RunData,
        recipe: Recipe,
        rng: Seeds,
        *,
        sets: Sequence[str | ImageSet] = ("retain",),
        loss: Loss | None = None,
        purpose: str = "fit",
        batch_sizes: Sequence[int] | None = None,
        parameters: Iterable[nn.Parameter] | None = None,
        optimizer: torch.optim.Optimizer | None = None,
        rate: Callable[[float], float] | None = None,
        hooks: Hooks | None = None,
    ) -> None:
        """Open the streams and make the optimiser.

        Args:
            model: on the data's device; trained in place.
            data: what the run may see.
            recipe: optimiser, rates, epochs, batches, precision.
            rng: the run's streams; draws come from `<purpose>-<set>`.
            sets: names of `data`'s sets, or image sets; each step gets one batch of each. The first paces the epochs.
            loss: objective; default cross-entropy on the first set, with the recipe's class weights.
            purpose: names the streams; a method that trains twice names its second training differently.
            batch_sizes: one per set; default the recipe's for all.
            parameters: which to train; default all that need gradients.
            optimizer: one to share with another training; default the recipe's own.
            rate: factor of the recipe's rate after so many epochs; default the recipe's schedule.
            hooks: what to do inside a step.

        Raises:
            MethodError: a set is empty or missing, or the class weights do not fit.

        """
        self.model, self.data, self.recipe = model, data, recipe
        self.epochs_done = 0
        self._images = [_set(data, each) for each in sets]
        self._sizes = list(batch_sizes or [recipe.batch_size] * len(sets))
        self._loss = loss or cross_entropy(class_weights(self._images[0], recipe, data.num_classes))
        self._generators = [rng.torch(f"{purpose}-{_name(each, i)}") for i, each in enumerate(sets)]
        self._streams = [self._endless(i) for i in range(1, len(sets))]
        model.to(memory_format=torch.channels_last if recipe.channels_last else torch.contiguous_format)
        self.optimizer = optimizer or make_optimizer(model, recipe, parameters)
        self._rate = rate or partial(rate_factor, recipe)
        self._hooks = hooks or Hooks()
        self.steps_per_epoch = batches_per_epoch(len(self._images[0]), self._sizes[0])
        self._remaining = max(1, round(recipe.epochs * self.steps_per_epoch))

    @property
    def done(self) -> bool:
        """Whether the recipe's epochs are through."""
        return self._remaining == 0

    @property
    def at_last_epoch(self) -> bool:
        """Whether the next call of `epoch` is the last one."""
        return 0 < self._remaining <= self.steps_per_epoch

    def epoch(self) -> None:
        """Train one epoch, or what is left of a fractional last one.

        Raises:
            TrainingDiverged: the epoch's mean loss is NaN or infinite.

        """
        self.model.train()
        steps = min(self.steps_per_epoch, self._remaining)
        total, count = torch.zeros((), device=self.data.device), 0
        for step, batch in enumerate(self._first(steps)):
            set_rate(self.optimizer, self.recipe.lr * self._rate(self.epochs_done + step / self.steps_per_epoch))
            value = self._step((batch, *map(next, self._streams)))
            total, count = total + value * len(batch), count + len(batch)
        self._remaining -= steps
        self.epochs_done += 1
        mean = float(total) / count
        if not math.isfinite(mean):
            hint = f"a lower lr may help (lr {self.recipe.lr})"
            raise TrainingDiverged(f"the training loss of epoch {self.epochs_done} is {mean}; {hint}")
        self.data.on_epoch(self.model, self.epochs_done, mean)

    def _step(self, batches: Sequence[Batch]) -> torch.Tensor:
        """Take one step; return the loss, still on the device."""
        self.optimizer.zero_grad(set_to_none=True)
        with torch.autocast(self.data.device.type, torch.bfloat16, enabled=self.recipe.precision == "bf16"):
            value = self._loss(self.model, *batches)
        value.backward()  # type: ignore[no-untyped-call]
        self._hooks.after_backward()
        self.optimizer.step()
        self._hooks.after_step()
        return value.detach()

    def _first(self, steps: int) -> Iterator[Batch]:
        images, generator = self._images[0], self._generators[0]
        for positions in itertools.islice(shuffled(len(images), self._sizes[0], generator), steps):
            yield load(images, positions, self.recipe, generator)

    def _endless(self, i: int) -> Iterator[Batch]:
        images, generator = self._images[i], self._generators[i]
        for positions in endless(len(images), self._sizes[i], generator):
            yield load(images, positions, self.recipe, generator)


def fit(model: nn.Module, data: RunData, recipe: Recipe, rng: Seeds, **how: Any) -> None:
    """Train `model` in place until the recipe's epochs are through; `how` is as for `Training`.

    Raises:
        TrainingDiverged: an epoch's mean loss is NaN or infinite.
        MethodError: a set is empty or missing, or the class weights do not fit.

    """
    training = Training(model, data, recipe, rng, **how)
    while not training.done:
        training.epoch()
    model.train()


def _name(which: str | ImageSet, position: int) -> str:
    return which if isinstance(which, str) else f"set{position}"


def _set(data: RunData, which: str | ImageSet) -> ImageSet:
    found = getattr(data, which) if isinstance(which, str) else which
    if found is None or not len(found):
        name = f"the {which} set" if isinstance(which, str) else "a set of images"
        raise MethodError(f"the method trains on {name}, which this study does not have")
    return found
