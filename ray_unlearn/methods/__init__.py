"""One file per method, and the registry that knows them all.

    use = resolve(study, "finetune")             # MethodUse: validated options, identity, what it starts from
    METHODS["finetune"].run(model, data, use.options, rng)

A method is `def method(model, data, options, rng) -> None`: it changes `model` in place, loops only through
`training`, and takes all randomness from `rng`. To add one: a file with a `METHOD`, and its name below; or, in a
distribution of your own, an entry point (`registry`).

Does not cover: where a run's model comes from and where it goes (`ray_unlearn.run.worker`).
"""

import importlib
from collections.abc import Mapping
from typing import Any

from ray_unlearn.methods.method import Method as Method
from ray_unlearn.methods.registry import METHODS as METHODS
from ray_unlearn.methods.registry import aliases_of

_FILES = (
    "train",
    "weights",
    "finetune",
    "negative_gradient_plus",
    "null",
    "retrain",
    "catastrophic_forgetting_k",
    "exact_unlearning_k",
    "selective_synaptic_dampening",
    "fisher_noise",
    "influence",
    "boundary_shrink",
    "fanchuan",
    "kookmin",
    "seif",
    "sebastian",
    "toshi_marvel",
    "amnesiacs",
    "sun",
    "forget",
    "mix",
    "gradient_ascent",
    "random_label",
    "salun",
    "l1_sparse",
    "scrub",
    "bad_teacher",
    "unsir",
    "boundary_expanding",
    "jit",
    "amun",
    "task_vector",
    "sfron",
    "noisy_finetune",
    "noisy_finetune_reference",
    "langevin",
)

for _file in _FILES:
    METHODS.add(importlib.import_module(f"{__name__}.{_file}").METHOD)

ALIASES: Mapping[str, tuple[str, Mapping[str, Any]]] = aliases_of(METHODS.own)
"""Other names of methods -> the method, and the options that the name implies."""
