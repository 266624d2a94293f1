"""Gradient ascent (NegGrad): undo what the forget images taught by climbing where training descended.

    populations:
      ascent: {method: gradient_ascent, count: 64, epochs: 5, lr: 1.0e-4}

1. Maximise cross-entropy on the forget set, batch by batch: the loss is -CE. The retain set is not used, so the rate
   alone limits the damage.

Source: Thudi et al., EuroS&P 2022, in the form and with the values of Unlearn-Sparse (Jia et al., NeurIPS 2023). Read:
OPTML-Group/Unlearn-Sparse unlearn/GA.py, unlearn/impl.py, README.MD (the authors').

Caveats:
- The published batches are of 256 images, as in the preset; at 64 an epoch has four times as many steps.
- The objective has no bound: too large a rate or too many epochs destroy the model, or the run diverges.
- The published rate is 1e-4. The authors later advise to search 1e-5 to 1e-1, from 5e-4 to 1e-3 on, and call the method
  suitable for forgetting whole classes only.
- Runs differ by the order of forget images alone, so hardly where the forget set fits one batch.
- Weight decay pulls weights towards zero throughout.

Does not cover: holding the retain set at the same time (`negative_gradient_plus`).
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
from ray_unlearn.training import Batch, class_weights, cross_entropy, fit


class GradientAscentOptions(Recipe):
    """Defaults: Unlearn-Sparse README; optimiser as for its originals."""

    epochs: Float = Field(5.0, gt=0, description="Passes over the forget set (Unlearn-Sparse README).")
    optimizer: Optimizer = Field("sgd", description="Optimiser, as for the benchmark's originals.")
    lr: Float = Field(1e-4, gt=0, description="Rate (Unlearn-Sparse README); its authors also advise 5e-4 to 1e-3.")
    weight_decay: Float = Field(5e-4, ge=0, description="L2 penalty, as for the benchmark's originals.")
    schedule: Schedule = Field("constant", description="The originals' drops, at epochs 91 and 136, are never reached.")


def gradient_ascent(model: nn.Module, data: RunData, options: GradientAscentOptions, rng: Seeds) -> None:
    """Minimise -CE on the forget set; class weights, where asked, are those of the forget set."""
    on_forget = cross_entropy(class_weights(data.forget, options, data.num_classes))

    def loss(model: nn.Module, forget: Batch) -> torch.Tensor:
        return -on_forget(model, forget)

    fit(model, data, options, rng, sets=("forget",), loss=loss)


METHOD = Method(
    name="gradient_ascent",
    run=gradient_ascent,
    options=GradientAscentOptions,
    starts_from="original",
    summary="Maximise cross-entropy on the forget set.",
    source="NegGrad as in Jia et al., Model Sparsity Can Simplify Machine Unlearning, NeurIPS 2023",
    opened="OPTML-Group/Unlearn-Sparse unlearn/GA.py, unlearn/impl.py, README.MD (authors')",
    open=("rate: 1e-4 as published; the authors later advise to search from 1e-5 to 1e-1",),
    cost="epochs on forget",
    published={"published": pinned(GradientAscentOptions, SPARSE)},
)
