"""Places that admit ties: by hand, and over studies of equal methods."""

from __future__ import annotations

import numpy as np
import pytest

from ray_unlearn.evaluation.intervals import Error
from ray_unlearn.evaluation.ranks import _differ, difference_error, ranks
from ray_unlearn.evaluation.scores import Estimate
from ray_unlearn.evaluation.t_distribution import t_quantile


def estimate(value: float, se: float = 0.01, n: int = 32) -> Estimate:
    """Return an estimate with a standard error, known as well as can be."""
    return Estimate(value=value, low=value - 1.96 * se, high=value + 1.96 * se, se=se, df=1e6, n=n)


def places(values: dict[str, float], draws: dict | None = None, **given: float) -> dict[str, tuple[int, int]]:
    """Return best and worst places."""
    estimates = {name: estimate(v, **given) for name, v in values.items()}
    found = ranks("forgetting_quality", estimates, draws or {}, share=1.0)
    return {name: (one.best, one.worst) for name, one in found.items()}


def test_places_are_ties_unless_a_difference_is_sure():
    """Law: independent errors of 0.01, three populations: a difference needs 3.3145 x 0.01 (Tukey's table)."""
    assert places({"a": 0.20, "b": 0.167, "c": 0.13}) == {"a": (1, 2), "b": (1, 2), "c": (3, 3)}
    assert places({"a": 0.20, "b": 0.1669, "c": 0.1338}) == {"a": (1, 2), "b": (1, 3), "c": (2, 3)}
    assert places({"a": 0.20, "b": 0.1668, "c": 0.1336}) == {"a": (1, 1), "b": (2, 2), "c": (3, 3)}


def test_a_difference_has_three_quarters_of_the_variance_and_both_degrees_of_freedom():
    """By hand: 0.02 and 0.01 with 4 and 9 degrees of freedom, a correlation of 1/2; F itself has wider intervals."""
    found = difference_error(Error(se=0.02, df=4), Error(se=0.01, df=9), 0.5)
    assert found.se**2 == pytest.approx(0.75 * (4e-4 + 1e-4 - 2e-4))
    assert found.df == pytest.approx(5**2 / (4**2 / 4 + 1 / 9))
    one, other = estimate(0.20), estimate(0.20 - 1.98 * 0.01 * 2**0.5)
    for share, worst in ((0.75, 1), (1.0, 1), (1.05, 2)):
        assert ranks("score", {"a": one, "b": other}, {}, share=share)["a"].worst == worst


def test_values_without_any_error_have_an_order():
    """Law: what does not vary is in order where it differs, and ties where it does not."""
    assert places({"a": 0.2, "b": 0.1, "c": 0.1}, se=0.0) == {"a": (1, 1), "b": (2, 3), "c": (2, 3)}


@pytest.mark.parametrize("df", [1.0, 2.5, 40.0, 1e9])
def test_many_populations_and_early_looks_have_a_limit_too(df):
    """Law: the limit for all pairs is between a pair's own and Bonferroni's, whatever the level."""
    for error in (0.05, 0.0056, 1e-4, 1e-6):
        own, all_pairs = (t_quantile(1 - error / (2 * pairs), df) for pairs in (1, 60 * 59 / 2))
        assert not _differ(own * 0.999, df, 60, error)
        assert _differ(all_pairs * 1.001, df, 60, error)
        assert _differ(own * 1.001, df, 2, error)


def test_what_populations_have_in_common_cancels():
    """Law: draws that go together make a difference of 0.01 sure; draws that do not, or are not there, leave a tie."""
    rng = np.random.default_rng(0)
    shared = rng.normal(size=100)
    together = {name: (shared + 0.1 * rng.normal(size=100)).tolist() for name in "ab"}
    apart = {name: rng.normal(size=100).tolist() for name in "ab"}
    values = {"a": 0.20, "b": 0.19}
    assert places(values, together) == {"a": (1, 1), "b": (2, 2)}
    assert places(values, apart) == places(values) == {"a": (1, 2), "b": (1, 2)}


def test_an_early_look_widens_no_interval():
    """Law: the level of a look is that of places; intervals hold for all populations with 95 % at each look."""
    values = {name: estimate(value) for name, value in (("a", 0.1), ("b", 0.14), ("c", 0.3))}
    late, early = (ranks("forgetting_quality", values, {}, error) for error in (0.05, 1e-4))
    assert [(one.low, one.high) for one in late.values()] == [(one.low, one.high) for one in early.values()]
    assert [late[name].best for name in "abc"] == [3, 2, 1]
    assert [early[name].worst for name in "abc"] == [3, 3, 1]


def test_intervals_at_once_keep_the_sides_of_each():
    """By hand: of two populations at once, 2.2414 errors a side instead of 1.96; an end at 0 stays there."""
    wide = {"low": 0.0, "high": 0.20 + 1.96 * 0.02}
    values = {"a": estimate(0.20).model_copy(update=wide), "b": estimate(0.1)}
    found = ranks("forgetting_quality", values, {})
    assert (found["a"].low, found["a"].high) == pytest.approx((0.0, 0.20 + 2.2414 * 0.02), abs=1e-5)
    assert (found["b"].low, found["b"].high) == pytest.approx((0.1 - 0.022414, 0.1 + 0.022414), abs=1e-5)


def test_what_does_not_compare_ties():
    """Law: other numbers of runs, or no interval, and nothing is sure; but the best still has the interval of all, by
    hand 2.2414 errors a side for two; a population without a value is left out.
    """
    a, b, none = estimate(0.9), estimate(0.1), Estimate(value=None, n=32, missing="why")
    for other in (estimate(0.1, n=16), Estimate(value=0.1, n=32)):
        found = ranks("score", {"a": a, "b": other}, {})["a"]
        assert (found.best, found.worst) == (1, 2)
        assert (found.low, found.high) == pytest.approx((0.9 - 0.022414, 0.9 + 0.022414), abs=1e-5)
    assert ranks("score", {"a": a, "b": b, "c": none}, {}).keys() == {"a", "b"}
    assert ranks("score", {}, {}) == {}


def test_the_best_of_twelve_equal_ones_is_within_its_interval():
    """Law: over 400 studies of twelve equal methods, the interval of the best holds the truth, its own often not."""
    rng = np.random.default_rng(1)
    covered = naive = settled = 0
    for _ in range(400):
        values = {str(i): 0.5 + 0.01 * z for i, z in enumerate(rng.normal(size=12))}
        found = ranks("forgetting_quality", {name: estimate(v) for name, v in values.items()}, {}, share=1.0)
        best = max(values, key=values.__getitem__)
        covered += found[best].low <= 0.5 <= found[best].high
        naive += abs(values[best] - 0.5) <= 1.96 * 0.01
        settled += found[best].worst < 12
    assert covered / 400 == pytest.approx(0.97, abs=0.03)
    assert naive / 400 < 0.8
    assert settled / 400 == pytest.approx(0.05, abs=0.03)
