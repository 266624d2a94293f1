"""Published presets: every value that they pin, next to its source; nothing comes from a study's `training`."""

from __future__ import annotations

import re
import sys
from typing import Any

import pytest
from conftest import TINY, merged

from ray_unlearn.errors import StudyError
from ray_unlearn.methods import METHODS
from ray_unlearn.methods.published import UNPINNED
from ray_unlearn.methods.resolve import resolve
from ray_unlearn.study import parse_study

AS_THEY_ARE = {"crop": 0, "flip": False, "transforms": ()}
CROPS = {"crop": 4, "flip": True, "transforms": ()}
PLAIN = {"class_weights": "none", "augment": AS_THEY_ARE}
STEADY = {"schedule_per": "epoch", "step_epochs": 10.0, "gamma": 0.1, "warmup_epochs": 0.0}
"""In every preset that does not list others: no warm-up, and the steps of `schedule: step`, which none of these has."""
WITHOUT_MOMENTUM = {"momentum": 0.9}
"""Adam has no momentum of SGD's kind; the option takes no part."""
CHALLENGE = {**PLAIN, "batch_size": 64, "optimizer": "sgd", "momentum": 0.9}
"""The official notebook: loaders of 64, no augmentation; kgltop1..7.py: CrossEntropyLoss() without weights."""
SPARSE = {
    "batch_size": 256,
    "class_weights": "none",
    "augment": CROPS,
    "optimizer": "sgd",
    "momentum": 0.9,
    "weight_decay": 5e-4,
    "schedule": "constant",
}
"""OPTML-Group/Unlearn-Sparse and Unlearn-Saliency: arg_parser.py, dataset.py, unlearn/impl.py (drops at 91 and 136)."""
SCRUB_SGD = {"optimizer": "sgd", "lr": 5e-4, "momentum": 0.9, "weight_decay": 5e-4, "temperature": 4.0, "gamma": 0.1}
LAST_STAGE = {
    **{"k": 1, "unit": "stage", "lr": 0.01, "momentum": 0.0, "weight_decay": 0.0, "schedule": "constant"},
    **{"optimizer": "sgd", "decay_lr": None, "restart_lr": None, "max_norm": None},
}
DROPS = {"decay_epochs": (11, 16, 21), "decay_lr": 5e-4, "gamma": 0.1}
"""helper/util.py: epoch > 10, 15, 20, counted from 0, and from sgda_learning_rate = 5e-4 rather than euk_lr."""
GOEL = {
    **{"k": 1, "unit": "layer", "lr": 0.1, "restart_lr": 0.005, "momentum": 0.9, "weight_decay": 5e-5},
    **{"batch_size": 64, "epochs": 62.0, "augment": CROPS, "class_weights": "none"},
    **{"statistics": "batch", "max_norm": 10.0, "optimizer": "sgd", "schedule": "constant"},
    **{"decay_epochs": (), "decay_lr": None, "moves_classifier": True, "anchor": 0.0},
}
"""src/learn.py, unlearn.py: SGDR 0.1 to 0.005, T_0 1, T_mult 2, clip 10; load_datasets.py: padded crops and flips."""

NOISY = {
    **PLAIN,
    **{"epochs": 30.0, "optimizer": "sgd", "lr": 0.1, "momentum": 0.0, "weight_decay": 5e-4, "batch_size": 128},
    **{"schedule": "constant", "clipped": "gradients", "epsilon": 7.08, "delta": 1e-5, "steps": 11, "noisy_lr": 0.01},
    **{"shrink": 50.0, "start_clip": 20.0, "clip": 10.0},
}
"""The configuration of the authors' figure 2."""
CLIPPED_WEIGHTS = {
    **{"clipped": "weights", "epsilon": 1.0, "start_clip": 30.0, "clip": 0.5, "noisy_lr": 1e-3, "shrink": 0.0},
    **{"steps": 6, "epochs": 50.0},
}

