"""Kookmin (2nd place): re-initialise the convolution weights that separate retain and forget least, repair gently.

    populations:
      kookmin: {method: kookmin, preset: competition, count: 64}

1. Draw as many retain images as there are forget images. The score of a convolution weight is the size of the gradient
   of CE(those) - CE(forget), both averaged over their images.
2. Of each convolution, draw the 30 % of the weights with the smallest scores anew: He-normal, fan_out.
3. Minimise cross-entropy on retain. The weights that were kept get a tenth of their gradient; the fresh ones, biases,
   normalisation and classifier get all of it. The rate rises over three epochs and falls over the rest, epoch by epoch.

Source: team Kookmin, NeurIPS 2023 Machine Unlearning Challenge ("MSG" in the Deep Unlearn study). Read:
xcadet/deepunlearn munl/unlearning/kgltop2.py (a port) and the organisers' deck, pages 20 to 22 (slides).

Caveats:
- The write-up ranks all convolutions together (`scope: global`); the only available code ranks each one alone (`scope:
  layer`), although the line that it prints says globally.
- On the challenge's own net, a stock ResNet-18 at 32x32 pixels, 6,946,816 of 11,166,912 convolution weights never get a
  gradient (`training.dead`). The smallest 30 % of all are among them, so `scope: global` would change nothing there,
  and is refused. By layer, about 870,000 of the 3,350,000 weights drawn anew have a gradient. `among: live` ranks
  weights with a gradient alone.
- Not published, and chosen here: scores are taken in evaluation mode (the official loop reuses a net that the entry
  left in it) and without class weights; weight decay, which is no part of the gradient, is not scaled.

Does not cover: biases of convolutions, which are never drawn anew.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal, cast

import torch
from pydantic import Field
from torch import nn

from ray_unlearn.data.images import RunData
from ray_unlearn.errors import MethodError
from ray_unlearn.methods.masks import GradientScale
from ray_unlearn.methods.method import Method
from ray_unlearn.methods.perturbations import (
    check_convolutions,
    check_some_move,
    convolutions,
    moves,
    reinitialise,
    smallest,
)
from ray_unlearn.methods.published import COMPETITION, pinned
from ray_unlearn.seeds import Seeds
from ray_unlearn.study.changes import Correction
from ray_unlearn.study.identity import Since
from ray_unlearn.study.recipe import Float, Optimizer, Recipe
from ray_unlearn.training import Hooks, cross_entropy, fit
from ray_unlearn.training.dead import dead_weights
from ray_unlearn.training.gradients import mean_gradient


class KookminOptions(Recipe):
    """Defaults: the port's values, which are the slides'."""

    epochs: Float = Field(5.0, gt=0)
    optimizer: Optimizer = "sgd"
    lr: Float = Field(1e-3, gt=0, description="Highest rate, reached in the last epoch of the warm-up.")
    weight_decay: Float = Field(5e-4, ge=0)
    schedule: Literal["linear"] = Field("linear", description="Up and down in equal steps; the method knows no other.")
    schedule_per: Literal["epoch"] = "epoch"
    warmup_epochs: Float = Field(3.0, ge=0, description="Epochs of the rise: factors 1/3, 2/3, 1, then 2/3, 1/3 of 5.")
    fraction: Float = Field(0.3, ge=0, le=1, description="Share of the convolution weights to draw anew.")
    scope: Literal["global", "layer"] = Field(
        "layer", description="layer: the smallest of each convolution (the port); global: of all together (write-up)."
    )
    among: Annotated[Literal["all", "live"], Since("0.2", neutral="all")] = Field(
        "all", description="Weights that are ranked. all: as published; live: those that can get a gradient at all."
    )
    kept_scale: Float = Field(0.1, ge=0, description="What gradients of kept convolution weights are multiplied by.")


def kookmin(model: nn.Module, data: RunData, options: KookminOptions, rng: Seeds) -> None:
    """Draw the weights with the smallest scores anew, then train on retain with scaled gradients."""
    every = [cast(nn.Parameter, layer.weight) for _, layer in convolutions(model)]
    check_some_move(every, "the convolutions")
    weights = [*filter(moves, every)]
    scores = _scores(model, weights, data, rng)
    fresh = _chosen(weights, scores, dead_weights(model, data.retain), options)
    generator = rng.torch("fresh-weights")
    for weight, where in zip(weights, fresh, strict=True):
        reinitialise(weight, where, generator)
    factors = {w: torch.where(where, 1.0, options.kept_scale) for w, where in zip(weights, fresh, strict=True)}
    hooks = Hooks(after_backward=GradientScale(factors).apply)
    fit(model, data, options, rng, hooks=hooks, rate=lambda epochs_done: _rate(options, int(epochs_done)))


def _scores(model: nn.Module, weights: list[nn.Parameter], data: RunData, rng: Seeds) -> list[torch.Tensor]:
    size = min(len(data.forget), len(data.retain))
    chosen = rng.numpy("retain-subset").choice(len(data.retain), size, replace=False)
    on_retain = mean_gradient(model, data.retain.subset(chosen), cross_entropy())
    on_forget = mean_gradient(model, data.forget, cross_entropy())
    return [on_retain[weight] - on_forget[weight] for weight in weights]  # ranked by magnitude


def _chosen(
    weights: list[nn.Parameter],
    scores: list[torch.Tensor],
    dead: Mapping[nn.Parameter, torch.Tensor],
    options: KookminOptions,
) -> list[torch.Tensor]:
    """Return a mask per weight, true at the elements to draw anew.

    Raises:
        MethodError: the ranking is decided by weights that never get a gradient.

    """
    none = [torch.zeros_like(weight, dtype=torch.bool) for weight in weights]
    live = [~dead.get(weight, mask) for weight, mask in zip(weights, none, strict=True)]
    among = live if options.among == "live" else [~mask for mask in none]
    if options.scope == "layer":
        return [smallest([s], options.fraction, [mask])[0] for s, mask in zip(scores, among, strict=True)]
    total, num_live = (sum(int(mask.sum()) for mask in masks) for masks in (among, live))
    count, num_dead = round(options.fraction * total), total - num_live
    if num_dead >= count > 0 and options.among == "all":
        raise MethodError(
            f"kookmin: {num_dead:,} of {total:,} convolution weights never get a gradient (they meet padding alone), "
            f"so the {count:,} with the smallest ones would all be among them and nothing would change; set "
            "among: live, or scope: layer"
        )
    return smallest(scores, options.fraction, among)


def _rate(options: KookminOptions, epoch: int) -> float:
    """Return the factor of epoch 0, 1, ...: up in `warmup_epochs` equal steps, then down as if to 0 after the last."""
    rise = max(1.0, options.warmup_epochs)
    fall = max(1.0, options.epochs - rise + 1)
    return min((epoch + 1) / rise, (options.epochs - epoch) / fall, 1.0)


METHOD = Method(
    name="kookmin",
    run=kookmin,
    options=KookminOptions,
    check=check_convolutions,
    starts_from="original",
    corrections=(
        Correction(
            "0.2",
            "all convolutions were ranked together, which draws dead weights alone; the port ranks each",
            ("scope",),
        ),
    ),
    summary="Re-initialise the convolution weights with the smallest retain-minus-forget gradient, then repair gently.",
    source="Team Kookmin, NeurIPS 2023 Machine Unlearning Challenge, 2nd place (targeted re-initialisation, MSG)",
    cost="epochs on retain, after gradients of 2 x forget images",
    aliases={"MSG": {}},  # in Cadet et al., Deep Unlearn
    opened="xcadet/deepunlearn munl/unlearning/kgltop2.py (port); organisers' deck, pages 20 to 22 (slides)",
    open=(
        "ranking by layer (code) or of all convolutions (write-up): by layer; at 32x32 the other draws anew only "
        "weights without a gradient",
        "mode in which the scores are taken: evaluation",
    ),
    published={"competition": pinned(KookminOptions, COMPETITION)},
)
