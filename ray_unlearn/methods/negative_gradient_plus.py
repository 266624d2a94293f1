"""NegGrad+: descend on the retain set and ascend on the forget set in the same step.

    populations:
      ngp: {method: negative_gradient_plus, count: 64, alpha: 0.95, epochs: 5, lr: 0.01}

Objective per step: alpha * CE(retain batch) - (1 - alpha) * CE(forget batch). Retain batches pace the epochs; forget
batches come from a stream reshuffled whenever the set is through.

Caveat: with a small alpha or many epochs the ascent is unbounded, and the run diverges.

Does not cover: ascent alone (gradient ascent).
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import nn

from ray_unlearn.data.images import RunData
from ray_unlearn.methods.method import Method
from ray_unlearn.seeds import Seeds
from ray_unlearn.study.recipe import Float, Optimizer, Recipe
from ray_unlearn.training import Batch, class_weights, cross_entropy, fit


class NegativeGradientPlusOptions(Recipe):
    """Defaults: alpha and rate of the SCRUB repository's baseline; 5 of its 5 to 10 epochs."""

    epochs: Float = Field(5.0, gt=0)
    optimizer: Optimizer = "sgd"
    lr: Float = Field(0.01, gt=0)
    weight_decay: Float = Field(5e-4, ge=0)
    alpha: Float = Field(0.95, gt=0, lt=1, description="Weight of the retain set's cross-entropy.")


def negative_gradient_plus(model: nn.Module, data: RunData, options: NegativeGradientPlusOptions, rng: Seeds) -> None:
    """Minimise alpha * CE(retain) - (1 - alpha) * CE(forget); class weights, where asked, on the retain term."""
    on_retain = cross_entropy(class_weights(data.retain, options, data.num_classes))
    on_forget = cross_entropy()

    def loss(model: nn.Module, retain: Batch, forget: Batch) -> torch.Tensor:
        return options.alpha * on_retain(model, retain) - (1 - options.alpha) * on_forget(model, forget)

    fit(model, data, options, rng, sets=("retain", "forget"), loss=loss)


METHOD = Method(
    name="negative_gradient_plus",
    run=negative_gradient_plus,
    options=NegativeGradientPlusOptions,
    starts_from="original",
    summary="Minimise alpha * CE(retain) - (1 - alpha) * CE(forget).",
    source="Kurmanji et al., Towards Unbounded Machine Unlearning (SCRUB), NeurIPS 2023, baseline NegGrad+",
    cost="epochs on retain, each step with a forget batch",
)