PINNED: dict[str, dict[str, Any]] = {
    # kgltop1.py; slides page 23
    "fanchuan/competition": {
        **CHALLENGE,
        **{"epochs": 8.0, "lr": 4e-3, "weight_decay": 1e-2, "schedule": "constant", "retain_batch_size": 256},
        **{"flatten_epochs": 1.0, "flatten_lr": 5e-3, "forget_lr": 3e-4, "forget_lr_min": 1e-6},
        **{"forget_weight_decay": 0.0, "temperature": 1.15},
    },
    # kgltop2.py; slides pages 20 to 22: 30 %, a tenth, 0.00033 to 0.001 in 3 epochs and back in 2
    "kookmin/competition": {
        **CHALLENGE,
        **{"epochs": 5.0, "lr": 1e-3, "weight_decay": 5e-4, "schedule": "linear", "schedule_per": "epoch"},
        **{"warmup_epochs": 3.0, "fraction": 0.3, "scope": "layer", "among": "all", "kept_scale": 0.1},
    },
    # kgltop3.py, with the weights that its comment calls original
    "seif/competition": {
        **CHALLENGE,
        **{"epochs": 4.0, "lr": 7e-4, "weight_decay": 5e-4, "schedule": "cosine", "batch_weights": (1.0, 0.05)},
        **{"noise_std": 0.6, "late_noise_std": 0.005, "layers": "first"},
    },
    # organisers' prose ("convolutional weights"), the rest as above
    "seif/competition_prose": {
        **CHALLENGE,
        **{"epochs": 4.0, "lr": 7e-4, "weight_decay": 5e-4, "schedule": "cosine", "batch_weights": (1.0, 0.05)},
        **{"noise_std": 0.6, "late_noise_std": 0.005, "layers": "all"},
    },
    # kgltop4.py; slides pages 14 to 16
    "sebastian/competition": {
        **CHALLENGE,
        **{"epochs": 3.2, "lr": 5e-4, "weight_decay": 5e-4, "schedule": "constant", "prune_fraction": 0.99},
        **{"class_weight_power": -0.1, "entropy_weight": 1.0, "round_to_half": True},
    },
    # kgltop5.py; slides pages 11 to 13: 246 and 266
    "toshi_marvel/competition": {
        **CHALLENGE,
        **{"epochs": 3.0, "lr": 1e-3, "weight_decay": 5e-4, "schedule": "cosine", "variant": "mix"},
        **{"transpose_share": 246, "pseudo_label_share": 266, "entropy_threshold": 0.5},
        **{"scratch_epochs": 3.0, "scratch_lr": 1e-3},  # not published: those of transpose
    },
    # kgltop6.py; slides pages 7 to 10
    "amnesiacs/competition": {
        **CHALLENGE,
        **{"epochs": 3.0, "lr": 1e-3, "weight_decay": 5e-4, "schedule": "cosine", "validation_epochs": 3.0},
        **{"validation_lr": 9e-4, "temperature": 5.0, "temperature_scaling": False, "objective": "port"},
        "validation_classes": None,
    },
    # kgltop7.py
    "sun/competition": {
        **CHALLENGE,
        **{"epochs": 9.0, "lr": 2e-4, "weight_decay": 5e-4, "final_lrs": (2e-4, 2e-4, 2e-4, 1e-3), "tensors": 9},
        **{"noise_fraction": 0.7, "noise_std": 0.04, "pool": "port", "noise_again": False, "schedule": "constant"},
    },
    # slides pages 3 to 5: cycles of 1, 2, 2 epochs, noise 0.1
    "forget/competition": {
        **CHALLENGE,
        **{"epochs": 5.0, "lr": 1e-3, "schedule": "cosine", "cycles": (1, 2, 2), "cosine_epochs": 2.0, "layers": 6},
        **{"pool": "tensors", "image_noise_std": 0.1, "epoch_lrs": ()},
        "weight_decay": 5e-4,  # not published
    },
    "forget/competition_variant_2": {
        **CHALLENGE,
        **{"cycles": (2, 1, 1, 1), "epoch_lrs": (5e-4, 1e-3, 1e-3, 1e-3, 1e-3), "schedule": "constant"},
        **{"epochs": 5.0, "layers": 6, "pool": "tensors", "image_noise_std": 0.1, "weight_decay": 5e-4},
        **{"lr": 1e-3, "cosine_epochs": 2.0},  # take no part
    },
    # the authors' abstract
    "forget/competition_write_up": {
        **CHALLENGE,
        **{"epochs": 5.0, "lr": 1e-3, "schedule": "cosine", "cycles": (1, 2, 2), "cosine_epochs": 2.0, "layers": 6},
        **{"pool": "tensors", "image_noise_std": 0.01, "epoch_lrs": (), "weight_decay": 5e-4},
    },
    # google-deepmind/unlearning_evaluation main.py: do_unlearning; the official notebook
    "finetune/competition": {
        **CHALLENGE,
        **{"epochs": 1.0, "lr": 1e-3, "weight_decay": 5e-4, "schedule": "cosine", "noise_std": 0.0},
    },
    # Unlearn-Sparse README.MD: FT 10 epochs at 0.01, GA 5 at 0.0001, FT_prune 10 at 0.01
    "finetune/published_sparse": {**SPARSE, "epochs": 10.0, "lr": 0.01, "noise_std": 0.0},
    "gradient_ascent/published": {**SPARSE, "epochs": 5.0, "lr": 1e-4},
    "l1_sparse/published": {**SPARSE, "epochs": 10.0, "lr": 0.01, "alpha": 5e-4},
    # SCRUB small_scale_unlearning.ipynb cells 26, 70, 71, 83, 85; weight decay 0.1 of cell 8 is the anchor
    "negative_gradient_plus/published_scrub_small": {
        **PLAIN,
        **{"alpha": 0.95, "epochs": 10.0, "lr": 0.01, "momentum": 0.0, "weight_decay": 0.0, "schedule": "constant"},
        **{"batch_size": 128, "forget_batch_size": 64, "anchor": 0.1, "statistics": "frozen", "optimizer": "sgd"},
    },
    # MIA_experiments.ipynb cells 16 and 22; loops.py train_negrad
    "negative_gradient_plus/published_scrub_mia": {
        **PLAIN,
        **{"alpha": 0.9999, "epochs": 5.0, "lr": 0.01, "momentum": 0.0, "weight_decay": 0.0, "schedule": "constant"},
        **{"batch_size": 32, "forget_batch_size": 16, "anchor": 0.0, "statistics": "batch", "optimizer": "sgd"},
    },
    # RUM README.md and unlearn/neggrad.py
    "negative_gradient_plus/published_rum": {
        **SPARSE,
        **{"epochs": 5.0, "lr": 0.01, "forget_batch_size": 256, "anchor": 0.0, "statistics": "batch"},
        "alpha": 0.95,  # searched, not published
    },
    # deepunlearn neggradplus.py
    "negative_gradient_plus/published_deep_unlearn": {
        **PLAIN,
        **{"alpha": 0.95, "epochs": 10.0, "lr": 0.01, "momentum": 0.9, "weight_decay": 0.0, "batch_size": 256},
        **{"anchor": 0.0, "statistics": "frozen", "optimizer": "sgd", "schedule": "constant", "forget_batch_size": 256},
    },
    # Unlearn-Saliency arg_parser.py, RL.py (the CIFAR-10 branch), README.md
    "random_label/published": {
        **SPARSE,
        **{"epochs": 10.0, "lr": 0.01, "order": "sequential", "redraw": "epoch", "exclude_own": False},
    },
    "salun/published": {
        **SPARSE,
        **{"epochs": 10.0, "lr": 0.013, "saliency": 0.5, "order": "sequential", "exclude_own": False},
        "redraw": "epoch",
    },
    # RUM README.md and RL_original.py
    "random_label/published_rum": {
        **SPARSE,
        **{"epochs": 10.0, "lr": 0.1, "order": "joint", "exclude_own": False, "redraw": "epoch"},
    },
    # SSD forget_random_strategies.py amnesiac(); bad-teaching unlearn.py fit_one_unlearning_cycle
    "random_label/published_amnesiac": {
        **PLAIN,
        **{"epochs": 3.0, "optimizer": "adam", "lr": 1e-4, "weight_decay": 0.0, "batch_size": 128, "redraw": "once"},
        **{"exclude_own": True, "order": "joint", "schedule": "constant"},
        **WITHOUT_MOMENTUM,
    },
    # SCRUB small_scale_unlearning.ipynb cells 26 and 30
    "scrub/published_small_scale": {
        **PLAIN,
        **{"optimizer": "adam", "lr": 5e-4, "weight_decay": 0.1, "epochs": 10.0, "decay_epochs": (5, 8, 9)},
        **{"msteps": 3, "temperature": 2.0, "ce_weight": 1.0, "kl_weight": 0.5, "gamma": 0.1, "schedule": "constant"},
        **{"batch_size": 32, "forget_batch_size": 64},
        **WITHOUT_MOMENTUM,
    },
    # large_scale_unlearning.ipynb cell 32
    "scrub/published_large_scale": {
        **PLAIN,
        **SCRUB_SGD,
        **{"epochs": 3.0, "decay_epochs": (3, 5, 9), "msteps": 2, "ce_weight": 0.99, "kl_weight": 0.001},
        **{"batch_size": 128, "forget_batch_size": 32, "schedule": "constant"},
    },
    # MIA_experiments.ipynb cells 18 and 22
    "scrub/published_mia": {
        **PLAIN,
        **SCRUB_SGD,
        **{"epochs": 5.0, "decay_epochs": (3, 5, 9), "msteps": 3, "ce_weight": 1.0, "kl_weight": 0.5},
        **{"batch_size": 32, "forget_batch_size": 16, "schedule": "constant"},
    },
    # SSD forget_random_strategies.py blindspot(); bad-teaching unlearn.py
    "bad_teacher/published": {
        **PLAIN,
        **{"epochs": 1.0, "optimizer": "adam", "lr": 1e-4, "weight_decay": 0.0, "schedule": "constant"},
        **{"batch_size": 256, "temperature": 1.0, "retain_fraction": 0.3},
        **WITHOUT_MOMENTUM,
    },
    # SCRUB small_scale_unlearning.ipynb cells 71 and 87, 90; args.weight_decay 0.1 is the anchor
    "catastrophic_forgetting_k/published_scrub_small": {
        **PLAIN,
        **LAST_STAGE,
        **{"epochs": 10.0, "batch_size": 128, "moves_classifier": False, "statistics": "frozen", "anchor": 0.1},
        "decay_epochs": (),
    },
    "exact_unlearning_k/published_scrub_small": {
        **PLAIN,
        **LAST_STAGE,
        **DROPS,
        **{"epochs": 30.0, "batch_size": 128, "moves_classifier": False, "statistics": "frozen", "anchor": 0.1},
    },
    # MIA_experiments.ipynb cells 16, 20, 21
    "catastrophic_forgetting_k/published_scrub_mia": {
        **PLAIN,
        **LAST_STAGE,
        **{"epochs": 10.0, "batch_size": 64, "moves_classifier": False, "statistics": "batch", "anchor": 0.0},
        "decay_epochs": (),
    },
    "exact_unlearning_k/published_scrub_mia": {
        **PLAIN,
        **LAST_STAGE,
        **DROPS,
        **{"epochs": 25.0, "batch_size": 64, "moves_classifier": False, "statistics": "batch", "anchor": 0.0},
    },
    # deepunlearn catastrophic_forgetting_k.py, exact_unlearning_k.py, scrub_utils.py: epoch > 5 and > 8, counted from 0
    "catastrophic_forgetting_k/published_deep_unlearn": {
        **PLAIN,
        **LAST_STAGE,
        **{"epochs": 10.0, "batch_size": 256, "moves_classifier": True, "statistics": "frozen", "anchor": 0.1},
        **{"decay_epochs": (6, 9), "decay_lr": None, "gamma": 0.1},
    },
    "exact_unlearning_k/published_deep_unlearn": {
        **PLAIN,
        **LAST_STAGE,
        **{"epochs": 10.0, "batch_size": 256, "moves_classifier": True, "decay_epochs": (6, 9), "anchor": 0.1},
        "statistics": "frozen",
    },
    "catastrophic_forgetting_k/published_goel": GOEL,
    "exact_unlearning_k/published_goel": GOEL,
    # SSD forget_random_main.py: batches of 128, alpha 10, lambda 1
    "selective_synaptic_dampening/published": {
        **{"alpha": 10.0, "dampening": 1.0, "exponent": 1.0, "lower_bound": 1.0, "images_per_gradient": 128},
        "importance": "loss",
    },
    "selective_synaptic_dampening/published_paper": {
        **{"alpha": 10.0, "dampening": 1.0, "exponent": 1.0, "lower_bound": 1.0, "images_per_gradient": 1},
        "importance": "loss",
    },
    # SelectiveForgetting Forgetting.ipynb cells 73, 75 and 78
    "fisher_noise/published": {
        **{"alpha": 1e-6, "clamp": 1e3, "classifier_clamp": 1e2, "boost": 10.0, "labels": "model"},
        "images_per_gradient": 1,
    },
    # Unlearn-Sparse Wfisher.py, arg_parser.py
    "influence/published": {
        "alpha": 0.2,
        "gradients": 1000,
        "damping": 1.0,
        "recursion": "published",
        "images": "first",
    },
    # Fast-Machine-Unlearning notebook cells 20 to 30
    "unsir/published": {
        **PLAIN,
        **{"epochs": 1.0, "optimizer": "adam", "lr": 0.01, "weight_decay": 0.0, "batch_size": 256},
        **{"impair_epochs": 1.0, "impair_lr": 0.02, "impair_batch_size": 256, "noise_steps": 40, "noise_lr": 0.1},
        **{"noise_penalty": 0.1, "noise_batch_size": 256, "noise_batches": 20, "retain_per_class": 1000},
        **WITHOUT_MOMENTUM,
        "schedule": "constant",
    },
    # SSD src/unlearn.py, forget_full_class_strategies.py
    "unsir/published_ssd": {
        **PLAIN,
        **{"lr": 1e-4, "impair_lr": 1e-4, "batch_size": 128, "impair_batch_size": 32, "noise_steps": 25},
        **{"noise_batch_size": 32, "noise_batches": 80, "retain_per_class": 500},
        **{"epochs": 1.0, "impair_epochs": 1.0, "optimizer": "adam", "weight_decay": 0.0, "noise_lr": 0.1},
        **{"noise_penalty": 0.1, "schedule": "constant"},
        **WITHOUT_MOMENTUM,
    },
    # Boundary-Unlearning-Code boundary_unlearning.py, main.py
    "boundary_expanding/published": {
        **PLAIN,
        **{"epochs": 10.0, "optimizer": "sgd", "lr": 1e-5, "momentum": 0.9, "weight_decay": 0.0, "batch_size": 64},
        "schedule": "constant",
    },
    # Zeroshot-Unlearning-At-Scale forget_random_main.py, forget_random_strategies.py
    "jit/published_vgg16": {
        **PLAIN,
        **{"lr": 3e-4, "noise_std": 0.01, "samples": 25, "epochs": 1.0, "batch_size": 128, "momentum": 0.0},
        **{"optimizer": "sgd", "weight_decay": 0.0, "schedule": "constant"},
    },
    "jit/published_vit": {
        **PLAIN,
        **{"lr": 0.1, "noise_std": 0.5, "samples": 25, "epochs": 1.0, "batch_size": 128, "momentum": 0.0},
        **{"optimizer": "sgd", "weight_decay": 0.0, "schedule": "constant"},
    },
    # AMUN adversarial_unlearn.py, hyperparam_tune.py, pgdl2_modified.py
    "amun/published": {
        **{"batch_size": 128, "augment": CROPS, "class_weights": "none", "optimizer": "sgd"},
        **{"epochs": 10.0, "lr": 0.01, "momentum": 0.9, "weight_decay": 5e-4, "schedule": "step", "step_epochs": 1.0},
        **{"gamma": 0.1, "epsilon": 0.04, "steps": 50, "with_forget": True},
    },
    # Unified-Unlearning-w-Remain-Geometry sfron.py (CIFAR10 10%), scripts/unlearn.sh
    "sfron/published": {
        **{"batch_size": 128, "augment": CROPS, "class_weights": "none", "optimizer": "sgd"},
        **{"lr": 0.01, "momentum": 0.9, "weight_decay": 5e-4, "iterations": 1500, "forget_every": 5, "ascent": 25.0},
        **{"adaptive": 0.5, "max_norm": 7.0, "threshold": 1.0, "importance_batch_size": 128},
        **{"schedule": "cosine", "schedule_per": "batch"},
        "epochs": 30.0,  # `iterations` counts instead
    },
    # certified-unlearning-neural-networks-icml-2025 convergence_curve_runs/pabi; R = 1 at delta 1e-5 is epsilon 7.08
    "noisy_finetune/published": NOISY,
    "noisy_finetune_reference/published": NOISY,
    # budget_curve_runs/cc-cifar: 30, 0.5; as many steps as noise of 0.5 needs
    "noisy_finetune/published_model_clipping": NOISY | CLIPPED_WEIGHTS,
    "noisy_finetune_reference/published_model_clipping": NOISY | CLIPPED_WEIGHTS,
    # trainer.py, dp-baseline
    "noisy_finetune/published_output_perturbation": NOISY | {"clipped": "start", "epsilon": 1.0},
    "noisy_finetune_reference/published_output_perturbation": NOISY | {"clipped": "start", "epsilon": 1.0},
    # Langevin_unlearning main_lmc_multiclass.py, main.sh: lam 1e-6 of 50,000 images, sigma 0.03, 10,000 steps, 1 / n
    "langevin/published": {
        **{"learn_on": "train", "epsilon": 1.0, "delta": 2e-5, "std": 0.03, "decay": 0.05, "learn_steps": 10_000},
        "whiten": False,
    },
    # machine-unlearning-pytorch negmerge.py, but copies of all rates merged, as in the paper
    "task_vector/published_negmerge": {
        **PLAIN,
        **{"lrs": (1e-4, 5e-4, 1e-3), "repeats": 3, "merge": "consensus", "epochs": 1.0, "scale": 1.0},
        **{"optimizer": "sgd", "momentum": 0.9, "weight_decay": 0.0, "schedule": "constant", "batch_size": 128},
        "lr": 1e-4,  # `lrs` counts instead
    },
    # SSD README.md; adaptive-selective-synaptic-dampening error_unlearning.ipynb
    "selective_synaptic_dampening/published_lfssd": {
        **{"importance": "output", "images_per_gradient": 128},
        **{"alpha": 10.0, "dampening": 1.0, "exponent": 1.0, "lower_bound": 1.0},  # not published: SSD's
    },
    "selective_synaptic_dampening/published_assd": {
        **{"alpha": "adaptive", "importance": "loss", "exponent": 1.0, "lower_bound": 1.0, "images_per_gradient": 128},
        "dampening": 1.0,  # not published
    },
    # Boundary-Unlearning-Code boundary_unlearning.py, adv_generator.py, main.py
    "boundary_shrink/published": {
        **PLAIN,
        **{"epochs": 10.0, "optimizer": "sgd", "lr": 1e-5, "momentum": 0.9, "weight_decay": 0.0, "batch_size": 64},
        **{"schedule": "constant", "epsilon": 0.1, "exclude_own": False, "clamp": True},
    },
}
OTHER_TRAINING = {
    **{"batch_size": 17, "class_weights": "inverse", "augment": {"crop": 1, "flip": True}, "epochs": 3},
    **{"optimizer": "adamw", "lr": 0.5, "momentum": 0.3, "weight_decay": 0.25, "schedule": "linear", "gamma": 0.7},
}


