"""Fisher noise: forget by noise on every weight, the stronger the less the retain set depends on it.

    populations:
      fisher: {method: fisher_noise, count: 64, alpha: 1.0e-6}

Idea: move each weight at random along directions that hardly change the loss on the retain set.

1. F: the diagonal Fisher information, the mean squared gradient of the cross-entropy on single retain images.
2. 1 / F, at most `clamp` (the classifier: `classifier_clamp`); for tensors with an input dimension (the second one),
   the mean over it.
3. Variance = alpha times that; `boost` times as much for one-dimensional tensors (biases, normalisation) and for the
   classifier. Add sqrt(variance) * n, n from N(0, 1), to every weight.

Citation: Golatkar et al., Eternal Sunshine of the Spotless Net (CVPR 2020).

Caveats: published alphas differ a thousandfold (1e-6 in the SSD repository, about 1e-9 suggested for Unlearn-Sparse).
Choices where the description is open: the clamps act on 1 / F, before alpha (clamping alpha / F at 1e3 would allow
noise of deviation 30); the boost is on the variance, once, also for the classifier's bias, which is both; F is
the empirical Fisher, at the labels that the images have, not at labels drawn from the model.

Does not cover: repair after the noise; forgetting whole classes by shifting the mean (the paper's other part).
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import nn

from ray_unlearn.data.images import RunData
from ray_unlearn.methods.method import Method
from ray_unlearn.methods.perturbations import classifier
from ray_unlearn.seeds import Seeds
from ray_unlearn.study.recipe import Block, Float, Int
from ray_unlearn.training import cross_entropy
from ray_unlearn.training.gradients import mean_squared_gradient


class FisherNoiseOptions(Block):
    """Defaults: the SSD repository's baseline."""

    alpha: Float = Field(1e-6, ge=0, description="Scale of the variance; 1e-9 has been suggested too.")
    clamp: Float = Field(1e3, gt=0, description="Largest 1 / F.")
    classifier_clamp: Float = Field(1e2, gt=0, description="Largest 1 / F in the classifier.")
    boost: Float = Field(10.0, ge=0, description="Factor of the variance in 1-D tensors and the classifier.")
    images_per_gradient: Int = Field(1, ge=1, description="1: the mean square over images; more is faster and coarser.")


@torch.no_grad()
def fisher_noise(model: nn.Module, data: RunData, options: FisherNoiseOptions, rng: Seeds) -> None:
    """Add noise of variance alpha / F, clamped, averaged over inputs and boosted as described above."""
    head = set(classifier(model).parameters())
    with torch.enable_grad():
        fisher = mean_squared_gradient(model, data.retain, cross_entropy(), options.images_per_gradient)
    generator = rng.torch("fisher-noise")
    for parameter, information in fisher.items():
        is_head = parameter in head
        variance = (1 / information).clamp(max=options.classifier_clamp if is_head else options.clamp)
        if parameter.ndim > 1:
            variance = variance.mean(1, keepdim=True)
        boost = options.boost if is_head or parameter.ndim == 1 else 1.0
        noise = torch.randn(parameter.shape, generator=generator).to(parameter)
        parameter.add_(noise * (options.alpha * boost * variance).sqrt())


METHOD = Method(
    name="fisher_noise",
    run=fisher_noise,
    options=FisherNoiseOptions,
    starts_from="original",
    summary="Add Gaussian noise of variance alpha / Fisher information of the retain set to every weight.",
    source="Golatkar et al., Eternal Sunshine of the Spotless Net, CVPR 2020; values of the SSD repository",
    cost="1 on retain, one image at a time",
    inherits=(),
)
