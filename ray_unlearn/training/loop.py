"""fit(): the one training loop; `Training` is the same, one epoch at a time.

    fit(model, data, recipe, rng)                                  # cross-entropy on retain
    fit(model, data, recipe, rng, sets=("retain", "forget"), loss=lambda model, retain, forget: ...)
    training = Training(model, data, recipe, rng)                  # to alternate objectives, or edit the model between
    training.epoch()

The first set determines the number of steps of an epoch; batches of further sets come from endless reshuffled streams
of their own. An epoch's draws are copied to the device at its start, and the loss is summed there and read once, at its
end, so that a GPU never waits inside an epoch. Steps may be executed in a quicker way that gives the same run
(`fast.Stepper`): on a GPU they are captured, which is why losses and hooks are pure tensor code (`step` has the
contract).

Does not cover: perturbations before training, and other actions that happen once; methods do them around `fit`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn

from ray_unlearn.data.images import ImageSet, RunData
from ray_unlearn.errors import MethodError, TrainingDiverged
from ray_unlearn.seeds import Seeds
from ray_unlearn.study.recipe import Recipe
from ray_unlearn.training.batches import Batch, Draws, Stream, batches, draw, sizes_of
from ray_unlearn.training.fast import Stepper
from ray_unlearn.training.objective import Loss, class_weights, cross_entropy
from ray_unlearn.training.optimizers import make_optimizer, rate_factor, set_rate
from ray_unlearn.training.precision import arithmetic, check_supported
from ray_unlearn.training.step import Hooks, Step


class Training:
    """One objective with its optimiser, schedule and order of batches, one epoch at a time.

    `fit` runs one to its end. A method that alternates objectives, or changes the model between epochs, keeps several
    trainings and calls `epoch` on each in turn; momentum and streams continue from one call to the next.
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
            data: the run's image sets.
            recipe: optimiser, rates, epochs, batches, precision.
            rng: the run's streams; draws come from `<purpose>-<set>`.
            sets: names of `data`'s sets, or image sets; each step gets one batch of each. The first one's batches make
                an epoch.
            loss: objective, pure tensor code (`step`); default cross-entropy on the first set, with the recipe's class
                weights.
            purpose: names the streams; a method that trains twice names its second training differently.
            batch_sizes: one per set; default the recipe's for all.
            parameters: parameters to train; default all that need gradients.
            optimizer: optimiser shared with another training; default a new one of the recipe's kind.
            rate: epochs done -> factor of the recipe's rate; default the recipe's schedule.
            hooks: functions to call at a step.

        Raises:
            MethodError: a set is empty or missing, the class weights do not fit, or the device lacks the precision.

        """
        check_supported(recipe.precision, data.device)
        self.model, self.data, self.recipe = model, data, recipe
        self.epochs_done = 0
        self._images = [_set(data, each) for each in sets]
        self._sizes = list(batch_sizes or [recipe.batch_size] * len(sets))
        weights_C = None if loss else class_weights(self._images[0], recipe, data.num_classes)
        self._step = Step(model, recipe, data.device, loss or cross_entropy(weights_C), hooks or Hooks())
        generators = [rng.torch(f"{purpose}-{_name(each, i)}") for i, each in enumerate(sets)]
        self._generator = generators[0]
        further = list(zip(self._images, self._sizes, generators, strict=True))[1:]
        self._streams = [Stream(images, size, recipe, generator) for images, size, generator in further]
        model.to(memory_format=torch.channels_last if recipe.channels_last else torch.contiguous_format)
        self.optimizer = optimizer or make_optimizer(model, recipe, parameters)
        self._rate = rate or partial(rate_factor, recipe)
        self.steps_per_epoch = len(sizes_of(len(self._images[0]), self._sizes[0]))
        self._remaining = max(1, round(recipe.epochs * self.steps_per_epoch))
        self.plain = len(sets) == 1 and all(each is None for each in (loss, hooks, parameters, optimizer))
        """Whether it is the default objective on one set, with nothing of a method's own."""
        fixed = (self._step, data, self._images, self._sizes, self._streams, self.optimizer, weights_C)
        self._take = Stepper(*fixed, plain=self.plain)
        if data.resuming is not None:
            data.resuming.opened(self)

    @property
    def done(self) -> bool:
        """Whether all of the recipe's epochs are trained."""
        return self._remaining == 0

    @property
    def at_last_epoch(self) -> bool:
        """Whether the next call of `epoch` is the last one."""
        return 0 < self._remaining <= self.steps_per_epoch

    def epoch(self) -> None:
        """Train one epoch, or the rest of a fractional last one.

        Raises:
            TrainingDiverged: the epoch's mean loss is NaN or infinite.

        """
        resuming = self.data.resuming
        if resuming is not None and resuming.skips(self):
            return
        draws, rates = self.begin_epoch()
        with arithmetic(self.recipe.precision):
            total = self._take(self._steps, draws, rates, self.optimizer)
        self.end_epoch(float(total), draws)
        if resuming is not None:
            resuming.trained(self)

    def begin_epoch(self) -> tuple[Draws, list[float]]:
        """Draw the next epoch, on the device; return its draws, and the rate of each step."""
        self.model.train()
        steps, images = min(self.steps_per_epoch, self._remaining), self._images[0]
        draws = draw(images, self._sizes[0], self.recipe.augment, self._generator, steps).on_device_of(images)
        progress = [self.epochs_done + step / self.steps_per_epoch for step in range(steps)]
        return draws, [self.recipe.lr * self._rate(epochs) for epochs in progress]

    def end_epoch(self, total: float, draws: Draws) -> None:
        """Count an epoch that was trained, and report it, with the sum of its images' losses.

        Raises:
            TrainingDiverged: the sum is NaN or infinite.

        """
        self._remaining -= min(self.steps_per_epoch, self._remaining)
        self.epochs_done += 1
        self._report(total / len(draws), len(draws))

    def batches(self, draws: Draws) -> Iterator[Batch]:
        """Yield the batches of an epoch of the first set."""
        return batches(self._images[0], draws, self._sizes[0], self.recipe)

    @property
    def num_images(self) -> int:
        """Number of images of the first set."""
        return len(self._images[0])

    @property
    def loss(self) -> Loss:
        """The objective."""
        return self._step.loss

    def skip(self) -> None:
        """Count an epoch that an earlier execution of the run trained; what `before_step` counts is counted, too."""
        self.model.train()
        usual = [sizes_of(len(images), size) for images, size in zip(self._images, self._sizes, strict=True)]
        first = self.epochs_done * self.steps_per_epoch
        for step in range(first, first + min(self.steps_per_epoch, self._remaining)):
            self._step.hooks.before_step(tuple(sizes[step % len(sizes)] for sizes in usual))
        self._remaining -= min(self.steps_per_epoch, self._remaining)
        self.epochs_done += 1
        self._take.skip(self.optimizer)

    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """Return the optimisers that hold state of this training, by name."""
        return {"own": self.optimizer, **self._take.optimizers()}

    def stream_tensors(self) -> dict[str, torch.Tensor]:
        """Return the tensors that streams, and a quicker way of taking steps, keep between epochs."""
        streams = {f"stream.{i}": each.before for i, each in enumerate(self._streams) if each.before is not None}
        return {**streams, **self._take.state()}

    def position(self) -> dict[str, Any]:
        """Return how far the training and its streams have come, as JSON values."""
        taken = [each.taken for each in self._streams]
        return {"epochs_done": self.epochs_done, "remaining": self._remaining, "taken": taken}

    def restore(self, position: Mapping[str, Any], tensors: dict[str, torch.Tensor]) -> None:
        """Go to a position in every stream of batches, with the tensors of `stream_tensors`.

        Raises:
            ValueError: the training has another number of epochs or streams.

        """
        found = self.position()
        if any(found[key] != position[key] for key in ("epochs_done", "remaining")):
            raise ValueError(f"a training is at {found}, and was at {position}")
        for i, (stream, taken) in enumerate(zip(self._streams, position["taken"], strict=True)):
            if f"stream.{i}" in tensors:
                stream.begin(tensors[f"stream.{i}"], taken)
        self._take.restore(tensors)

    def _steps(self, draws: Draws, rates: Sequence[float], optimizer: torch.optim.Optimizer) -> torch.Tensor:
        """Take an epoch's steps; return the sum of its images' losses, on the device."""
        total = torch.zeros((), device=self.data.device)
        for rate, batch in zip(rates, self.batches(draws), strict=True):
            set_rate(optimizer, rate)
            taken = (batch, *(stream.batch() for stream in self._streams))
            self._step.hooks.before_step(tuple(map(len, taken)))
            total = total + self._step(taken, optimizer)
        return total

    def _report(self, mean_loss: float, num_images: int) -> None:
        """Report an epoch's loss to the run, or raise if it is not finite."""
        if not math.isfinite(mean_loss):
            hint = f"a lower lr may help (lr {self.recipe.lr})"
            raise TrainingDiverged(f"the training loss of epoch {self.epochs_done} is {mean_loss}; {hint}")
        self.data.on_images(num_images)
        self.data.on_epoch(self.model, self.epochs_done, mean_loss)


def fit(model: nn.Module, data: RunData, recipe: Recipe, rng: Seeds, **how: Any) -> None:
    """Train `model` in place for all of the recipe's epochs; `how` are the options of `Training`.

    A run of a pack is trained later, together with the others (`packed`).

    Raises:
        TrainingDiverged: an epoch's mean loss is NaN or infinite.
        MethodError: a set is empty or missing, or the class weights do not fit.

    """
    training = Training(model, data, recipe, rng, **how)
    if data.slot is not None:
        data.slot.join(training)
        return
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
