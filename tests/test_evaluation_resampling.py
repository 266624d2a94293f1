"""Random subsets: intervals, nulls, and the same draws for every caller."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from ray_unlearn.evaluation.common_shift import CommonShift
from ray_unlearn.evaluation.intervals import (
    ALONE,
    APART,
    SHARED,
    SHARED_DF,
    Error,
    Subsets,
    interval,
    standard_error,
    subsets,
)
from ray_unlearn.evaluation.outputs import Outputs
from ray_unlearn.evaluation.resampling import Draws, Settings, growth_sizes

F = "forgetting_quality"


def settings(seed: int = 0, resamples: int = 20) -> Settings:
    """Return settings with few resamples."""
    return Settings(mode="parity", resamples=resamples, seed=seed)


def runs_of(originals: list[int], name: str = "kookmin") -> Outputs:
    """Return runs without outputs that start from these originals; -1: from scratch."""
    starts = [(max(o, 0), "ab" * (o >= 0)) for o in originals]
    records: Any = [SimpleNamespace(original=o, original_sha256=sha256, method="a") for o, sha256 in starts]
    return Outputs(name, tuple(records), {})


@pytest.mark.parametrize("runs", [4, 5, 12])
def test_halves_are_disjoint_and_as_large_as_can_be(runs: int):
    """Law: both halves have runs // 2 different rows, none in common, in order."""
    for half, other in settings().halves("retrained", runs, runs // 2):
        assert len(half) == len(other) == runs // 2
        assert len({*half, *other}) == 2 * (runs // 2)
        assert (np.diff(half) > 0).all()
        assert {*half, *other} <= set(range(runs))


def test_draws_depend_on_seed_population_and_size_alone():
    """Law: every method meets the same halves of the reference; two populations, and two studies, meet others."""
    first, again = (settings().halves("retrained", 12, 6) for _ in range(2))
    assert all(np.array_equal(a, b) for (a, _), (b, _) in zip(first, again, strict=True))
    for others in (settings(seed=1).halves("retrained", 12, 6), settings().halves("kookmin", 12, 6)):
        assert any(not np.array_equal(a, b) for (a, _), (b, _) in zip(first, others, strict=True))


def test_too_few_runs_have_no_halves():
    """Law: one run is no distribution."""
    assert settings().halves("retrained", 3, 1) == []


def test_subsets_leave_out_three_of_sixteen_runs_of_both_sides():
    """Law: equally many of both sides; the reference's are the same for every method; the factor is m / (N - m)."""
    reference = runs_of([-1] * 16, "retrained")
    first, second = (subsets(runs_of([0] * 16, name), reference, settings()) for name in ("kookmin", "finetune"))
    for ours, theirs in first.pairs:
        assert len(ours) == len(theirs) == len({*ours}) == len({*theirs}) == 13
    assert (first.factor, first.units, first.over_originals) == (13 / 3, 16, False)
    assert all(np.array_equal(a, b) for (_, a), (_, b) in zip(first.pairs, second.pairs, strict=True))
    assert any(not np.array_equal(a, b) for (a, _), (b, _) in zip(first.pairs, second.pairs, strict=True))
    assert any(not np.array_equal(a, b) for a, b in first.pairs)


def test_with_four_originals_a_subset_lacks_all_runs_of_one():
    """Law: from 4 originals on, runs of one original go together, and originals are counted; below, runs are."""
    originals = np.repeat([3, 5, 7, 9], 8)
    drawn = subsets(runs_of(originals.tolist()), runs_of([-1] * 32, "retrained"), settings())
    assert (drawn.factor, drawn.units, drawn.over_originals) == (3, 4, True)
    for ours, theirs in drawn.pairs:
        assert len(ours) == len(theirs) == 24
        assert len(set(originals[ours])) == 3
    assert len({tuple(ours) for ours, _ in drawn.pairs}) == 4
    few = subsets(runs_of(np.repeat([0, 1, 2], 8).tolist()), runs_of([-1] * 24, "retrained"), settings())
    assert (few.units, few.over_originals) == (24, False)
    own = subsets(runs_of(list(range(16))), runs_of([-1] * 16, "retrained"), settings())
    assert (own.units, own.over_originals) == (16, False)


def test_five_runs_have_no_interval():
    """Law: below six runs there are no subsets."""
    assert subsets(runs_of([0] * 5), runs_of([-1] * 5, "retrained"), settings()).pairs == []


def test_the_error_of_a_mean_is_the_textbooks():
    """Law: for a mean over runs, the spread over subsets gives the standard error at N, sd / sqrt(N)."""
    values = np.random.default_rng(0).normal(size=64)
    drawn = subsets(runs_of([0] * 64), runs_of([-1] * 64, "retrained"), settings(resamples=4000))
    found = np.array([values[rows].mean() for rows, _ in drawn.pairs])
    error = standard_error(
        "retain_ratio", Draws(values={"retain_ratio": found}, points_KE=np.empty((0, 0))), drawn, "exact"
    )
    assert error.se == pytest.approx(values.std(ddof=1) / np.sqrt(64), rel=0.05)
    assert error.df == 63
    low, high = interval("spread_ratio", 10.0, error)
    assert (high - low) / 2 == pytest.approx(1.998 * error.se, rel=1e-3)
    assert (high + low) / 2 == pytest.approx(10.0)


@pytest.mark.parametrize("mode", ["parity", "exact"])
def test_the_error_of_f_has_two_parts(mode):
    """Law: what images share is multiplied by m / (N - m), what each has alone is not; of a score, times its ratios.

    Ten images vary alone by 0 or 0.2 over two subsets: each has variance 0.02, their mean 0.002 if no two go together.
    """
    drawn = Subsets(pairs=[], factor=4.0, units=32, over_originals=False)
    alone = np.zeros((20, 10))
    for image in range(10):
        alone[2 * image, image] = 1.0  # never two images in one subset
    each = alone.var(axis=0, ddof=1).sum() / 100
    f_K = alone.mean(axis=1)
    found = standard_error(
        "forgetting_quality", Draws(values={"forgetting_quality": f_K}, points_KE=alone), drawn, mode
    )
    assert f_K.var(ddof=1) < each * 1.0001
    assert found.se**2 == pytest.approx(APART[mode] * each)
    shared = np.repeat(np.linspace(0, 1, 20)[:, None], 10, axis=1)  # all images are one
    draws = Draws(values={"forgetting_quality": shared[:, 0], "score": shared[:, 0] / 2}, points_KE=shared)
    total, tenth = shared[:, 0].var(ddof=1), shared[:, 0].var(ddof=1) / 10
    found = standard_error("forgetting_quality", draws, drawn, mode)
    assert found.se**2 == pytest.approx(4 * SHARED[mode] * (total - tenth) + APART[mode] * tenth)
    assert SHARED_DF <= found.df < 12
    assert standard_error("score", draws, drawn, mode).se == pytest.approx(found.se / 2)


@pytest.mark.parametrize(("distance", "quantile"), [(1.0, 1.645), (3.0, 1.96)])
def test_ends_of_f_are_those_of_the_common_shift_and_a_margin(distance: float, quantile: float):
    """By hand: F is 1 - 0.1 x distance, and 1,000 images vary alone, by so little that margins hardly count.

    At a distance of 1, F is 0.9, and 0.71 to 1 are allowed, with 5 % above; at 3 it is 0.7, and 0.504 to 0.864 are. The
    jackknife's shared variance, 4 x 0.045^2, is below the square of 0.1, the change of F by a standard error, so that
    nothing is left of it. A score's sides are alike.
    """
    rng = np.random.default_rng(0)
    by, f = np.linspace(-3.5, 3.5, 29), 1 - 0.1 * distance
    shift = CommonShift(distance=distance, wider=1.0, along=1 - 0.1 * np.abs(distance + by))
    together_K = rng.permutation(np.repeat([-1.0, 1.0], 50))[:, None] * 0.045
    points_KE = f + together_K + rng.permutation(np.tile([-1.0, 1.0], 50_000)).reshape(100, 1000) * 0.5
    drawn = Subsets(pairs=[], factor=4.0, units=32, over_originals=False)
    values = {"forgetting_quality": points_KE.mean(axis=1), "score": points_KE.mean(axis=1) / 2}
    draws = Draws(values=values, points_KE=points_KE, points_E=np.full(1000, f), shift=shift)
    lowest, highest = shift.allowed()
    margin = (ALONE["parity"] / 1000) ** 0.5 * 0.5
    low, high = interval("forgetting_quality", f, standard_error("forgetting_quality", draws, drawn, "parity"))
    assert f - low == pytest.approx(np.hypot(1.96 * margin, f - lowest), rel=0.02)
    assert min(1.0, f + np.hypot(quantile * margin, highest - f)) == pytest.approx(high, rel=0.02)
    score = standard_error("score", draws, drawn, "parity")
    without = standard_error("forgetting_quality", replace(draws, shift=None), drawn, "parity")
    assert [one.below for one in (score, without)] == [one.above for one in (score, without)] == [None, None]


@pytest.mark.parametrize(("mode", "factor"), [("parity", 1.0), ("exact", 0.5)])
def test_in_exact_the_error_follows_how_far_images_lie_apart(mode, factor):
    """Law: points 0, 1 on subsets have a variance of 1/4, and 0, sqrt(1/2) of all runs 1/8: a half of it."""
    drawn = Subsets(pairs=[], factor=4.0, units=32, over_originals=False)
    points_KE = np.array([[0.0, 1.0], [1.0, 0.0]] * 10)
    draws = Draws(values={"forgetting_quality": points_KE.mean(axis=1)}, points_KE=points_KE)
    known = replace(draws, points_E=np.array([0.0, 0.5**0.5]))
    both = [standard_error("forgetting_quality", one, drawn, mode).apart for one in (known, draws)]
    assert both[0] ** 2 == pytest.approx(factor * both[1] ** 2)


def test_over_originals_the_units_are_originals():
    """By hand: shared variance has 3 degrees of freedom with 4 originals, and what 10 images have alone 30.

    Points that images do not share vary by themselves alone.
    """
    drawn = Subsets(pairs=[], factor=3.0, units=4, over_originals=True)
    apart = np.zeros((20, 10))
    apart[2 * np.arange(10), np.arange(10)] = 1.0  # never two images in one subset
    shared = np.repeat(np.linspace(0, 1, 20)[:, None], 10, axis=1)
    both = [
        standard_error(F, Draws(values={F: points_KE.mean(axis=1)}, points_KE=points_KE), drawn, "parity")
        for points_KE in (apart, shared)
    ]
    alone, total = apart.var(axis=0, ddof=1).sum() / 100, shared[:, 0].var(ddof=1)
    assert (both[0].se ** 2, both[0].df) == (pytest.approx(APART["parity"] * alone), pytest.approx(30))
    parts = 3 * SHARED["parity"] * 0.9 * total, APART["parity"] * 0.1 * total
    assert both[1].se ** 2 == pytest.approx(sum(parts))
    assert both[1].df == pytest.approx(sum(parts) ** 2 / (parts[0] ** 2 / 3 + parts[1] ** 2 / 30))


@pytest.mark.parametrize(("values", "share"), [([0.0, 2.0, 4.0, 6.0], 7 / 9), ([0.0, 6.0, 2.0, 4.0], 0.5)])
def test_a_measure_over_originals_has_the_degrees_of_freedom_of_both_sides(values: list[float], share: float):
    """By hand: 0, 2 without one original and 4, 6 without another: 7 of 9 parts are of originals, 2 of the reference.

    No subset without the same originals more alike than others: a half is of originals all the same. Of the former
    there are 4, and 6 retrained runs in each subset. Where no two subsets lack the same originals, originals count,
    and for a median, too.
    """
    ours = [np.arange(6), np.arange(6), np.arange(2, 8), np.arange(2, 8)]
    drawn = Subsets(pairs=[(one, np.arange(6)) for one in ours], factor=3.0, units=4, over_originals=True)
    names = ("retain_ratio", "spread_ratio")
    draws = Draws(values=dict.fromkeys(names, np.array(values)), points_KE=np.empty((0, 0)))
    error, median = (standard_error(name, draws, drawn, "parity") for name in names)
    assert error.se**2 == pytest.approx(3 * 20 / 3)
    assert median.df == 3
    assert error.df == pytest.approx(1 / (share**2 / 3 + (1 - share) ** 2 / 5))
    apart = replace(drawn, pairs=[(np.arange(k, k + 4), np.arange(4)) for k in range(4)])
    assert standard_error("retain_ratio", draws, apart, "parity").df == 3


def test_an_interval_ends_where_its_measure_does():
    """Law: no share beyond 0..1; a ratio may exceed 1."""
    wide = Error(se=0.5**0.5, df=1e9)
    assert interval("forgetting_quality", 0.5, wide) == (0.0, 1.0)
    low, high = interval("score", 0.5, wide)
    assert (low, high) == (0.0, pytest.approx(0.5 + 1.96 * np.sqrt(0.5), rel=1e-3))


@pytest.mark.parametrize(
    ("largest", "sizes"), [(7, []), (8, [8]), (64, [8, 16, 32, 64]), (100, [8, 16, 32, 64]), (0, [])]
)
def test_growth_doubles(largest: int, sizes: list[int]):
    """Law: 8, 16, 32, ... and never beyond what there is."""
    assert growth_sizes(largest) == sizes
