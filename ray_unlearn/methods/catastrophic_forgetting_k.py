"""CF-k: fine-tune the top of the net on the retain set, and freeze the rest.

    populations:
      cf1: {method: catastrophic_forgetting_k, preset: published_scrub_mia, count: 64}
      cf3: {method: catastrophic_forgetting_k, count: 64, unit: layer, k: 3}

Idea: what is particular to single images sits in the last layers; they forget what they no longer see.

1. Freeze all but the last k units (and the classifier). A unit is a `stage` (torchvision's layer4), a `block` (a
   residual block), an `encoder_layer` (of a Transformer for images) or a `layer` (a convolution or linear layer; there
   the classifier is the first of the k, and a normalisation after one of them moves with it).
2. Minimise cross-entropy on the retain set, plus anchor / 2 times the squared distance from the start.

Source: Goel et al., Towards Adversarial Evaluations for Inexact Machine Unlearning (arXiv 2201.06640); as a baseline
in Kurmanji et al. (SCRUB). Read: shash42/Evaluating-Inexact-Unlearning src/methods.py, learn.py, unlearn.py (the
authors'); meghdadk/SCRUB small_scale_unlearning.ipynb cells 71 and 87, MIA_experiments.ipynb cells 16 and 20 (the
authors' of SCRUB); xcadet/deepunlearn munl/unlearning/catastrophic_forgetting_k.py and scrub_utils.py (a port).

Caveats:
- k = 1 has three published meanings: the classifier alone (Goel et al.), layer4 without the classifier (SCRUB), layer4
  and the classifier (Deep Unlearn).
- Nets without stages have units that hold nearly all of them: a vit_b_16's encoder, 99.3 % of what comes before its
  classifier. These are refused; the sources have ResNets and an AllCNN, so `encoder_layer` is this package's.
- Batch normalisation is in evaluation mode throughout in SCRUB's small scale and in Deep Unlearn (`statistics:
  frozen`). In SCRUB's other experiments and for Goel et al. it is in training mode everywhere, in frozen layers too
  (`statistics: batch`). With `moving`, the frozen part alone is in evaluation mode.
- Neither weight decay nor momentum reaches frozen layers, in any mode.
- Runs differ by the order of batches alone. In the challenge, teams report the method at or below plain fine-tuning.

Does not cover: starting the top afresh (`exact_unlearning_k`); Goel et al. keep the epoch that is best on validation
images, here the last one counts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field
from torch import nn

from ray_unlearn.data.images import RunData
from ray_unlearn.errors import MethodError
from ray_unlearn.methods.losses import anchored, with_statistics_frozen
from ray_unlearn.methods.masks import trainable_only
from ray_unlearn.methods.method import Method
from ray_unlearn.methods.published import PLAIN, pinned
from ray_unlearn.methods.units import classifier, last_units
from ray_unlearn.seeds import Seeds
from ray_unlearn.study.changes import Correction
from ray_unlearn.study.identity import Since
from ray_unlearn.study.recipe import Float, Int, Optimizer, Recipe, Schedule
from ray_unlearn.training import Hooks, class_weights, cross_entropy, fit
from ray_unlearn.training.optimizers import rate_factor


class CatastrophicForgettingKOptions(Recipe):
    """Defaults: epochs, rate and optimiser of SCRUB's baseline; what moves is Deep Unlearn's."""

    epochs: Float = Field(10.0, gt=0, description="Passes over retain (SCRUB, Deep Unlearn; Goel et al. 62).")
    optimizer: Optimizer = "sgd"
    lr: Float = Field(0.01, gt=0, description="Rate (SCRUB, Deep Unlearn).")
    momentum: Float = Field(0.0, ge=0, lt=1, description="SCRUB, Deep Unlearn: none; Goel et al. 0.9.")
    weight_decay: Float = Field(0.0, ge=0, description="SCRUB, Deep Unlearn: none, see anchor; Goel et al. 5e-5.")
    schedule: Schedule = Field("constant", description="Course of the rate, apart from drops and restarts.")
    decay_epochs: Annotated[tuple[Int, ...], Since("0.2", neutral=())] = Field(
        (), description="Epochs after which the rate drops by `gamma`."
    )
    decay_lr: Annotated[Float | None, Since("0.2", neutral=None)] = Field(
        None, gt=0, description="Rate that drops start from; default lr. SCRUB's helper takes 5e-4 for every lr."
    )
    restart_lr: Annotated[Float | None, Since("0.2", neutral=None)] = Field(
        None, gt=0, description="Cosine from lr to this rate, restarted after 1, 3, 7, ... epochs (Goel et al.: 0.005)."
    )
    k: Int = Field(1, ge=0, description="Units that move (published: 1).")
    unit: Annotated[Literal["stage", "block", "encoder_layer", "layer"], Since("0.2", neutral="block")] = Field(
        "stage",
        description="What k counts: stage (SCRUB, Deep Unlearn), residual block, a Transformer's encoder layer, or "
        "layer (Goel et al.).",
    )
    moves_classifier: Annotated[bool, Since("0.2", neutral=True)] = Field(
        True, description="Whether the classifier moves along with stages or blocks (Deep Unlearn: yes; SCRUB: no)."
    )
    statistics: Annotated[Literal["frozen", "moving", "batch"], Since("0.2", neutral="moving")] = Field(
        "frozen",
        description="Batch normalisation in evaluation mode. frozen: all; moving: in the frozen part; batch: none.",
    )
    anchor: Annotated[Float, Since("0.2", neutral=0.0)] = Field(
        0.0, ge=0, description="Pull towards the start, per unit of weight (SCRUB, small scale: 0.1)."
    )
    max_norm: Annotated[Float | None, Since("0.2", neutral=None)] = Field(
        None, gt=0, description="Largest norm of a step's gradient; default no limit (Goel et al.: 10)."
    )


def catastrophic_forgetting_k(
    model: nn.Module, data: RunData, options: CatastrophicForgettingKOptions, rng: Seeds
) -> None:
    """Minimise cross-entropy on the retain set, moving the last k units alone."""
    moving = {module for unit in moving_units(model, options, data.num_classes) for module in unit.modules()}
    frozen = [module for module in model.modules() if module not in moving]
    evaluated = {"frozen": list(model.modules()), "moving": frozen, "batch": []}[options.statistics]
    in_order = [module for module in model.modules() if module in moving]  # a norm depends on the order of its terms
    parameters = [parameter for module in in_order for parameter in module.parameters(recurse=False)]
    if not any(parameter.requires_grad for parameter in parameters):
        raise MethodError(f"k is {options.k} with unit: {options.unit}: no parameter of the model would move")
    with trainable_only(model, parameters):
        on_retain = cross_entropy(class_weights(data.retain, options, data.num_classes))
        loss = with_statistics_frozen(anchored(on_retain, model, options.anchor), evaluated)
        hooks = Hooks(after_backward=lambda: clip_gradients(parameters, options.max_norm))
        fit(model, data, options, rng, loss=loss, hooks=hooks, rate=lambda epochs_done: _rate(options, epochs_done))


def clip_gradients(parameters: Sequence[nn.Parameter], max_norm: float | None) -> None:
    """Scale gradients so that the norm of all together is at most `max_norm`; None leaves them alone."""
    if max_norm is not None:
        nn.utils.clip_grad_norm_(parameters, max_norm)


def moving_units(model: nn.Module, options: CatastrophicForgettingKOptions, classes: int) -> list[nn.Module]:
    """Return the modules that move, in the model's order."""
    head = classifier(model, classes)
    units = last_units(model, head, options.k, options.unit)
    keeps = options.unit == "layer" or options.moves_classifier
    return [unit for unit in units if keeps or unit is not head]


