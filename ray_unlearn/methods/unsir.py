"""UNSIR: impair the model with noise that it is worst at, then repair it on a part of the retain set.

    populations:
      unsir: {method: unsir, preset: published, count: 64}         # made for data.forget: {label: 3}

1. For each class of the forget set, optimise a batch of noise images, from N(0, 1), so that the model errs on them
   under that class: minimise -CE(noise, class) + noise_penalty * mean |noise|^2 by Adam, the model as it is.
2. Impair: one pass over `noise_batches` copies of each batch of noise under its class, and the first `retain_per_class`
   retain images of each class, in one shuffled order: cross-entropy.
3. Repair: one pass over those retain images alone, with a new optimiser.

Source: Tarun et al., Fast Yet Effective Machine Unlearning (IEEE TNNLS 2023; error-maximising noise). Read:
vikram2000b/Fast-Machine-Unlearning "Machine Unlearning.ipynb" cells 17 to 30 (the authors'),
if-loops/selective-synaptic-dampening src/unlearn.py and src/forget_full_class_strategies.py (the authors' of SSD).

Caveats:
- The method is made for whole classes. With a forget set of single images it impairs every class that has one, and
  retain images of these classes are in both passes. MUFAC uses it so; its authors do not.
- The model is in evaluation mode while noise is optimised. The sources do not set the mode.
- Runs differ by the noise and by the order of batches.
- SSD's copy has 25 steps of noise in batches of 32, 80 copies, 500 images a class and rates of 1e-4.

Does not cover: several batches of noise per class that differ.
"""

from __future__ import annotations

import numpy as np
import torch
from pydantic import Field
from torch import nn
from torch.nn import functional as F  # noqa: N812 - its usual name

from ray_unlearn.data.images import ImageSet, RunData
from ray_unlearn.methods.method import Method
from ray_unlearn.methods.published import PLAIN, pinned
from ray_unlearn.seeds import Seeds
from ray_unlearn.study.recipe import Float, Int, Optimizer, Recipe, Schedule
from ray_unlearn.training import Batch, cross_entropy, fit


class UnsirOptions(Recipe):
    """Defaults: the authors' notebook; `epochs`, `lr` and `batch_size` are the repair's."""

    epochs: Float = Field(1.0, gt=0, description="Passes of the repair.")
    optimizer: Optimizer = Field("adam", description="Optimiser of both passes.")
    lr: Float = Field(0.01, gt=0, description="Rate of the repair.")
    weight_decay: Float = Field(0.0, ge=0)
    schedule: Schedule = "constant"
    impair_epochs: Float = Field(1.0, gt=0, description="Passes over noise and retain images.")
    impair_lr: Float = Field(0.02, gt=0, description="Rate of the impair pass.")
    impair_batch_size: Int = Field(256, ge=1, description="Images per step of the impair pass.")
    noise_steps: Int = Field(40, ge=1, description="Adam steps on the noise.")
    noise_lr: Float = Field(0.1, gt=0, description="Rate of the Adam steps, in units of the scaled images.")
    noise_penalty: Float = Field(0.1, ge=0, description="Weight of the noise's mean squared norm.")
    noise_batch_size: Int = Field(256, ge=1, description="Noise images per class.")
    noise_batches: Int = Field(20, ge=1, description="Copies of them in the impair pass.")
    retain_per_class: Int = Field(1000, ge=1, description="Retain images of each class in both passes, the first ones.")


def unsir(model: nn.Module, data: RunData, options: UnsirOptions, rng: Seeds) -> None:
    """Impair with noise under the forget set's classes, repair on retain."""
    classes = np.unique(data.forget.labels_N)
    size = data.forget.batch(np.arange(1))[0].shape[1:]
    generator = rng.torch("noise")
    start = torch.randn((len(classes), options.noise_batch_size, *size), generator=generator).to(data.device)
    noise = torch.cat([worst_noise(model, s, int(c), options) for s, c in zip(start, classes, strict=True)])
    retain = _first_of_each_class(data.retain, options.retain_per_class)
    labels_M = np.repeat(classes, options.noise_batch_size)

    # A batch carries positions; those beyond the retain images stand for noise, and a retain image holds their place.
    copies = np.tile(np.arange(len(noise)), options.noise_batches)
    holders = retain.subset(np.zeros(len(copies), np.int64)).with_labels(len(retain) + copies)
    both = retain.with_labels(np.arange(len(retain))).joined(holders)
    labels = torch.from_numpy(np.concatenate([retain.labels_N, labels_M])).to(data.device)

    def impair(model: nn.Module, batch: Batch) -> torch.Tensor:
        noisy = batch.labels >= len(retain)
        own = noise[(batch.labels - len(retain)).clamp(min=0)].to(batch.images)
        images = torch.where(noisy[:, None, None, None], own, batch.images)
        return on_labels(model, Batch(images, labels[batch.labels]))

    on_labels = cross_entropy()
    changes = {"epochs": options.impair_epochs, "lr": options.impair_lr, "batch_size": options.impair_batch_size}
    fit(model, data, options.model_copy(update=changes), rng, sets=(both,), loss=impair, purpose="impair")
    fit(model, data, options, rng, sets=(retain,), purpose="repair")


def worst_noise(model: nn.Module, start_BCHW: torch.Tensor, label: int, options: UnsirOptions) -> torch.Tensor:
    """Return the noise after `noise_steps` steps of Adam down -CE(noise, label) + penalty * mean |noise|^2."""
    model.eval()
    noise = start_BCHW.clone().requires_grad_()
    adam = torch.optim.Adam([noise], lr=options.noise_lr)
    labels = torch.full((len(noise),), label, device=noise.device)
    for _ in range(options.noise_steps):
        loss = -F.cross_entropy(model(noise).float(), labels)
        loss = loss + options.noise_penalty * noise.square().sum((1, 2, 3)).mean()
        (noise.grad,) = torch.autograd.grad(loss, noise)
        adam.step()
    return noise.detach()


def _first_of_each_class(images: ImageSet, count: int) -> ImageSet:
    labels_N = images.labels_N
    return images.subset(np.concatenate([np.flatnonzero(labels_N == each)[:count] for each in np.unique(labels_N)]))


METHOD = Method(
    name="unsir",
    run=unsir,
    options=UnsirOptions,
    starts_from="original",
    summary="Impair with noise that the model is worst at under the forget set's classes, then repair on retain.",
    source="Tarun et al., Fast Yet Effective Machine Unlearning, IEEE TNNLS 2023 (UNSIR)",
    opened="vikram2000b/Fast-Machine-Unlearning notebook, if-loops/selective-synaptic-dampening (both authors')",
    open=(
        "single forget images: a method for whole classes; every class that has one is impaired",
        "mode of the model while noise is optimised: evaluation",
    ),
    cost="noise_steps small batches, then impair_epochs on noise and a part of retain, epochs on that part",
    published={
        "published": pinned(UnsirOptions, PLAIN, batch_size=256),
        "published_ssd": pinned(
            UnsirOptions,
            PLAIN,
            **{"batch_size": 128, "impair_batch_size": 32, "lr": 1e-4, "impair_lr": 1e-4, "noise_steps": 25},
            **{"noise_batch_size": 32, "noise_batches": 80, "retain_per_class": 500},
        ),
    },
)
