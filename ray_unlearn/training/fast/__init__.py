"""Quicker ways to take a training's steps, behind one function.

    take = make_stepper(model, data, images, recipe, batch_size, optimizer, weights_C, plain=True)
    total = take(eagerly, draws, rates, optimizer)        # one epoch

`eagerly` is the training loop itself. Two ways are quicker and give the same run: on a GPU, a captured step is replayed
(`cuda_graph`); on a CPU, if few taps of large kernels meet a pixel, only those taps are stepped (`live_taps`). On a
CPU, convolutions skip the other taps in every training (`small_maps`).

Does not cover: trainings with a method's own objective, hooks, sets, parameters or optimiser; their steps are taken
eagerly.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from ray_unlearn.data.images import ImageSet, RunData
from ray_unlearn.study.recipe import Recipe
from ray_unlearn.training.batches import Draws
from ray_unlearn.training.fast.cuda_graph import Engine, parameters_of
from ray_unlearn.training.fast.live_taps import LiveTaps
from ray_unlearn.training.optimizers import set_rate

Steps = Callable[[Draws, Sequence[float], torch.optim.Optimizer], torch.Tensor]
"""Function of an epoch's draws, the rate of each step and the optimiser; returns the sum of its images' losses."""
Stepper = Callable[[Steps, Draws, Sequence[float], torch.optim.Optimizer], torch.Tensor]
"""The same, with the loop that takes the steps eagerly as first argument. A stepper does not keep the loop: a training
that refers to itself would hold its optimiser's state until the garbage collector runs."""
_KINDS = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}


def make_stepper(
    model: nn.Module,
    data: RunData,
    images: ImageSet,
    recipe: Recipe,
    batch_size: int,
    optimizer: torch.optim.Optimizer,
    weights_C: torch.Tensor | None,
    *,
    plain: bool,
) -> Stepper:
    """Return a stepper that takes a training's epochs in the quickest way.

    Args:
        model: trained in place.
        data: the run's data; its engines, if it has any, hold captured steps.
        images: the set to train on.
        recipe: optimiser, precision, augmentation.
        batch_size: images per step.
        optimizer: made for this training; an epoch with another optimiser is not taken on live taps.
        weights_C: class weights of the objective, float32 [C], or None.
        plain: whether the training is the default objective on one set, with nothing of a method's own.

    """
    return Quickest(model, data, images, recipe, batch_size, optimizer, weights_C) if plain else _take_eagerly


def _take_eagerly(
    eagerly: Steps, draws: Draws, rates: Sequence[float], optimizer: torch.optim.Optimizer
) -> torch.Tensor:
    return eagerly(draws, rates, optimizer)


@dataclass
class Quickest:
    """Stepper that chooses anew for every epoch: a method may have changed the model in between."""

    model: nn.Module
    data: RunData
    images: ImageSet
    recipe: Recipe
    batch_size: int
    optimizer: torch.optim.Optimizer
    weights_C: torch.Tensor | None
    live: LiveTaps | None = None
    epochs: int = 0

    def __call__(
        self, eagerly: Steps, draws: Draws, rates: Sequence[float], optimizer: torch.optim.Optimizer
    ) -> torch.Tensor:
        """Take an epoch's steps."""
        self.epochs += 1
        engine = self._engine(draws, optimizer)
        if engine is not None:
            set_rate(optimizer, rates[-1])
            return engine.epoch(self.model, optimizer, draws, rates, self.weights_C)
        self._look_for_live_taps(optimizer)
        if self.live is None or optimizer is not self.optimizer:
            return eagerly(draws, rates, optimizer)
        return self.live.epoch(eagerly, draws, rates)

    def skip(self, optimizer: torch.optim.Optimizer) -> None:
        """Count an epoch that is not trained; the way of the first one is chosen as if it were."""
        self.epochs += 1
        self._look_for_live_taps(optimizer)

    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """Return the optimiser of the live taps, which lasts from one epoch to the next."""
        return {"live": self.live.optimizer} if self.live else {}

    def state(self) -> dict[str, torch.Tensor]:
        """Return the tensors that are kept between epochs beside the model and the optimisers."""
        return self.live.momenta() if self.live else {}

    def restore(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Take over the tensors of `state`."""
        if self.live:
            self.live.restore(tensors)

    def _look_for_live_taps(self, optimizer: torch.optim.Optimizer) -> None:
        if self.epochs == 1 and self.data.device.type == "cpu" and can_stand_in(self.model, optimizer, self.recipe):
            self.live = LiveTaps.of(self.model, self.recipe, self.images.pixels.image_size)

    def _engine(self, draws: Draws, optimizer: torch.optim.Optimizer) -> Engine | None:
        """Return the engine that may take the epoch's steps, if any."""
        images, size, engines = self.images, self.batch_size, self.data.engines
        if engines is None or images.pixels.resident is None or len(draws) < size or draws.seeds_N is not None:
            return None  # transforms are Python, on the CPU
        if not can_stand_in(self.model, optimizer, self.recipe):
            return None
        full_steps = len(images) // size
        found: Engine = engines.of(self.model, optimizer, images, self.recipe, size, full_steps, self.weights_C)
        return found


def can_stand_in(model: nn.Module, optimizer: torch.optim.Optimizer, recipe: Recipe) -> bool:
    """Return whether a copy of the model with the recipe's optimiser would take the same steps.

    Hooks on modules are Python, which a graph would not call. The optimiser must be of the recipe's kind, over all
    parameters: methods that freeze some parameters freeze others in the next run, and an engine would be used once.
    """
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    if any(getattr(module, name) for module in model.modules() for name in hooks):
        return False
    if any(each._backward_hooks or each._post_accumulate_grad_hooks for each in model.parameters()):
        return False
    if len(optimizer.param_groups) != 1 or not isinstance(optimizer, _KINDS[recipe.optimizer]):
        return False
    if not all(parameter.requires_grad for parameter in model.parameters()):
        return False
    return [each.numel() for each in parameters_of(optimizer)] == [each.numel() for each in model.parameters()]
