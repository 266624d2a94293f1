"""Forget: cycles of re-initialising random layers and regressing the original's logits, on the retain set alone.

    populations:
      forget:  {method: forget, count: 64}
      forget2: {method: forget, count: 64, preset: competition_variant_2}

Per cycle:
1. Draw `layers` layers with replacement and re-initialise them; a layer is a convolution larger than 1x1.
2. With a new optimiser and schedule, minimise the mean squared error between the model's logits and the original's on
   retain images, to which Gaussian noise is added; both see the same noisy image.

Citation: NeurIPS 2023 Machine Unlearning Challenge, 8th place,
jaesinahn/forget-set-free-approach-9th-on-private-lb; https://junhyunb.github.io.

Caveats: the ablation's text says noise of 0.1, the method's 0.01. Whether the optimiser starts anew is not said; it
does here. Classifier and projection shortcuts are never drawn; leaving out 1x1 kernels says the same of ResNet-18, and
more of bottleneck networks. Normalisation layers are never drawn. The paper's sentence that regression is on the forget
set is an error; formula and authors say retain.

Does not cover: choice of layers by Fisher information or of single elements; the authors found both worse.
"""

from __future__ import annotations

import itertools
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import nn
from torch.nn import functional as F  # noqa: N812 - its usual name

from ray_unlearn.data.images import RunData
from ray_unlearn.errors import MethodError
from ray_unlearn.methods.losses import frozen_copy
from ray_unlearn.methods.method import Method
from ray_unlearn.methods.perturbations import convolutions, reset_layers
from ray_unlearn.seeds import Seeds
from ray_unlearn.study.recipe import Float, Int, Optimizer, Recipe
from ray_unlearn.training import Batch, Training
from ray_unlearn.training.optimizers import make_optimizer, rate_factor


class ForgetOptions(Recipe):
    """Defaults: variant 1 as published; preset `competition_variant_2` is the other."""

    epochs: Float = Field(5.0, gt=0, description="Passes over retain, all cycles together (published).")
    optimizer: Optimizer = Field("sgd", description="Made anew every cycle; momentum 0.9 (published).")
    lr: Float = Field(1e-3, gt=0, description="Published for variant 1.")
    weight_decay: Float = Field(5e-4, ge=0, description="Not published; the challenge's usual.")
    schedule: Literal["constant", "cosine"] = Field("cosine", description="Starts anew every cycle (published).")
    cycles: tuple[Annotated[Int, Field(ge=1)], ...] = Field(
        (1, 2, 2), min_length=1, description="Epochs of each cycle (published); the last goes on until `epochs`."
    )
    cosine_epochs: Float = Field(2.0, gt=0, description="T_max: epochs from the rate to zero (published).")
    epoch_lrs: tuple[Annotated[Float, Field(gt=0)], ...] = Field(
        (), description="A rate per epoch instead of `lr`, the last for all further ones (published for variant 2)."
    )
    layers: Int = Field(6, ge=1, description="Layers drawn per cycle, with replacement (published).")
    image_noise_std: Float = Field(0.01, ge=0, description="In units of the scaled images (published).")


def forget(model: nn.Module, data: RunData, options: ForgetOptions, rng: Seeds) -> None:
    """Alternate between resetting random convolutions and regressing the original's logits on retain."""
    teacher, noise, draws = frozen_copy(model), rng.torch("image-noise"), rng.numpy("layers")
    candidates = _candidates(model)
    starts = [0, *itertools.accumulate(options.cycles[:-1])]
    within_cycle = options.model_copy(update={"epochs": options.cosine_epochs})

    def loss(model: nn.Module, batch: Batch) -> torch.Tensor:
        fresh = torch.randn(batch.images.shape, generator=noise).to(batch.images)
        noisy = batch.images + options.image_noise_std * fresh
        return F.mse_loss(model(noisy).float(), teacher(noisy).float())

    def rate(epochs_done: float) -> float:
        epoch = int(epochs_done)
        base = options.epoch_lrs[min(epoch, len(options.epoch_lrs) - 1)] if options.epoch_lrs else options.lr
        start = max(start for start in starts if start <= epoch)
        return base / options.lr * rate_factor(within_cycle, epochs_done - start)

    training = Training(model, data, options, rng, loss=loss, rate=rate)
    while not training.done:
        if training.epochs_done in starts:
            drawn = [candidates[i] for i in draws.integers(len(candidates), size=options.layers)]
            reset_layers(drawn, rng, f"reset-{training.epochs_done}")
            training.optimizer = make_optimizer(model, options)
        training.epoch()


def _candidates(model: nn.Module) -> list[nn.Conv2d]:
    """Return the convolutions that may be drawn.

    Raises:
        MethodError: there is none.

    """
    found = [layer for _, layer in convolutions(model) if max(layer.kernel_size) > 1]
    if not found:
        raise MethodError("the method re-initialises convolutions larger than 1x1, and the model has none")
    return found


METHOD = Method(
    name="forget",
    run=forget,
    options=ForgetOptions,
    starts_from="original",
    summary="Re-initialise random layers and regress the original's logits on retain, in cycles.",
    source="NeurIPS 2023 Machine Unlearning Challenge, 8th place (Forget)",
    cost="epochs on retain, each step with the original's predictions",
    published={
        "competition": {},
        "competition_variant_2": {
            "schedule": "constant",
            "cycles": (2, 1, 1, 1),
            "epoch_lrs": (5e-4, 1e-3, 1e-3, 1e-3, 1e-3),
        },
    },
)
