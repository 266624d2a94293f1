"""SalUn: random labels, but only the weights that the forget set pulls hardest may move.

    populations:
      salun: {method: salun, count: 64, saliency: 0.5, epochs: 10, lr: 0.013}

Steps: 1. In evaluation mode, take the gradient of cross-entropy over the whole forget set. 2. The share `saliency` of
all parameters, those with the largest |gradient| of the model as a whole, may move. 3. Train as `random_label` does;
after every step the other parameters are put back bit for bit.

Citation: Fan et al., SalUn: Empowering Machine Unlearning via Gradient-Based Weight Saliency, ICLR 2024.

Caveats: masking gradients alone is not enough, and until February 2026 the authors' code did just that: weight decay
and momentum went on moving masked weights. Here they are restored after each step. Running statistics of batch
normalisation are no parameters and follow the data. The mask is the same for all runs of an original; labels and order
make the spread. The published rate rarely transfers: tune.

Does not cover: masks by layer, or recomputed during training.
"""

from __future__ import annotations

from pydantic import Field
from torch import nn

from ray_unlearn.data.images import RunData
from ray_unlearn.methods.masks import Held
from ray_unlearn.methods.method import Method
from ray_unlearn.methods.perturbations import smallest
from ray_unlearn.methods.random_label import RandomLabelOptions, random_label
from ray_unlearn.seeds import Seeds
from ray_unlearn.study.recipe import Float
from ray_unlearn.training import Hooks, cross_entropy
from ray_unlearn.training.gradients import mean_gradient


class SalunOptions(RandomLabelOptions):
    """Defaults: SalUn's README for CIFAR-10."""

    lr: Float = Field(0.013, gt=0, description="Rate (SalUn README).")
    saliency: Float = Field(
        0.5, gt=0, le=1, description="Share of all parameters that may move (SalUn README: with_0.5)."
    )


def salun(model: nn.Module, data: RunData, options: SalunOptions, rng: Seeds) -> None:
    """Train on random labels with the less salient parameters held where they are."""
    gradients = mean_gradient(model, data.forget, cross_entropy())
    held = smallest(list(gradients.values()), 1 - options.saliency)
    moving = Held({parameter: ~mask for parameter, mask in zip(gradients, held, strict=True)})
    random_label(model, data, options, rng, hooks=Hooks(after_step=moving.restore))


METHOD = Method(
    name="salun",
    run=salun,
    options=SalunOptions,
    starts_from="original",
    summary="Train on random labels for the forget set, moving only the parameters most salient for it.",
    source="Fan et al., SalUn: Empowering Machine Unlearning via Gradient-Based Weight Saliency, ICLR 2024",
    cost="1 gradient pass on forget + epochs on retain and forget",
    published={"published": {"batch_size": 256}},
)
