"""Sebastian (4th place): prune nearly everything, fill the holes at random, fine-tune to the original's entropies.

    populations:
      sebastian: {method: sebastian, preset: competition, count: 64}

1. Of all weights and biases of convolutions and linear layers together, prune the 99 % that are smallest in size.
   Pruned weights are drawn anew, uniform between -b and b, b = 1 / sqrt(fan_in) of the layer; pruned biases stay zero.
2. Fine-tune on retain for 3.2 epochs: cross-entropy with class weights (images of the class)^-0.1, plus the squared
   difference between the entropies of the model's and the original's prediction of the same image.
3. Round every parameter to half precision and back.

Source: team Sebastian, NeurIPS 2023 Machine Unlearning Challenge ("PRMQ" in the Deep Unlearn study). Read:
xcadet/deepunlearn munl/unlearning/kgltop4.py (a port) and the organisers' deck, pages 14 to 16 (slides).

Caveats:
- Pruned weights are the same in all runs of an original; what replaces them differs.
- Step 3 is in the port alone; `round_to_half: false` leaves it out. The port rounds buffers, too. Here they stay fp32,
  because variances of images that are not normalised can exceed half precision's range.
- The port takes floor(3.2 * steps of an epoch) + 1 steps, here it is 3.2 times as many, rounded. A second
  re-implementation has whole epochs. The entry itself could not be read, and one step in several hundred does not
  matter.
- Weights that were zero before count as pruned.

Does not cover: `class_weights`; `class_weight_power` takes their place.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from pydantic import Field
from torch import nn
from torch.nn import functional as F  # noqa: N812 - its usual name

from ray_unlearn.data.images import RunData
from ray_unlearn.errors import MethodError
from ray_unlearn.methods.losses import entropy, frozen_copy
from ray_unlearn.methods.method import Method
from ray_unlearn.methods.perturbations import check_some_move, moves, prune_smallest, refill
from ray_unlearn.methods.published import COMPETITION, pinned
from ray_unlearn.seeds import Seeds
from ray_unlearn.study.changes import Correction
from ray_unlearn.study.recipe import INHERITED, Float, Optimizer, Recipe, Schedule
from ray_unlearn.training import Batch, fit, inverse_counts


class SebastianOptions(Recipe):
    """Defaults: the published values."""

    epochs: Float = Field(3.2, gt=0)
    optimizer: Optimizer = "sgd"
    lr: Float = Field(5e-4, gt=0)
    weight_decay: Float = Field(5e-4, ge=0)
    schedule: Schedule = "constant"
    class_weights: Literal["none"] = Field("none", description="Not used: see class_weight_power.")
    class_weight_power: Float = Field(
        -0.1, le=0, description="Class weights are retain images of the class to this power."
    )
    prune_fraction: Float = Field(0.99, ge=0, le=1, description="Share of weights and biases to prune.")
    entropy_weight: Float = Field(1.0, ge=0, description="Weight of the squared difference of entropies, in nats^2.")
    round_to_half: bool = Field(True, description="Round parameters to half precision at the end (the port).")


def sebastian(model: nn.Module, data: RunData, options: SebastianOptions, rng: Seeds) -> None:
    """Prune and refill, fine-tune towards labels and the original's entropies, round."""
    teacher = frozen_copy(model)
    _prune_and_refill(model, options.prune_fraction, rng)
    weights_C = inverse_counts(data.retain, data.num_classes) ** -options.class_weight_power

    def loss(model: nn.Module, retain: Batch) -> torch.Tensor:
        logits_BC = model(retain.images).float()
        with torch.no_grad():
            entropy_B = entropy(teacher(retain.images).float())
        on_labels = F.cross_entropy(logits_BC, retain.labels, weight=weights_C)
        return on_labels + options.entropy_weight * F.mse_loss(entropy(logits_BC), entropy_B)

    fit(model, data, options, rng, loss=loss)
    if options.round_to_half:
        with torch.no_grad():
            for parameter in filter(moves, model.parameters()):
                parameter.copy_(parameter.half())


def _prune_and_refill(model: nn.Module, fraction: float, rng: Seeds) -> None:
    layers = [layer for layer in model.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    if not layers:
        raise MethodError("the method prunes convolutions and linear layers, and the model has none")
    tensors = [tensor for layer in layers for tensor in layer.parameters(recurse=False)]
    check_some_move(tensors, "convolutions and linear layers")
    bounds: dict[nn.Parameter, float] = {}
    for layer in layers:
        bound = 1 / math.sqrt(layer.weight[0].numel())  # fan_in: inputs that one output sees
        bounds |= dict.fromkeys(filter(moves, layer.parameters(recurse=False)), bound)
    holes = prune_smallest(list(bounds), fraction)
    generator = rng.torch("refill")
    for (parameter, bound), hole in zip(bounds.items(), holes, strict=True):
        if parameter.ndim > 1:  # biases stay zero
            refill(parameter, hole, bound, generator)


METHOD = Method(
    name="sebastian",
    run=sebastian,
    options=SebastianOptions,
    starts_from="original",
    corrections=(Correction("0.2", "pruned biases were drawn anew; as published, they stay zero"),),
    summary="Prune and re-initialise 99 % of the weights, then fine-tune towards the original's prediction entropies.",
    source="Team Sebastian, NeurIPS 2023 Machine Unlearning Challenge, 4th place (PRMQ)",
    cost="epochs on retain, each step with a teacher's prediction",
    aliases={"PRMQ": {}},  # in Cadet et al., Deep Unlearn
    opened="xcadet/deepunlearn munl/unlearning/kgltop4.py (port); organisers' deck, pages 14 to 16 (slides)",
    open=("rounding to half precision: the port alone has it; kept, for parameters but not for buffers",),
    published={"competition": pinned(SebastianOptions, COMPETITION)},
    inherits=tuple(name for name in INHERITED if name != "class_weights"),
)
