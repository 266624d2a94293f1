"""Gradients of a whole set, without a step: what methods choose their masks by.

    mean = mean_gradient(model, data.forget, cross_entropy())            # {parameter: gradient of the mean loss}
    importance = mean_squared_gradient(model, data.forget, cross_entropy(), batch_size=1)

The model is in evaluation mode, so that neither batch statistics nor buffers change.

Does not cover: training (`loop`).
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from ray_unlearn.data.images import ImageSet
from ray_unlearn.training.batches import Batch
from ray_unlearn.training.objective import Loss

Gradients = dict[nn.Parameter, torch.Tensor]
_BATCH_SIZE = 256


def mean_gradient(model: nn.Module, images: ImageSet, loss: Loss, batch_size: int = _BATCH_SIZE) -> Gradients:
    """Return the gradient of the loss averaged over all images; `loss` is a batch mean."""
    return _accumulate(model, images, loss, batch_size, power=1)


def mean_squared_gradient(model: nn.Module, images: ImageSet, loss: Loss, batch_size: int = 1) -> Gradients:
    """Return the mean over batches of the squared batch gradient; batch size 1 is the empirical Fisher diagonal."""
    return _accumulate(model, images, loss, batch_size, power=2)


def _accumulate(model: nn.Module, images: ImageSet, loss: Loss, batch_size: int, power: int) -> Gradients:
    model.eval()
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    total = {parameter: torch.zeros_like(parameter) for parameter in parameters}
    for start in range(0, len(images), batch_size):
        positions = np.arange(start, min(start + batch_size, len(images)))
        gradients = torch.autograd.grad(loss(model, Batch(*images.batch(positions))), parameters, allow_unused=True)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            if gradient is not None:
                total[parameter].add_(gradient.pow(power), alpha=len(positions) / len(images))
    return total
