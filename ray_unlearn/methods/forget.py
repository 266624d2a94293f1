"""Forget: cycles of re-initialising random layers and regressing the original's logits, on the retain set alone.

    populations:
      forget:  {method: forget, count: 64}
      forget2: {method: forget, count: 64, preset: competition_variant_2}

Per cycle:
1. Draw `layers` parameter tensors with replacement and re-initialise them, each as its layer does by default; those of
   the classifier and of projection shortcuts are never drawn.
2. With a new optimiser and schedule, minimise the mean squared error between the model's logits and the original's on
   retain images, to which Gaussian noise is added; both see the same noisy image.

Source: NeurIPS 2023 Machine Unlearning Challenge, 8th place, jaesinahn/forget-set-free-approach-9th-on-private-lb;
https://junhyunb.github.io. Read: the organisers' deck, pages 3 to 5 (slides); no code of it could be had.

Caveats:
- What a "layer" is, is inferred. The slides give selection ratios of 10, about 20 and about 30 % for one, two and three
  cycles. Six draws from a ResNet-18's 51 parameter tensors outside classifier and shortcuts give 11, 21 and 30 %; six
  of its 17 convolutions (`pool: convolutions`) give 30 % in one cycle.
- Image noise of 0.1 is best in the slides' tables, on which the authors built their final submission; the write-up has
  0.01 (`preset: competition_write_up`). Its unit is not published; here it is that of the scaled images.
- Whether the optimiser starts anew in every cycle is not published; here it does.
- A tensor is taken for a shortcut's if its name has "downsample" or "shortcut" in it.
- The competition's paper has the regression on the forget set. That is an error: its formula and the authors have the
  retain set.

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
from ray_unlearn.methods.noise import StepNoise, shape_of
from ray_unlearn.methods.perturbations import convolutions, moves, reset_tensors
from ray_unlearn.methods.published import COMPETITION, pinned
from ray_unlearn.methods.units import classifier
from ray_unlearn.seeds import Seeds
from ray_unlearn.study.changes import FROZEN, Correction
from ray_unlearn.study.identity import Since
from ray_unlearn.study.recipe import Float, Int, Optimizer, Recipe
from ray_unlearn.training import Batch, Hooks, Training
from ray_unlearn.training.optimizers import make_optimizer, rate_factor


class ForgetOptions(Recipe):
    """Defaults: variant 1, with the slides' pool and noise; preset `competition_variant_2` is the other."""

    epochs: Float = Field(5.0, gt=0, description="Passes over retain, all cycles together (published).")
    optimizer: Optimizer = Field("sgd", description="Made anew every cycle; momentum 0.9 (published).")
    lr: Float = Field(1e-3, gt=0, description="Rate (published for variant 1).")
    weight_decay: Float = Field(5e-4, ge=0, description="L2 penalty (not published; the challenge's usual).")
    schedule: Literal["constant", "cosine"] = Field("cosine", description="Starts anew every cycle (published).")
    cycles: tuple[Annotated[Int, Field(ge=1)], ...] = Field(
        (1, 2, 2), min_length=1, description="Epochs of each cycle (published); the last goes on until `epochs`."
    )
    cosine_epochs: Float = Field(2.0, gt=0, description="T_max: epochs from the rate to zero (published).")
    epoch_lrs: tuple[Annotated[Float, Field(gt=0)], ...] = Field(
        (), description="A rate per epoch instead of `lr`, the last for all further ones (published for variant 2)."
    )
    layers: Int = Field(6, ge=1, description="Draws per cycle, with replacement (published).")
    pool: Annotated[Literal["tensors", "convolutions"], Since("0.2", neutral="convolutions")] = Field(
        "tensors",
        description="What is drawn. tensors: parameters but the classifier's and shortcuts'; convolutions: whole ones.",
    )
    image_noise_std: Float = Field(
        0.1, ge=0, description="Noise on images, in units of the scaled images (slides; write-up 0.01)."
    )


