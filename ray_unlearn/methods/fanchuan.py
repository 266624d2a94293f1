"""Fanchuan (1st place): flatten the forget outputs, then alternate contrastive forgetting with repair on retain.

    populations:
      fanchuan: {method: fanchuan, preset: competition, count: 64}

1. One pass over forget towards uniform predictions: minimise KL(uniform ‖ softmax f(x)).
2. Eight rounds, each of
   a. one pass over forget, every batch with one of 256 retain images: minimise -mean log softmax(f(x_f) f(x_r)^T / t)
      on logits, no gradient through f(x_r), the rate falling with every step along a cosine;
   b. one pass over retain: cross-entropy, at a rate scaled to its batch of 256.

Each of the three (1, 2a, 2b) keeps an optimiser, hence momentum, of its own.

Source: team Fanchuan, NeurIPS 2023 Machine Unlearning Challenge ("FCS" in the Deep Unlearn study). Read:
xcadet/deepunlearn munl/unlearning/kgltop1.py (a port), hishamcse/NeurIPS_Machine_Unlearning
Codes/neurips-machine-unlearning-1st-place.ipynb (a copy of the entry) and the organisers' deck there, page 23
(slides).

Caveats:
- Runs differ by the order and the pairing of batches alone.
- In 2a, retain batches come from one stream that continues from round to round, so that a small retain set does not
  shorten a round. In the published code they are reshuffled before every round.
- The options of `Recipe` (`epochs`, `lr`, `schedule`, ...) are those of 2b; `batch_size` is that of the forget set.

Does not cover: features other than logits in the contrastive loss.
"""

from __future__ import annotations

import math

import torch
from pydantic import Field
from torch import nn

from ray_unlearn.data.images import RunData
from ray_unlearn.methods.losses import contrastive, kl_to_uniform
from ray_unlearn.methods.method import Method
from ray_unlearn.methods.published import COMPETITION, pinned
from ray_unlearn.seeds import Seeds
from ray_unlearn.study.recipe import Float, Int, Optimizer, Recipe, Schedule
from ray_unlearn.training import Batch, Training, fit


class FanchuanOptions(Recipe):
    """Defaults: the published values."""

    epochs: Float = Field(8.0, gt=0, description="Rounds of a pass over forget and one over retain.")
    optimizer: Optimizer = "sgd"
    lr: Float = Field(4e-3, gt=0, description="Rate of the retain passes: 1e-3 at a batch of 64, scaled to 256.")
    weight_decay: Float = Field(1e-2, ge=0, description="L2 penalty of the retain passes.")
    schedule: Schedule = Field("constant", description="Course of the rate in the retain passes.")
    retain_batch_size: Int = Field(256, ge=1, description="Retain images per step, in both kinds of pass.")
    flatten_epochs: Float = Field(1.0, gt=0, description="Passes over forget towards uniform predictions.")
    flatten_lr: Float = Field(5e-3, gt=0)
    forget_lr: Float = Field(3e-4, gt=0, description="Rate of the contrastive passes in the first step.")
    forget_lr_min: Float = Field(1e-6, ge=0, description="Rate of the contrastive passes where the cosine ends.")
    forget_weight_decay: Float = Field(0.0, ge=0, description="Flattening and contrastive passes.")
    temperature: Float = Field(1.15, gt=0, description="Divides the products of logits.")


def fanchuan(model: nn.Module, data: RunData, options: FanchuanOptions, rng: Seeds) -> None:
    """Flatten, then alternate passes over forget and retain."""
    constant = {"weight_decay": options.forget_weight_decay, "schedule": "constant", "warmup_epochs": 0.0}
    flatten = options.model_copy(update={**constant, "epochs": options.flatten_epochs, "lr": options.flatten_lr})
    forgetting = options.model_copy(update={**constant, "lr": options.forget_lr})
    lowest = options.forget_lr_min / options.forget_lr

    def to_uniform(model: nn.Module, forget: Batch) -> torch.Tensor:
        return kl_to_uniform(model(forget.images).float())

    def to_retain(model: nn.Module, forget: Batch, retain: Batch) -> torch.Tensor:
        forget_BC = model(forget.images)
        with torch.no_grad():
            retain_DC = model(retain.images)
        return contrastive(forget_BC, retain_DC, options.temperature)

    def cosine(epochs_done: float) -> float:
        return lowest + (1 - lowest) * (1 + math.cos(math.pi * epochs_done / options.epochs)) / 2

    sizes = (options.batch_size, options.retain_batch_size)
    fit(model, data, flatten, rng, sets=("forget",), loss=to_uniform, purpose="flatten")
    forget = Training(
        model,
        data,
        forgetting,
        rng,
        sets=("forget", "retain"),
        batch_sizes=sizes,
        loss=to_retain,
        rate=cosine,
        purpose="contrast",
    )
    repair = Training(model, data, options, rng, batch_sizes=sizes[1:], purpose="repair")
    while not (forget.done and repair.done):
        for training in (forget, repair):
            if not training.done:
                training.epoch()


METHOD = Method(
    name="fanchuan",
    run=fanchuan,
    options=FanchuanOptions,
    starts_from="original",
    summary="Flatten the forget outputs, then alternate contrastive forgetting with cross-entropy on retain.",
    source="Team Fanchuan, NeurIPS 2023 Machine Unlearning Challenge, 1st place (FCS)",
    cost="1 on forget + epochs x (1 on forget, each step with a retain batch + 1 on retain)",
    aliases={"FCS": {}},  # in Cadet et al., Deep Unlearn
    opened="xcadet/deepunlearn munl/unlearning/kgltop1.py (port); organisers' deck, page 23 (slides)",
    open=("retain batches of the contrastive passes: reshuffled every round as published, one long stream here",),
    published={"competition": pinned(FanchuanOptions, COMPETITION)},
)
