"""SFRon: steps up the forget set's loss, on the weights that matter to it, between steps down the retain set's.

    populations:
      sfron: {method: sfron, preset: published, count: 64}

1. Of every weight take the squared gradient of a batch's mean cross-entropy, averaged over the batches of the forget
   and of the retain set, in evaluation mode. The mask holds the weights whose ratio, forget to retain, is `threshold`
   or more.
2. `iterations` steps on retain batches, cross-entropy, the rate along `schedule`. Before the first of every
   `forget_every`, one on a forget batch: maximise ascent * sum of c_i CE_i where c_i = CE_i^-lambda / sum of
   CE_j^-lambda is held fixed, `ascent` along a cosine of its own; its gradient is masked, and cut to a norm of
   `max_norm`. One optimiser serves both, momentum included.

Source: Huang et al., Unified Gradient-Based Machine Unlearning with Remain Geometry Enhancement (NeurIPS 2024). Read:
K1nght/Unified-Unlearning-w-Remain-Geometry Classification/unlearn/sfron.py, scripts/unlearn.sh, dataset/cifar10.py
(the authors').

Caveats:
- The number of steps is the authors' for 45,000 retain images; lower `iterations` for smaller sets.
- The authors' averaging of weights has a factor of 1, which changes nothing; it is left out.
- A forget batch is drawn with every retain batch and used with every fifth, so forget images come in another order than
  the authors'.
- Weight decay and momentum move weights outside the mask, too.

Does not cover: the settings for Tiny ImageNet, which are another optimiser's.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import nn
from torch.nn import functional as F  # noqa: N812 - its usual name

from ray_unlearn.data.images import RunData
from ray_unlearn.methods.method import Method
from ray_unlearn.methods.published import SPARSE, pinned
from ray_unlearn.seeds import Seeds
from ray_unlearn.study.recipe import Float, Int, Optimizer, Recipe, unused
from ray_unlearn.training import Batch, Hooks, Training, class_weights, cross_entropy
from ray_unlearn.training.batches import sizes_of
from ray_unlearn.training.gradients import Gradients, mean_squared_gradient

_EPSILON = 1e-15  # in ratios and coefficients, as published


class SfronOptions(Recipe):
    """Defaults: the authors' code for a tenth of CIFAR-10."""

    epochs: Annotated[Float, unused(30.0, "iterations")] = Field(30.0, description="Not used: `iterations` is.")
    optimizer: Optimizer = "sgd"
    lr: Float = Field(0.01, gt=0)
    weight_decay: Float = Field(5e-4, ge=0)
    schedule_per: Literal["epoch", "batch"] = Field("batch", description="How often the rate changes.")
    iterations: Int = Field(1500, ge=1, description="Retain batches.")
    forget_every: Int = Field(5, ge=1, description="Retain batches to each forget batch.")
    ascent: Float = Field(25.0, ge=0, description="Factor of the forget set's loss, at first (paper: alpha).")
    adaptive: Float = Field(0.5, ge=0, description="Power of 1 / CE in an image's coefficient (paper: lambda).")
    max_norm: Float = Field(7.0, gt=0, description="Largest norm of a forget step's gradient.")
    threshold: Float = Field(1.0, ge=0, description="Smallest ratio of squared gradients in the mask (paper: gamma).")
    importance_batch_size: Int = Field(128, ge=1, description="Images whose mean gradient is squared.")


def sfron(model: nn.Module, data: RunData, options: SfronOptions, rng: Seeds) -> None:
    """Alternate masked ascent on forget batches with descent on retain batches."""
    mask = saliency(model, data, options)
    on_retain = cross_entropy(class_weights(data.retain, options, data.num_classes))
    step, ascends, strength = 0, False, torch.zeros((), device=data.device)

    def before_step(sizes: tuple[int, ...]) -> bool:
        nonlocal step, ascends
        ascends = step % options.forget_every == 0
        strength.fill_(-options.ascent * ((1 + math.cos(math.pi * step / options.iterations)) / 2))
        step += 1
        return ascends

    def ascend(model: nn.Module, forget: Batch) -> None:
        optimizer.zero_grad(set_to_none=True)
        (strength * adaptive_loss(model, forget, options.adaptive)).backward()  # type: ignore[no-untyped-call]
        moved = [parameter for parameter in mask if parameter.grad is not None]
        for parameter in moved:
            parameter.grad.mul_(mask[parameter])  # type: ignore[union-attr]
        nn.utils.clip_grad_norm_(moved, options.max_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    def loss(model: nn.Module, retain: Batch, forget: Batch) -> torch.Tensor:
        if ascends:
            ascend(model, forget)
        return on_retain(model, retain)

    steps = len(sizes_of(len(data.retain), options.batch_size))
    recipe = options.model_copy(update={"epochs": options.iterations / steps})
    training = Training(
        model, data, recipe, rng, sets=("retain", "forget"), loss=loss, hooks=Hooks(before_step=before_step)
    )
    optimizer = training.optimizer  # the loss refers to it alone: graphs go with the training
    while not training.done:
        training.epoch()
    model.train()


def adaptive_loss(model: nn.Module, forget: Batch, power: float) -> torch.Tensor:
    """Return the sum of c_i CE_i, c_i = CE_i^-power / sum of CE_j^-power, with no gradient through c."""
    losses_B = F.cross_entropy(model(forget.images).float(), forget.labels, reduction="none")
    coefficients_B = 1 / (losses_B.detach() ** power + _EPSILON)
    return (coefficients_B / coefficients_B.sum() * losses_B).sum()


def saliency(model: nn.Module, data: RunData, options: SfronOptions) -> Gradients:
    """Return 1 where a weight's squared gradient on forget is at least `threshold` times that on retain, else 0."""
    size, on_labels = options.importance_batch_size, cross_entropy()
    of_forget, of_retain = (mean_squared_gradient(model, each, on_labels, size) for each in (data.forget, data.retain))
    return {
        parameter: ((squared + _EPSILON) / (of_retain[parameter] + _EPSILON) >= options.threshold).to(parameter)
        for parameter, squared in of_forget.items()
    }


METHOD = Method(
    name="sfron",
    run=sfron,
    options=SfronOptions,
    starts_from="original",
    summary="Alternate ascent on forget batches, on the weights salient for them, with descent on retain batches.",
    source="Huang et al., Unified Gradient-Based Machine Unlearning with Remain Geometry Enhancement, NeurIPS 2024",
    opened="K1nght/Unified-Unlearning-w-Remain-Geometry Classification/unlearn/sfron.py, scripts/unlearn.sh (authors')",
    cost="1 gradient pass on train, then `iterations` retain batches and a fifth as many forget batches",
    published={"published": pinned(SfronOptions, SPARSE, batch_size=128, schedule="cosine")},
)
