"""l1-sparse: fine-tune on the retain set under a sparsity penalty that fades away.

    populations:
      sparse: {method: l1_sparse, count: 64, alpha: 5.0e-4, epochs: 10, lr: 0.01}

1. In epoch t = 0, 1, ... of T, minimise CE(retain) + gamma_t * ||theta||_1, with gamma_t = alpha * (1 - t / T) constant
   within an epoch. The norm is the sum of |.| over every trained parameter: weights, biases, and the scales and shifts
   of normalisation.

Citation: Jia et al., Model Sparsity Can Simplify Machine Unlearning, NeurIPS 2023 (l1-sparse MU).

Read: OPTML-Group/Unlearn-Sparse unlearn/FT.py, arg_parser.py, README.MD (the authors').

Caveats:
- The authors' README leaves alpha open, and the 0.2 of their arg_parser.py belongs to other methods. 5e-4 is the value
  of two later code bases (Ali-E/AMUN, jmirlach/ReGUn).
- The preset has the authors' batches of 256.
- Weights shrink towards zero and are not set to zero: nothing is pruned.
- Runs differ by the order of batches alone.

Does not cover: pruning before unlearning, the paper's other half.
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import nn

from ray_unlearn.data.images import RunData
from ray_unlearn.methods.method import Method
from ray_unlearn.methods.published import SPARSE, pinned
from ray_unlearn.seeds import Seeds
from ray_unlearn.study.recipe import Float, Optimizer, Recipe, Schedule
from ray_unlearn.training import Batch, Training, class_weights, cross_entropy


class L1SparseOptions(Recipe):
    """Defaults: Unlearn-Sparse README; optimiser as for its originals."""

    epochs: Float = Field(10.0, gt=0, description="Passes over the retain set (Unlearn-Sparse).")
    optimizer: Optimizer = Field("sgd", description="Optimiser, as for the benchmark's originals.")
    lr: Float = Field(0.01, gt=0, description="Rate (Unlearn-Sparse).")
    weight_decay: Float = Field(5e-4, ge=0, description="L2 penalty, as for the benchmark's originals.")
    schedule: Schedule = Field("constant", description="The originals' drops, at epochs 91 and 136, are never reached.")
    alpha: Float = Field(5e-4, ge=0, description="Nats per unit of the l1 norm in the first epoch (AMUN, ReGUn).")


def l1_sparse(model: nn.Module, data: RunData, options: L1SparseOptions, rng: Seeds) -> None:
    """Minimise cross-entropy plus the fading l1 penalty on the retain set."""
    on_retain = cross_entropy(class_weights(data.retain, options, data.num_classes))
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]

    gamma = torch.zeros((), device=data.device)

    def loss(model: nn.Module, retain: Batch) -> torch.Tensor:
        return on_retain(model, retain) + gamma * torch.stack([p.abs().sum() for p in parameters]).sum()

    training = Training(model, data, options, rng, loss=loss)
    while not training.done:
        gamma.fill_(options.alpha * (1 - training.epochs_done / options.epochs))
        training.epoch()
    model.train()


METHOD = Method(
    name="l1_sparse",
    run=l1_sparse,
    options=L1SparseOptions,
    starts_from="original",
    summary="Fine-tune on the retain set with an l1 penalty on the weights that fades to nothing.",
    source="Jia et al., Model Sparsity Can Simplify Machine Unlearning, NeurIPS 2023",
    opened="OPTML-Group/Unlearn-Sparse unlearn/FT.py, arg_parser.py, README.MD (authors')",
    open=("alpha: not in the authors' README; 5e-4 as two later code bases have it",),
    cost="epochs on retain",
    published={"published": pinned(L1SparseOptions, SPARSE)},
)
