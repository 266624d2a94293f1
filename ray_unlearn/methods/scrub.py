"""SCRUB: a student that disobeys its teacher on the forget set and obeys it on the retain set.

    populations:
      scrub: {method: scrub, count: 64, msteps: 3, epochs: 10, lr: 5.0e-4}

T is the original, frozen; S is the model, which starts as a copy of it.

1. In each of the first `msteps` epochs, a max-step: one pass over the forget set that maximises KL(T ‖ S).
2. In every epoch, after the max-step if there is one, a min-step: one pass over the retain set that minimises ce_weight
   * CE + kl_weight * KL(T ‖ S). Both divergences are taken at `temperature` and multiplied by its square, as in
   distillation.
3. The rate is multiplied by `gamma` after each of `decay_epochs`. One optimiser serves both steps, moments included.

Source: Kurmanji et al., Towards Unbounded Machine Unlearning, NeurIPS 2023. Read: meghdadk/SCRUB
small_scale_unlearning.ipynb cells 26 to 34, large_scale_unlearning.ipynb cells 32 to 36, MIA_experiments.ipynb cell
18, thirdparty/repdistiller helper/loops.py, helper/util.py, distiller_zoo/KD.py (the authors'); kairanzhao/RUM
unlearn/scrub.py and README.md.

Caveats:
- `ce_weight` is the paper's gamma, and `kl_weight` its alpha (beta in some ports). `gamma` is the factor of the rate.
- The paper's third loss term (beta) has weight 0 in the small-scale setting, and is left out.
- The defaults are the small-scale values, with Adam. `published_large_scale` and `published_mia` are SGD with momentum
  and other weights. RUM has SGD at 5e-3, 5 epochs, msteps 4, temperature 4, and searches the weights, so it is no
  preset.
- At the start S equals T, where the divergence has no gradient: without augmentation or batch statistics, the first
  max-step moves weights by weight decay and momentum alone.
- Runs differ by the order of batches alone.
- The run's record counts max-steps and min-steps as epochs of their own.
- A third-party port optimises the teacher's parameters by mistake, so that its student never moves.

Does not cover: rewinding to the checkpoint whose forget error fits (SCRUB+R).
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import nn

from ray_unlearn.data.images import RunData
from ray_unlearn.methods.losses import frozen_copy, kl_to_teacher
from ray_unlearn.methods.method import Method
from ray_unlearn.methods.published import PLAIN, pinned
from ray_unlearn.seeds import Seeds
from ray_unlearn.study.recipe import Float, Int, Optimizer, Recipe, Schedule
from ray_unlearn.training import Batch, Training, class_weights, cross_entropy
from ray_unlearn.training.optimizers import rate_factor


class ScrubOptions(Recipe):
    """Defaults: the authors' small-scale setting."""

    epochs: Float = Field(10.0, gt=0, description="Min-steps: passes over the retain set (small scale).")
    optimizer: Optimizer = Field("adam", description="Small scale.")
    lr: Float = Field(5e-4, gt=0, description="Rate (small scale).")
    weight_decay: Float = Field(0.1, ge=0, description="L2 penalty (small scale; large scale 5e-4).")
    schedule: Schedule = Field("constant", description="Course of the rate, apart from the drops at `decay_epochs`.")
    decay_epochs: tuple[Int, ...] = Field(
        (5, 8, 9), description="Epochs after which the rate is multiplied by `gamma` (small scale)."
    )
    msteps: Int = Field(3, ge=0, description="Epochs, from the first, that begin with a max-step (small scale).")
    forget_batch_size: Int = Field(64, ge=1, description="Images per batch of a max-step (small scale).")
    temperature: Float = Field(2.0, gt=0, description="Softens both sides of the divergence (small scale; large 4).")
    ce_weight: Float = Field(1.0, ge=0, description="Weight of the retain set's cross-entropy (paper: gamma 1).")
    kl_weight: Float = Field(0.5, ge=0, description="Weight of the retain set's divergence (paper: alpha 0.5).")


def scrub(model: nn.Module, data: RunData, options: ScrubOptions, rng: Seeds) -> None:
    """Alternate max-steps on the forget set, for the first epochs, with min-steps on the retain set."""
    teacher = frozen_copy(model)
    on_retain = cross_entropy(class_weights(data.retain, options, data.num_classes))

    def divergence(student_BC: torch.Tensor, batch: Batch) -> torch.Tensor:
        with torch.no_grad():
            teacher_BC = teacher(batch.images).float()
        return kl_to_teacher(student_BC.float(), teacher_BC, options.temperature)

    def disobey(model: nn.Module, forget: Batch) -> torch.Tensor:
        return -divergence(model(forget.images), forget)

    def obey(model: nn.Module, retain: Batch) -> torch.Tensor:
        logits_BC = model(retain.images)
        hard = on_retain(lambda _: logits_BC, retain)  # one forward pass for both terms
        return options.ce_weight * hard + options.kl_weight * divergence(logits_BC, retain)

    def rate(epochs_done: float) -> float:
        drops = sum(epochs_done >= epoch for epoch in options.decay_epochs)
        return rate_factor(options, epochs_done) * options.gamma**drops

    sizes = [options.forget_batch_size]
    low = Training(model, data, options, rng, loss=obey, purpose="min", rate=rate)
    high = Training(
        model,
        data,
        options,
        rng,
        sets=("forget",),
        loss=disobey,
        purpose="max",
        rate=rate,
        batch_sizes=sizes,
        optimizer=low.optimizer,
    )
    while not low.done:
        if low.epochs_done < options.msteps and not high.done:
            high.epoch()
        low.epoch()
    model.train()


_SGD = {
    **PLAIN,
    "optimizer": "sgd",
    "momentum": 0.9,
    "weight_decay": 5e-4,
    "lr": 5e-4,
    "temperature": 4.0,
    "decay_epochs": (3, 5, 9),
}

METHOD = Method(
    name="scrub",
    run=scrub,
    options=ScrubOptions,
    starts_from="original",
    summary="Alternate between leaving the original's predictions on the forget set and keeping to them on retain.",
    source="Kurmanji et al., Towards Unbounded Machine Unlearning, NeurIPS 2023",
    cost="msteps x forget + epochs on retain, each step with a forward pass of the teacher",
    opened="meghdadk/SCRUB notebooks, thirdparty/repdistiller (authors'); kairanzhao/RUM unlearn/scrub.py (authors')",
    open=("weights of the losses in RUM: searched, not published; so RUM's setting is no preset",),
    published={
        "published_small_scale": pinned(ScrubOptions, PLAIN, batch_size=32),
        "published_large_scale": pinned(
            ScrubOptions,
            _SGD,
            batch_size=128,
            forget_batch_size=32,
            epochs=3.0,
            msteps=2,
            ce_weight=0.99,
            kl_weight=0.001,
        ),
        "published_mia": pinned(ScrubOptions, _SGD, batch_size=32, forget_batch_size=16, epochs=5.0),
    },
)
