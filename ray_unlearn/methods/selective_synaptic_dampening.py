"""SSD: shrink the weights that matter more to the forget set than to the training set.

    populations:
      ssd: {method: selective_synaptic_dampening, count: 8, originals: 8, alpha: 10, dampening: 1}

Idea: a weight whose squared gradient on the forget set stands out holds what is particular to it; no training.

1. I_D and I_f: the mean squared gradient of the cross-entropy, per weight, on all training images and on the forget
   images.
2. Where I_f > alpha * I_D, the weight is multiplied by min((dampening * I_D / I_f) ^ exponent, lower_bound).

Citation: Foster et al., Fast Machine Unlearning Without Retraining Through Selective Synaptic Dampening (AAAI 2024).

Caveats: deterministic: all runs from one original are equal, so the official metric gives 0; take as many originals as
runs. On a random tenth of the images it is reported to change next to nothing (unverified). Published settings were
for about 100 forget images. `lower_bound` is the published name of what is an upper bound on the factor. Buffers stay.

Does not cover: layer-wise or adaptive choices of alpha (LFSSD, ASSD).
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import nn

from ray_unlearn.data.images import RunData
from ray_unlearn.methods.method import Method
from ray_unlearn.seeds import Seeds
from ray_unlearn.study.recipe import Block, Float, Int
from ray_unlearn.training import cross_entropy
from ray_unlearn.training.gradients import mean_squared_gradient


class SelectiveSynapticDampeningOptions(Block):
    """Defaults: the SSD repository's."""

    alpha: Float = Field(10.0, ge=0, description="Dampen where the forget importance exceeds this many times I_D.")
    dampening: Float = Field(1.0, ge=0, description="The paper's lambda, on I_D / I_f.")
    exponent: Float = Field(1.0, gt=0, description="Power of the ratio before the bound.")
    lower_bound: Float = Field(1.0, ge=0, description="Largest factor; 1 never lets a weight grow.")
    images_per_gradient: Int = Field(1, ge=1, description="1: the mean square over images; more is faster and coarser.")


@torch.no_grad()
def selective_synaptic_dampening(
    model: nn.Module, data: RunData, options: SelectiveSynapticDampeningOptions, rng: Seeds
) -> None:
    """Multiply the weights that stand out on the forget set by their importance ratio, at most `lower_bound`."""
    with torch.enable_grad():
        of_all = mean_squared_gradient(model, data.train, cross_entropy(), options.images_per_gradient)
        of_forget = mean_squared_gradient(model, data.forget, cross_entropy(), options.images_per_gradient)
    for parameter, on_forget in of_forget.items():
        stands_out = on_forget > options.alpha * of_all[parameter]
        ratio = options.dampening * of_all[parameter] / torch.where(stands_out, on_forget, 1.0)
        factor = (ratio**options.exponent).clamp(max=options.lower_bound)
        parameter.mul_(torch.where(stands_out, factor, 1.0))


METHOD = Method(
    name="selective_synaptic_dampening",
    run=selective_synaptic_dampening,
    options=SelectiveSynapticDampeningOptions,
    starts_from="original",
    summary="Multiply weights by lambda * I_D / I_f, at most 1, where I_f > alpha * I_D.",
    source="Foster et al., Fast Machine Unlearning Without Retraining Through Selective Synaptic Dampening, AAAI 2024",
    cost="1 on train + 1 on forget, one image at a time",
    deterministic=True,
    inherits=(),
)
