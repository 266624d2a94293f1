"""Tests of the shift that all images have in common, and of the interval of a distance."""

from __future__ import annotations

from typing import cast

import numpy as np
import pytest
from scipy.stats import norm, t, ttest_ind

from ray_unlearn.evaluation.common_shift import CommonShift, common_shift, distances
from ray_unlearn.evaluation.measures.forgetting_quality import forgetting_quality
from ray_unlearn.evaluation.measures.measure import Mode
from ray_unlearn.evaluation.originals import error_of_mean


def sides(distance: float, runs: int = 16, images: int = 60) -> tuple[np.ndarray, np.ndarray]:
    """Return phi of two populations that share a half of their variance over images."""
    rng = np.random.default_rng(5)
    both = [rng.normal(size=(runs, 1)) + rng.normal(size=(runs, images)) for _ in range(2)]
    return both[0] + distance, both[1]


@pytest.mark.parametrize("truth", [0.0, 0.4, 1.0, 1.3, 1.7, 2.0, 2.5, 3.0, 4.0, 5.5])
def test_an_interval_of_a_distance_holds_it_in_95_percent(truth: float):
    """Law: exact coverage, by integration over the density of an absolute value of a normal estimate."""
    estimates = (np.arange(4800) + 0.5) * 0.0025
    ends = np.array([distances(one) for one in estimates])
    held = (ends[:, 0] <= truth) & (truth <= ends[:, 1])
    density = norm.pdf(estimates - truth) + norm.pdf(estimates + truth)
    assert (density * held).sum() * 0.0025 == pytest.approx(0.95, abs=0.003)


def test_an_interval_of_a_distance_ends_at_0_where_the_two_sided_test_finds_nothing():
    """Law: 0 is allowed up to 1.96 standard errors; far away, the interval is that of a normal estimate."""
    assert distances(1.94)[0] == 0 < distances(2.0)[0]
    assert distances(0.0)[1] == pytest.approx(1.645, abs=0.03)
    for found in (5.9, 6.1, 30.0):
        assert distances(found) == pytest.approx((found - 1.96, found + 1.96), abs=0.15)


def test_a_distance_is_the_statistic_of_welchs_test():
    """Worked by SciPy: the mean over images of each run, in standard deviations of the images."""
    ours_UE, theirs_RE = sides(0.4)
    sd_E = np.sqrt((ours_UE.var(axis=0, ddof=1) + theirs_RE.var(axis=0, ddof=1)) / 2)
    expected = ttest_ind((ours_UE / sd_E).mean(axis=1), (theirs_RE / sd_E).mean(axis=1), equal_var=False).statistic
    shift = common_shift(ours_UE, theirs_RE, "exact", 0.1)
    assert shift is not None
    assert shift.distance == pytest.approx(expected)
    assert shift.wider == pytest.approx(2.0423 / 1.96, rel=1e-4)  # 30 degrees of freedom


def test_over_originals_a_distance_is_welchs_test_of_their_means():
    """Worked by SciPy: four originals of four runs are four values, and the degrees of freedom are Welch's."""
    ours_UE, theirs_RE = sides(0.4)
    starts_U = np.arange(16) % 4
    sd_E = np.sqrt((ours_UE.var(axis=0, ddof=1) + theirs_RE.var(axis=0, ddof=1)) / 2)
    of_originals = [(ours_UE[starts_U == one] / sd_E).mean() for one in range(4)]
    test = ttest_ind(of_originals, (theirs_RE / sd_E).mean(axis=1), equal_var=False)
    shift = common_shift(ours_UE, theirs_RE, "exact", 0.1, starts_U)
    assert shift is not None
    assert shift.distance == pytest.approx(test.statistic)
    assert shift.wider == pytest.approx(t.ppf(0.975, test.df) / norm.ppf(0.975))


def test_the_error_of_a_mean_counts_originals_by_their_runs():
    """By hand: 0, 0 and 3 from two originals, 3 and 0 without one: (2^2 + 1^2) / 2; of as many runs each: 8 / 2.

    Of 12 runs 9 are of one of 4 originals: if these alone differ, the mean varies by (81 + 1 + 1 + 1) / 144.
    """
    assert error_of_mean(np.array([0.0, 0.0, 3.0]), np.array([5, 5, 9])) == (pytest.approx(5 / 2), 2)
    assert error_of_mean(np.array([1.0, 5.0, 3.0, 7.0]), np.array([0, 1, 0, 1])) == (pytest.approx(8 / 2), 2)
    starts = np.repeat(np.arange(4), [9, 1, 1, 1])
    found = [error_of_mean(one[starts], starts)[0] for one in np.random.default_rng(0).normal(size=(2000, 4))]
    assert np.mean(found) == pytest.approx(84 / 144, rel=0.1)


