"""JiT: make the model's output on the forget images insensitive to noise on them; no retain image is needed.

    populations:
      jit: {method: jit, count: 64, lr: 3.0e-4, noise_std: 0.01}

For each batch of the forget set, once: minimise the sum over its images of the mean over `samples` noisy copies of
|f(x) - f(x + e)| / |(x + e) - x|, e from N(0, noise_std^2) and x + e clamped to the batch's range of values; f(x + e)
is held fixed. That is a local Lipschitz constant.

Source: Foster et al., Zero-Shot Machine Unlearning at Scale via Lipschitz Regularization (arXiv 2402.01401). Read:
jwf40/Zeroshot-Unlearning-At-Scale src/lipschitz.py, forget_random_main.py, forget_random_strategies.py (the authors').

Caveats:
- Rate and noise are published for VGG16 (the defaults) and a vision transformer (0.1 and 0.5) only; tune them for other
  nets.
- The sum over a batch is not divided by its size, so a rate belongs to one `batch_size`.
- Noise is in units of the scaled images.
- The authors take batches in order and do not set the model's mode. Here the order is shuffled and the model is in
  training mode.

Does not cover: anything that looks at the retain set.
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import nn

from ray_unlearn.data.images import RunData
from ray_unlearn.methods.method import Method
from ray_unlearn.methods.noise import StepNoise, shape_of
from ray_unlearn.methods.published import PLAIN, pinned
from ray_unlearn.seeds import Seeds
from ray_unlearn.study.recipe import Float, Int, Optimizer, Recipe, Schedule
from ray_unlearn.training import Batch, Hooks, fit


class JitOptions(Recipe):
    """Defaults: the authors' code for VGG16, random forgetting."""

    epochs: Float = Field(1.0, gt=0, description="Passes over forget.")
    optimizer: Optimizer = "sgd"
    lr: Float = Field(3e-4, gt=0)
    momentum: Float = Field(0.0, ge=0, lt=1)
    weight_decay: Float = Field(0.0, ge=0)
    schedule: Schedule = "constant"
    noise_std: Float = Field(0.01, gt=0, description="Deviation of the noise on images, in units of the scaled images.")
    samples: Int = Field(25, ge=1, description="Noisy copies of each image.")


def jit(model: nn.Module, data: RunData, options: JitOptions, rng: Seeds) -> None:
    """Minimise the forget images' local Lipschitz constants."""
    shapes = [shape_of(data.forget, options.batch_size)] * options.samples
    noise = StepNoise(shapes, rng.torch("image-noise"), data.device)

    def loss(model: nn.Module, forget: Batch) -> torch.Tensor:
        images, out_BC = forget.images, model(forget.images).float()
        lowest, highest = images.min(), images.max()
        total = torch.zeros((), device=images.device)
        for fresh in noise.tensors:
            noisy = (images + options.noise_std * fresh[: len(images)]).clamp(lowest, highest)
            with torch.no_grad():
                moved_BC = model(noisy).float()
            apart_B = torch.linalg.vector_norm((images - noisy).flatten(1), dim=1)
            total = total + (torch.linalg.vector_norm(out_BC - moved_BC, dim=1) / apart_B).sum()
        return total / options.samples

    fit(model, data, options, rng, sets=("forget",), loss=loss, hooks=Hooks(before_step=noise.draw_rows))


METHOD = Method(
    name="jit",
    run=jit,
    options=JitOptions,
    starts_from="original",
    summary="Make outputs on the forget images insensitive to noise on them, without the retain set.",
    source="Foster et al., Zero-Shot Machine Unlearning at Scale via Lipschitz Regularization, arXiv 2402.01401 (JiT)",
    opened="jwf40/Zeroshot-Unlearning-At-Scale src/lipschitz.py, src/forget_random_main.py (authors')",
    open=("rate and noise for ResNets: published for VGG16 and a ViT only", "mode of the model: training"),
    cost="epochs on forget, each step with `samples` forward passes more",
    published={
        "published_vgg16": pinned(JitOptions, PLAIN, batch_size=128),
        "published_vit": pinned(JitOptions, PLAIN, batch_size=128, lr=0.1, noise_std=0.5),
    },
)
