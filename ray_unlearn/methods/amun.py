"""AMUN: train on every image, and on the nearest adversarial example of each forget image under the wrong label.

    populations:
      amun: {method: amun, preset: published, count: 64}

1. For each forget image, look for the nearest image that the original takes for another class: up to `steps` steps of
   epsilon / 10 along its loss's normalised gradient, inside a ball of radius epsilon and the range of pixels; where
   that does not do, twice the epsilon, from where it is.
2. Minimise cross-entropy on retain images, forget images under their own labels (`with_forget: false`: without those),
   and the adversarial images under what the original takes them for, in one shuffled order.

Source: Ebrahimpour-Boroojeny et al., Not All Wrong is Bad: Using Adversarial Examples for Unlearning (ICML 2025).
Read: Ali-E/AMUN adversarial_unlearn.py, pgdl2_modified.py, build_advdataset.py, hyperparam_tune.py, README.md (the
authors').

Caveats:
- Epsilon is a distance over all pixels, in units of the pixel range.
- The rate falls to a tenth after every epoch (the authors' StepLR of 1), so the first two epochs make nearly all of the
  change.
- Retain and forget images are augmented; adversarial images are not.
- A forget image for which no adversarial example is found within the whole pixel range has none in step 2.
- The search is the same in all runs of an original, so runs differ by the order of batches alone.

Does not cover: SalUn's mask on top (the authors' amun-sa); requests that come one after another.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from pydantic import Field
from torch import nn
from torch.nn import functional as F  # noqa: N812 - its usual name

from ray_unlearn.data.images import ImageSet, RunData
from ray_unlearn.methods.method import Method
from ray_unlearn.methods.published import SPARSE, pinned
from ray_unlearn.seeds import Seeds
from ray_unlearn.study.recipe import Float, Int, Optimizer, Recipe, Schedule
from ray_unlearn.training import Batch, class_weights, cross_entropy, fit


class AmunOptions(Recipe):
    """Defaults: the authors' code for CIFAR-10."""

    epochs: Float = Field(10.0, gt=0, description="Passes over all three kinds of images.")
    optimizer: Optimizer = "sgd"
    lr: Float = Field(0.01, gt=0)
    weight_decay: Float = Field(5e-4, ge=0)
    schedule: Schedule = Field("step", description="A tenth after every `step_epochs`.")
    step_epochs: Float = Field(1.0, gt=0)
    epsilon: Float = Field(0.04, gt=0, description="First radius of the search, in units of the pixel range.")
    steps: Int = Field(50, ge=1, description="Steps of the search at each radius.")
    with_forget: bool = Field(True, description="Whether the forget images themselves are trained on (authors: yes).")


def amun(model: nn.Module, data: RunData, options: AmunOptions, rng: Seeds) -> None:
    """Find the adversarial images, then train on them together with the others."""
    images_NCHW, labels_N, found = adversarial(model, data.forget, options.epsilon, options.steps)
    near = data.forget.subset(found)
    plain = data.retain.joined(data.forget) if options.with_forget else data.retain
    everything = plain.joined(near.with_labels(labels_N[found]))
    labels = torch.from_numpy(everything.labels_N.copy()).to(data.device)
    moved = images_NCHW[torch.from_numpy(found).to(images_NCHW.device)]
    weighted = cross_entropy(class_weights(everything, options, data.num_classes))

    def loss(model: nn.Module, batch: Batch) -> torch.Tensor:  # batches carry positions
        if not len(moved):
            return weighted(model, Batch(batch.images, labels[batch.labels]))
        own = moved[(batch.labels - len(plain)).clamp(min=0)].to(batch.images)
        images = torch.where((batch.labels >= len(plain))[:, None, None, None], own, batch.images)
        return weighted(model, Batch(images, labels[batch.labels]))

    fit(model, data, options, rng, sets=(everything.with_labels(np.arange(len(everything))),), loss=loss)


def adversarial(
    model: nn.Module, images: ImageSet, epsilon: float, steps: int
) -> tuple[torch.Tensor, np.ndarray, np.ndarray]:
    """Return near images that the model takes for another class, scaled; what it takes them for; and which were found.

    Shapes float32 [N, 3, H, W], int64 [N] and int64 [found], positions in rising order.
    """
    model.eval()
    shift, scale = images.scaling.by_channel(images.pixels.device)
    moved, predicted = [], []
    for scaled, labels_B in images.in_order():
        pixels = _nearest_other(model, (scaled * scale + shift) / 255, labels_B, (scale, shift), epsilon, steps)
        moved.append((255 * pixels - shift) / scale)
        with torch.no_grad():
            predicted.append(model(moved[-1]).argmax(1).cpu().numpy())
    labels_N = np.concatenate(predicted)
    return torch.cat(moved), labels_N, np.flatnonzero(labels_N != images.labels_N)


def _nearest_other(
    model: nn.Module,
    start_BCHW: torch.Tensor,
    labels_B: torch.Tensor,
    scaling: tuple[torch.Tensor, torch.Tensor],
    epsilon: float,
    steps: int,
) -> torch.Tensor:
    """Return pixels in 0..1, each image moved until the model takes it for another class, or as far as there is."""
    scale, shift = scaling
    pixels, right = start_BCHW.clone(), torch.ones(len(start_BCHW), dtype=torch.bool, device=start_BCHW.device)
    while bool(right.any()) and epsilon <= 2 * math.sqrt(start_BCHW[0].numel()):
        for _ in range(steps):
            here = pixels[right].requires_grad_()
            logits_BC = model((255 * here - shift) / scale).float()
            still = logits_BC.argmax(1) == labels_B[right]
            (slope,) = torch.autograd.grad(F.cross_entropy(logits_BC, labels_B[right]), here)
            right[right.clone()] = still
            if not bool(still.any()):
                break
            pixels[right] = _step(here.detach()[still], slope[still], start_BCHW[right], epsilon)
        epsilon *= 2
    return pixels


def _step(here: torch.Tensor, slope: torch.Tensor, start: torch.Tensor, epsilon: float) -> torch.Tensor:
    """Return pixels a tenth of the radius up their loss, put back into the ball around the start and the range 0..1."""
    length = slope.flatten(1).norm(dim=1).view(-1, 1, 1, 1) + 1e-10
    offset = here + epsilon / 10 * slope / length - start
    distance = offset.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    inside: torch.Tensor = start + offset * (epsilon / distance.clamp(min=1e-30)).clamp(max=1)
    return inside.clamp(0, 1)


METHOD = Method(
    name="amun",
    run=amun,
    options=AmunOptions,
    starts_from="original",
    summary="Train on all images, and on each forget image's nearest adversarial example under its wrong label.",
    source="Ebrahimpour-Boroojeny et al., Not All Wrong is Bad: Using Adversarial Examples for Unlearning, ICML 2025",
    opened="Ali-E/AMUN adversarial_unlearn.py, pgdl2_modified.py, build_advdataset.py, hyperparam_tune.py (authors')",
    cost="a search of `steps` or more passes on forget, then epochs on train and as many images more as forget has",
    published={"published": pinned(AmunOptions, SPARSE, batch_size=128, schedule="step")},
)
