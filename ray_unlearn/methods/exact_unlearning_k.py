"""EU-k: start the top of the net afresh, and train it on the retain set over a frozen rest.

    populations:
      eu1: {method: exact_unlearning_k, preset: published_scrub_mia, count: 64}

Idea: the top that comes out has never seen a forget image, as exact unlearning asks of the whole net.

1. Re-initialise the last k units (and the classifier), each layer by its own default, running statistics included.
2. Train them on the retain set with everything else frozen: CF-k, whose options these are.

Source: Goel et al., Towards Adversarial Evaluations for Inexact Machine Unlearning (arXiv 2201.06640). Read:
shash42/Evaluating-Inexact-Unlearning src/methods.py, learn.py, unlearn.py (the authors'); meghdadk/SCRUB
small_scale_unlearning.ipynb cell 90 and MIA_experiments.ipynb cell 21 (the authors' of SCRUB), and what CF-k names of
it; xcadet/deepunlearn munl/unlearning/exact_unlearning_k.py (a port).

Caveats:
- The caveats of CF-k hold here, too.
- SCRUB trains as long as the original (30 epochs; 25 in its other experiments). Its rate drops after 11, 16 and 21
  epochs; its helper sets it to a tenth of 5e-4 at the first drop, from any earlier rate. Deep Unlearn searches the
  number of epochs.
- The units get fresh weights in every run, as in Deep Unlearn and, for nets without pretraining, in Goel et al. SCRUB,
  and Goel et al. with pretraining, give them the weights that the original started from, so that all runs start alike.
- Fresh weights are those of PyTorch's `reset_parameters`. Goel et al. draw He-normal weights and leave normalisation
  layers as they are.
- The frozen part still holds what it learned from the forget set.

Does not cover: fine-tuning the top from where it is (`catastrophic_forgetting_k`).
"""

from __future__ import annotations

from pydantic import Field
from torch import nn

from ray_unlearn.data.images import RunData
from ray_unlearn.methods.catastrophic_forgetting_k import (
    DEEP_UNLEARN,
    GOEL,
    SCRUB_MIA,
    SCRUB_SMALL,
    CatastrophicForgettingKOptions,
    catastrophic_forgetting_k,
    moving_units,
)
from ray_unlearn.methods.method import Method
from ray_unlearn.methods.perturbations import reset_layers
from ray_unlearn.methods.published import pinned
from ray_unlearn.seeds import Seeds
from ray_unlearn.study.changes import Correction
from ray_unlearn.study.recipe import Float


class ExactUnlearningKOptions(CatastrophicForgettingKOptions):
    """Defaults: those of CF-k, trained as long as SCRUB's originals."""

    epochs: Float = Field(30.0, gt=0, description="Passes over retain (SCRUB, small scale: as its originals).")


def exact_unlearning_k(model: nn.Module, data: RunData, options: ExactUnlearningKOptions, rng: Seeds) -> None:
    """Re-initialise the last k units, then train them alone on the retain set."""
    layers = [layer for unit in moving_units(model, options, data.num_classes) for layer in unit.modules()]
    reset_layers([layer for layer in layers if list(layer.parameters(recurse=False))], rng, "reset")
    catastrophic_forgetting_k(model, data, options, rng)


_DROPS = {"decay_epochs": (11, 16, 21), "decay_lr": 5e-4}

METHOD = Method(
    name="exact_unlearning_k",
    run=exact_unlearning_k,
    options=ExactUnlearningKOptions,
    check=moving_units,
    starts_from="original",
    corrections=(
        Correction(
            "0.2",
            "k counted residual blocks, with momentum, a cosine, 10 epochs; published are stages and 25 or 30",
            ("unit", "momentum", "weight_decay", "schedule", "statistics", "epochs"),
        ),
        Correction("0.2", "`published_goel` did not clip gradients; Goel et al. clip them at 10", ("max_norm",)),
    ),
    summary="Re-initialise the last k stages, blocks or layers and train them on the retain set; the rest is frozen.",
    source="Goel et al., Towards Adversarial Evaluations for Inexact Machine Unlearning, arXiv 2201.06640 (EU-k)",
    opened=(
        "shash42/Evaluating-Inexact-Unlearning src/methods.py, learn.py, unlearn.py (authors'); meghdadk/SCRUB "
        "notebooks (authors' of SCRUB); xcadet/deepunlearn munl/unlearning/exact_unlearning_k.py (port)"
    ),
    open=(
        "what k counts: as for CF-k",
        "fresh weights: drawn anew in every run, as in Deep Unlearn and, without pretraining, Goel et al.; SCRUB "
        "and, with pretraining, Goel et al. take those that the original started from, the same in all runs",
    ),
    cost="epochs on retain, without the backward pass of the frozen layers",
    published={
        "published_scrub_small": pinned(ExactUnlearningKOptions, SCRUB_SMALL, _DROPS, epochs=30.0),
        "published_scrub_mia": pinned(ExactUnlearningKOptions, SCRUB_MIA, _DROPS, epochs=25.0),
        "published_deep_unlearn": pinned(ExactUnlearningKOptions, DEEP_UNLEARN, epochs=10.0),
        "published_goel": pinned(ExactUnlearningKOptions, GOEL),
    },
)
