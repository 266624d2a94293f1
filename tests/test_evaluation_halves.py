"""Random halves: intervals, nulls, and the same draws whoever asks."""

from __future__ import annotations

import numpy as np
import pytest

from ray_unlearn.evaluation.resampling import Settings, growth_sizes, interval


def settings(seed: int = 0, resamples: int = 20) -> Settings:
    """Return settings with few resamples."""
    return Settings(mode="parity", resamples=resamples, seed=seed)


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


def test_the_interval_of_a_mean_is_the_textbooks():
    """Law: for a mean, the spread over half-samples is the standard error at N, sd / sqrt(N)."""
    values = np.random.default_rng(0).normal(size=64)
    halves = settings(resamples=4000).halves("any", 64, 32)
    found = np.array([values[half].mean() for half, _ in halves])
    low, high = interval("spread_ratio", 10.0, found)
    expected = 1.96 * values.std(ddof=1) / np.sqrt(64)
    assert (high - low) / 2 == pytest.approx(expected, rel=0.05)
    assert (high + low) / 2 == pytest.approx(10.0)


def test_an_interval_ends_where_its_measure_does():
    """Law: no share beyond 0..1; a ratio may exceed 1."""
    wide = np.array([0.0, 1.0])
    assert interval("forgetting_quality", 0.5, wide) == (0.0, 1.0)
    low, high = interval("score", 0.5, wide)
    assert (low, high) == (0.0, pytest.approx(0.5 + 1.96 * np.sqrt(0.5), rel=1e-3))


@pytest.mark.parametrize(
    ("largest", "sizes"), [(7, []), (8, [8]), (64, [8, 16, 32, 64]), (100, [8, 16, 32, 64]), (0, [])]
)
def test_growth_doubles(largest: int, sizes: list[int]):
    """Law: 8, 16, 32, ... and never beyond what there is."""
    assert growth_sizes(largest) == sizes
