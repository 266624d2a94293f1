"""Boundary shrink: give each forget image to the nearest other class, and learn that.

    populations:
      shrink: {method: boundary_shrink, preset: published, count: 64}

Idea: a model that never saw the forget images would put them with their neighbours across the decision boundary.

1. Move each forget image one step up its loss under the original: epsilon of the pixel range, by the gradient's sign;
   the moved pixels are clamped to the range and rounded to whole levels of 0..255.
2. Its new label is the original's prediction for the moved image, its own class included.
3. Minimise cross-entropy on the unmoved forget images under their new labels.

Source: Chen et al., Boundary Unlearning (CVPR 2023), boundary shrink. Read: TY-LEE-KR/Boundary-Unlearning-Code
boundary_unlearning.py, adv_generator.py, main.py (the authors'), OPTML-Group/Unlearn-Saliency
Classification/unlearn/boundary_sh.py.

Caveats:
- The authors' rate is 1e-5. There is no retain term, so a rate of 0.01 destroys the model instead of shifting its
  boundary.
- The method is described for forgetting a whole class.
- No step uses the retain set, so nothing protects its accuracy.
- New labels are the same in all runs of an original; runs differ by the order of batches alone. Where the forget set
  fits one batch they hardly differ: choose a smaller `batch_size`.

Does not cover: an extra class for the forget images, cut off afterwards (`boundary_expanding`).
"""

from __future__ import annotations

from typing import Annotated

import numpy as np
import torch
from pydantic import Field
from torch import nn
from torch.nn import functional as F  # noqa: N812 - its usual name

from ray_unlearn.data.images import ImageSet, RunData
from ray_unlearn.methods.method import Method
from ray_unlearn.methods.published import PLAIN, pinned
from ray_unlearn.seeds import Seeds
from ray_unlearn.study.changes import Correction
from ray_unlearn.study.identity import Since
from ray_unlearn.study.recipe import Float, Optimizer, Recipe, Schedule
from ray_unlearn.training import fit


class BoundaryShrinkOptions(Recipe):
    """Defaults: the authors' code."""

    epochs: Float = Field(10.0, gt=0, description="Passes over forget.")
    optimizer: Optimizer = "sgd"
    lr: Float = Field(1e-5, gt=0)
    weight_decay: Float = Field(0.0, ge=0)
    schedule: Schedule = "constant"
    epsilon: Float = Field(0.1, ge=0, description="Step across the boundary, a share of the pixel range.")
    exclude_own: Annotated[bool, Since("0.2", neutral=True)] = Field(
        False, description="Whether an image never keeps its own class (authors: it may)."
    )
    clamp: Annotated[bool, Since("0.2", neutral=False)] = Field(
        True, description="Keep moved pixels in the range and round them to whole levels (authors: yes)."
    )


def boundary_shrink(model: nn.Module, data: RunData, options: BoundaryShrinkOptions, rng: Seeds) -> None:
    """Relabel the forget images with the original's predictions after a step, and minimise cross-entropy."""
    relabelled = data.forget.with_labels(nearest_class(model, data.forget, options))
    fit(model, data, options, rng, sets=(relabelled,))


def nearest_class(model: nn.Module, images: ImageSet, options: BoundaryShrinkOptions) -> np.ndarray:
    """Return int64 [N]: the likeliest class after a step of `epsilon` pixel ranges up the loss."""
    model.eval()
    shift, scale = images.scaling.by_channel(images.pixels.device)
    step = 255 * options.epsilon / scale
    found = []
    for pixels_BCHW, labels_B in images.in_order():
        pixels_BCHW.requires_grad_()
        (slope,) = torch.autograd.grad(F.cross_entropy(model(pixels_BCHW), labels_B), pixels_BCHW)
        with torch.no_grad():
            moved_BCHW = pixels_BCHW + step * slope.sign()
            if options.clamp:
                moved_BCHW = ((moved_BCHW * scale + shift).clamp(0, 255).round() - shift) / scale
            logits_BC = model(moved_BCHW)
            if options.exclude_own:
                logits_BC = logits_BC.scatter(1, labels_B[:, None], -torch.inf)
        found.append(logits_BC.argmax(1).cpu().numpy())
    return np.concatenate(found)


METHOD = Method(
    name="boundary_shrink",
    run=boundary_shrink,
    options=BoundaryShrinkOptions,
    starts_from="original",
    corrections=(
        Correction(
            "0.2",
            "the rate was a thousand times the published one, labels left the own class out, pixels were not clamped",
            ("lr", "epochs", "weight_decay", "schedule", "exclude_own", "clamp"),
        ),
    ),
    summary="Fine-tune on the forget set under the original's prediction for each image after a step up its loss.",
    source="Chen et al., Boundary Unlearning, CVPR 2023",
    opened="TY-LEE-KR/Boundary-Unlearning-Code boundary_unlearning.py, adv_generator.py, main.py (authors')",
    open=("single forget images: a method for whole classes",),
    published={"published": pinned(BoundaryShrinkOptions, PLAIN, batch_size=64)},
    cost="2 on forget for the labels, then epochs on forget",
)
