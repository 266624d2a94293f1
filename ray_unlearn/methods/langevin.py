"""Langevin unlearning: learn a linear classifier by noisy gradient descent, and go on without the forget set.

    populations:
      certified: {method: langevin, learn_on: train, count: 64}
      reference: {method: langevin, learn_on: retain, count: 64}
    evaluation: {reference: reference}

The net is frozen as it is built, all but its last linear layer, whose weights are W (its bias is one more column).
Features are [inputs of that layer, 1], divided by their largest norm on the retain set. Norms above 1, which only
forget images can have, are cut to 1. With `whiten`, the inputs are first brought to mean 0 and covariance 1 on the
retain set; the layer's weights and bias can hold both. The loss is mean cross-entropy + decay / 2 |W|^2, and a step is

    W <- W - rate gradient + sqrt(2 rate) std * n,    rate = 1 / (1 + decay),    n from N(0, 1)

1. W from N(0, 2 std^2 / decay). `learn_steps` steps on the images of `learn_on`: all at once, without augmentation.
2. Steps on the retain set, as many as the stated (epsilon, delta) needs: the smallest k with, for some a > 1,
   exp(-k decay rate / a) 4 a (s M)^2 / (decay std^2) + log(1 / delta) / (a - 1) <= epsilon. Here s is the share of the
   images that is forgotten, and M = 2 bounds an image's gradient.

What is stated: no attack separates runs with `learn_on: train` from runs with `learn_on: retain` by more than (epsilon,
delta). The statement is over the noise of learning, too; so every run learns for itself, and uses no original.

Source: Chien et al., Langevin Unlearning (NeurIPS 2024). Read: Graph-COM/Langevin_unlearning langevin.py,
main_lmc_multiclass.py, main_lmc.py, utils.py (the authors').

Caveats:
- Features must not have been learned from the forget set. Those of a net as it is built are random, unless its factory
  loads weights; the authors use a ResNet-18 of ImageNet.
- Random features give a poor classifier: with small_cnn on digits 8 % of the test images are right, and 92 % with
  `whiten: true` and `std: 0.003`. Less noise needs few further steps.
- The statement takes learning as converged: (1 - rate decay)^learn_steps should be small.
- The authors divide each image's features by their own norm and have no bias. Here all are divided by one number, which
  a linear layer can hold.
- The authors' decay is 1e-6 times the number of images, 0.05 for CIFAR-10.
- The authors replace images where this package removes them; the bound covers both.

Does not cover: the paper's bounds for losses that are not convex, which are far too weak for a deep net.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from pydantic import Field
from torch import nn
from torch.nn import functional as F  # noqa: N812 - its usual name

from ray_unlearn.data.images import ImageSet, RunData
from ray_unlearn.errors import MethodError
from ray_unlearn.methods.certificates import langevin_steps
from ray_unlearn.methods.method import Method
from ray_unlearn.methods.published import pinned
from ray_unlearn.methods.units import check_classifier, classifier
from ray_unlearn.seeds import Seeds
from ray_unlearn.study.recipe import Block, Float, Int


class LangevinOptions(Block):
    """Defaults: the authors' commands for ten classes of CIFAR-10."""

    learn_on: Literal["train", "retain"] = Field("train", description="retain: the reference of the statement.")
    epsilon: Float = Field(1.0, gt=0, description="Stated epsilon.")
    delta: Float = Field(2e-5, gt=0, lt=1, description="Stated delta; the authors' is 1 / images.")
    std: Float = Field(0.03, gt=0, description="Noise; a step's is sqrt(2 rate) times it (paper: sigma).")
    decay: Float = Field(0.05, gt=0, description="L2 strength (the authors': 1e-6 times the number of images).")
    learn_steps: Int = Field(10_000, ge=1, description="Steps of learning.")
    whiten: bool = Field(False, description="Features of mean 0 and covariance 1 on the retain set (not published).")


def langevin(model: nn.Module, data: RunData, options: LangevinOptions, rng: Seeds) -> None:
    """Learn the classifier on `learn_on`, go on with the retain set, and put it into the net.

    Raises:
        MethodError: the net does not end in a linear layer, or that layer is frozen, or lacks the bias that `whiten`
            needs.

    """
    model.eval()
    head = classifier(model, data.num_classes)
    if not all(parameter.requires_grad for parameter in head.parameters()):
        raise MethodError("the method learns the net's classifier, which is frozen")
    inputs = _inputs(model, head, data.retain)
    scale = _Scale(inputs, whiten=options.whiten, bias=head.bias is not None)
    retain = scale.features(inputs)
    generator = rng.torch("langevin")
    weights = torch.randn((head.out_features, retain.shape[1]), generator=generator).to(retain)
    weights *= (2 * options.std**2 / options.decay) ** 0.5
    learned = data.train if options.learn_on == "train" else data.retain
    first = _at_most_one(scale.features(_inputs(model, head, learned)))
    weights = _steps(weights, first, learned.labels_N, options, options.learn_steps, generator)
    weights = _steps(weights, retain, data.retain.labels_N, options, unlearn_steps(options, data), generator)
    scale.put(weights, head)


