"""Random labels (SRL): train on everything, with labels for the forget images that are wrong on purpose.

    populations:
      random: {method: random_label, count: 64, epochs: 10, lr: 0.01}

Steps: 1. Before every epoch, give each forget image a class drawn uniformly from the others: never its own. 2. Minimise
cross-entropy on retain and forget images in one shuffled order, the retain images under their own labels.

Citation: Golatkar et al. 2020; joint training as in SalUn (Fan et al., ICLR 2024), where it is the baseline RL.

Caveats: published rates span 0.01 to 0.1 and rarely transfer: tune. Descriptions say `random labels` without saying
whether the own class may be drawn; here it may not, so every forget image is wrong in every epoch. Class weights, where
asked, count the images' own classes, whatever is drawn.

Does not cover: a part of the weights only (`salun`).
"""

from __future__ import annotations

import numpy as np
import torch
from pydantic import Field
from torch import nn

from ray_unlearn.data.images import RunData
from ray_unlearn.errors import MethodError
from ray_unlearn.methods.method import Method
from ray_unlearn.seeds import Seeds
from ray_unlearn.study.recipe import Float, Optimizer, Recipe, Schedule
from ray_unlearn.training import Batch, Hooks, Training, class_weights, cross_entropy


class RandomLabelOptions(Recipe):
    """Defaults: SalUn's baseline RL; optimiser as for its originals."""

    epochs: Float = Field(10.0, gt=0, description="Passes over retain and forget images together (SalUn).")
    optimizer: Optimizer = Field("sgd", description="As for the benchmark's originals.")
    lr: Float = Field(0.01, gt=0, description="Rate (SalUn: 0.01 to 0.1).")
    weight_decay: Float = Field(5e-4, ge=0, description="As for the benchmark's originals.")
    schedule: Schedule = Field("constant", description="The originals' drops, at epochs 91 and 136, are never reached.")


def random_label(model: nn.Module, data: RunData, options: Recipe, rng: Seeds, hooks: Hooks | None = None) -> None:
    """Minimise cross-entropy on the retain set and on the forget set under labels drawn anew for every epoch.

    Raises:
        MethodError: there is only one class, so that no label is wrong.

    """
    if data.num_classes < 2:
        raise MethodError("random labels need at least two classes; the data has one")
    images = data.retain.joined(data.forget)
    generator = rng.numpy("random-labels")
    labels_N = torch.from_numpy(images.labels_N.copy()).to(data.device)
    weighted = cross_entropy(class_weights(images, options, data.num_classes))

    def loss(model: nn.Module, batch: Batch) -> torch.Tensor:
        return weighted(model, Batch(batch.images, labels_N[batch.labels]))

    positions = images.with_labels(np.arange(len(images)))  # batches carry positions, whose labels change
    training = Training(model, data, options, rng, sets=(positions,), loss=loss, hooks=hooks)
    while not training.done:
        wrong = other_labels(data.forget.labels_N, data.num_classes, generator)
        labels_N[len(data.retain) :] = torch.from_numpy(wrong).to(data.device)
        training.epoch()
    model.train()


def other_labels(labels_N: np.ndarray, num_classes: int, generator: np.random.Generator) -> np.ndarray:
    """Return for each label one of the other classes, uniformly."""
    return np.asarray((labels_N + generator.integers(1, num_classes, len(labels_N))) % num_classes)


METHOD = Method(
    name="random_label",
    run=random_label,
    options=RandomLabelOptions,
    starts_from="original",
    summary="Train on the retain set and on the forget set under wrong labels, drawn anew every epoch.",
    source="Golatkar et al., CVPR 2020; as the baseline RL of Fan et al., SalUn, ICLR 2024",
    cost="epochs on retain and forget",
)
