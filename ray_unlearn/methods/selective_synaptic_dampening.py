"""SSD: shrink the weights that matter more to the forget set than to the training set.

    populations:
      ssd: {method: selective_synaptic_dampening, count: 8, originals: 8, alpha: 10, dampening: 1}

Idea: a weight whose squared gradient on the forget set is unusually large holds what is particular to it; no training.

1. I_D and I_f: the squared gradient of the mean cross-entropy of a batch, per weight, averaged over the batches of all
   training images and of the forget images, in evaluation mode.
2. Where I_f > alpha * I_D, the weight is multiplied by min((dampening * I_D / I_f) ^ exponent, lower_bound).

Source: Foster et al., Fast Machine Unlearning Without Retraining Through Selective Synaptic Dampening (AAAI 2024).
Read: if-loops/selective-synaptic-dampening src/ssd.py, src/forget_random_main.py, src/forget_random_strategies.py (the
authors').

Caveats:
- The method is deterministic: all runs from one original are equal, so the official metric gives 0. Make as many
  originals as runs.
- The authors' code squares the gradient of a batch of 128, and alpha 10 belongs to it; the paper's formula squares that
  of a single image (`images_per_gradient: 1`). A forget set of about 100 images is one batch, whose square exceeds ten
  times the mean for about one weight in a hundred by chance; image by image, next to no weight exceeds it.
- `lower_bound` is the published name of an upper bound of the factor.
- Buffers are not changed.
- Images come in the order of the training set, retain and forget mixed; in the authors' code retain images come first.

Two relatives are options. LFSSD (Loss-Free Machine Unlearning, arXiv 2402.19308; `importance: output`) needs no
labels; read: the README of SSD's repository, which is its code. ASSD (Schoepf et al., arXiv 2402.10098; `alpha:
adaptive`) takes alpha from the ratios I_f / I_D of all weights: their 100 - log(1 + 100 N_f / N) percentile, so that
the larger the forget set, the more is dampened; read: if-loops/adaptive-selective-synaptic-dampening
error_unlearning.ipynb (the authors'), whose lambda is a placeholder (1 here), whose I_D is over the retain set alone,
and whose floor under the factor, "not used in the paper", is left out.

Does not cover: layer-wise choices of alpha.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import Field
from torch import nn

from ray_unlearn.data.images import ImageSet, RunData
from ray_unlearn.methods.method import Method
from ray_unlearn.methods.published import pinned
from ray_unlearn.seeds import Seeds
from ray_unlearn.study.changes import Correction
from ray_unlearn.study.identity import Since
from ray_unlearn.study.recipe import Block, Float, Int
from ray_unlearn.training import Batch, cross_entropy
from ray_unlearn.training.gradients import Gradients, mean_absolute_gradient, mean_squared_gradient


class SelectiveSynapticDampeningOptions(Block):
    """Defaults: the SSD repository's."""

    alpha: Annotated[Float, Field(ge=0)] | Literal["adaptive"] = Field(
        10.0, description="Dampen where I_f exceeds this many times I_D; adaptive: by their ratios (ASSD)."
    )
    dampening: Float = Field(1.0, ge=0, description="The paper's lambda, on I_D / I_f.")
    exponent: Float = Field(1.0, gt=0, description="Power of the ratio before the bound.")
    lower_bound: Float = Field(1.0, ge=0, description="Largest factor; 1 never lets a weight grow.")
    importance: Annotated[Literal["loss", "output"], Since("0.2", neutral="loss")] = Field(
        "loss", description="loss: squared gradient of cross-entropy; output: |gradient| of |logits|^2 (LFSSD)."
    )
    images_per_gradient: Int = Field(
        128,
        ge=1,
        description="Images whose mean gradient is squared: 128 (the code) or 1 (the paper); alpha goes with it.",
    )


@torch.no_grad()
def selective_synaptic_dampening(
    model: nn.Module, data: RunData, options: SelectiveSynapticDampeningOptions, rng: Seeds
) -> None:
    """Multiply the weights that stand out on the forget set by their importance ratio, at most `lower_bound`."""
    with torch.enable_grad():
        of_all, of_forget = (_importance(model, images, options) for images in (data.train, data.forget))
    alpha = options.alpha
    if isinstance(alpha, str):
        alpha = adaptive_alpha(of_all.values(), of_forget.values(), len(data.forget) / len(data.train))
    for parameter, on_forget in of_forget.items():
        stands_out = on_forget > alpha * of_all[parameter]
        ratio = options.dampening * of_all[parameter] / torch.where(stands_out, on_forget, 1.0)
        factor = (ratio**options.exponent).clamp(max=options.lower_bound)
        parameter.mul_(torch.where(stands_out, factor, 1.0))


def _importance(model: nn.Module, images: ImageSet, options: SelectiveSynapticDampeningOptions) -> Gradients:
    """Return every weight's importance: the squared gradient of the loss, or the size of that of the output's norm."""
    if options.importance == "loss":
        return mean_squared_gradient(model, images, cross_entropy(), options.images_per_gradient)
    return mean_absolute_gradient(model, images, squared_norm, options.images_per_gradient)


def squared_norm(model: nn.Module, batch: Batch) -> torch.Tensor:
    """Return the mean over images of the squared norm of the logits: LFSSD's loss, which needs no label."""
    logits_BC: torch.Tensor = model(batch.images).float()
    return logits_BC.square().sum(1).mean()


def adaptive_alpha(of_all: Iterable[torch.Tensor], of_forget: Iterable[torch.Tensor], share: float) -> float:
    """Return ASSD's threshold: the 100 - log(1 + 100 share) percentile of the finite ratios of importance."""
    ratios = torch.cat([(f / d).flatten() for d, f in zip(of_all, of_forget, strict=True)]).double().cpu().numpy()
    return float(np.percentile(ratios[np.isfinite(ratios)], 100 - math.log(1 + 100 * share)))


METHOD = Method(
    name="selective_synaptic_dampening",
    run=selective_synaptic_dampening,
    options=SelectiveSynapticDampeningOptions,
    starts_from="original",
    corrections=(
        Correction("0.2", "a smaller last batch counted less; published, every batch counts the same"),
        Correction(
            "0.2",
            "gradients of single images were squared; the authors square those of batches of 128",
            ("images_per_gradient",),
        ),
    ),
    summary="Multiply weights by lambda * I_D / I_f, at most 1, where I_f > alpha * I_D.",
    source="Foster et al., Fast Machine Unlearning Without Retraining Through Selective Synaptic Dampening, AAAI 2024",
    opened="if-loops/selective-synaptic-dampening src/ssd.py, src/forget_random_main.py (authors')",
    open=(
        "images per squared gradient: 128 as in the code, 1 in the paper's formula",
        "LFSSD: alpha and lambda, SSD's here; ASSD: lambda, 1 here",
    ),
    published={
        "published": pinned(SelectiveSynapticDampeningOptions),
        "published_paper": pinned(SelectiveSynapticDampeningOptions, images_per_gradient=1),
        "published_lfssd": pinned(SelectiveSynapticDampeningOptions, importance="output"),
        "published_assd": pinned(SelectiveSynapticDampeningOptions, alpha="adaptive"),
    },
    cost="1 on train + 1 on forget",
    deterministic=True,
    inherits=(),
)
