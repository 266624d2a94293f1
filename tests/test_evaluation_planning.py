"""What more runs would buy: widths of intervals and the N that separates two populations."""

from __future__ import annotations

import numpy as np
import pytest

from ray_unlearn.evaluation.intervals import Error
from ray_unlearn.evaluation.planning import falls, plan, runs_needed
from ray_unlearn.evaluation.scores import Estimate, Growth
from ray_unlearn.evaluation.t_distribution import t_quantile


def estimate(value: float, se: float, n: int = 16, df: float = 15) -> Estimate:
    """Return an estimate with a symmetric interval."""
    half = t_quantile(0.975, df) * se
    return Estimate(value=value, low=value - half, high=value + half, se=se, df=df, n=n)


def test_widths_and_separations_of_a_study() -> None:
    """By hand: widths are in proportion to F; the first N at which 0.2 n^-1/4 - 0.16 / n, n in units of 16 runs, is
    more than 2.042 + 0.842 standard errors (t with 15 + 15 degrees of freedom; the normal quantile of 80 %).
    """
    found = plan("score", {"b": estimate(0.16, 0.02), "a": estimate(0.2, 0.02)}, {}, {"a": 0.25, "b": 1.0}, share=1.0)
    assert found is not None
    assert found.sizes == (16, 32, 64, 128, 256)
    assert found.widths["a"] == pytest.approx([2 * t_quantile(0.975, 15) * 0.02 * 2 ** (-k / 4) for k in range(5)])
    assert found.widths["b"] == pytest.approx([2 * t_quantile(0.975, 15) * 0.02 * 2**-k for k in range(5)])
    assert [(one.first, one.second) for one in found.separations] == [("a", "b")]
    needed = found.separations[0].runs
    assert needed is not None

    def shown(runs: int) -> bool:
        n = runs / 16
        return 0.2 * n**-0.25 - 0.16 / n >= (2.0423 + 0.8416) * ((0.02 * n**-0.25) ** 2 + (0.02 / n) ** 2) ** 0.5

    assert shown(needed)
    assert not shown(needed - 1)


def test_f_that_falls_alike_is_never_separated() -> None:
    """Law: value and error in one proportion at every N: what these runs do not show, none do; what they show, they do.

    A population that falls faster than the one below it meets it.
    """
    alike = [(0.2, Error(se=0.02, df=15), 0.5), (0.16, Error(se=0.02, df=15), 0.5)]
    assert runs_needed(alike, 0.0, 16, 1) is None
    assert runs_needed([(0.3, Error(se=0.02, df=15), 0.5), alike[1]], 0.0, 16, 1) == 16
    assert runs_needed([(0.2, Error(se=0.02, df=15), 1.0), (0.16, Error(se=0.02, df=15), 0.2)], 0.0, 16, 1) is None


def test_widths_are_in_proportion_to_the_interval_that_is_there() -> None:
    """Law: a width at N is that of the interval, whose sides may differ."""
    one = estimate(0.2, 0.04, df=1e9).model_copy(update={"low": 0.1, "high": 0.22})
    found = plan("forgetting_quality", {"a": one}, {}, {"a": 1.0})
    assert found is not None
    assert found.widths["a"][0::2][:2] == pytest.approx((0.12, 0.03))


def test_f_falls_as_it_did_at_the_last_doubling() -> None:
    """By hand: from 0.2 to 0.15 is n^-0.415; nothing that rises, nor a single point, falls; 1 at most."""
    curve = [Growth(n=n, value=value, low=0, high=1) for n, value in [(4, 0.9), (8, 0.2), (16, 0.15)]]
    assert falls(curve) == pytest.approx(np.log2(0.2 / 0.15))
    assert falls([*reversed(curve)]) == falls(curve[:1]) == falls(()) == 0.0
    for last in (0.1, 0.0):
        assert falls([Growth(n=n, value=value, low=0, high=1) for n, value in [(8, 1.0), (16, last)]]) == 1.0


def test_there_is_no_plan_without_intervals_or_of_different_n() -> None:
    """Law: numbers at unequal N do not compare."""
    assert plan("score", {"a": Estimate(value=0.1, n=3)}, {}) is None
    assert plan("score", {"a": estimate(0.1, 0.1), "b": estimate(0.1, 0.1, n=32)}, {}) is None
    assert plan("score", {"a": estimate(0.1, 0.1)}, {}) is not None


def test_the_planned_number_shows_a_difference_in_four_of_five_studies() -> None:
    """Simulated: 2,000 studies of the planned N, whose values fall as the plan says."""
    rng, sides = np.random.default_rng(3), [(0.2, Error(se=0.02, df=15), 0.25), (0.16, Error(se=0.02, df=15), 1.0)]
    planned = runs_needed(sides, 0.0, 16, 1, share=1.0)
    assert planned is not None
    shown = {}
    for runs in (planned, planned // 2):
        values, errors = np.array([[v * (16 / runs) ** b, e.se * (16 / runs) ** b] for v, e, b in sides]).T
        found = values + errors * rng.normal(size=(2000, 2))
        se = np.sqrt((errors**2 * rng.chisquare(15, size=(2000, 2)) / 15).sum(axis=1))
        shown[runs] = float((found[:, 0] - found[:, 1] > t_quantile(0.975, 30) * se).mean())
    assert 0.74 <= shown[planned] <= 0.86
    assert shown[planned // 2] < 0.7
