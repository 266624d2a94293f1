"""What more runs would buy: widths of intervals and the N that separates two populations."""

from __future__ import annotations

import numpy as np
import pytest

from ray_unlearn.evaluation.intervals import Error, t_quantile
from ray_unlearn.evaluation.planning import falls, plan, runs_needed, se_at
from ray_unlearn.evaluation.scores import Estimate, Growth


def estimate(value: float, se: float, apart: float = 0.0, n: int = 16, df: float = 15) -> Estimate:
    """Return an estimate with a symmetric interval."""
    half = t_quantile(0.975, df) * se
    return Estimate(value=value, low=value - half, high=value + half, se=se, se_apart=apart, df=df, n=n)


def test_what_images_share_shrinks_and_what_they_have_alone_does_not() -> None:
    """By hand: 0.05^2 = 0.04^2 + 0.03^2; four times as many runs halve the 0.04."""
    assert se_at(Error(se=0.05, df=9, apart=0.03), 16, 64) == pytest.approx((0.02**2 + 0.03**2) ** 0.5)
    assert se_at(Error(se=0.05, df=9), 16, 64) == pytest.approx(0.025)


def test_widths_and_separations_of_a_study() -> None:
    """Neighbours in order; a difference that exists is shown by some number of runs, none by any."""
    found = plan("score", {"b": estimate(0.1, 0.02), "a": estimate(0.2, 0.04), "c": estimate(0.1, 0.02)}, {})
    assert found is not None
    assert found.sizes == (16, 32, 64, 128, 256)
    assert found.widths["a"][0] == pytest.approx(2 * t_quantile(0.975, 15) * 0.04)
    assert found.widths["a"][2] == pytest.approx(2 * t_quantile(0.975, 60) * 0.02)
    assert [(one.first, one.second) for one in found.separations] == [("a", "b"), ("b", "c")]
    assert 16 < (found.separations[0].runs or 0) < 64
    assert found.separations[1].runs is None


def test_widths_are_in_proportion_to_the_interval_that_is_there() -> None:
    """Law: a width at N is that of the interval, whose sides may differ; at four times N half of it."""
    one = estimate(0.2, 0.04, df=1e9).model_copy(update={"low": 0.1, "high": 0.22})
    found = plan("forgetting_quality", {"a": one}, {})
    assert found is not None
    assert found.widths["a"][0::2][:2] == pytest.approx((0.12, 0.06))


def test_widths_fall_as_f_does() -> None:
    """By hand: F of two populations fell from 0.3 to 0.2 at the last doubling, so widths do by 1.5 at each, too."""
    curves = [
        [Growth(n=n, value=value, low=0, high=1) for n, value in each]
        for each in ([(4, 0.9), (8, 0.2), (16, 0.15)], [(8, 0.1), (16, 0.05)], [(16, 0.7)])
    ]
    assert falls(curves) == pytest.approx(np.log2(1.5))
    assert falls(curves[2:]) == falls([[*reversed(curves[0])]]) == 0.0
    assert falls([[Growth(n=8, value=1, low=0, high=1), Growth(n=16, value=0.1, low=0, high=1)]]) == 1.0
    steady, falling = (plan("score", {"a": estimate(0.2, 0.04)}, {}, b) for b in (0.0, np.log2(1.5)))
    assert steady is not None
    assert falling is not None
    ratios = np.divide(steady.widths["a"], falling.widths["a"])
    assert ratios == pytest.approx(1.5 ** np.arange(5))


def test_there_is_no_plan_without_intervals_or_of_different_n() -> None:
    """Law: numbers at unequal N do not compare."""
    assert plan("score", {"a": Estimate(value=0.1, n=3)}, {}) is None
    assert plan("score", {"a": estimate(0.1, 0.1), "b": estimate(0.1, 0.1, n=32)}, {}) is None
    assert plan("score", {"a": estimate(0.1, 0.1)}, {}) is not None


def test_more_runs_do_not_show_what_images_alone_hide() -> None:
    """Law: a difference below what images have alone is shown by no number of runs."""
    assert runs_needed(0.05, Error(se=0.05, df=15, apart=0.04), 16, 1) is None
    assert runs_needed(0.05, Error(se=0.05, df=15, apart=0.0), 16, 1) is not None


def test_the_planned_number_shows_a_difference_in_four_of_five_studies() -> None:
    """Simulated: 400 studies of the planned N with the errors that 16 runs had."""
    rng, error = np.random.default_rng(3), Error(se=0.05, df=15)
    runs = runs_needed(0.06, error, 16, 1)
    assert runs is not None
    df = error.df * runs / 16
    difference = 0.06 + se_at(error, 16, runs) * rng.normal(size=400)
    se = se_at(error, 16, runs) * np.sqrt(rng.chisquare(df, size=400) / df)
    assert 0.74 <= (difference > t_quantile(0.975, df) * se).mean() <= 0.86
    fewer = se_at(error, 16, runs // 2)
    assert (0.06 + fewer * rng.normal(size=400) > t_quantile(0.975, df / 2) * fewer).mean() < 0.7
