"""fit(): the one training loop; `Training` is the same, one epoch at a time.

    fit(model, data, recipe, rng)                                  # cross-entropy on retain
    fit(model, data, recipe, rng, sets=("retain", "forget"), loss=lambda model, retain, forget: ...)
    training = Training(model, data, recipe, rng)                  # to alternate, or to change the model in between
    training.epoch()

The first set paces the epochs; batches of further sets come from endless reshuffled streams of their own. An epoch's
draws cross to the device at its start, and the loss is summed there and looked at once, at its end, so that a GPU never
waits inside one. Where the worker keeps `engines.Engines`, a training whose every step is the same work on other
images (the default objective on one resident set, without hooks or an optimiser of its own) replays a captured step.

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
from ray_unlearn.training.batches import Batch, Draws, batches, draw, endless, sizes_of
from ray_unlearn.training.captured import Engine
from ray_unlearn.training.engines import can_stand_in
from ray_unlearn.training.live import Live
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
        self._weights_C = None if loss else class_weights(self._images[0], recipe, data.num_classes)
        self._loss = loss or cross_entropy(self._weights_C)
        generators = [rng.torch(f"{purpose}-{_name(each, i)}") for i, each in enumerate(sets)]
        self._generator = generators[0]
        further = list(zip(self._images, self._sizes, generators, strict=True))[1:]
        self._streams = [endless(images, size, recipe, generator) for images, size, generator in further]
        self._plain = len(sets) == 1 and all(each is None for each in (loss, hooks, parameters, optimizer))
        model.to(memory_format=torch.channels_last if recipe.channels_last else torch.contiguous_format)
        self.optimizer = self._own = optimizer or make_optimizer(model, recipe, parameters)
        self._live: Live | None = None
        self._rate = rate or partial(rate_factor, recipe)
        self._hooks = hooks or Hooks()
        self.steps_per_epoch = len(sizes_of(len(self._images[0]), self._sizes[0]))
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
        images = self._images[0]
        epoch = draw(images, self._sizes[0], self.recipe.augment, self._generator, steps).on_device_of(images)
        with arithmetic(self.recipe.precision):
            total = self._steps(epoch, steps)
        self._remaining -= steps
        self.epochs_done += 1
        mean = float(total) / len(epoch)
        if not math.isfinite(mean):
            hint = f"a lower lr may help (lr {self.recipe.lr})"
            raise TrainingDiverged(f"the training loss of epoch {self.epochs_done} is {mean}; {hint}")
        self.data.on_images(len(epoch))
        self.data.on_epoch(self.model, self.epochs_done, mean)

    def _rate_at(self, step: int) -> float:
        return self.recipe.lr * self._rate(self.epochs_done + step / self.steps_per_epoch)

    def _steps(self, epoch: Draws, steps: int) -> torch.Tensor:
        """Take an epoch's steps in the quickest way that gives its bits; return the sum of its images' losses."""
        engine = self._engine(len(epoch))
        if engine is not None:
            return self._captured(engine, epoch, steps)
        if self.epochs_done == 0 and self._plain and can_stand_in(self.model, self.optimizer, self.recipe):
            on_cpu = self.data.device.type == "cpu"
            self._live = Live.of(self.model, self.recipe, self._images[0].pixels.image_size) if on_cpu else None
        if self._live is None or self.optimizer is not self._own:
            return self._eagerly(epoch, self.optimizer, partial(set_rate, self.optimizer))
        with self._live as live:
            return self._eagerly(epoch, live.optimizer, live.set_rate)

    def _eagerly(
        self, epoch: Draws, optimizer: torch.optim.Optimizer, rate_is: Callable[[float], None]
    ) -> torch.Tensor:
        """Take an epoch's steps one operation at a time; return the sum of its images' losses, on the device."""
        total = torch.zeros((), device=self.data.device)
        for step, batch in enumerate(batches(self._images[0], epoch, self._sizes[0], self.recipe)):
            rate_is(self._rate_at(step))
            total = total + self._step((batch, *map(next, self._streams)), optimizer) * len(batch)
        return total

    def _step(self, step_batches: Sequence[Batch], optimizer: torch.optim.Optimizer) -> torch.Tensor:
        """Take one step; return the loss, still on the device."""
        optimizer.zero_grad(set_to_none=True)
        with autocast(self.recipe.precision, self.data.device):
            value = self._loss(self.model, *step_batches)
        value.backward()  # type: ignore[no-untyped-call]
        self._hooks.after_backward()
        optimizer.step()
        self._hooks.after_step()
        return value.detach()

    def _engine(self, num_images: int) -> Engine | None:
        """Return the engine that may take the epoch's steps; None where they are to be taken eagerly."""
        images, size, engines = self._images[0], self._sizes[0], self.data.engines
        if engines is None or not self._plain or images.pixels.resident is None or num_images < size:
            return None
        if not can_stand_in(self.model, self.optimizer, self.recipe):
            return None
        found: Engine = engines.of(
            self.model, self.optimizer, images, self.recipe, size, len(images) // size, self._weights_C
        )
        return found

    def _captured(self, engine: Engine, epoch: Draws, steps: int) -> torch.Tensor:
        """Replay an epoch's steps; return the sum of its images' losses, on the device."""
        rates = [self._rate_at(step) for step in range(steps)]
        set_rate(self.optimizer, rates[-1])
        return engine.epoch(self.model, self.optimizer, epoch, rates, self._weights_C)


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
