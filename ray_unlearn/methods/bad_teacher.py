"""Bad teacher: a teacher that knows nothing for the forget images, the original for the retain images.

    populations:
      bad: {method: bad_teacher, count: 64, epochs: 1, lr: 1.0e-4, retain_fraction: 0.3}

1. Take two frozen teachers: the original, and a copy of it with every layer re-initialised.
2. Draw the share `retain_fraction` of the retain images once, and join the whole forget set to it.
3. Train on the joint set in one shuffled order, minimising KL(target ‖ student) at `temperature`, times its square. The
   target of a forget image is the random teacher's prediction, that of a retain image the original's. Labels and class
   weights are not used.

Source: Chundawat et al., Can Bad Teaching Induce Forgetting?, AAAI 2023; values as published with SSD (Foster et al.,
AAAI 2024). Read: vikram2000b/bad-teaching-unlearning unlearn.py (the authors'), if-loops/selective-synaptic-dampening
src/forget_random_strategies.py (the authors' of SSD).

Caveats:
- The published divergence is also divided by the number of classes; with Adam and no weight decay that changes nothing.
- The random teacher has each layer's default initialisation, which may differ from the one that the architecture uses.
- The preset has batches of 256; the sources use 128 for their vision transformer.

Does not cover: other sources of ignorance than a random teacher.
"""

from __future__ import annotations

import numpy as np
import torch
from pydantic import Field
from torch import nn

from ray_unlearn.data.images import RunData
from ray_unlearn.methods.losses import frozen_copy, kl_to_teacher
from ray_unlearn.methods.method import Method
from ray_unlearn.methods.perturbations import scratch_copy
from ray_unlearn.methods.published import PLAIN, pinned
from ray_unlearn.seeds import Seeds
from ray_unlearn.study.recipe import Float, Optimizer, Recipe, Schedule
from ray_unlearn.training import Batch, fit


class BadTeacherOptions(Recipe):
    """Defaults: the baseline of the SSD repository."""

    epochs: Float = Field(1.0, gt=0, description="Passes over forget set and retain subset together (SSD repository).")
    optimizer: Optimizer = Field("adam", description="SSD repository.")
    lr: Float = Field(1e-4, gt=0, description="Rate (SSD repository).")
    weight_decay: Float = Field(0.0, ge=0, description="L2 penalty (none is published).")
    schedule: Schedule = Field("constant", description="None is published.")
    temperature: Float = Field(1.0, gt=0, description="Softens teachers and student (SSD repository).")
    retain_fraction: Float = Field(0.3, gt=0, le=1, description="Share of the retain set used (SSD repository).")


def bad_teacher(model: nn.Module, data: RunData, options: BadTeacherOptions, rng: Seeds) -> None:
    """Follow a random teacher on the forget set and the original on a part of the retain set."""
    original, ignorant = frozen_copy(model), frozen_copy(scratch_copy(model, rng, "random-teacher"))
    size = max(1, round(options.retain_fraction * len(data.retain)))
    chosen = np.sort(rng.numpy("retain-subset").choice(len(data.retain), size, replace=False))
    retain, forget = data.retain.subset(chosen), data.forget
    marked = retain.with_labels(np.zeros(len(retain))).joined(forget.with_labels(np.ones(len(forget))))

    def loss(model: nn.Module, batch: Batch) -> torch.Tensor:  # labels mark the images to forget
        with torch.no_grad():
            random_BC, original_BC = ignorant(batch.images), original(batch.images)
        target_BC = torch.where(batch.labels[:, None] == 1, random_BC, original_BC)
        return kl_to_teacher(model(batch.images).float(), target_BC.float(), options.temperature)

    fit(model, data, options, rng, sets=(marked,), loss=loss)


METHOD = Method(
    name="bad_teacher",
    run=bad_teacher,
    options=BadTeacherOptions,
    starts_from="original",
    summary="Distil a random teacher on the forget set and the original on a part of the retain set.",
    source="Chundawat et al., Can Bad Teaching Induce Forgetting?, AAAI 2023; values of the SSD repository",
    opened="vikram2000b/bad-teaching-unlearning unlearn.py, if-loops/selective-synaptic-dampening (both authors')",
    published={"published": pinned(BadTeacherOptions, PLAIN, batch_size=256)},
    cost="epochs on forget and retain_fraction of retain, each step with a forward pass of two teachers",
)
