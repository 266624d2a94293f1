"""NegGrad+: descend on the retain set and ascend on the forget set in the same step.

    populations:
      ngp:  {method: negative_gradient_plus, preset: published_scrub_small, count: 64}
      mild: {method: negative_gradient_plus, count: 64, alpha: 0.95, epochs: 5, lr: 0.01}

Objective per step: alpha * (CE(retain batch) + anchor / 2 * |weights - weights at the start|^2) - (1 - alpha) *
CE(forget batch). Retain batches pace the epochs; forget batches come from a stream reshuffled whenever the set is
through.

Source: Kurmanji et al., Towards Unbounded Machine Unlearning (SCRUB), NeurIPS 2023, baseline NegGrad+. Read:
meghdadk/SCRUB small_scale_unlearning.ipynb cells 70, 71 and 85, MIA_experiments.ipynb, thirdparty/repdistiller/helper/
loops.py (the authors'); kairanzhao/RUM unlearn/neggrad.py (the authors' of RUM); xcadet/deepunlearn munl/unlearning/
neggradplus.py (a port).

Caveats:
- Published settings differ. SCRUB's small scale has no momentum, an anchor of 0.1, alpha 0.95, 10 epochs, and batch
  normalisation in evaluation mode throughout. Its other experiments have alpha 0.9999, 5 epochs, batch statistics and
  no anchor. RUM has momentum, weight decay and augmentation, and leaves alpha to be searched.
- The rate is constant in all of them.
- With a small alpha or many epochs the ascent has no bound, and the run diverges.

Does not cover: ascent alone (`gradient_ascent`).
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import nn

from ray_unlearn.data.images import RunData
from ray_unlearn.methods.losses import anchored, with_statistics_frozen
from ray_unlearn.methods.method import Method
from ray_unlearn.methods.published import PLAIN, SPARSE, pinned
from ray_unlearn.seeds import Seeds
from ray_unlearn.study.changes import Correction
from ray_unlearn.study.identity import Since
from ray_unlearn.study.recipe import Float, Int, Optimizer, Recipe, Schedule
from ray_unlearn.training import Batch, class_weights, cross_entropy, fit


class NegativeGradientPlusOptions(Recipe):
    """Defaults: SCRUB's small-scale experiment, but for the batch sizes."""

    epochs: Float = Field(10.0, gt=0, description="Passes over retain (SCRUB, small scale; others 5).")
    optimizer: Optimizer = "sgd"
    lr: Float = Field(0.01, gt=0, description="Rate (SCRUB, RUM and Deep Unlearn).")
    momentum: Float = Field(0.0, ge=0, lt=1, description="SGD only (SCRUB: none; RUM 0.9).")
    weight_decay: Float = Field(0.0, ge=0, description="Towards zero (SCRUB: none, see anchor; RUM 5e-4).")
    schedule: Schedule = Field("constant", description="Constant in every source.")
    alpha: Float = Field(0.95, gt=0, lt=1, description="Weight of the retain set's cross-entropy (SCRUB, small scale).")
    forget_batch_size: Annotated[Int | None, Since("0.2", neutral=None)] = Field(
        None, ge=1, description="Forget images per step; default batch_size."
    )
    anchor: Annotated[Float, Since("0.2", neutral=0.0)] = Field(
        0.1, ge=0, description="Pull towards the start, per unit of weight (SCRUB, small scale)."
    )
    statistics: Annotated[Literal["batch", "frozen"], Since("0.2", neutral="batch")] = Field(
        "frozen", description="Mode of batch normalisation. frozen: evaluation mode throughout (SCRUB, small scale)."
    )


def negative_gradient_plus(model: nn.Module, data: RunData, options: NegativeGradientPlusOptions, rng: Seeds) -> None:
    """Minimise alpha * (CE(retain) + anchor) - (1 - alpha) * CE(forget); class weights, where asked, on retain."""
    on_forget = cross_entropy()
    on_retain = anchored(cross_entropy(class_weights(data.retain, options, data.num_classes)), model, options.anchor)

    def loss(model: nn.Module, retain: Batch, forget: Batch) -> torch.Tensor:
        return options.alpha * on_retain(model, retain) - (1 - options.alpha) * on_forget(model, forget)

    if options.statistics == "frozen":
        loss = with_statistics_frozen(loss, model.modules())
    sizes = (options.batch_size, options.forget_batch_size or options.batch_size)
    fit(model, data, options, rng, sets=("retain", "forget"), batch_sizes=sizes, loss=loss)


_OTHERS = {"alpha": 0.9999, "epochs": 5.0, "anchor": 0.0, "statistics": "batch"}

METHOD = Method(
    name="negative_gradient_plus",
    run=negative_gradient_plus,
    options=NegativeGradientPlusOptions,
    starts_from="original",
    corrections=(
        Correction(
            "0.2",
            "momentum, weight decay, batch statistics and a cosine were added; SCRUB has none of them",
            ("momentum", "weight_decay", "schedule", "anchor", "statistics", "epochs"),
        ),
    ),
    summary="Minimise alpha * CE(retain) - (1 - alpha) * CE(forget).",
    source="Kurmanji et al., Towards Unbounded Machine Unlearning (SCRUB), NeurIPS 2023, baseline NegGrad+",
    opened="meghdadk/SCRUB notebooks and loops.py (authors'); kairanzhao/RUM unlearn/neggrad.py (authors')",
    open=("alpha in RUM: searched, not published; its preset keeps 0.95",),
    cost="epochs on retain, each step with a forget batch",
    published={
        "published_scrub_small": pinned(
            NegativeGradientPlusOptions, PLAIN, batch_size=128, forget_batch_size=64, anchor=0.1, statistics="frozen"
        ),
        "published_scrub_mia": pinned(NegativeGradientPlusOptions, PLAIN, _OTHERS, batch_size=32, forget_batch_size=16),
        "published_rum": pinned(NegativeGradientPlusOptions, SPARSE, _OTHERS, alpha=0.95, forget_batch_size=256),
        "published_deep_unlearn": pinned(
            NegativeGradientPlusOptions,
            PLAIN,
            batch_size=256,
            forget_batch_size=256,
            momentum=0.9,
            anchor=0.0,
            statistics="frozen",
        ),
    },
)
