"""Gradients of a whole set, without a step; methods choose their masks by them.

    mean = mean_gradient(model, data.forget, cross_entropy())            # {parameter: gradient of the mean loss}
    importance = mean_squared_gradient(model, data.forget, cross_entropy(), batch_size=1)
    fisher = fisher_diagonal(model, data.retain)                         # expected over the model's own labels

The model is in evaluation mode, so that neither batch statistics nor buffers change.

Does not cover: training (`loop`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import starmap

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 - its usual name

from ray_unlearn.data.images import ImageSet
from ray_unlearn.training.batches import Batch
from ray_unlearn.training.objective import Loss

Gradients = dict[nn.Parameter, torch.Tensor]
_BATCH_SIZE = 256


def mean_gradient(model: nn.Module, images: ImageSet, loss: Loss, batch_size: int = _BATCH_SIZE) -> Gradients:
    """Return the gradient of the loss averaged over all images; `loss` is a batch mean."""
    return _accumulate(model, images, loss, batch_size, lambda gradient: gradient, by_image=True)


def mean_squared_gradient(model: nn.Module, images: ImageSet, loss: Loss, batch_size: int = 1) -> Gradients:
    """Return the mean over batches of the squared batch gradient; batch size 1 is the empirical Fisher diagonal.

    Every batch has the same weight, also a smaller last one.
    """
    return _accumulate(model, images, loss, batch_size, torch.square)


def mean_absolute_gradient(model: nn.Module, images: ImageSet, loss: Loss, batch_size: int) -> Gradients:
    """Return the mean over batches of the absolute batch gradient; every batch has the same weight."""
    return _accumulate(model, images, loss, batch_size, torch.abs)


def fisher_diagonal(model: nn.Module, images: ImageSet, batch_size: int = 1) -> Gradients:
    """Return the Fisher diagonal, mean over images of sum_y p_y (d CE(y))^2 with the model's own probabilities p.

    With more than one image per batch, p_y and the gradient are means of the batch, and every batch has the same
    weight.
    """
    model.eval()
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    total = {parameter: torch.zeros_like(parameter) for parameter in parameters}
    for images_BCHW, _ in images.in_order(batch_size):
        log_p_BC = F.log_softmax(model(images_BCHW).float(), dim=1)
        weights_C = log_p_BC.detach().exp().mean(0) / math.ceil(len(images) / batch_size)
        losses_C = -log_p_BC.mean(0)
        for label, weight in enumerate(weights_C):
            last = label == len(weights_C) - 1
            gradients = torch.autograd.grad(losses_C[label], parameters, retain_graph=not last, allow_unused=True)
            for parameter, gradient in zip(parameters, gradients, strict=True):
                if gradient is not None:
                    total[parameter].add_(weight * gradient.pow(2))
    return total


def _accumulate(
    model: nn.Module,
    images: ImageSet,
    loss: Loss,
    batch_size: int,
    of: Callable[[torch.Tensor], torch.Tensor],
    *,
    by_image: bool = False,
) -> Gradients:
    """Return the mean of a function of batch gradients, weighted by images, or with the same weight for every batch."""
    model.eval()
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    total = {parameter: torch.zeros_like(parameter) for parameter in parameters}
    for batch in starmap(Batch, images.in_order(batch_size)):
        share = len(batch) / len(images) if by_image else 1 / math.ceil(len(images) / batch_size)
        gradients = torch.autograd.grad(loss(model, batch), parameters, allow_unused=True)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            if gradient is not None:
                total[parameter].add_(of(gradient), alpha=share)
    return total
