"""ROC curves: worked by hand, and against counting every pair and every threshold."""

from __future__ import annotations

import numpy as np
import pytest

from ray_unlearn.errors import EvaluationError
from ray_unlearn.evaluation.roc import roc, rocs_of_counts, tpr_at


def samples(seed: int, positives: int = 30, negatives: int = 50):
    """Return two overlapping samples with many ties: small integers."""
    rng = np.random.default_rng(seed)
    return rng.integers(0, 9, positives) + 1.0, rng.integers(0, 9, negatives) * 1.0


def test_a_curve_worked_by_hand() -> None:
    """Law: thresholds 4, 3, 2, 1 from above: 4 is a positive, 3 a negative, two positives and one negative tie at 2."""
    curve = roc([4, 2, 2], [3, 2, 1, 1])
    assert curve.true_positive_rate.tolist() == [0, 1 / 3, 1 / 3, 1, 1]
    assert curve.false_positive_rate.tolist() == [0, 0, 0.25, 0.5, 1]
    # of 12 pairs: 4 wins all 4; each 2 wins 2 and ties 1: (4 + 2 * 2.5) / 12
    assert curve.auc == pytest.approx(9 / 12, abs=1e-15)


@pytest.mark.parametrize("seed", range(5))
def test_the_area_is_the_share_of_pairs_won_with_ties_halved(seed) -> None:
    """Law: Mann-Whitney, by brute force."""
    positives, negatives = samples(seed)
    difference = positives[:, None] - negatives
    assert roc(positives, negatives).auc == pytest.approx(
        (difference > 0).mean() + (difference == 0).mean() / 2, abs=1e-12
    )


@pytest.mark.parametrize("seed", range(3))
def test_every_threshold_is_a_point_and_nothing_else_is(seed) -> None:
    """Law: the points are (share of negatives >= t, share of positives >= t) for each distinct t, and (0, 0)."""
    positives, negatives = samples(seed)
    thresholds = sorted(set(positives) | set(negatives), reverse=True)
    curve = roc(positives, negatives)
    expected = [(0.0, 0.0)] + [((negatives >= t).mean(), (positives >= t).mean()) for t in thresholds]
    points = np.stack([curve.false_positive_rate, curve.true_positive_rate], axis=1)
    np.testing.assert_allclose(points, expected, rtol=0, atol=1e-12)


def test_the_rate_at_a_rate_is_reached_and_never_interpolated() -> None:
    """Law: by brute force, the best threshold that keeps to the rate; with 64 negatives 0.1 % allows none of them."""
    rng = np.random.default_rng(0)
    positives, negatives = rng.normal(1, 1, 40), rng.normal(0, 1, 64)
    curve = roc(positives, negatives)
    for fpr in (0, 0.001, 0.01, 1 / 64, 0.02, 0.5, 1):
        allowed = [t for t in (*positives, *negatives) if (negatives >= t).mean() <= fpr]
        assert curve.tpr_at(fpr) == max(((positives >= t).mean() for t in allowed), default=0)
    assert curve.tpr_at(0.001) == (positives > negatives.max()).mean() > 0
    assert roc([0], [1]).tpr_at(0.5) == 0
    for wrong in (-0.1, 1.1, float("nan")):
        with pytest.raises(EvaluationError, match=r"^tpr_at: expected a false positive rate in \[0, 1\], found"):
            curve.tpr_at(wrong)


@pytest.mark.parametrize("fpr", [0, 0.001, 0.01, 0.29, 0.5, 0.57, 0.58, 1])
def test_one_rate_is_that_of_the_curve(fpr) -> None:
    """Law: the same number without the curve, also with ties, and where 0.29 x 100 is rounded below 29."""
    for seed, negatives in enumerate((1, 50, 100, 1000)):
        positives_P, negatives_N = samples(seed, 30, negatives)
        assert tpr_at(positives_P, negatives_N, fpr) == roc(positives_P, negatives_N).tpr_at(fpr)
    with pytest.raises(EvaluationError, match="expected a false positive rate"):
        tpr_at([0], [1], 1.1)


