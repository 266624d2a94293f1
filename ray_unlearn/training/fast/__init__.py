"""Quicker ways to take a training's steps, behind one class.

    take = Stepper(step, data, sets, sizes, streams, optimizer, weights_C, plain=True)
    total = take(eagerly, draws, rates, optimizer)        # one epoch

`eagerly` is the training loop itself. Quicker ways give the same run. On a GPU, a captured step is replayed: of the
default objective on one set, one that all runs of a worker share (`cuda_graph`); of any other, the training's own
(`own_steps`). On a CPU, if few taps of large kernels meet a pixel, only those taps are stepped (`live_taps`), in
trainings on the default objective; and convolutions skip the other taps in every training (`small_maps`).

Does not cover: what must be taken eagerly on a GPU, too: sets that are not resident on it, transforms (Python, on the
CPU), nets with hooks on modules, optimisers that `make_optimizer` did not make, and methods that declare it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from ray_unlearn.data.images import ImageSet, RunData
from ray_unlearn.study.recipe import Recipe
from ray_unlearn.training.batches import Draws, Stream, parts, sizes_of
from ray_unlearn.training.fast.cuda_graph import Engine, parameters_of
from ray_unlearn.training.fast.live_taps import LiveTaps
from ray_unlearn.training.fast.own_steps import OwnSteps
from ray_unlearn.training.optimizers import set_rate
from ray_unlearn.training.step import Step

Steps = Callable[[Draws, Sequence[float], torch.optim.Optimizer], torch.Tensor]
"""Function of an epoch's draws, the rate of each step and the optimiser; returns the sum of its images' losses."""
_KINDS = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}


@dataclass
class Stepper:
    """Takes a training's epochs in the quickest way, chosen anew for each: a method may have changed the model between.

    It does not keep the loop that takes steps eagerly: a training that refers to itself would hold its optimiser's
    state until the garbage collector runs.
    """

    step: Step
    """The training's step."""
    data: RunData
    """The run's data; its engines, if it has any, capture steps."""
    images: Sequence[ImageSet]
    """The sets to train on."""
    sizes: Sequence[int]
    """Images per step of each."""
    streams: Sequence[Stream]
    """Draws of the sets after the first."""
    optimizer: torch.optim.Optimizer
    """Made for this training; an epoch with another optimiser is not taken on live taps."""
    weights_C: torch.Tensor | None
    """Class weights of the default objective, float32 [C], or None."""
    plain: bool
    """Whether the training is the default objective on one set, with nothing of a method's own."""
    live: LiveTaps | None = None
    own: OwnSteps | None = None
    epochs: int = 0

    def __call__(
        self, eagerly: Steps, draws: Draws, rates: Sequence[float], optimizer: torch.optim.Optimizer
    ) -> torch.Tensor:
        """Take an epoch's steps."""
        self.epochs += 1
        model = self.step.model
        if self._captures(optimizer):
            if self.plain and len(draws) >= self.sizes[0] and can_stand_in(model, optimizer, self.step.recipe):
                set_rate(optimizer, rates[-1])
                return self._engine(optimizer).epoch(model, optimizer, draws, rates, self.weights_C)
            return self._on_own_tensors(draws, rates, optimizer)
        self._look_for_live_taps(optimizer)
        if self.live is None or optimizer is not self.optimizer:
            return eagerly(draws, rates, optimizer)
        return self.live.epoch(eagerly, draws, rates)

    def skip(self, optimizer: torch.optim.Optimizer) -> None:
        """Count an epoch that is not trained; the way of the first one is chosen as if it were."""
        self.epochs += 1
        if not self._captures(optimizer):
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
        """Choose at the first epoch whether the training's steps are taken on live taps."""
        first, model = self.plain and self.epochs == 1 and self.data.device.type == "cpu", self.step.model
        if first and can_stand_in(model, optimizer, self.step.recipe):
            self.live = LiveTaps.of(model, self.step.recipe, self.images[0].pixels.image_size)

    def _captures(self, optimizer: torch.optim.Optimizer) -> bool:
        """Return whether an epoch's steps are captured."""
        resident = all(each.pixels.resident is not None for each in self.images)
        transforms = self.step.recipe.augment.transforms  # Python, on the CPU
        usual = isinstance(optimizer, tuple(_KINDS.values())) and all(
            one.get("fused") for one in optimizer.param_groups
        )
        return (
            self.data.engines is not None and resident and not transforms and usual and not _has_hooks(self.step.model)
        )

    def _engine(self, optimizer: torch.optim.Optimizer) -> Engine:
        images, size = self.images[0], self.sizes[0]
        shared = (self.step.model, optimizer, images, self.step.recipe, size, len(images) // size, self.weights_C)
        found: Engine = self.data.engines.of(*shared)
        return found

    def _on_own_tensors(self, draws: Draws, rates: Sequence[float], optimizer: torch.optim.Optimizer) -> torch.Tensor:
        first = [*parts(self.images[0], draws, self.sizes[0])]
        further = [[next(stream) for _ in rates] for stream in self.streams]
        if self.own is None:
            steps = len(sizes_of(len(self.images[0]), self.sizes[0]))
            self.own = OwnSteps(self.step, self.images, self.sizes, steps, self.data.engines.capture)
        return self.own.epoch([first, *further], rates, optimizer)


def can_stand_in(model: nn.Module, optimizer: torch.optim.Optimizer, recipe: Recipe) -> bool:
    """Return whether a copy of the model with the recipe's optimiser would take the same steps.

    The optimiser must be of the recipe's kind, over all parameters: methods that freeze some parameters freeze others
    in the next run, and an engine would be used once.
    """
    if _has_hooks(model):
        return False
    if len(optimizer.param_groups) != 1 or not isinstance(optimizer, _KINDS[recipe.optimizer]):
        return False
    if not all(parameter.requires_grad for parameter in model.parameters()):
        return False
    return [each.numel() for each in parameters_of(optimizer)] == [each.numel() for each in model.parameters()]


def _has_hooks(model: nn.Module) -> bool:
    """Return whether modules or parameters have hooks: they are Python, which a graph would not call."""
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    if any(getattr(module, name) for module in model.modules() for name in hooks):
        return True
    return any(each._backward_hooks or each._post_accumulate_grad_hooks for each in model.parameters())