def options_of(name: str) -> dict[str, Any]:
    """Return a preset's options in a study whose `training` block has other values everywhere."""
    method, preset = name.split("/")
    spec = {"method": method, "preset": preset}
    tree = merged(TINY, {"training": OTHER_TRAINING, "populations": {"mine": spec}})
    return resolve(parse_study(tree, where="x"), "mine").options.model_dump()


def test_every_published_preset_is_listed():
    """Law: no preset claims a source that this file does not name."""
    assert set(PINNED) == {f"{name}/{preset}" for name, method in METHODS.items() for preset in method.published}


@pytest.mark.parametrize("name", sorted(PINNED))
def test_what_a_preset_pins(name):
    """Law: every option has the value listed here, no matter what the study's training states.

    Only how a machine computes is not pinned. Of an option that no source names, the list says so or why it takes no
    part.
    """
    found = {key: value for key, value in options_of(name).items() if key not in UNPINNED}
    steady = STEADY if "schedule" in found else {}
    assert found == steady | PINNED[name]


OTHER_DEFAULTS: dict[str, dict[str, Any]] = {
    "negative_gradient_plus": {"forget_batch_size": None},
    "catastrophic_forgetting_k": {"moves_classifier": True, "anchor": 0.0},
    "exact_unlearning_k": {"decay_epochs": (), "decay_lr": None, "moves_classifier": True, "anchor": 0.0},
    "random_label": {"order": "joint"},
    "task_vector": {"lrs": (1e-3,), "repeats": 1, "merge": "mean"},
    "noisy_finetune": {"epsilon": 1.0},
    "noisy_finetune_reference": {"epsilon": 1.0},
}
"""Options whose defaults are not those of the method's first published preset."""


