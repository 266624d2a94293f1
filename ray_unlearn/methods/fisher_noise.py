"""Fisher noise: forget by noise on every weight, the stronger the less the retain set depends on it.

    populations:
      fisher: {method: fisher_noise, count: 64, alpha: 1.0e-6}

Idea: move each weight at random along directions that hardly change the loss on the retain set.

1. F: the diagonal of the Fisher information on single retain images, sum over labels y of p_y (d CE(y))^2, p being the
   model's own prediction.
2. 1 / (F + 1e-8), at most `clamp` (the classifier: `classifier_clamp`); for tensors with an input dimension (the second
   one), the mean over it.
3. Variance = alpha times that; `boost` times as much for one-dimensional tensors (biases, normalisation) and for the
   classifier. Add sqrt(variance) * n, n from N(0, 1), to every weight.

Source: Golatkar et al., Eternal Sunshine of the Spotless Net (CVPR 2020). Read: AdityaGolatkar/SelectiveForgetting
Forgetting.ipynb cells 73 to 78 (the authors'), meghdadk/SCRUB small_scale_unlearning.ipynb cells 75 to 80,
if-loops/selective-synaptic-dampening src/forget_random_strategies.py, OPTML-Group/Unlearn-Sparse unlearn/fisher.py.

Caveats:
- All sources take the expectation over the model's own labels, which costs a backward pass per class. At the true
  labels (`labels: true`), F is up to a hundred times smaller on images that the model has memorised.
- Alpha is 1e-6 in these sources, 1e-7 in SCRUB's large scale, and open in Unlearn-Sparse, whose batches are of 32
  images.
- SSD's copy does not boost the classifier's weight.

Does not cover: repair after the noise; forgetting whole classes by shifting the mean (the paper's other part).
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import nn

from ray_unlearn.data.images import RunData
from ray_unlearn.methods.method import Method
from ray_unlearn.methods.published import pinned
from ray_unlearn.methods.units import check_classifier, classifier
from ray_unlearn.seeds import Seeds
from ray_unlearn.study.changes import Correction
from ray_unlearn.study.identity import Since
from ray_unlearn.study.recipe import Block, Float, Int
from ray_unlearn.training import cross_entropy
from ray_unlearn.training.gradients import fisher_diagonal, mean_squared_gradient

_EPSILON = 1e-8  # added to F, as published


class FisherNoiseOptions(Block):
    """Defaults: Golatkar et al., as in SCRUB's copy."""

    alpha: Float = Field(1e-6, ge=0, description="Scale of the variance.")
    clamp: Float = Field(1e3, gt=0, description="Largest 1 / F.")
    classifier_clamp: Float = Field(1e2, gt=0, description="Largest 1 / F in the classifier.")
    boost: Float = Field(10.0, ge=0, description="Factor of the variance in 1-D tensors and the classifier.")
    images_per_gradient: Int = Field(1, ge=1, description="Images whose mean gradient is squared (Unlearn-Sparse: 32).")
    labels: Annotated[Literal["model", "true"], Since("0.2", neutral="true")] = Field(
        "model", description="Expectation over the model's own labels, or the empirical Fisher at the true ones."
    )


@torch.no_grad()
def fisher_noise(model: nn.Module, data: RunData, options: FisherNoiseOptions, rng: Seeds) -> None:
    """Add noise of variance alpha / F, clamped, averaged over inputs and boosted as described above."""
    head = set(classifier(model, data.num_classes).parameters())
    with torch.enable_grad():
        if options.labels == "model":
            fisher = fisher_diagonal(model, data.retain, options.images_per_gradient)
        else:
            fisher = mean_squared_gradient(model, data.retain, cross_entropy(), options.images_per_gradient)
    generator = rng.torch("fisher-noise")
    for parameter, information in fisher.items():
        is_head = parameter in head
        variance = (1 / (information + _EPSILON)).clamp(max=options.classifier_clamp if is_head else options.clamp)
        if parameter.ndim > 1:
            variance = variance.mean(1, keepdim=True)
        boost = options.boost if is_head or parameter.ndim == 1 else 1.0
        noise = torch.randn(parameter.shape, generator=generator).to(parameter)
        parameter.add_(noise * (options.alpha * boost * variance).sqrt())


METHOD = Method(
    name="fisher_noise",
    run=fisher_noise,
    options=FisherNoiseOptions,
    check=check_classifier,
    starts_from="original",
    corrections=(
        Correction("0.2", "nothing was added to the Fisher information before its inverse; 1e-8 is published"),
        Correction(
            "0.2",
            "the Fisher information was taken at the true labels; published is the expectation over the model's labels",
            ("labels",),
        ),
    ),
    summary="Add Gaussian noise of variance alpha / Fisher information of the retain set to every weight.",
    source="Golatkar et al., Eternal Sunshine of the Spotless Net, CVPR 2020",
    opened="AdityaGolatkar/SelectiveForgetting Forgetting.ipynb (authors'); copies in SCRUB, SSD and Unlearn-Sparse",
    open=("alpha: 1e-6 as by the authors and in SCRUB; 1e-7 in SCRUB at large scale, searched in Unlearn-Sparse",),
    cost="1 on retain, one image at a time, with a backward pass per class",
    published={"published": pinned(FisherNoiseOptions)},
    inherits=(),
)
