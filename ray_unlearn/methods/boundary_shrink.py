"""Boundary shrink: give each forget image to the nearest other class, and learn that.

    populations:
      shrink: {method: boundary_shrink, count: 64, epsilon: 0.1, epochs: 5, lr: 0.01}

Idea: a model that never saw the forget images would put them with their neighbours across the decision boundary.

1. Move each forget image one step up its loss under the original: epsilon of the pixel range, by the gradient's sign.
2. Its new label is the class, other than its own, that the original finds most likely for the moved image.
3. Minimise cross-entropy on the unmoved forget images under their new labels.

Citation: Chen et al., Boundary Unlearning (CVPR 2023), boundary shrink; values of torchunlearn (Harry24k).

Caveats: published here are the idea, 5 epochs, SGD, lr 0.01; everything else is unverified: the size of the step
(0.1 is our choice), one step rather than several, that the own class is excluded rather than the moved image's
prediction taken as it is, and that moved pixels are not clamped to the range. Described for forgetting a whole class.
No step uses the retain set, so its accuracy goes where it goes. Labels are fixed per original; runs differ by the
order of batches alone, so hardly at all where the forget set fits one batch: choose a smaller `batch_size` there.

Does not cover: boundary expanding (an extra class for the forget images, pruned afterwards).
"""

from __future__ import annotations

import numpy as np
import torch
from pydantic import Field
from torch import nn
from torch.nn import functional as F  # noqa: N812 - its usual name

from ray_unlearn.data.images import ImageSet, RunData
from ray_unlearn.methods.method import Method
from ray_unlearn.seeds import Seeds
from ray_unlearn.study.recipe import Float, Optimizer, Recipe
from ray_unlearn.training import fit

_BATCH_SIZE = 256


class BoundaryShrinkOptions(Recipe):
    """Defaults: 5 epochs, SGD and lr of torchunlearn; the step is unverified."""

    epochs: Float = Field(5.0, gt=0)
    optimizer: Optimizer = "sgd"
    lr: Float = Field(0.01, gt=0)
    weight_decay: Float = Field(5e-4, ge=0)
    epsilon: Float = Field(0.1, ge=0, description="Step across the boundary, a share of the pixel range; unverified.")


def boundary_shrink(model: nn.Module, data: RunData, options: BoundaryShrinkOptions, rng: Seeds) -> None:
    """Relabel the forget images by the nearest other class, and minimise cross-entropy on them."""
    relabelled = data.forget.with_labels(nearest_other_class(model, data.forget, options.epsilon))
    fit(model, data, options, rng, sets=(relabelled,))


def nearest_other_class(model: nn.Module, images: ImageSet, epsilon: float) -> np.ndarray:
    """Return int64 [N]: the likeliest class but the own one after a step of `epsilon` pixel ranges up the loss."""
    model.eval()
    step = 255 * epsilon / torch.tensor(images.scaling.scale, device=images.pixels.device).view(3, 1, 1)
    found = []
    for start in range(0, len(images), _BATCH_SIZE):
        pixels_BCHW, labels_B = images.batch(np.arange(start, min(start + _BATCH_SIZE, len(images))))
        pixels_BCHW.requires_grad_()
        (slope,) = torch.autograd.grad(F.cross_entropy(model(pixels_BCHW), labels_B), pixels_BCHW)
        with torch.no_grad():
            logits_BC = model(pixels_BCHW + step * slope.sign())
        found.append(logits_BC.scatter(1, labels_B[:, None], -torch.inf).argmax(1).cpu().numpy())
    return np.concatenate(found)


METHOD = Method(
    name="boundary_shrink",
    run=boundary_shrink,
    options=BoundaryShrinkOptions,
    starts_from="original",
    summary="Fine-tune on the forget set under each image's nearest other class.",
    source="Chen et al., Boundary Unlearning, CVPR 2023; epochs and rate of torchunlearn, details unverified",
    cost="2 on forget for the labels, then epochs on forget",
)
