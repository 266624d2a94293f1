"""Random labels (RL, SRL): train on everything, with random labels for the forget images.

    populations:
      random:   {method: random_label, count: 64, epochs: 10, lr: 0.01}
      amnesiac: {method: random_label, count: 64, preset: published_amnesiac}

1. Before every epoch (`redraw: once`: at the start alone), give each forget image a class drawn uniformly from all
   classes, its own included (`exclude_own`: all but its own).
2. Minimise cross-entropy on retain and forget images, the retain images under their own labels: in one shuffled order
   (`order: joint`), or a pass over forget and then one over retain (`order: sequential`).

Source: Golatkar et al. 2020; the baseline RL of SalUn (Fan et al., ICLR 2024); `published_amnesiac` is the baseline
"amnesiac" of SSD and others after Graves et al., AAAI 2021. Read: OPTML-Group/Unlearn-Saliency
Classification/unlearn/RL.py and impl.py (the authors'); kairanzhao/RUM unlearn/RL_original.py (the authors' of RUM);
xcadet/deepunlearn munl/datasets/common.py (a port); if-loops/selective-synaptic-dampening
src/forget_random_strategies.py (the authors' of SSD).

Caveats:
- All three sources of RL draw from all classes, so the optimum is a uniform prediction. With `exclude_own` the optimum
  never predicts an image's own class, which forgets more than retraining does.
- SalUn's code has the sequential order for CIFAR-10 and SVHN, and the joint order for CIFAR-100.
- Published rates span 0.01 to 0.1 and rarely transfer; tune them.
- Class weights, if the study has them, count the images' own classes, not the drawn ones.

Does not cover: a part of the weights only (`salun`).
"""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import Field
from torch import nn

from ray_unlearn.data.images import ImageSet, RunData
from ray_unlearn.errors import MethodError
from ray_unlearn.methods.method import Method
from ray_unlearn.methods.published import PLAIN, SPARSE, pinned
from ray_unlearn.seeds import Seeds
from ray_unlearn.study.changes import Correction
from ray_unlearn.study.identity import Since
from ray_unlearn.study.recipe import Float, Optimizer, Recipe, Schedule
from ray_unlearn.training import Batch, Hooks, Training, class_weights, cross_entropy
from ray_unlearn.training.objective import Loss


class RandomLabelOptions(Recipe):
    """Defaults: SalUn's baseline RL; optimiser as for its originals."""

    epochs: Float = Field(10.0, gt=0, description="Passes over retain and forget images together (SalUn).")
    optimizer: Optimizer = Field("sgd", description="Optimiser, as for the benchmark's originals.")
    lr: Float = Field(0.01, gt=0, description="Rate (SalUn: 0.01 to 0.1).")
    weight_decay: Float = Field(5e-4, ge=0, description="L2 penalty, as for the benchmark's originals.")
    schedule: Schedule = Field("constant", description="The originals' drops, at epochs 91 and 136, are never reached.")
    exclude_own: Annotated[bool, Since("0.2", neutral=True)] = Field(
        False, description="Whether a forget image never gets its own class (amnesiac)."
    )
    redraw: Annotated[Literal["epoch", "once"], Since("0.2", neutral="epoch")] = Field(
        "epoch", description="When labels are drawn; once: amnesiac."
    )
    order: Annotated[Literal["joint", "sequential"], Since("0.2", neutral="joint")] = Field(
        "joint", description="joint: one shuffled order; sequential: forget, then retain (SalUn on CIFAR-10)."
    )


def random_label(
    model: nn.Module, data: RunData, options: RandomLabelOptions, rng: Seeds, hooks: Hooks | None = None
) -> None:
    """Minimise cross-entropy on the retain set and on the forget set under random labels.

    Raises:
        MethodError: there is only one class, so that no label is random.

    """
    if data.num_classes < 2:
        raise MethodError("random labels need at least two classes; the data has one")
    images, first = data.retain.joined(data.forget), len(data.retain)
    generator = rng.numpy("random-labels")
    labels_N = torch.from_numpy(images.labels_N.copy()).to(data.device)
    weighted = cross_entropy(class_weights(images, options, data.num_classes))

    def loss(model: nn.Module, batch: Batch) -> torch.Tensor:
        return weighted(model, Batch(batch.images, labels_N[batch.labels]))

    positions = images.with_labels(np.arange(len(images)))  # batches carry positions, whose labels change
    passes = _passes(model, data, options, rng, hooks, positions, loss)
    drawn = False
    while not all(training.done for training in passes):
        if not drawn or options.redraw == "epoch":
            drawn = True
            fresh = random_labels(data.forget.labels_N, data.num_classes, generator, exclude_own=options.exclude_own)
            labels_N[first:] = torch.from_numpy(fresh).to(data.device)
        for training in passes:
            if not training.done:
                training.epoch()
    model.train()


def _passes(
    model: nn.Module, data: RunData, options: Recipe, rng: Seeds, hooks: Hooks | None, positions: ImageSet, loss: Loss
) -> list[Training]:
    """Return what an epoch runs through: one pass over all images, or one over forget and one over retain."""
    if getattr(options, "order", "joint") == "joint":
        return [Training(model, data, options, rng, sets=(positions,), loss=loss, hooks=hooks)]
    first = len(data.retain)
    parts = {"forget": np.arange(first, len(positions)), "retain": np.arange(first)}
    passes: list[Training] = []
    for purpose, which in parts.items():
        shared = passes[0].optimizer if passes else None
        own = Training(
            model,
            data,
            options,
            rng,
            sets=(positions.subset(which),),
            loss=loss,
            hooks=hooks,
            purpose=purpose,
            optimizer=shared,
        )
        passes.append(own)
    return passes


def random_labels(
    labels_N: np.ndarray, num_classes: int, generator: np.random.Generator, *, exclude_own: bool = False
) -> np.ndarray:
    """Return int64 [N]: for each label a class drawn uniformly from all, or from the others."""
    low = 1 if exclude_own else 0
    return np.asarray((labels_N + generator.integers(low, num_classes, len(labels_N))) % num_classes)


METHOD = Method(
    name="random_label",
    run=random_label,
    options=RandomLabelOptions,
    starts_from="original",
    corrections=(
        Correction("0.2", "labels left the own class out; all sources draw from all classes", ("exclude_own",)),
    ),
    summary="Train on the retain set and on the forget set under random labels.",
    source="Golatkar et al., CVPR 2020; as the baseline RL of Fan et al., SalUn, ICLR 2024",
    opened="OPTML-Group/Unlearn-Saliency unlearn/RL.py, kairanzhao/RUM unlearn/RL_original.py (both authors')",
    open=("rate: published from 0.01 to 0.1, for the sources' nets; without a preset 0.01",),
    cost="epochs on retain and forget",
    published={
        "published": pinned(RandomLabelOptions, SPARSE, order="sequential"),
        "published_rum": pinned(RandomLabelOptions, SPARSE, lr=0.1),
        "published_amnesiac": pinned(
            RandomLabelOptions,
            PLAIN,
            batch_size=128,
            epochs=3.0,
            optimizer="adam",
            lr=1e-4,
            weight_decay=0.0,
            exclude_own=True,
            redraw="once",
        ),
    },
)
