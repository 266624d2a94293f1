"""Amnesiacs: reset the first and the last layer, then distil the original, on validation first and then on retain.

    populations:
      amnesiacs: {method: amnesiacs, count: 64}                   # the study needs data.validation

1. Re-initialise the first convolution and the classifier.
2. On the validation set (`validation_classes`: its images of some classes alone) minimise KL(original ‖ model), both
   softened by the temperature T.
3. With a new optimiser, on the retain set minimise the sum of
   `port`: soft cross-entropy at T + cross-entropy on the labels + KL(original ‖ model) at T;
   `paper`: cross-entropy on the labels + KL(original ‖ model) + KL(model ‖ original), both at T.

Source: NeurIPS 2023 Machine Unlearning Challenge, 6th place,
stathiskaripidis/unlearning-by-resetting-layers-7th-on-private-lb; "KDE" in the literature. Read: xcadet/deepunlearn
munl/unlearning/kgltop6.py (a port) and the organisers' deck, pages 7 to 10 (slides).

Caveats:
- The KL terms are not multiplied by T^2 (25); `temperature_scaling: true` multiplies them, as Hinton et al. do.
- The slides have the three losses of `port`; the competition paper describes those of `paper` in one sentence.
- T and the constant rate of step 2 are the port's values.
- The first convolution is re-initialised by PyTorch's default, as in the port; torchvision builds its ResNets with
  He-normal weights.

Does not cover: the forget set; neither step looks at it.
"""

from __future__ import annotations

from functools import partial
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import Field
from torch import nn
from torch.nn import functional as F  # noqa: N812 - its usual name

from ray_unlearn.data.images import ImageSet, RunData
from ray_unlearn.methods.losses import frozen_copy, kl_to_teacher, soft_cross_entropy
from ray_unlearn.methods.method import Method
from ray_unlearn.methods.perturbations import check_some_move, convolutions, reset_layers
from ray_unlearn.methods.published import COMPETITION, pinned
from ray_unlearn.methods.units import check_classifier, classifier
from ray_unlearn.seeds import Seeds
from ray_unlearn.study.changes import FROZEN, Correction
from ray_unlearn.study.identity import Since
from ray_unlearn.study.recipe import Float, Int, Optimizer, Recipe, Schedule
from ray_unlearn.training import Batch, class_weights, fit


class AmnesiacsOptions(Recipe):
    """Defaults: as published; `epochs`, `lr`, `weight_decay` and `schedule` are the retain phase's."""

    epochs: Float = Field(3.0, gt=0, description="Passes over retain (published).")
    optimizer: Optimizer = Field("sgd", description="Optimiser of both phases (published); momentum 0.9.")
    lr: Float = Field(1e-3, gt=0, description="Rate on retain (published).")
    weight_decay: Float = Field(5e-4, ge=0, description="L2 penalty of both phases (published).")
    schedule: Schedule = Field("cosine", description="Course of the rate on retain (published).")
    validation_epochs: Float = Field(3.0, gt=0, description="Passes over validation (published).")
    validation_lr: Float = Field(9e-4, gt=0, description="Rate on validation, constant (published).")
    validation_classes: tuple[Annotated[Int, Field(ge=0)], ...] | None = Field(
        None, description="Only the validation images of these classes; [0, 1] is the published variant."
    )
    temperature: Float = Field(5.0, gt=0, description="Temperature of the softened predictions, no unit (published).")
    temperature_scaling: Annotated[bool, Since("0.2", neutral=True)] = Field(
        False, description="Multiply every KL term by T^2; published: no."
    )
    objective: Literal["port", "paper"] = Field(
        "port", description="Loss on retain. port: CE, soft CE and KL (slides, too); paper: CE and both KL."
    )


def amnesiacs(model: nn.Module, data: RunData, options: AmnesiacsOptions, rng: Seeds) -> None:
    """Reset two layers, distil the original on validation, then distil and train on retain."""
    teacher, T = frozen_copy(model), options.temperature
    weights_C = class_weights(data.retain, options, data.num_classes)
    layers = [convolutions(model)[0][1], classifier(model, data.num_classes)]
    check_some_move([one for layer in layers for one in layer.parameters()], "the first convolution and the classifier")
    reset_layers(layers, rng, "reset")

    towards_teacher = partial(kl_to_teacher, temperature=T, scaled=options.temperature_scaling)

    def distil(model: nn.Module, batch: Batch) -> torch.Tensor:
        return towards_teacher(model(batch.images).float(), teacher(batch.images).float())

    def repair(model: nn.Module, batch: Batch) -> torch.Tensor:
        student_BC, teacher_BC = model(batch.images).float(), teacher(batch.images).float()
        towards = towards_teacher(student_BC, teacher_BC)
        if options.objective == "paper":
            other = towards_teacher(teacher_BC, student_BC)
        else:
            other = soft_cross_entropy(student_BC, teacher_BC, T)
        return F.cross_entropy(student_BC, batch.labels, weight=weights_C) + towards + other

    changes = {"epochs": options.validation_epochs, "lr": options.validation_lr, "schedule": "constant"}
    warmup = options.model_copy(update=changes)
    fit(model, data, warmup, rng, sets=(_validation(data, options),), loss=distil, purpose="distil")
    fit(model, data, options, rng, loss=repair)


def _validation(data: RunData, options: AmnesiacsOptions) -> str | ImageSet:
    """Return the validation set, or its images of the classes asked for."""
    if data.validation is None or options.validation_classes is None:
        return "validation"
    return data.validation.subset(np.flatnonzero(np.isin(data.validation.labels_N, options.validation_classes)))


METHOD = Method(
    name="amnesiacs",
    run=amnesiacs,
    options=AmnesiacsOptions,
    check=check_classifier,
    starts_from="original",
    corrections=(
        Correction("0.2", "KL terms were multiplied by T^2 = 25; the port has none", ("temperature_scaling",)),
        FROZEN,
    ),
    summary="Reset the first and the last layer, then distil the original on validation and on retain.",
    source="NeurIPS 2023 Machine Unlearning Challenge, 6th place (Amnesiacs)",
    cost="validation_epochs on validation + epochs on retain, each step with the original's predictions",
    aliases={"KDE": {}},  # in Cadet et al., Deep Unlearn
    opened="xcadet/deepunlearn munl/unlearning/kgltop6.py (port); organisers' deck, pages 7 to 10 (slides)",
    open=("loss on retain: the port's and the slides' three terms rather than the paper's symmetric KL",),
    published={"competition": pinned(AmnesiacsOptions, COMPETITION)},
)
