"""fit(): the one training loop; `Training` is the same, one epoch at a time.

    fit(model, data, recipe, rng)                                  # cross-entropy on retain
    fit(model, data, recipe, rng, sets=("retain", "forget"), loss=lambda model, retain, forget: ...)
    training = Training(model, data, recipe, rng)                  # to alternate, or to change the model in between
    training.epoch()

The first set paces the epochs; batches of further sets come from endless reshuffled streams of their own. An epoch's
draws cross to the device at its start, and the loss is summed there and looked at once, at its end, so that a GPU never
waits inside one. A training whose every step is the same work on other images (the default objective on one set,
without hooks or an optimiser of its own) may be taken in a quicker way that gives the same run (`fast.make_stepper`).

Does not cover: perturbations before training, and anything that happens once; methods do that around `fit`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from ray_unlearn.data.images import ImageSet, RunData
from ray_unlearn.errors import MethodError, TrainingDiverged
from ray_unlearn.seeds import Seeds
from ray_unlearn.study.recipe import Recipe
from ray_unlearn.training.batches import Draws, batches, draw, endless, sizes_of
from ray_unlearn.training.fast import make_stepper
from ray_unlearn.training.objective import Loss, class_weights, cross_entropy
from ray_unlearn.training.optimizers import make_optimizer, rate_factor, set_rate
from ray_unlearn.training.precision import arithmetic, autocast, refuse_unsupported


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
            MethodError: a set is empty or missing, the class weights do not fit, or the device lacks the precision.

        """
        refuse_unsupported(recipe.precision, data.device)
        self.model, self.data, self.recipe = model, data, recipe
        self.epochs_done = 0
        self._images = [_set(data, each) for each in sets]
        self._sizes = list(batch_sizes or [recipe.batch_size] * len(sets))
        weights_C = None if loss else class_weights(self._images[0], recipe, data.num_classes)
        self._loss = loss or cross_entropy(weights_C)
        generators = [rng.torch(f"{purpose}-{_name(each, i)}") for i, each in enumerate(sets)]
        self._generator = generators[0]
        further = list(zip(self._images, self._sizes, generators, strict=True))[1:]
        self._streams = [endless(images, size, recipe, generator) for images, size, generator in further]
        model.to(memory_format=torch.channels_last if recipe.channels_last else torch.contiguous_format)
        self.optimizer = optimizer or make_optimizer(model, recipe, parameters)
        self._rate = rate or partial(rate_factor, recipe)
        self._hooks = hooks or Hooks()
        self.steps_per_epoch = len(sizes_of(len(self._images[0]), self._sizes[0]))
        self._remaining = max(1, round(recipe.epochs * self.steps_per_epoch))
        plain = len(sets) == 1 and all(each is None for each in (loss, hooks, parameters, optimizer))
        fixed = (model, data, self._images[0], recipe, self._sizes[0], self.optimizer, weights_C)
        self._take = make_stepper(*fixed, plain=plain)

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
        steps, images = min(self.steps_per_epoch, self._remaining), self._images[0]
        draws = draw(images, self._sizes[0], self.recipe.augment, self._generator, steps).on_device_of(images)
        progress = [self.epochs_done + step / self.steps_per_epoch for step in range(steps)]
        rates = [self.recipe.lr * self._rate(epochs) for epochs in progress]
        with arithmetic(self.recipe.precision):
            total = self._take(self._steps, draws, rates, self.optimizer)
        self._remaining -= steps
        self.epochs_done += 1
        self._report(float(total) / len(draws), len(draws))

    def _steps(self, draws: Draws, rates: Sequence[float], optimizer: torch.optim.Optimizer) -> torch.Tensor:
        """Take an epoch's steps; return the sum of its images' losses, on the device."""
        total = torch.zeros((), device=self.data.device)
        first_set = batches(self._images[0], draws, self._sizes[0], self.recipe)
        for rate, batch in zip(rates, first_set, strict=True):
            set_rate(optimizer, rate)
            further = [next(stream) for stream in self._streams]
            optimizer.zero_grad(set_to_none=True)
            with autocast(self.recipe.precision, self.data.device):
                loss = self._loss(self.model, batch, *further)
            loss.backward()  # type: ignore[no-untyped-call]
            self._hooks.after_backward()
            optimizer.step()
            self._hooks.after_step()
            total = total + loss.detach() * len(batch)
        return total

    def _report(self, mean_loss: float, num_images: int) -> None:
        """Hand an epoch's loss on, or refuse it."""
        if not math.isfinite(mean_loss):
            hint = f"a lower lr may help (lr {self.recipe.lr})"
            raise TrainingDiverged(f"the training loss of epoch {self.epochs_done} is {mean_loss}; {hint}")
        self.data.on_images(num_images)
        self.data.on_epoch(self.model, self.epochs_done, mean_loss)


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
