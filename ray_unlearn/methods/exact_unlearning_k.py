"""EU-k: start the top of the net afresh, and train it on the retain set over a frozen rest.

    populations:
      eu1: {method: exact_unlearning_k, count: 64, k: 1, epochs: 10, lr: 0.01}

Idea: the top that comes out has never seen a forget image, as exact unlearning asks of the whole net.

1. Re-initialise the last k blocks and the classifier, each layer by its own default, running statistics included.
2. Train them on the retain set with everything else frozen: CF-k.

Citation: Goel et al., Towards Adversarial Evaluations for Inexact Machine Unlearning (arXiv 2201.06640).

Caveats: those of CF-k. The layers start as PyTorch's `reset_parameters` leaves them, which is not always how the
architecture's constructor draws them (torchvision's ResNets use He-normal). The frozen part still remembers.

Does not cover: fine-tuning the top from where it is (`catastrophic_forgetting_k`).
"""

from __future__ import annotations

from torch import nn

from ray_unlearn.data.images import RunData
from ray_unlearn.methods.catastrophic_forgetting_k import CatastrophicForgettingKOptions, catastrophic_forgetting_k
from ray_unlearn.methods.method import Method
from ray_unlearn.methods.perturbations import last_blocks, reset_layers
from ray_unlearn.seeds import Seeds


class ExactUnlearningKOptions(CatastrophicForgettingKOptions):
    """Defaults: the published CIFAR-10 values, which are those of CF-k."""


def exact_unlearning_k(model: nn.Module, data: RunData, options: ExactUnlearningKOptions, rng: Seeds) -> None:
    """Re-initialise the last k blocks and the classifier, then train them alone on the retain set."""
    layers = [layer for block in last_blocks(model, options.k) for layer in block.modules()]
    reset_layers([layer for layer in layers if list(layer.parameters(recurse=False))], rng, "reset")
    catastrophic_forgetting_k(model, data, options, rng)


METHOD = Method(
    name="exact_unlearning_k",
    run=exact_unlearning_k,
    options=ExactUnlearningKOptions,
    starts_from="original",
    summary="Re-initialise the last k blocks and the classifier and train them on the retain set; the rest is frozen.",
    source="Goel et al., Towards Adversarial Evaluations for Inexact Machine Unlearning, arXiv 2201.06640 (EU-k)",
    cost="epochs on retain, without the backward pass of the frozen layers",
)
