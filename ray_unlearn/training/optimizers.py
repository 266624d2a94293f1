"""Optimisers by name, and learning rates as closed forms of the epochs done.

    optimizer = make_optimizer(model, recipe)
    set_rate(optimizer, recipe.lr * rate_factor(recipe, epochs_done=2.5))

Schedules (T = recipe.epochs, t = epochs done): constant 1; cosine (1 + cos(pi t / T)) / 2, as
torch's CosineAnnealingLR(T_max=T) with eta_min 0; linear 1 - t / T; step gamma ** floor(t / step_epochs). With
`schedule_per: epoch`, t is rounded down to whole epochs (the competition's recipe); warm-up always goes per batch.

The optimisers are torch's own with one fused kernel for all parameters, on flat views of their memory: every update is
elementwise, and torch's fused kernels copy tensors that are not contiguous, such as channels_last weights.

Does not cover: methods with several optimisers; they call `make_optimizer` more than once.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from ray_unlearn.errors import MethodError, ModelError
from ray_unlearn.study.recipe import Recipe


class _Flat(torch.optim.Optimizer):
    """Mixed in before a torch optimiser, to step flat views of the parameters, which share their memory."""

    def __init__(self, parameters: Iterable[nn.Parameter], **options: Any) -> None:
        self._parameters = list(parameters)
        self._strides = [parameter.stride() for parameter in self._parameters]
        self._views = [nn.Parameter(_flat(parameter.detach())) for parameter in self._parameters]
        for parameter, view in zip(self._parameters, self._views, strict=True):
            if view.data_ptr() != parameter.data_ptr() or not view.is_contiguous():
                raise ModelError(
                    f"a parameter of shape {list(parameter.shape)} has memory with gaps (strides "
                    f"{parameter.stride()}) and cannot be trained; make it .contiguous() in the model's factory"
                )
        super().__init__(self._views, fused=True, **options)  # type: ignore[call-arg]  # of the optimiser mixed with

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Delete the gradients of the model's parameters."""
        for parameter in self._parameters:
            parameter.grad = None

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Take one step from the gradients that the model's parameters hold."""
        for parameter, view, stride in zip(self._parameters, self._views, self._strides, strict=True):
            if parameter.stride() != stride:
                raise MethodError("a parameter's memory format changed after its optimiser was made; make a new one")
            if parameter.data_ptr() != view.data_ptr():  # a layer went to another device and back, for example
                view.data = _flat(parameter.detach())
            gradient = parameter.grad
            if gradient is not None:
                own = gradient if gradient.stride() == stride else _laid_out_as(gradient, parameter)
                gradient = own.as_strided(view.shape, (1,))  # `_flat`, for memory that is known to have no gaps
            view.grad = gradient
        super().step(closure)


class _SGD(_Flat, torch.optim.SGD):
    pass


class _Adam(_Flat, torch.optim.Adam):
    pass


class _AdamW(_Flat, torch.optim.AdamW):
    pass


def make_optimizer(
    model: nn.Module, recipe: Recipe, parameters: Iterable[nn.Parameter] | None = None
) -> torch.optim.Optimizer:
    """Return the recipe's optimiser over `parameters`, default all that need gradients.

    Its `param_groups` and `state` are of flat views, one per parameter and in their order.

    Raises:
        ModelError: a parameter's memory has gaps, so that no view of it is flat.

    """
    parameters = [p for p in (parameters or model.parameters()) if p.requires_grad]
    if recipe.optimizer == "sgd":
        return _SGD(parameters, lr=recipe.lr, momentum=recipe.momentum, weight_decay=recipe.weight_decay)
    kind = _Adam if recipe.optimizer == "adam" else _AdamW
    return kind(parameters, lr=recipe.lr, weight_decay=recipe.weight_decay)


def steps_without_gradient(recipe: Recipe, rates: Iterable[float]) -> tuple[float, float, float, float] | None:
    """Return the combined effect of steps at these rates on a weight w and its momentum m with zero gradients.

    Factors (a, b, c, d) with w' = a w + b m and m' = c w + d m, the product of the steps. SGD's are
    m' = momentum m + decay w and w' = w - rate m' (Sutskever et al. 2013, as in torch); AdamW's is
    w' = (1 - rate decay) w. None for Adam with weight decay, which is not linear.
    """
    a, b, c, d = 1.0, 0.0, 0.0, 1.0
    if recipe.optimizer == "adam":
        return None if recipe.weight_decay else (a, b, c, d)
    for rate in rates:
        if recipe.optimizer == "adamw":
            a *= 1 - rate * recipe.weight_decay
        else:
            c, d = recipe.momentum * c + recipe.weight_decay * a, recipe.momentum * d + recipe.weight_decay * b
            a, b = a - rate * c, b - rate * d
    return a, b, c, d


def rate_factor(recipe: Recipe, epochs_done: float) -> float:
    """Return the factor of the base rate after `epochs_done` epochs (a fraction inside an epoch)."""
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
    """Set the rate of every parameter group for the next step."""
    for group in optimizer.param_groups:
        group["lr"] = rate


def _flat(tensor: torch.Tensor) -> torch.Tensor:
    """Return a view of a tensor's memory as one dimension, in memory order; a copy if the memory has gaps."""
    order = sorted(range(tensor.dim()), key=lambda axis: (-tensor.stride()[axis], axis))
    return tensor.permute(order).reshape(-1)


def _laid_out_as(gradient: torch.Tensor, parameter: torch.Tensor) -> torch.Tensor:
    """Return the gradient in its parameter's memory layout; autograd uses that layout, hooks need not.

    The stride of an axis of one element says nothing about memory: kernels of 1x1 have one in either format.
    """
    axes = zip(parameter.shape, gradient.stride(), parameter.stride(), strict=True)
    if all(size == 1 or of_gradient == of_parameter for size, of_gradient, of_parameter in axes):
        return gradient
    return torch.empty_like(parameter).copy_(gradient)
