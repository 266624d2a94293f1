"""Seif (3rd place): strong noise on the convolutions, then training on retain with a loss of mostly one class.

    populations:
      seif: {method: seif, preset: competition, count: 64}

1. Add N(0, 0.6^2) to every weight of the first convolution.
2. Train on retain. The loss of a batch is its mean cross-entropy times the mean class weight of its images (1.0 for
   class 0, 0.05 for all others): the more of class 0 a batch holds, the larger its step.
3. Before the last epoch add N(0, 0.005^2) to the same weights.

Source: team Seif, NeurIPS 2023 Machine Unlearning Challenge ("CFW" in the Deep Unlearn study). Read:
xcadet/deepunlearn munl/unlearning/kgltop3.py (a port) and the organisers' deck, page 17 (slides).

Caveats:
- The port's noise reaches a model's direct children alone, hence a ResNet's first convolution (`layers: first`). The
  slides' "details forgotten but the general idea was retained" agrees with that. The write-up has "convolutional
  weights" (`layers: all`): all 20, with noise of 10 to 29 times their initial standard deviation.
- The port replaces the class weights by n / (C * n_c) (`batch_weights: balanced`) and notes the original ones.
- Class 0 was the competition's largest class, and most of its forget set.

Does not cover: `class_weights`, which would weight images inside a batch; `batch_weights` takes their place.
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import nn

from ray_unlearn.data.images import RunData
from ray_unlearn.errors import MethodError
from ray_unlearn.methods.method import Method
from ray_unlearn.methods.perturbations import add_noise, check_convolutions, check_some_move, convolutions
from ray_unlearn.methods.published import COMPETITION, pinned
from ray_unlearn.seeds import Seeds
from ray_unlearn.study.changes import FROZEN, Correction
from ray_unlearn.study.recipe import INHERITED, Float, Optimizer, Recipe
from ray_unlearn.training import Batch, Training, cross_entropy, inverse_counts


class SeifOptions(Recipe):
    """Defaults: the published values, on the layer that the port reaches."""

    epochs: Float = Field(4.0, gt=0)
    optimizer: Optimizer = "sgd"
    lr: Float = Field(7e-4, gt=0)
    weight_decay: Float = Field(5e-4, ge=0)
    class_weights: Literal["none"] = Field("none", description="Not used: see batch_weights.")
    batch_weights: Literal["balanced"] | Annotated[tuple[Annotated[Float, Field(ge=0)], ...], Field(min_length=1)] = (
        Field(
            (1.0, 0.05),
            description="Weight of class 0, 1, ...; the last one also for all further ones. balanced: n / (C * n_c).",
        )
    )
    noise_std: Float = Field(0.6, ge=0, description="Standard deviation of the start noise, in units of the weights.")
    late_noise_std: Float = Field(0.005, ge=0, description="The same for the noise before the last epoch.")
    layers: Literal["all", "first"] = Field(
        "first", description="first: the first convolution alone (the port); all: every one (prose)."
    )


def seif(model: nn.Module, data: RunData, options: SeifOptions, rng: Seeds) -> None:
    """Add noise, train with a loss weighted batch by batch, add a little noise before the last epoch."""
    chosen = convolutions(model)[: 1 if options.layers == "first" else None]
    weights = [layer.weight for _, layer in chosen]
    check_some_move(weights, "the first convolution" if options.layers == "first" else "the convolutions")
    weights_C = _batch_weights(data, options)
    on_labels = cross_entropy()

    def loss(model: nn.Module, retain: Batch) -> torch.Tensor:
        return on_labels(model, retain) * weights_C[retain.labels].mean()

    add_noise(weights, options.noise_std, rng.torch("start-noise"))
    training = Training(model, data, options, rng, loss=loss)
    while not training.done:
        if training.at_last_epoch:
            add_noise(weights, options.late_noise_std, rng.torch("late-noise"))
        training.epoch()


def _batch_weights(data: RunData, options: SeifOptions) -> torch.Tensor:
    """Return float32 [C] on the device."""
    if options.batch_weights == "balanced":
        return len(data.retain) / data.num_classes * inverse_counts(data.retain, data.num_classes)
    found, expected = len(options.batch_weights), data.num_classes
    if found > expected:
        raise MethodError(f"batch_weights: expected at most {expected} numbers, one per class; found {found}")
    weights = [*options.batch_weights, *[options.batch_weights[-1]] * (expected - found)]
    return torch.tensor(weights, device=data.device)


METHOD = Method(
    name="seif",
    run=seif,
    options=SeifOptions,
    check=check_convolutions,
    starts_from="original",
    corrections=(
        Correction("0.2", "all convolutions got noise; the port and the slides have the first alone", ("layers",)),
        FROZEN,
    ),
    summary="Add noise to the first convolution, then train on retain, each batch scaled by its mean class weight.",
    source="Team Seif, NeurIPS 2023 Machine Unlearning Challenge, 3rd place (CFW)",
    cost="epochs on retain",
    aliases={"CFW": {}},  # in Cadet et al., Deep Unlearn
    opened="xcadet/deepunlearn munl/unlearning/kgltop3.py (port); organisers' deck, page 17 (slides)",
    open=("layers that get noise: the first convolution (port, slides) rather than all (prose)",),
    published={
        "competition": pinned(SeifOptions, COMPETITION),
        "competition_prose": pinned(SeifOptions, COMPETITION, layers="all"),
    },
    inherits=tuple(name for name in INHERITED if name != "class_weights"),
)
