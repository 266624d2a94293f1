"""Presets that were tuned, written by `jobs/tune.py` from the records in jobs/tuned; do not edit.

    METHODS["finetune"].presets["digits"]        # where `methods/__init__.py` puts them

Chosen by retain and validation images with their labels and by forget images without: the objective stands in
`ray_unlearn/driver/objective.py`. The choice saw neither a test image nor a forget label (a method that is tried may
train on the labels of the images that it forgets). Jobs, records and studies lie beside the package, in jobs/.

Does not cover: your data. The same job tunes on a study of your own.
"""

from collections.abc import Mapping
from typing import Any

SETTINGS: Mapping[str, str] = {
    "digits": "scikit-learn's digits at 16x16 pixels, small_cnn, 12 trials of 3 seeds a method",
    "cifar10": "1,500 training images of CIFAR-10 (a JPEG copy) at 32x32, small_cnn, 6 trials of 3 seeds a method",
}
"""What each setting is."""

TUNED: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
    "digits": {
        "finetune": {"batch_size": 64, "lr": 0.063, "epochs": 5.0, "noise_std": 0.0},
        "negative_gradient_plus": {"batch_size": 64, "lr": 0.006, "alpha": 0.8},
        "catastrophic_forgetting_k": {"batch_size": 64, "lr": 0.14, "k": 2},
        "exact_unlearning_k": {"batch_size": 64, "lr": 0.027, "k": 2},
        "selective_synaptic_dampening": {"alpha": 10.0, "dampening": 1.0},
        "fisher_noise": {"alpha": 1.4e-07},
        "influence": {"alpha": 0.26, "damping": 2.9, "gradients": 200},
        "boundary_shrink": {"batch_size": 64, "lr": 0.00014, "epochs": 3.0, "epsilon": 0.1},
        "fanchuan": {"batch_size": 64, "lr": 0.0024, "forget_lr": 5e-05, "flatten_lr": 0.00022},
        "kookmin": {"batch_size": 64, "lr": 0.15, "fraction": 0.5},
        "seif": {"batch_size": 64, "lr": 0.023, "noise_std": 0.029, "batch_weights": "balanced"},
        "sebastian": {"batch_size": 64, "lr": 0.0094, "prune_fraction": 0.3},
        "toshi_marvel": {"batch_size": 64, "lr": 0.074, "scratch_lr": 0.0013},
        "amnesiacs": {"batch_size": 64, "lr": 0.019, "validation_lr": 0.0071},
        "sun": {"batch_size": 64, "lr": 0.046, "final_lrs": [0.0002, 0.0002, 0.0002, 0.001], "noise_std": 0.01},
        "forget": {"batch_size": 64, "lr": 0.0083, "layers": 4},
        "gradient_ascent": {"batch_size": 64, "lr": 0.0026, "epochs": 5.0},
        "random_label": {"batch_size": 64, "lr": 0.014, "epochs": 3.0},
        "salun": {"batch_size": 64, "lr": 0.0015, "saliency": 0.5, "epochs": 3.0},
        "l1_sparse": {"batch_size": 64, "lr": 0.075, "alpha": 0.00018},
        "scrub": {"batch_size": 64, "lr": 0.00084, "msteps": 3, "ce_weight": 1.0, "kl_weight": 0.1},
        "bad_teacher": {"batch_size": 64, "lr": 0.0001, "epochs": 3.0, "temperature": 2.0},
    },
    "cifar10": {
        "finetune": {"batch_size": 64, "lr": 0.0088, "epochs": 5.0, "noise_std": 0.1},
        "negative_gradient_plus": {"batch_size": 64, "lr": 0.029, "alpha": 0.9},
        "catastrophic_forgetting_k": {"batch_size": 64, "lr": 0.042, "k": 3},
        "exact_unlearning_k": {"batch_size": 64, "lr": 0.15, "k": 1},
        "selective_synaptic_dampening": {"alpha": 1.8, "dampening": 0.34},
        "fisher_noise": {"alpha": 1e-06},
        "influence": {"alpha": 0.2, "damping": 1.0, "gradients": 1000},
        "boundary_shrink": {"batch_size": 64, "lr": 0.0051, "epochs": 1.0, "epsilon": 0.1},
        "fanchuan": {"batch_size": 64, "lr": 0.052, "forget_lr": 0.00021, "flatten_lr": 0.016},
        "kookmin": {"batch_size": 64, "lr": 0.021, "fraction": 0.3},
        "seif": {"batch_size": 64, "lr": 0.091, "noise_std": 0.055, "batch_weights": [1.0, 0.05]},
        "sebastian": {"batch_size": 64, "lr": 0.014, "prune_fraction": 0.3},
        "toshi_marvel": {"batch_size": 64, "lr": 0.03, "scratch_lr": 0.0046},
        "amnesiacs": {"batch_size": 64, "lr": 0.0071, "validation_lr": 0.021},
        "sun": {"batch_size": 64, "lr": 0.016, "final_lrs": [0.0002, 0.0002, 0.0002, 0.001], "noise_std": 0.01},
        "forget": {"batch_size": 64, "lr": 0.0017, "layers": 2},
        "gradient_ascent": {"batch_size": 64, "lr": 0.0017, "epochs": 5.0},
        "random_label": {"batch_size": 64, "lr": 0.01, "epochs": 10.0},
        "salun": {"batch_size": 64, "lr": 0.0085, "saliency": 0.5, "epochs": 10.0},
        "l1_sparse": {"batch_size": 64, "lr": 0.021, "alpha": 2.7e-05},
        "scrub": {"batch_size": 64, "lr": 0.0029, "msteps": 3, "ce_weight": 1.0, "kl_weight": 1.0},
        "bad_teacher": {"batch_size": 64, "lr": 0.0015, "epochs": 3.0, "temperature": 4.0},
    },
}
"""Setting -> method -> options."""