def test_curves_of_counts_are_the_curves() -> None:
    """Law: to the last bit, with scores that neither side has in between, and at both ends."""
    rng = np.random.default_rng(2)
    ours, theirs = rng.integers(3, 12, (4, 30)), rng.integers(0, 21, (4, 17))
    for row, curve in enumerate(rocs_of_counts(ours, theirs, 20)):
        expected = roc(ours[row] / 20, theirs[row] / 20)
        assert curve.true_positive_rate.tolist() == expected.true_positive_rate.tolist()
        assert curve.false_positive_rate.tolist() == expected.false_positive_rate.tolist()


def test_extremes_and_symmetries() -> None:
    """Law: apart 1, swapped 1 - area, all tied 1/2; a rising map, infinities included, changes nothing."""
    positives, negatives = samples(1)
    curve = roc(positives, negatives)
    assert roc([2, 3], [0, 1]).auc == 1
    assert roc([2, 3], [0, 1]).tpr_at(0) == 1
    assert roc([5, 5], [5, 5, 5]).auc == 0.5
    assert roc(negatives, positives).auc == pytest.approx(1 - curve.auc, abs=1e-12)
    assert roc(-positives, -negatives).auc == pytest.approx(1 - curve.auc, abs=1e-12)
    with np.errstate(divide="ignore"):
        mapped = roc(np.log(positives), np.log(negatives))  # log 0 = -inf
    assert mapped.true_positive_rate.tolist() == curve.true_positive_rate.tolist()
    assert mapped.false_positive_rate.tolist() == curve.false_positive_rate.tolist()
    assert roc(positives.reshape(5, 6), negatives).auc == curve.auc


@pytest.mark.parametrize("points", [4, 5, 20, 201])
def test_a_thinned_curve_is_some_of_its_points_with_both_ends(points) -> None:
    """Law: at most so many, in order, all of the curve; the lowest false positive rate above 0 is among them."""
    rng = np.random.default_rng(0)
    curve = roc(rng.normal(1, 1, 3000), rng.normal(0, 1, 5000))
    false, true = curve.thinned(points)
    assert points / 2 <= len(false) <= points
    whole = set(zip(curve.false_positive_rate, curve.true_positive_rate, strict=True))
    assert set(zip(false, true, strict=True)) <= whole
    assert np.all(np.diff(false + true) > 0)
    assert (false[0], true[0], false[-1], true[-1]) == (0, 0, 1, 1)
    if points > 5:
        assert 1 / 5000 in false
    # the curve is 2 long along both axes, and at least half of the points are even along it
    assert np.diff(false + true).max() <= 2 / (points - points // 2 - 1) + 1 / 3000 + 1e-12


def test_a_short_curve_is_not_thinned_and_a_plot_needs_four_points() -> None:
    """Law: what fits stays whole."""
    curve = roc([4, 2], [3, 1])
    false, true = curve.thinned(5)
    assert (false.tolist(), true.tolist()) == (curve.false_positive_rate.tolist(), curve.true_positive_rate.tolist())
    assert len(curve.thinned(4)[0]) <= 4
    with pytest.raises(EvaluationError, match=r"^thinned: expected 4 points or more, found 3$"):
        curve.thinned(3)


@pytest.mark.parametrize(
    ("positives", "negatives", "message"),
    [
        ([], [1], "roc: expected one score or more among the positives, found none"),
        ([1], [], "roc: expected one score or more among the negatives, found none"),
        ([1], [0, np.nan], "roc: expected numbers, found 1 NaN among the 2 negatives"),
    ],
)
def test_a_sample_without_order_is_refused(positives, negatives, message) -> None:
    """Law: nothing is ranked that cannot be."""
    with pytest.raises(EvaluationError) as caught:
        roc(positives, negatives)
    assert str(caught.value) == message
