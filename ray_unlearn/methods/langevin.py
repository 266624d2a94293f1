"""Langevin unlearning: learn a linear classifier by noisy gradient descent, and go on without the forget set.

    populations:
      certified: {method: langevin, learn_on: train, count: 64}
      reference: {method: langevin, learn_on: retain, count: 64}
    evaluation: {reference: reference}

The net is frozen as it is built, all but its last linear layer, whose weights are W (its bias is one more column).
Features are [inputs of that layer, 1], divided by their largest norm on the retain set; norms above 1, which only forget
images can have, are cut to 1. The loss is mean cross-entropy + decay / 2 |W|^2, and a step is

    W <- W - rate gradient + sqrt(2 rate) std * n,    rate = 1 / (1 + decay),    n from N(0, 1)

1. W from N(0, 2 std^2 / decay). `learn_steps` steps on the images of `learn_on`: all at once, without augmentation.
2. Steps on the retain set, as many as the stated (epsilon, delta) needs: the smallest k with, for some a > 1,
   exp(-k decay rate / a) 4 a (s M)^2 / (decay std^2) + log(1 / delta) / (a - 1) <= epsilon. s is the share of the images
   that is forgotten; M = 2 bounds an image's gradient.

What is stated: no attack separates runs with `learn_on: train` from runs with `learn_on: retain` by more than (epsilon,
delta). The statement is over the noise of learning, too; so every run learns for itself, and uses no original.

Source: Chien et al., Langevin Unlearning (NeurIPS 2024). Read: Graph-COM/Langevin_unlearning langevin.py,
main_lmc_multiclass.py, main_lmc.py, utils.py (the authors').

Caveats: features must not have been learned from the forget set. Those of a net as it is built are random unless its
factory loads weights (the authors use a ResNet-18 of ImageNet), and random features give a poor classifier. The
statement takes learning as converged: (1 - rate decay)^learn_steps should be small. The authors' data have norm 1 image
by image and no bias; here all are divided by one number, which a linear layer can hold. Their decay is 1e-6 times the
number of images, 0.05 for CIFAR-10. They replace images where this package removes them; the bound covers both.

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
from ray_unlearn.methods.perturbations import classifier
from ray_unlearn.methods.published import pinned
from ray_unlearn.seeds import Seeds
from ray_unlearn.study.recipe import Block, Float, Int

_BATCH = 256


class LangevinOptions(Block):
    """Defaults: the authors' commands for ten classes of CIFAR-10."""

    learn_on: Literal["train", "retain"] = Field("train", description="retain: the reference of the statement.")
    epsilon: Float = Field(1.0, gt=0, description="Stated epsilon.")
    delta: Float = Field(2e-5, gt=0, lt=1, description="Stated delta; the authors' is 1 / images.")
    std: Float = Field(0.03, gt=0, description="Noise; a step's is sqrt(2 rate) times it (paper: sigma).")
    decay: Float = Field(0.05, gt=0, description="L2 strength (the authors': 1e-6 times the number of images).")
    learn_steps: Int = Field(10_000, ge=1, description="Steps of learning.")


def langevin(model: nn.Module, data: RunData, options: LangevinOptions, rng: Seeds) -> None:
    """Learn the classifier on `learn_on`, go on with the retain set, and put it into the net."""
    model.eval()
    head = classifier(model)
    retain = _features(model, head, data.retain)
    largest = float(retain.norm(dim=1).max())
    generator, std = rng.torch("langevin"), options.std
    shape = (head.out_features, retain.shape[1])
    weights = torch.randn(shape, generator=generator).to(retain) * (2 * std**2 / options.decay) ** 0.5
    learned = data.train if options.learn_on == "train" else data.retain
    first = _at_most_one(_features(model, head, learned) / largest)
    weights = _steps(weights, first, learned.labels_N, options, options.learn_steps, generator)
    weights = _steps(weights, retain / largest, data.retain.labels_N, options, unlearn_steps(options, data), generator)
    with torch.no_grad():
        head.weight.copy_(weights[:, : head.in_features] / largest)
        if head.bias is not None:
            head.bias.copy_(weights[:, -1] / largest)


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
def _features(model: nn.Module, head: nn.Linear, images: ImageSet) -> torch.Tensor:
    """Return the classifier's inputs and, where it has a bias, 1: float32 [N, F].

    Raises:
        MethodError: the net does more with the classifier's outputs than return them, or has two inputs for it.

    """
    seen: list[torch.Tensor] = []
    handle = head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    try:
        for start in range(0, len(images), _BATCH):
            images_BCHW, _ = images.batch(np.arange(start, min(start + _BATCH, len(images))))
            logits_BC, inputs_BF = model(images_BCHW), seen[-1]
            if inputs_BF.ndim != 2 or not torch.allclose(logits_BC, F.linear(inputs_BF, head.weight, head.bias)):
                raise MethodError("the method learns a linear classifier, and the net ends in another layer")
    finally:
        handle.remove()
    features = torch.cat(seen).float()
    return features if head.bias is None else torch.cat([features, features.new_ones(len(features), 1)], dim=1)


def _at_most_one(features_NF: torch.Tensor) -> torch.Tensor:
    return features_NF / features_NF.norm(dim=1, keepdim=True).clamp(min=1)


METHOD = Method(
    name="langevin",
    run=langevin,
    options=LangevinOptions,
    starts_from="scratch",
    summary="Learn a linear classifier by noisy gradient descent, go on without the forget set until (epsilon, delta).",
    source="Chien et al., Langevin Unlearning, NeurIPS 2024",
    opened="Graph-COM/Langevin_unlearning langevin.py, main_lmc_multiclass.py, main_lmc.py, utils.py (authors')",
    cost="`learn_steps` passes of the last layer over train, then as many over retain as (epsilon, delta) needs",
    published={"published": pinned(LangevinOptions)},
    guarantee="(epsilon, delta) bounds any attack that separates its runs from those with learn_on: retain",
    inherits=(),
)
