"""CF-k: fine-tune the top of the net on the retain set, and freeze the rest.

    populations:
      cf1: {method: catastrophic_forgetting_k, count: 64, k: 1, epochs: 10, lr: 0.01}

Idea: what is particular to single images sits in the last layers; they forget what they no longer see.

1. Freeze all but the last k blocks and the classifier (`perturbations.last_blocks` says what a block is).
2. Minimise cross-entropy on the retain set.

Citation: Goel et al., Towards Adversarial Evaluations for Inexact Machine Unlearning (arXiv 2201.06640).

Caveats: frozen means frozen: frozen layers run in evaluation mode, so that their batch normalisation keeps the running
statistics that it has, and neither weight decay nor momentum reaches them. The description leaves this open. The rate
is to be searched in 1e-4..1e-1; in the challenge, teams report the method at or below plain fine-tuning. Runs differ
by the order of batches alone.

Does not cover: starting the top afresh (`exact_unlearning_k`).
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import nn

from ray_unlearn.data.images import RunData
from ray_unlearn.methods.masks import trainable_only
from ray_unlearn.methods.method import Method
from ray_unlearn.methods.perturbations import last_blocks
from ray_unlearn.seeds import Seeds
from ray_unlearn.study.recipe import Float, Int, Optimizer, Recipe
from ray_unlearn.training import Batch, class_weights, cross_entropy, fit


class CatastrophicForgettingKOptions(Recipe):
    """Defaults: the published CIFAR-10 values; optimiser, momentum and weight decay as in the starter notebook."""

    epochs: Float = Field(10.0, gt=0)
    optimizer: Optimizer = "sgd"
    lr: Float = Field(0.01, gt=0, description="Published; search 1e-4 to 1e-1.")
    weight_decay: Float = Field(5e-4, ge=0)
    k: Int = Field(1, ge=0, description="Blocks before the classifier that move with it; published: 1.")


def catastrophic_forgetting_k(
    model: nn.Module, data: RunData, options: CatastrophicForgettingKOptions, rng: Seeds
) -> None:
    """Minimise cross-entropy on the retain set, moving the last k blocks and the classifier alone."""
    moving = {module for block in last_blocks(model, options.k) for module in block.modules()}
    frozen = [module for module in model.modules() if module not in moving]
    on_retain = cross_entropy(class_weights(data.retain, options, data.num_classes))

    def loss(model: nn.Module, retain: Batch) -> torch.Tensor:
        for module in frozen:
            module.training = False  # not eval(), which would reach the moving layers inside
        return on_retain(model, retain)

    parameters = [parameter for module in moving for parameter in module.parameters(recurse=False)]
    with trainable_only(model, parameters):
        fit(model, data, options, rng, loss=loss)


METHOD = Method(
    name="catastrophic_forgetting_k",
    run=catastrophic_forgetting_k,
    options=CatastrophicForgettingKOptions,
    starts_from="original",
    summary="Fine-tune the last k blocks and the classifier on the retain set; the rest is frozen.",
    source="Goel et al., Towards Adversarial Evaluations for Inexact Machine Unlearning, arXiv 2201.06640 (CF-k)",
    cost="epochs on retain, without the backward pass of the frozen layers",
)
