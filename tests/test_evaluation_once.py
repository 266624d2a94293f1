"""No measure is computed twice for the same runs: every call of an evaluation is counted."""

from __future__ import annotations

import hashlib
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from evaluated import evaluated_store

from ray_unlearn.evaluation.epsilon import example_epsilons
from ray_unlearn.evaluation.evaluate import evaluate
from ray_unlearn.evaluation.measures.klom import klom
from ray_unlearn.evaluation.measures.logistic_attack import simple_attack
from ray_unlearn.evaluation.measures.rmia import rmia
from ray_unlearn.evaluation.measures.shift_and_spread import shift_and_spread
from ray_unlearn.evaluation.measures.svc_efficacy import svc_forget_efficacy, svc_scores
from ray_unlearn.evaluation.measures.u_lira import u_lira
from ray_unlearn.evaluation.permutation import stratified_tests

COMPUTED: tuple[Callable[..., Any], ...] = (
    example_epsilons,
    u_lira,
    rmia,
    klom,
    shift_and_spread,
    simple_attack,
    svc_forget_efficacy,
    svc_scores,
    stratified_tests,
)
"""What takes the time of an evaluation: the functions that measures and tests come of."""


def fingerprint(value: Any) -> str:
    """Return a digest of arguments: of arrays, the numbers in them."""
    if isinstance(value, np.random.Generator):
        return "rng"
    if isinstance(value, np.ndarray):
        return hashlib.sha256(repr(value.shape).encode() + np.ascontiguousarray(value).tobytes()).hexdigest()
    if isinstance(value, dict):
        return fingerprint([*value.items()])
    if isinstance(value, list | tuple):
        return hashlib.sha256("|".join(map(fingerprint, value)).encode()).hexdigest()
    return repr(value)


def counted(monkeypatch: pytest.MonkeyPatch, calls: Counter[tuple[str, str]]) -> None:
    """Count the calls of `COMPUTED` by name and arguments, wherever they are imported."""
    for function in COMPUTED:

        def counting(*args: Any, function: Callable[..., Any] = function, **kwargs: Any) -> Any:
            calls[function.__name__, fingerprint([*args, *sorted(kwargs.items())])] += 1
            return function(*args, **kwargs)

        modules = [one for name, one in sys.modules.items() if name.startswith("ray_unlearn.")]
        for module in modules:
            if getattr(module, function.__name__, None) is function:
                monkeypatch.setattr(module, function.__name__, counting)


def test_no_measure_is_computed_twice_for_the_same_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Law: populations, subsets, halves, growth, curves, worst images: each function meets its arguments once.

    Of 8 runs there are 8 x 8 subsets for intervals, of which 20 draws repeat some.
    """
    counts = {"retrained": 16, "finetune": 8, "shifted": 8}
    study, store = evaluated_store(tmp_path, counts, evaluation={"mode": "exact", "resamples": 20})
    calls = Counter[tuple[str, str]]()
    counted(monkeypatch, calls)
    evaluate(study, store)
    assert {name for name, _ in calls} == {function.__name__ for function in COMPUTED}
    again = Counter(name for (name, _), times in calls.items() for _ in range(times - 1))
    assert not again
