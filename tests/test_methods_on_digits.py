"""Every method on digits, from one trained net: finite, and a run is a function of its index and of nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from samples import digit_runs, same_weights

from ray_unlearn.methods import METHODS

CASES: list[tuple[str, dict[str, Any]]] = [
    ("amnesiacs", {}),
    ("amun", {"epochs": 2.0, "batch_size": 8}),
    ("bad_teacher", {"batch_size": 8}),
    ("boundary_expanding", {"batch_size": 4, "lr": 0.01}),
    ("boundary_shrink", {"epochs": 2.0, "batch_size": 4, "lr": 0.01}),
    ("catastrophic_forgetting_k", {"epochs": 2.0, "batch_size": 8}),
    ("exact_unlearning_k", {"epochs": 2.0, "batch_size": 8}),
    ("fanchuan", {"batch_size": 5, "retain_batch_size": 8}),
    ("finetune", {"epochs": 2.0, "batch_size": 8}),
    ("forget", {}),
    ("forget", dict(METHODS["forget"].presets["competition_variant_2"])),
    ("gradient_ascent", {"batch_size": 4}),
    ("influence", {"gradients": 20}),
    ("influence", {"gradients": 20, "images": "random"}),
    ("jit", {"batch_size": 4, "samples": 3, "lr": 0.001}),
    ("kookmin", {"batch_size": 8}),
    ("l1_sparse", {"epochs": 3, "batch_size": 8}),
    ("mix", {"parts": [{"method": "finetune", "share": 1}, {"method": "negative_gradient_plus", "share": 2}]}),
    ("negative_gradient_plus", {"epochs": 2.0, "batch_size": 8}),
    ("noisy_finetune", {"batch_size": 10, "epochs": 1, "steps": 2}),
    ("null", {}),
    ("random_label", {"epochs": 3, "batch_size": 8}),
    ("scrub", {"epochs": 3, "batch_size": 8, "forget_batch_size": 4}),
    ("scrub", {"epochs": 0.5, "batch_size": 8, "forget_batch_size": 4, "msteps": 1}),
    ("sebastian", {"batch_size": 8}),
    ("seif", {"batch_size": 8}),
    ("selective_synaptic_dampening", {"alpha": 2.0}),
    ("sfron", {"iterations": 12, "batch_size": 8}),
    ("sun", {}),
    *(("toshi_marvel", {"variant": one, "batch_size": 16}) for one in ("transpose", "pseudo_label", "mix")),
    ("unsir", {"batch_size": 8, "retain_per_class": 2, "noise_steps": 2, "noise_batch_size": 2, "noise_batches": 3}),
]
ELSEWHERE = {
    *("fisher_noise", "langevin", "noisy_finetune_reference", "retrain", "salun", "task_vector", "train", "weights")
}
"""Methods whose own tests say more about their repetition."""


@pytest.mark.parametrize(("name", "options"), CASES, ids=[name for name, _ in CASES])
def test_a_run_is_a_function_of_its_index(tmp_path: Path, name: str, options: dict[str, Any]):
    """Law: all is finite; a run repeats bit for bit; another goes differently, unless the options are deterministic."""
    first, again, other = digit_runs(tmp_path, name, **options)
    assert same_weights(first, again)
    assert same_weights(first, other) == METHODS[name].is_deterministic(METHODS[name].options(**options))


def test_no_method_is_left_out():
    """Law: every method of the package has a row above, or such a test of its own."""
    assert {name for name, _ in CASES} | ELSEWHERE == {*METHODS.own}
