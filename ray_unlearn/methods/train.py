"""Training from scratch: originals, models retrained without the forget set, and shadows, each on its own half.

    populations:
      original:  {method: train, on: train}
      retrained: {method: train, on: retain, count: 64}
      shadows:   {method: train, on: {half_of: train, balanced: true}, count: 64}

Does not cover: choosing the best epoch by validation accuracy, as the competition's script did; the last one counts.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from torch import nn

from ray_unlearn.data.images import RunData
from ray_unlearn.methods.method import Method
from ray_unlearn.seeds import Seeds
from ray_unlearn.study.recipe import HalfOf, Recipe
from ray_unlearn.training import fit


class TrainOptions(Recipe):
    """The study's `training` block, and the images to train on."""

    on: Literal["train", "retain"] | HalfOf = Field(
        description="train: retain and forget images; retain: without the forget set; {half_of: train, balanced: "
        "true}: a random half of train for each run, which runs 2k and 2k+1 share between them."
    )


def train(model: nn.Module, data: RunData, options: TrainOptions, rng: Seeds) -> None:
    """Minimise cross-entropy on `options.on`; the model arrives freshly initialised from the run's seed.

    Where each run has its own half, `data.train` is that half already (`run.worker`).
    """
    fit(model, data, options, rng, sets=(options.on if isinstance(options.on, str) else options.on.half_of,))


METHOD = Method(
    name="train",
    run=train,
    options=TrainOptions,
    starts_from="scratch",
    summary="Train from scratch on all training images (originals), on the retain set (retrained models), or on a "
    "half of its own (shadows).",
    source="NeurIPS 2023 Machine Unlearning Challenge: 30 epochs, Adam 1e-4, weight decay 5e-3, cosine, batch 64",
    cost="epochs on the set trained on",
    inherits=tuple(Recipe.model_fields),
    packs=True,
)
