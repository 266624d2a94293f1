"""One file per method, and the registry that knows them all.

    use = resolve(study, "finetune")             # MethodUse: validated options, identity, what it starts from
    METHODS["finetune"].run(model, data, use.options, rng)

A method is `def method(model, data, options, rng) -> None`: it changes `model` in place, loops only through
`training`, and takes all randomness from `rng`. To add one: a file with a `METHOD`, and its name below. Presets that
were tuned join a method's published ones here (`tuned`, written by `jobs/tune.py`).

Does not cover: where a run's model comes from and where it goes (`ray_unlearn.run.worker`).
"""

import importlib
from collections.abc import Mapping
from dataclasses import replace

from ray_unlearn.methods.method import Method as Method
from ray_unlearn.methods.tuned import SETTINGS, TUNED

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
)


def _with_tuned(method: Method) -> Method:
    tuned = {setting: presets[method.name] for setting, presets in TUNED.items() if method.name in presets}
    return replace(
        method, presets={**method.presets, **tuned}, tuned_on={setting: SETTINGS[setting] for setting in tuned}
    )


METHODS: Mapping[str, Method] = {
    method.name: _with_tuned(method)
    for method in (importlib.import_module(f"{__name__}.{file}").METHOD for file in _FILES)
}