@pytest.mark.parametrize("mode", ["parity", "exact"])
def test_along_is_the_mean_of_f_over_chance_shifts(mode: str):
    """Law: F of moved images, averaged over 4,000 normal shifts, to 2 %; largest near a distance of 0."""
    ours_UE, theirs_RE = sides(1.0)
    value = forgetting_quality(ours_UE, theirs_RE, mode).score
    shift = common_shift(ours_UE, theirs_RE, cast("Mode", mode), value)
    assert shift is not None
    sd_E = np.sqrt((ours_UE.var(axis=0, ddof=1) + theirs_RE.var(axis=0, ddof=1)) / 2)
    error = (ours_UE / sd_E).mean(axis=1).mean() - (theirs_RE / sd_E).mean(axis=1).mean()
    by = np.linspace(-5, 5, 101)
    f = [forgetting_quality(ours_UE + one * error / shift.distance * sd_E, theirs_RE, mode).score for one in by]
    chance = np.random.default_rng(0).normal(size=4000)
    for at, found in zip((-3.5, 0.0, 2.0), (shift.along[0], shift.along[14], shift.along[22]), strict=True):
        assert found == pytest.approx(np.interp(at + chance, by, f).mean(), rel=0.02)
    assert shift.distance > 2
    largest = np.linspace(-3.5, 3.5, 29)[shift.along.argmax()]
    assert largest == pytest.approx(-shift.distance, abs=1.2)


def test_allowed_values_lie_between_the_ends_of_the_distance():
    """By hand: F = 1 - 0.1 x distance. At 1.0 the distance is 0 to 2.9: 1 to 0.71; at 3 it is 1.36 to 4.96."""
    by = np.linspace(-3.5, 3.5, 29)
    near, far = (CommonShift(distance=at, wider=1.0, along=1 - 0.1 * np.abs(at + by)) for at in (1.0, 3.0))
    assert near.allowed() == pytest.approx((0.71, 1.0), abs=0.005)
    assert far.allowed() == pytest.approx((0.504, 0.864), abs=0.005)
    other = CommonShift(distance=-3.0, wider=1.0, along=1 - 0.1 * np.abs(-3 + by))
    assert other.allowed() == pytest.approx(far.allowed())
    assert far.slope == pytest.approx(-0.1)


def test_images_that_do_not_vary_have_no_common_shift():
    """Law: constants do not move; one image that varies is enough."""
    still = np.zeros((8, 3))
    assert common_shift(still, still + 1, "exact", 0.1) is None
    one = still.copy()
    one[:, 1] = np.arange(8)
    shift = common_shift(one, one[::-1] + 0.5, "exact", 0.1)
    assert shift is not None
    assert np.isfinite(shift.along).all()


@pytest.mark.parametrize(("ours", "theirs"), [(0.1, 0.1), (0.1, 0.3), (103.97, 103.97)])
def test_an_image_whose_variance_is_rounding_alone_does_not_count(ours: float, theirs: float):
    """Law: the variance of six times 0.1 is 2e-34; the shift is that of the other images, with F of all."""
    ours_UE, theirs_RE = sides(0.4, runs=6, images=5)
    expected = common_shift(ours_UE[:, 1:], theirs_RE[:, 1:], "exact", 0.1)
    ours_UE[:, 0], theirs_RE[:, 0] = ours, theirs
    assert 0 < ours_UE.var(axis=0)[0] < 1e-20
    shift = common_shift(ours_UE, theirs_RE, "exact", 0.1)
    assert shift is not None
    assert expected is not None
    assert shift.distance == pytest.approx(expected.distance)


def test_images_that_parity_cannot_move_have_no_common_shift():
    """Law: margins near 10,000, which `parity` takes, and not after six standard errors; `exact` moves them."""
    ours_UE, theirs_RE = (9_900 * side / np.abs(side).max() for side in sides(0.4, runs=6, images=5))
    value = forgetting_quality(ours_UE, theirs_RE, "parity").score
    assert common_shift(ours_UE, theirs_RE, "parity", value) is None
    assert common_shift(ours_UE, theirs_RE, "exact", value) is not None
