"""SalUn: random labels, but only the weights that the forget set pulls hardest may move.

    populations:
      salun: {method: salun, preset: published, count: 64}

1. In evaluation mode, take the gradient of cross-entropy over the whole forget set.
2. Of all parameters that can get a gradient, the share `saliency` with the largest |gradient|, in the model as a whole,
   may move.
3. Train as `random_label` does, in the order of CIFAR-10: a pass over forget, then one over retain. After every step
   the other parameters are restored bit for bit.

Source: Fan et al., SalUn: Empowering Machine Unlearning via Gradient-Based Weight Saliency, ICLR 2024. Read:
OPTML-Group/Unlearn-Saliency Classification/generate_mask.py, unlearn/RL.py, unlearn/impl.py, README.md (the authors').

Caveats:
- Parameters that never get a gradient are not ranked (`training.dead`). They are 62 % of a stock ResNet-18 at 32x32
  pixels, where the largest half of all parameters would hold every live one, and nothing would be masked. The authors'
  nets for small images have none.
- Weight decay and momentum move weights whose gradient is masked, so masked weights are restored after each step, as
  in the authors' code since February 2026.
- The authors take the mask's gradient on augmented images; here it is of the images as they are.
- Running statistics of batch normalisation are no parameters, and change.
- The mask is the same in all runs of an original; runs differ by labels and order.
- The published rate rarely transfers; tune it.

Does not cover: masks by layer, or recomputed during training.
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import nn

from ray_unlearn.data.images import RunData
from ray_unlearn.methods.masks import Held
from ray_unlearn.methods.method import Method
from ray_unlearn.methods.perturbations import smallest
from ray_unlearn.methods.published import SPARSE, pinned
from ray_unlearn.methods.random_label import RandomLabelOptions, random_label
from ray_unlearn.seeds import Seeds
from ray_unlearn.study.changes import Correction
from ray_unlearn.study.identity import Since
from ray_unlearn.study.recipe import Float
from ray_unlearn.training import Hooks, cross_entropy
from ray_unlearn.training.dead import dead_weights
from ray_unlearn.training.gradients import mean_gradient


class SalunOptions(RandomLabelOptions):
    """Defaults: SalUn's README for CIFAR-10."""

    lr: Float = Field(0.013, gt=0, description="Rate (SalUn README).")
    order: Annotated[Literal["joint", "sequential"], Since("0.2", neutral="joint")] = Field(
        "sequential", description="sequential: forget, then retain (SalUn on CIFAR-10); joint: its CIFAR-100 branch."
    )
    saliency: Float = Field(
        0.5, gt=0, le=1, description="Share of the parameters that may move (SalUn README: with_0.5)."
    )


def salun(model: nn.Module, data: RunData, options: SalunOptions, rng: Seeds) -> None:
    """Train on random labels with the less salient parameters held where they are."""
    gradients, dead = mean_gradient(model, data.forget, cross_entropy()), dead_weights(model, data.forget)
    live = [~dead.get(p, torch.zeros_like(p, dtype=torch.bool)) for p in gradients]
    held = smallest(list(gradients.values()), 1 - options.saliency, live)
    masks = {p: alive & ~mask for p, alive, mask in zip(gradients, live, held, strict=True)}
    random_label(model, data, options, rng, hooks=Hooks(after_step=Held(masks).restore))


METHOD = Method(
    name="salun",
    run=salun,
    options=SalunOptions,
    starts_from="original",
    corrections=(
        Correction("0.2", "weights that never get a gradient took places in the mask"),
        Correction(
            "0.2",
            "labels left the own class out, in one shuffled order; published are all classes, forget before retain",
            ("exclude_own", "order"),
        ),
    ),
    summary="Train on random labels for the forget set, moving only the parameters most salient for it.",
    source="Fan et al., SalUn: Empowering Machine Unlearning via Gradient-Based Weight Saliency, ICLR 2024",
    opened="OPTML-Group/Unlearn-Saliency Classification/generate_mask.py, unlearn/RL.py, unlearn/impl.py (authors')",
    open=(
        "weights that never get a gradient (62 % of a ResNet-18 at 32x32): ranked last by the authors, not ranked here",
        "weight decay and momentum of masked weights: undone after each step, as in the authors' code of 2026",
        "images of the mask's gradient: augmented by the authors, as they are here",
    ),
    cost="1 gradient pass on forget + epochs on retain and forget",
    published={"published": pinned(SalunOptions, SPARSE)},
)
