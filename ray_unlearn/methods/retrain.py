"""Retrain: train from scratch on the retain set, as if the forget set had never been; the reference of every metric.

    populations:
      retrained: {method: retrain, count: 64}

The same as `{method: train, on: retain}`, under the name that people look for: the options are those of `train` with
`on` fixed, and the weights of a run are the same bit for bit. The two spellings are nevertheless two identities, so a
study keeps to one.

Steps: the study's `training` block on the retain images, from a fresh initialisation of the run's own.

Source: the definition of unlearning; the challenge's reference models.

Caveats:
- "Retrain" elsewhere may mean another recipe than the original's, or a fresh last layer alone. Here it is the
  original's recipe from a fresh start.

Does not cover: choosing the best epoch by validation accuracy, as the competition's script did; the last one counts.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ray_unlearn.methods.method import Method
from ray_unlearn.methods.train import TrainOptions, train
from ray_unlearn.study.recipe import Recipe


class RetrainOptions(TrainOptions):
    """The study's `training` block."""

    on: Literal["retain"] = Field("retain", description="The images to train on; another set is `train`'s.")


METHOD = Method(
    name="retrain",
    run=train,
    options=RetrainOptions,
    starts_from="scratch",
    summary="Train from scratch on the retain set: the reference that unlearning imitates.",
    source="NeurIPS 2023 Machine Unlearning Challenge: 30 epochs, Adam 1e-4, weight decay 5e-3, cosine, batch 64",
    cost="epochs on retain",
    inherits=tuple(Recipe.model_fields),
    packs=True,
)