@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if method.published])
def test_defaults_are_those_of_the_first_published_preset(name):
    """Law: without a preset, a method's own options have the values of its main source, but for those listed."""
    method = METHODS[name]
    defaults = method.options().model_dump(exclude={*method.inherits, *UNPINNED})
    preset = options_of(f"{name}/{next(iter(method.published))}")
    assert defaults == {option: preset[option] for option in defaults} | OTHER_DEFAULTS.get(name, {})


def test_no_default_has_a_schedule_that_no_source_has():
    """Law: a cosine is a default where the competition's entries and SFRon have it, and nowhere else."""
    cosine = {
        name for name, m in METHODS.items() if m.starts_from == "original" and _default(m, "schedule") == "cosine"
    }
    assert cosine == {"finetune", "seif", "toshi_marvel", "amnesiacs", "forget", "sfron"}


@pytest.mark.parametrize(
    ("own", "problem"),
    [
        (
            {"method": "sfron", "epochs": 5},
            r"mine\.epochs: the method does not use it; set iterations \(method sfron\)",
        ),
        ({"method": "task_vector", "lr": 0.5}, r"mine\.lr: the method does not use it; set lrs"),
        (
            {"method": "mix", "parts": [{"method": "sfron", "share": 1, "epochs": 5}]},
            r"mine\.parts\.0\.epochs: .*set iterations",
        ),
    ],
)
def test_an_option_without_effect_is_refused(own, problem):
    """Law: no option is accepted and then ignored; its default, which presets pin, is accepted."""
    with pytest.raises(StudyError, match=problem):
        resolve(parse_study(merged(TINY, {"populations": {"mine": own}}), where="x"), "mine")