class _Scale:
    """Features of a classifier's inputs, scaled by the retain set alone; a linear layer can hold the scaling."""

    def __init__(self, retain_NF: torch.Tensor, *, whiten: bool, bias: bool) -> None:
        """Find mean, directions and largest norm on the retain set, float32 [N, F]."""
        if whiten and not bias:
            raise MethodError("whiten: the net's classifier has no bias, which would have to hold the features' mean")
        self._bias = bias
        self._mean = retain_NF.mean(0) if whiten else torch.zeros_like(retain_NF[0])
        self._directions = _whitening(retain_NF - self._mean) if whiten else torch.eye(retain_NF.shape[1]).to(retain_NF)
        self._largest = 1.0
        self._largest = float(self.features(retain_NF).norm(dim=1).max())

    def features(self, inputs_NF: torch.Tensor) -> torch.Tensor:
        """Return the features, with a column of 1 / largest where there is a bias."""
        moved = (inputs_NF - self._mean) @ self._directions
        if self._bias:
            moved = torch.cat([moved, moved.new_ones(len(moved), 1)], dim=1)
        return moved / self._largest

    @torch.no_grad()
    def put(self, weights_CF: torch.Tensor, head: nn.Linear) -> None:
        """Give the layer the weights and the bias that do the same to its inputs as these weights to features."""
        head.weight.copy_(weights_CF[:, : head.in_features] @ self._directions.T / self._largest)
        if head.bias is not None:
            head.bias.copy_(weights_CF[:, -1] / self._largest - head.weight @ self._mean)


def _whitening(centred_NF: torch.Tensor) -> torch.Tensor:
    """Return V / (s + s_max / 1000) of the singular values s and directions V over sqrt(N), float32 [F, F]."""
    covariance_FF = (centred_NF.T @ centred_NF / len(centred_NF)).double().cpu()
    values_F, vectors_FF = torch.linalg.eigh(covariance_FF)
    spread_F = values_F.clamp(min=0).sqrt()
    whitening_FF: torch.Tensor = (vectors_FF / (spread_F + spread_F.max() / 1000)).to(centred_NF)
    return whitening_FF


def unlearn_steps(options: LangevinOptions, data: RunData) -> int:
    """Return the number of steps on the retain set that (epsilon, delta) needs."""
    return langevin_steps(
        options.epsilon,
        options.delta,
        forgotten=len(data.forget) / len(data.train),
        decay=options.decay,
        rate=1 / (1 + options.decay),
        std=options.std,
    )


@torch.no_grad()
def _steps(
    weights_CF: torch.Tensor,
    features_NF: torch.Tensor,
    labels_N: np.ndarray,
    options: LangevinOptions,
    count: int,
    generator: torch.Generator,
) -> torch.Tensor:
    rate = 1 / (1 + options.decay)
    noise = (2 * rate) ** 0.5 * options.std
    targets_NC = F.one_hot(torch.from_numpy(labels_N), len(weights_CF)).to(features_NF)
    for _ in range(count):
        errors_NC = F.softmax(features_NF @ weights_CF.T, dim=1) - targets_NC
        gradient_CF = errors_NC.T @ features_NF / len(features_NF) + options.decay * weights_CF
        drawn_CF = torch.randn(weights_CF.shape, generator=generator).to(weights_CF)
        weights_CF = weights_CF - rate * gradient_CF + noise * drawn_CF
    return weights_CF


@torch.no_grad()
def _inputs(model: nn.Module, head: nn.Linear, images: ImageSet) -> torch.Tensor:
    """Return the classifier's inputs, float32 [N, F].

    Raises:
        MethodError: the net does more with the classifier's outputs than return them, or has two inputs for it.

    """
    seen: list[torch.Tensor] = []
    handle = head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    try:
        for images_BCHW, _ in images.in_order():
            logits_BC, inputs_BF = model(images_BCHW), seen[-1]
            if inputs_BF.ndim != 2 or not torch.allclose(logits_BC, F.linear(inputs_BF, head.weight, head.bias)):
                raise MethodError("the method learns a linear classifier, and the net ends in another layer")
    finally:
        handle.remove()
    return torch.cat(seen).float()


def _at_most_one(features_NF: torch.Tensor) -> torch.Tensor:
    norms_N1: torch.Tensor = torch.linalg.vector_norm(features_NF, dim=1, keepdim=True)
    return features_NF / norms_N1.clamp(min=1)


METHOD = Method(
    name="langevin",
    run=langevin,
    options=LangevinOptions,
    check=check_classifier,
    starts_from="scratch",
    summary="Learn a linear classifier by noisy gradient descent, go on without the forget set until (epsilon, delta).",
    source="Chien et al., Langevin Unlearning, NeurIPS 2024",
    opened="Graph-COM/Langevin_unlearning langevin.py, main_lmc_multiclass.py, main_lmc.py, utils.py (authors')",
    open=(
        "features: each divided by its own norm by the authors; all by one number here, which the layer can hold",
        "features that know nothing of the forget set: a ResNet-18 of ImageNet there; the net as it is built here",
    ),
    cost="`learn_steps` passes of the last layer over train, then as many over retain as (epsilon, delta) needs",
    published={"published": pinned(LangevinOptions)},
    guarantee="(epsilon, delta) bounds any attack that separates its runs from those with learn_on: retain",
    reference=("langevin", {"learn_on": "retain"}),
    inherits=(),
)
