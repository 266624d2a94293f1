"""The default objective: cross-entropy, with the recipe's class weights.

    loss = cross_entropy(class_weights(data.retain, recipe, data.num_classes))
    fit(model, data, recipe, rng, loss=loss)            # the same as without `loss`

Does not cover: what methods minimise instead (`ray_unlearn.methods.losses`).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 - its usual name

from ray_unlearn.data.images import ImageSet
from ray_unlearn.errors import MethodError
from ray_unlearn.study.recipe import Recipe
from ray_unlearn.training.batches import Batch

Loss = Callable[..., torch.Tensor]
"""loss(model, batch of the first set, batch of the second, ...) -> scalar tensor, the mean over the batch."""


def cross_entropy(weights_C: torch.Tensor | None = None) -> Loss:
    """Return the mean cross-entropy on the first batch; with weights, the weighted mean, as in torch."""

    def loss(model: nn.Module, batch: Batch) -> torch.Tensor:
        return F.cross_entropy(model(batch.images).float(), batch.labels, weight=weights_C)

    return loss


def class_weights(images: ImageSet, recipe: Recipe, num_classes: int) -> torch.Tensor | None:
    """Return the recipe's class weights, float32 [C] on the device; None if all classes have the same weight.

    `inverse` is 1 / images of the class, not normalised (the competition's recipe); classes without images get 0.

    Raises:
        MethodError: the study gives another number of weights than there are classes.

    """
    if recipe.class_weights == "none":
        return None
    if recipe.class_weights == "inverse":
        return inverse_counts(images, num_classes)
    weights = torch.tensor(recipe.class_weights)
    if len(weights) != num_classes:
        raise MethodError(f"class_weights: expected {num_classes} numbers, one per class; found {len(weights)}")
    return weights.float().to(images.pixels.device)


def inverse_counts(images: ImageSet, num_classes: int) -> torch.Tensor:
    """Return 1 / images of each class, float32 [C] on the device; classes without images get 0."""
    counts = torch.bincount(torch.from_numpy(images.labels_N), minlength=num_classes)
    return torch.where(counts > 0, 1 / counts.clamp(min=1), 0.0).float().to(images.pixels.device)
