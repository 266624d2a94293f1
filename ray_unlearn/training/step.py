"""One step of a training: tensor code over one batch of each set, which may be captured as a CUDA graph.

    step = Step(model, recipe, device, loss, Hooks(after_step=held.restore))
    summed_loss = step((retain, forget), optimizer)

The contract: inside a step, the loss, `after_backward` and `after_step` are pure tensor code. They read no number from
the device (`.item()`, `if tensor`, boolean indexing), draw from no generator on the CPU, and change nothing but the
model, its gradients and the optimiser. What they read from Python (a number, a flag, a list) is frozen when the step is
captured; what changes from step to step, or from epoch to epoch, is a tensor that keeps its address and is written to
in `before_step`, or between epochs. `before_step` runs before every step and is never captured: it may draw, count and
decide.

Does not cover: the order of steps and their rates (`loop`), capturing (`fast`).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field

import torch
from torch import nn

from ray_unlearn.study.recipe import Recipe
from ray_unlearn.training.batches import Batch
from ray_unlearn.training.objective import Loss
from ray_unlearn.training.precision import autocast


def _no_kind(sizes: tuple[int, ...]) -> Hashable:
    """Do nothing: all steps are of one kind."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Hooks:
    """Functions that a method may run at a step; the defaults do nothing."""

    before_step: Callable[[tuple[int, ...]], Hashable] = _no_kind
    """Called with the sizes of the step's batches; may draw random numbers and write them to tensors that the step
    reads. Returns the kind of the step, for methods whose steps differ in what they do: each kind is captured."""
    after_backward: Callable[[], None] = lambda: None
    """Called before the optimiser's step: may scale or mask gradients."""
    after_step: Callable[[], None] = lambda: None
    """Called after the optimiser's step: may restore masked weights, which weight decay and momentum moved."""


@dataclass(frozen=True, slots=True)
class Step:
    """The step of a training."""

    model: nn.Module
    recipe: Recipe
    device: torch.device
    loss: Loss
    hooks: Hooks = field(default_factory=Hooks)

    def __call__(self, batches: Sequence[Batch], optimizer: torch.optim.Optimizer) -> torch.Tensor:
        """Train on one batch of each set; return the sum of the first batch's losses, on the device."""
        optimizer.zero_grad(set_to_none=True)
        with autocast(self.recipe.precision, self.device):
            loss = self.loss(self.model, *batches)
        loss.backward()  # type: ignore[no-untyped-call]
        self.hooks.after_backward()
        optimizer.step()
        self.hooks.after_step()
        return loss.detach() * len(batches[0])