def _default(method: Any, option: str) -> Any:
    field = method.options.model_fields.get(option)
    return field.default if field else None


def test_every_method_states_what_was_read():
    """Law: a method of someone's names the files that were opened, and whose they are, in its docstring as well: the
    same repositories after "Read:"; `methods NAME` shows them, and what no source settles."""
    from ray_unlearn.report.text import method_lines

    own = {"train", "retrain", "weights", "null", "mix"}
    kinds = ("authors'", "port", "slides", "organisers'")
    for name, method in METHODS.items():
        if name in own:
            continue
        assert any(kind in method.opened for kind in kinds), name
        text = " ".join((sys.modules[f"ray_unlearn.methods.{name}"].__doc__ or "").split())
        read = text.partition(" Read: ")[2].partition("Caveats:")[0]
        assert any(kind.rstrip("'") in read for kind in kinds), name
        repositories = re.findall(r"(?:^|[ (])([A-Z\w-]+/[\w.-]+)(?= [\w\"(]|$|,| and)", method.opened)
        assert all(one in read for one in repositories if not one.endswith(".py")), name
        assert repositories or "no code" in method.opened, name
        text = "\n".join(method_lines(method))
        assert f"  read: {method.opened}" in text
        assert all(f"  open: {each}" in text for each in method.open)