def forget(model: nn.Module, data: RunData, options: ForgetOptions, rng: Seeds) -> None:
    """Alternate between resetting random layers and regressing the original's logits on retain."""
    teacher, draws = frozen_copy(model), rng.numpy("layers")
    noise = StepNoise([shape_of(data.retain, options.batch_size)], rng.torch("image-noise"), data.device)
    candidates = _candidates(model, options.pool, data.num_classes)
    starts = [0, *itertools.accumulate(options.cycles[:-1])]
    within_cycle = options.model_copy(update={"epochs": options.cosine_epochs})

    def loss(model: nn.Module, batch: Batch) -> torch.Tensor:
        noisy = batch.images + options.image_noise_std * noise.tensors[0][: len(batch)]
        return F.mse_loss(model(noisy).float(), teacher(noisy).float())

    def rate(epochs_done: float) -> float:
        epoch = int(epochs_done)
        base = options.epoch_lrs[min(epoch, len(options.epoch_lrs) - 1)] if options.epoch_lrs else options.lr
        start = max(start for start in starts if start <= epoch)
        return base / options.lr * rate_factor(within_cycle, epochs_done - start)

    training = Training(model, data, options, rng, loss=loss, rate=rate, hooks=Hooks(before_step=noise.draw_rows))
    while not training.done:
        if training.epochs_done in starts:
            drawn = [candidates[i] for i in draws.integers(len(candidates), size=options.layers)]
            reset_tensors(drawn, rng, f"reset-{training.epochs_done}")
            training.optimizer = make_optimizer(model, options)
        training.epoch()


def _candidates(model: nn.Module, pool: str, classes: int) -> list[tuple[nn.Module, str | None]]:
    """Return what may be drawn: a layer and the name of one of its tensors, or None for all of the layer.

    Raises:
        MethodError: there is none.

    """
    if pool == "convolutions":
        layers = [layer for _, layer in convolutions(model) if max(layer.kernel_size) > 1 and moves(layer.weight)]
        if not layers:
            raise MethodError("the method re-initialises convolutions larger than 1x1, and the model has none to train")
        return [(layer, None) for layer in layers]
    head = classifier(model, classes)
    kept = [(name, layer) for name, layer in model.named_modules() if layer is not head and not _is_shortcut(name)]
    found = [(layer, own) for _, layer in kept for own, each in layer.named_parameters(recurse=False) if moves(each)]
    if not found:
        raise MethodError(
            "the method re-initialises parameters outside the classifier, and the model has none to train"
        )
    return [*found]


def _is_shortcut(name: str) -> bool:
    return "downsample" in name or "shortcut" in name


METHOD = Method(
    name="forget",
    run=forget,
    options=ForgetOptions,
    check=lambda model, options, classes: _candidates(model, options.pool, classes),
    starts_from="original",
    corrections=(
        Correction(
            "0.2",
            "six convolutions were drawn a cycle; six tensors fit the published ratios, noise of 0.1 the tables",
            ("pool", "image_noise_std"),
        ),
        FROZEN,
    ),
    summary="Re-initialise random layers and regress the original's logits on retain, in cycles.",
    source="NeurIPS 2023 Machine Unlearning Challenge, 8th place (Forget)",
    cost="epochs on retain, each step with the original's predictions",
    opened="organisers' deck, pages 3 to 5 (slides); no code",
    open=(
        "what a layer is: a parameter tensor, by the published selection ratios",
        "image noise 0.1 (slides) rather than 0.01 (write-up), and its units: those of the scaled images",
        "whether the optimiser starts anew in a cycle: it does",
        "weight decay: 5e-4, as other entries have it",
    ),
    published={
        "competition": pinned(ForgetOptions, COMPETITION),
        "competition_variant_2": pinned(
            ForgetOptions,
            COMPETITION,
            schedule="constant",
            cycles=(2, 1, 1, 1),
            epoch_lrs=(5e-4, 1e-3, 1e-3, 1e-3, 1e-3),
        ),
        "competition_write_up": pinned(ForgetOptions, COMPETITION, image_noise_std=0.01),
    },
)