def _rate(options: CatastrophicForgettingKOptions, epochs_done: float) -> float:
    """Return the factor of the rate: the schedule's, dropped or restarted."""
    factor = rate_factor(options, epochs_done)
    drops = sum(epochs_done >= epoch for epoch in options.decay_epochs)
    if drops:
        factor *= (options.decay_lr or options.lr) / options.lr * options.gamma**drops
    if options.restart_lr is None:
        return factor
    epoch = math.floor(epochs_done)
    cycle = (epoch + 1).bit_length() - 1  # cycles of 1, 2, 4, ... epochs begin after 0, 1, 3, 7, ...
    cosine = (1 + math.cos(math.pi * (epoch + 1 - 2**cycle) / 2**cycle)) / 2
    lowest = options.restart_lr / options.lr
    return factor * (lowest + (1 - lowest) * cosine)


SCRUB_SMALL = {**PLAIN, "batch_size": 128, "moves_classifier": False, "statistics": "frozen", "anchor": 0.1}
SCRUB_MIA = {**PLAIN, "batch_size": 64, "moves_classifier": False, "statistics": "batch"}
DEEP_UNLEARN = {**PLAIN, "batch_size": 256, "statistics": "frozen", "anchor": 0.1, "decay_epochs": (6, 9)}
GOEL = {
    **PLAIN,
    "augment": {"crop": 4, "flip": True},
    "batch_size": 64,
    "epochs": 62.0,
    "lr": 0.1,
    "restart_lr": 0.005,
    "momentum": 0.9,
    "weight_decay": 5e-5,
    "unit": "layer",
    "statistics": "batch",
    "max_norm": 10.0,
}

METHOD = Method(
    name="catastrophic_forgetting_k",
    run=catastrophic_forgetting_k,
    options=CatastrophicForgettingKOptions,
    check=moving_units,
    starts_from="original",
    corrections=(
        Correction(
            "0.2",
            "k counted residual blocks, with momentum and a cosine; published are stages at a constant rate",
            ("unit", "momentum", "weight_decay", "schedule", "statistics"),
        ),
        Correction("0.2", "`published_goel` did not clip gradients; Goel et al. clip them at 10", ("max_norm",)),
    ),
    summary="Fine-tune the last k stages, blocks or layers on the retain set; the rest is frozen.",
    source="Goel et al., Towards Adversarial Evaluations for Inexact Machine Unlearning, arXiv 2201.06640 (CF-k)",
    opened=(
        "shash42/Evaluating-Inexact-Unlearning src/methods.py, learn.py, unlearn.py (authors'); meghdadk/SCRUB "
        "notebooks (authors' of SCRUB); xcadet/deepunlearn munl/unlearning/catastrophic_forgetting_k.py (port)"
    ),
    open=("what k counts: three sources, three meanings; `unit` names it, and stage is the default",),
    cost="epochs on retain, without the backward pass of the frozen layers",
    published={
        "published_scrub_small": pinned(CatastrophicForgettingKOptions, SCRUB_SMALL),
        "published_scrub_mia": pinned(CatastrophicForgettingKOptions, SCRUB_MIA),
        "published_deep_unlearn": pinned(CatastrophicForgettingKOptions, DEEP_UNLEARN),
        "published_goel": pinned(CatastrophicForgettingKOptions, GOEL),
    },
)
