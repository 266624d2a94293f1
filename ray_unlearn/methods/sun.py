"""Sun: a fresh classifier, noise in random tensors, each epoch training another random few, then all.

    populations:
      sun: {method: sun, count: 64}

1. Re-initialise the classifier.
2. Each epoch but the last ones: choose `tensors` random weight tensors whose name has no "bn"; but for the first
   epoch, draw a random `noise_fraction` of them and add Gaussian noise to those that were not chosen in an earlier
   epoch; with a new optimiser, train the chosen tensors and all whose name has "bn" on the retain set.
3. The last epochs, one per rate in `final_lrs`: train all tensors, each epoch with a new optimiser.

Source: NeurIPS 2023 Machine Unlearning Challenge, 7th place, sunkroos/noise-injection-unlearning-8th-place-solution.
Read: xcadet/deepunlearn munl/unlearning/kgltop7.py (a port) and the organisers' deck, page 6 (slides).

Caveats:
- The steps are the port's. Write-up and slides state that all layers are fine-tuned; a `tensors` beyond the model's
  number does so.
- By the port's rule of names, a ResNet's six shortcut normalisations ("downsample.1") are in the pool of 28 tensors and
  may get noise. `pool: weights` goes by kinds of layers, which leaves 22.
- The port lists six rates for its last stage and uses four.
- A model with fewer than `tensors` tensors trains all it has. The number of tensors drawn for noise is rounded down: 6
  of 9.
- A `schedule` other than constant multiplies these rates.

Does not cover: the forget set; no step looks at it.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal

import numpy as np
from pydantic import Field
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from ray_unlearn.data.images import RunData
from ray_unlearn.methods.masks import trainable_only
from ray_unlearn.methods.method import Method
from ray_unlearn.methods.perturbations import add_noise, check_some_move, reset_layers
from ray_unlearn.methods.published import COMPETITION, pinned
from ray_unlearn.methods.units import check_classifier, classifier
from ray_unlearn.seeds import Seeds
from ray_unlearn.study.changes import FROZEN, Correction
from ray_unlearn.study.identity import Since
from ray_unlearn.study.recipe import Float, Int, Optimizer, Recipe, Schedule
from ray_unlearn.training import Training
from ray_unlearn.training.optimizers import make_optimizer, rate_factor


class SunOptions(Recipe):
    """Defaults: the port's."""

    epochs: Float = Field(9.0, gt=0, description="Passes over retain, both stages together (published).")
    optimizer: Optimizer = Field("sgd", description="Made anew every epoch (published); momentum 0.9.")
    lr: Float = Field(2e-4, gt=0, description="Rate of the first stage (published).")
    weight_decay: Float = Field(5e-4, ge=0, description="L2 penalty (published for the last stage; taken for both).")
    schedule: Schedule = Field("constant", description="Course of the rate (published: the rates as listed).")
    final_lrs: tuple[Annotated[Float, Field(gt=0)], ...] = Field(
        (2e-4, 2e-4, 2e-4, 1e-3), description="One per epoch of the last stage (published)."
    )
    tensors: Int = Field(9, ge=1, description="Weight tensors trained in an epoch of the first stage (published).")
    noise_fraction: Float = Field(0.7, ge=0, le=1, description="Share of those that get noise (published).")
    pool: Annotated[Literal["port", "weights"], Since("0.2", neutral="weights")] = Field(
        "port", description="port: parameters without 'bn' in their name; weights: all outside batch normalisation."
    )
    noise_again: Annotated[bool, Since("0.2", neutral=True)] = Field(
        False, description="Whether a tensor chosen in an earlier epoch may get noise (port: no)."
    )
    noise_std: Float = Field(0.04, ge=0, description="Deviation of the noise, in units of the weights (published).")


def sun(model: nn.Module, data: RunData, options: SunOptions, rng: Seeds) -> None:
    """Reset the classifier; train noisy random subsets, then all."""
    head = classifier(model, data.num_classes)
    check_some_move(head.parameters(), "the classifier")
    reset_layers([head], rng, "reset")
    normal = _normalisation(model, options.pool)
    others = [p for p in model.parameters() if p.requires_grad and p not in normal]
    final = max(0, math.ceil(options.epochs) - len(options.final_lrs))

    def rate(epochs_done: float) -> float:
        stage = int(epochs_done) - final
        lr = options.lr if stage < 0 else options.final_lrs[stage]
        return lr / options.lr * rate_factor(options, epochs_done)

    training = Training(model, data, options, rng, rate=rate)
    draws, noise = rng.numpy("tensors"), rng.torch("noise")
    seen: set[nn.Parameter] = set()
    while not training.done:
        epoch = training.epochs_done
        chosen = others if epoch >= final else _some(others, options.tensors, draws)
        if 0 < epoch < final:
            noisy = _some(chosen, int(options.noise_fraction * len(chosen)), draws)
            add_noise([p for p in noisy if options.noise_again or p not in seen], options.noise_std, noise)
        seen |= set(chosen)
        with trainable_only(model, [*chosen, *normal]):
            training.optimizer = make_optimizer(model, options)
            training.epoch()


def _normalisation(model: nn.Module, pool: str) -> set[nn.Parameter]:
    """Return the parameters that every epoch trains: normalisation's, by name (the port) or by kind of layer."""
    if pool == "port":
        return {parameter for name, parameter in model.named_parameters() if "bn" in name}
    return {p for layer in model.modules() if isinstance(layer, _BatchNorm) for p in layer.parameters()}


def _some(tensors: list[nn.Parameter], count: int, draws: np.random.Generator) -> list[nn.Parameter]:
    """Return `count` different tensors, or all where there are fewer, in random order."""
    return [tensors[i] for i in draws.permutation(len(tensors))[:count]]


METHOD = Method(
    name="sun",
    run=sun,
    options=SunOptions,
    check=check_classifier,
    starts_from="original",
    corrections=(
        Correction(
            "0.2",
            "tensors were distinguished by kind and could get noise again; the port goes by names, each tensor once",
            ("pool", "noise_again"),
        ),
        FROZEN,
    ),
    summary="Reset the classifier, train noisy random subsets of the tensors, then all of them.",
    source="NeurIPS 2023 Machine Unlearning Challenge, 7th place (Sun)",
    cost="epochs on retain",
    aliases={"RNI": {}},  # in Cadet et al., Deep Unlearn
    opened="xcadet/deepunlearn munl/unlearning/kgltop7.py (port); organisers' deck, page 6 (slides)",
    open=("tensors trained in the first stage: nine and normalisation (port) rather than all (write-up, slides)",),
    published={"competition": pinned(SunOptions, COMPETITION)},
)
