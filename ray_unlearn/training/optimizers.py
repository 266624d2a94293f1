"""Optimisers by name, and learning rates as closed forms of the progress.

    optimizer = make_optimizer(model, recipe)
    set_rate(optimizer, recipe.lr * rate_factor(recipe, epochs_done=2.5))

Schedules (T = recipe.epochs, t = epochs done): constant 1; cosine (1 + cos(pi t / T)) / 2, as
torch's CosineAnnealingLR(T_max=T) with eta_min 0; linear 1 - t / T; step gamma ** floor(t / step_epochs). With
`schedule_per: epoch`, t is rounded down to whole epochs (the competition's recipe); warm-up always goes per batch.

Does not cover: methods with several optimisers; they call `make_optimizer` more than once.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import nn

from ray_unlearn.study.recipe import Recipe


def make_optimizer(
    model: nn.Module, recipe: Recipe, parameters: Iterable[nn.Parameter] | None = None
) -> torch.optim.Optimizer:
    """Return the recipe's optimiser over `parameters`, default all that need gradients."""
    parameters = [p for p in (parameters or model.parameters()) if p.requires_grad]
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(
            parameters, lr=recipe.lr, momentum=recipe.momentum, weight_decay=recipe.weight_decay, foreach=True
        )
    kind = torch.optim.Adam if recipe.optimizer == "adam" else torch.optim.AdamW
    return kind(parameters, lr=recipe.lr, weight_decay=recipe.weight_decay, foreach=True)


def rate_factor(recipe: Recipe, epochs_done: float) -> float:
    """Return what the base rate is multiplied by after `epochs_done` epochs (a fraction inside an epoch)."""
    warm = min(1.0, epochs_done / recipe.warmup_epochs) if recipe.warmup_epochs else 1.0
    t = epochs_done if recipe.schedule_per == "batch" else math.floor(epochs_done)
    if recipe.schedule == "cosine":
        return warm * (1 + math.cos(math.pi * t / recipe.epochs)) / 2
    if recipe.schedule == "linear":
        return warm * (1 - t / recipe.epochs)
    if recipe.schedule == "step":
        return float(warm * recipe.gamma ** math.floor(t / recipe.step_epochs))
    return warm


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set every parameter group's rate for the step that follows."""
    for group in optimizer.param_groups:
        group["lr"] = rate
