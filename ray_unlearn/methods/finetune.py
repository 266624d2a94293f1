"""Fine-tuning on the retain set: the baseline that every method is compared with.

    populations:
      finetune: {method: finetune, count: 64, epochs: 1, lr: 1.0e-3, noise_std: 0.01}

Idea: keep training without the forget images, and let them fade. With `noise_std`, Gaussian noise on every parameter
first, so that runs start apart.

Read: google-deepmind/unlearning_evaluation main.py (the organisers'), luispintoc/machine-unlearning "example
notebooks/run-unlearn-finetune.ipynb" (a copy of the official notebook); OPTML-Group/Unlearn-Sparse unlearn/FT.py and
README.MD (the authors') for `published_sparse`.

Caveats:
- The starter has batches of 64, no class weights (the organisers' code deletes them) and no augmentation. `preset:
  competition` pins these; without a preset they come from the study's `training`.
- A small rate forgets almost nothing; the starter scored about 0.06 in the challenge.

Does not cover: any use of the forget set.
"""

from __future__ import annotations

from pydantic import Field
from torch import nn

from ray_unlearn.data.images import RunData
from ray_unlearn.methods.method import Method
from ray_unlearn.methods.perturbations import add_noise
from ray_unlearn.methods.published import COMPETITION, SPARSE, pinned
from ray_unlearn.seeds import Seeds
from ray_unlearn.study.recipe import Float, Optimizer, Recipe
from ray_unlearn.training import fit


class FinetuneOptions(Recipe):
    """Defaults: the challenge's starter notebook."""

    epochs: Float = Field(1.0, gt=0)
    optimizer: Optimizer = "sgd"
    lr: Float = Field(1e-3, gt=0)
    weight_decay: Float = Field(5e-4, ge=0)
    noise_std: Float = Field(0.0, ge=0, description="Standard deviation of the start noise, in units of the weights.")


def finetune(model: nn.Module, data: RunData, options: FinetuneOptions, rng: Seeds) -> None:
    """Add start noise where asked, then minimise cross-entropy on the retain set."""
    if options.noise_std:
        add_noise(model.parameters(), options.noise_std, rng.torch("start-noise"))
    fit(model, data, options, rng)


METHOD = Method(
    name="finetune",
    run=finetune,
    options=FinetuneOptions,
    starts_from="original",
    summary="Fine-tune the original on the retain set, optionally after Gaussian noise on the weights.",
    source="NeurIPS 2023 Machine Unlearning Challenge, starter notebook: 1 epoch, SGD 1e-3, momentum 0.9, wd 5e-4",
    opened="google-deepmind/unlearning_evaluation main.py (organisers'); a copy of the official notebook",
    cost="epochs on retain",
    published={
        "competition": pinned(FinetuneOptions, COMPETITION),
        "published_sparse": pinned(FinetuneOptions, SPARSE, epochs=10.0, lr=0.01),
    },
    packs=True,
)
