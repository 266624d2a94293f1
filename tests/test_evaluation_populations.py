"""What is refused before two populations are compared: each mistake by name, with what was found and where."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from ray_unlearn.errors import EvaluationError, RayUnlearnError
from ray_unlearn.evaluation import compiled
from ray_unlearn.evaluation.lower_bounds import epsilon_lower_bounds
from ray_unlearn.evaluation.measures.klom import klom
from ray_unlearn.evaluation.measures.shift_and_spread import shift_and_spread
from ray_unlearn.evaluation.measures.u_lira import u_lira
from ray_unlearn.evaluation.permutation import permutation_tests
from ray_unlearn.evaluation.populations import by_examples, by_runs, compared


def test_every_kind_of_number_becomes_float64() -> None:
    """Law: the same values, no matter what they were stored in."""
    for kind in (np.float16, np.float32, np.int64, np.uint8, np.bool_):
        stored = np.array([[0, 1], [1, 1]], kind)
        phi_RE = by_runs(stored, "phi")
        assert phi_RE.dtype == np.float64
        assert phi_RE.tolist() == [[0.0, 1.0], [1.0, 1.0]]
    assert by_examples([1, 2], "losses").tolist() == [1.0, 2.0]


@pytest.mark.parametrize("compute", [epsilon_lower_bounds, klom, permutation_tests, shift_and_spread, u_lira])
@pytest.mark.parametrize("start", [0, 1 << 60])
def test_no_measure_writes_into_the_callers_arrays(
    compute: Callable[..., object], start: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Law: arrays are not copied before they are compared, so that subsets of one population can share them."""
    monkeypatch.setattr(compiled, "FROM", start)
    rng = np.random.default_rng(1)
    both = rng.normal(0, 60, (2, 12, 5))
    before, draws = both.copy(), compute in (epsilon_lower_bounds, permutation_tests)
    assert np.shares_memory(by_runs(both[0], "phi"), both)
    compute(*both, *([rng] if draws else []))
    assert np.array_equal(both, before)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.zeros(3), "phi: expected an array [runs, examples], found shape [3]"),
        (np.zeros((3, 2, 1)), "phi: expected an array [runs, examples], found shape [3, 2, 1]"),
        (np.zeros((1, 2)), "phi: expected 2 or more runs, found 1; raise its count (halves need twice as many)"),
        (np.zeros((2, 0)), "phi: expected one or more examples, found none"),
        ([["a"], ["b"]], "phi: expected real numbers, found <U1"),
        ([[1j], [0]], "phi: expected real numbers, found complex128"),
        (
            [[0.0, 1.0], [np.inf, np.nan]],
            "phi[1, 0]: expected finite numbers, found inf (2 in all); "
            "a run whose outputs are not finite should have failed: make it again",
        ),
    ],
)
def test_a_population_that_is_none_is_refused(values, message) -> None:
    """Law: one line states which, what was expected, what was found and where."""
    with pytest.raises(EvaluationError) as caught:
        by_runs(values, "phi", at_least=2)
    assert str(caught.value) == message
    assert isinstance(caught.value, RayUnlearnError)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.zeros((2, 3)), "losses: expected one model's values [examples], found shape [2, 3]"),
        ([1.0], "losses: expected 2 or more examples, found 1"),
        ([1.0, np.nan], "losses[1]: expected finite numbers, found nan (1 in all); "),
    ],
)
def test_one_models_values_are_refused_likewise(values, message) -> None:
    """Law: the same for one axis."""
    with pytest.raises(EvaluationError) as caught:
        by_examples(values, "losses", at_least=2)
    assert str(caught.value).startswith(message)


def test_two_populations_need_the_same_examples_and_not_the_same_runs() -> None:
    """Law: runs may differ in number; examples may not."""
    unlearned_UE, retrained_RE = compared(np.zeros((2, 3)), np.ones((4, 3)), at_least=2)
    assert (unlearned_UE.shape, retrained_RE.shape) == ((2, 3), (4, 3))
    with pytest.raises(EvaluationError, match=r"^unlearned has 3 examples, retrained has 2; compare the same images$"):
        compared(np.zeros((2, 3)), np.ones((2, 2)))
    with pytest.raises(EvaluationError, match=r"^retrained: expected 2 or more runs, found 1"):
        compared(np.zeros((2, 3)), np.ones((1, 3)), at_least=2)
