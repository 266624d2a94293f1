"""U-LiRA: densities by hand and against a loop, its symmetries, and its value where nothing or everything differs."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
import pytest

from ray_unlearn.errors import EvaluationError
from ray_unlearn.evaluation.measures.u_lira import u_lira


def populations(seed: int = 0, shift: float = 0.0, runs: tuple[int, int] = (24, 30), examples: int = 40):
    """Return phi of unlearned and retrained models: Gaussian per example, shifted by `shift` of its spread."""
    rng = np.random.default_rng(seed)
    mean_E, sd_E = rng.normal(5, 3, examples), rng.uniform(0.5, 2, examples)
    return (
        mean_E + sd_E * (shift + rng.normal(size=(runs[0], examples))),
        mean_E + sd_E * rng.normal(size=(runs[1], examples)),
    )


def test_scores_worked_by_hand() -> None:
    """Law: unlearned 0, 2, 4 and retrained 1, 3, 8 on one example; each fit lacks one model.

    The unlearned 4 against N(1, 2) of 0 and 2 and N(2, 2) of 1 and 3: -9/4 - log(2)/2 + 4/4 + log(2)/2.
    The retrained 1 against N(3, 2) of 2 and 4 and N(5.5, 12.5) of 3 and 8: -4/4 - log(2)/2 + 4.5^2/25 + log(12.5)/2.
    """
    result = u_lira([[0], [2], [4]], [[1], [3], [8]])
    assert result.unlearned_scores[2, 0] == pytest.approx(-9 / 4 + 1, abs=1e-12)
    assert result.retrained_scores[0, 0] == pytest.approx(-1 + 20.25 / 25 + math.log(12.5 / 2) / 2, abs=1e-12)


def test_no_model_is_in_its_own_gaussian() -> None:
    """Law: in a loop, each score is the log ratio of densities, both fitted to one model less than there are."""
    unlearned_UE, retrained_RE = populations(runs=(5, 4), examples=3)
    result = u_lira(unlearned_UE, retrained_RE)
    for e in range(3):
        unlearned, retrained = unlearned_UE[:, e], retrained_RE[:, e]
        for own, other, scores, sign in (
            (unlearned, retrained, result.unlearned_scores, 1),
            (retrained, unlearned, result.retrained_scores, -1),
        ):
            for i, phi in enumerate(own):
                mine = NormalDist.from_samples(np.delete(own, i)).pdf(phi)
                theirs = NormalDist.from_samples(np.delete(other, i % len(other))).pdf(phi)
                assert scores[i, e] == pytest.approx(sign * math.log(mine / theirs), abs=1e-9)


def test_models_of_one_original_are_left_out_together() -> None:
    """Law: in a loop, the fits for a model lack all runs of its original, and as many of the other side."""
    unlearned_UE, retrained_RE = populations(runs=(9, 8), examples=2)
    originals = np.array([4, 4, 7, 7, 9, 4, 7, 9, 9])
    result = u_lira(unlearned_UE, retrained_RE, originals)
    for i, phi in enumerate(unlearned_UE[:, 1]):
        block = np.flatnonzero(originals == originals[i])
        mine = NormalDist.from_samples(np.delete(unlearned_UE[:, 1], block)).pdf(phi)
        theirs = NormalDist.from_samples(np.delete(retrained_RE[:, 1], block % 8)).pdf(phi)
        assert result.unlearned_scores[i, 1] == pytest.approx(math.log(mine / theirs), abs=1e-9)
    alone = u_lira(unlearned_UE, retrained_RE, np.zeros(9))  # one original: no one would remain
    assert np.array_equal(alone.unlearned_scores, u_lira(unlearned_UE, retrained_RE).unlearned_scores)


@pytest.mark.parametrize("runs", [3, 4, 8])
def test_few_models_of_one_distribution_are_at_a_half(runs: int) -> None:
    """Law: the area is 1/2 at 3 runs as at 8; with a fit of one model less on the own side alone it was 0.37 at 3."""
    rng = np.random.default_rng(runs)
    areas = [u_lira(*rng.normal(size=(2, runs, 400))).auc for _ in range(40)]
    assert np.mean(areas) == pytest.approx(0.5, abs=0.012)


def test_a_method_that_is_perfect_over_originals_is_not_known_by_its_originals() -> None:
    """Law: four originals, with half of the variance: about 1/2 with originals left out, well above without."""
    rng = np.random.default_rng(0)
    with_, without = [], []
    for _ in range(20):
        starts = np.repeat(np.arange(4), 8)
        unlearned = 0.5**0.5 * (rng.normal(size=(4, 60))[starts] + rng.normal(size=(32, 60)))
        retrained = rng.normal(size=(32, 60))
        with_.append(u_lira(unlearned, retrained, starts).auc)
        without.append(u_lira(unlearned, retrained).auc)
    assert np.mean(without) > 0.55
    assert np.mean(with_) == pytest.approx(0.49, abs=0.03)


@pytest.mark.parametrize("originals", [None, np.arange(12) % 4])
def test_images_at_a_time_change_no_bit(originals, monkeypatch: pytest.MonkeyPatch) -> None:
    """Law: two images at a time give what all at once give."""
    unlearned_UE, retrained_RE = np.random.default_rng(8).normal(0.2, 1.3, (2, 12, 9))
    whole = u_lira(unlearned_UE, retrained_RE, originals)
    monkeypatch.setattr("ray_unlearn.evaluation.measures.u_lira._VALUES", 1)
    parts = u_lira(unlearned_UE, retrained_RE, originals)
    assert np.array_equal(parts.unlearned_scores, whole.unlearned_scores)
    assert np.array_equal(parts.retrained_scores, whole.retrained_scores)


def test_an_affine_map_of_an_example_changes_nothing_and_neither_does_the_order_of_runs() -> None:
    """Law: units, offset and sign of phi do not matter, example by example; a run's scores go where it goes."""
    unlearned_UE, retrained_RE = populations(shift=0.5)
    unlearned_UE[:, 0] = 3  # the floor scales too
    result = u_lira(unlearned_UE, retrained_RE)
    scale_E, offset_E = np.linspace(-3, 4, 40), np.linspace(-50, 80, 40)
    mapped = u_lira(unlearned_UE * scale_E + offset_E, retrained_RE * scale_E + offset_E)
    np.testing.assert_allclose(mapped.unlearned_scores, result.unlearned_scores, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(mapped.retrained_scores, result.retrained_scores, rtol=1e-6, atol=1e-8)
    order = np.random.default_rng(1).permutation(24)
    together = np.concatenate([order, np.arange(24, 30)])  # the other side's runs are left out by their places
    again = u_lira(unlearned_UE[order], retrained_RE[together])
    np.testing.assert_allclose(again.unlearned_scores, result.unlearned_scores[order], rtol=1e-9, atol=1e-9)


def test_swapping_the_populations_swaps_and_negates_the_scores() -> None:
    """Law: the attack has no favourite; area and accuracy stay what they were."""
    unlearned_UE, retrained_RE = populations(shift=0.5)
    one, other = u_lira(unlearned_UE, retrained_RE), u_lira(retrained_RE, unlearned_UE)
    np.testing.assert_allclose(other.unlearned_scores, -one.retrained_scores, atol=1e-12)
    np.testing.assert_allclose(other.retrained_scores, -one.unlearned_scores, atol=1e-12)
    assert other.auc == pytest.approx(one.auc, abs=1e-9)
    assert other.accuracy == pytest.approx(one.accuracy, abs=1e-12)


def test_two_halves_of_one_population_cannot_be_distinguished_and_distant_ones_always() -> None:
    """Law: 1/2 and 1; a shift of one sd is near its ideal attacker's Phi(1 / sqrt 2) = 0.76 and Phi(1/2) = 0.69."""
    _, retrained_RE = populations(runs=(3, 128), examples=200)
    null = u_lira(retrained_RE[::2], retrained_RE[1::2])
    # a score's own noise is about 1 / sqrt(12 * 12,800) = 0.003 if models and examples are independent
    assert null.auc == pytest.approx(0.5, abs=0.015)
    assert null.accuracy == pytest.approx(0.5, abs=0.015)
    assert null.tpr_at_1_percent == pytest.approx(0.01, abs=0.005)
    assert null.tpr_at_01_percent < 0.003
    far = u_lira(*populations(shift=40))
    assert (far.auc, far.accuracy, far.tpr_at_01_percent, far.tpr_at_1_percent) == (1, 1, 1, 1)
    near = u_lira(*populations(shift=1, runs=(128, 128), examples=200))
    assert near.auc == pytest.approx(NormalDist().cdf(1 / math.sqrt(2)), abs=0.01)
    assert near.accuracy == pytest.approx(NormalDist().cdf(1 / 2), abs=0.01)


def test_a_narrower_population_is_distinguished_at_the_same_mean() -> None:
    """Law: spread alone gives a method away: a tenth of it, and nearly every model is known."""
    rng = np.random.default_rng(0)
    result = u_lira(0.1 * rng.normal(size=(64, 50)), rng.normal(size=(64, 50)))
    assert result.auc > 0.9
    assert result.auc == result.curve.auc


def test_models_without_spread_have_the_floors_variance_and_an_example_without_any_reports_nothing() -> None:
    """Law: unlearned 0, 0, 0 and retrained -1, 0, 1: a variance of 2 / 5 in all, so the floor is 4e-5.

    A retrained 1 against N(0, 4e-5) and N(-1/2, 1/2) of -1 and 0: -1 / 8e-5 - log(4e-5)/2 + 2.25 + log(1/2)/2.
    Where both populations are one number, every score is 0, and the accuracy counts it half.
    """
    result = u_lira(np.zeros((3, 2)), [[-1, 0], [0, 0], [1, 0]])
    assert result.retrained_scores[2, 0] == pytest.approx(-12500 + 2.25 + math.log(0.5 / 4e-5) / 2, rel=1e-12)
    assert np.all(result.unlearned_scores[:, 1] == 0)
    assert np.all(result.retrained_scores[:, 1] == 0)
    for constant in (1, 0.1, 103.616):  # means of equal numbers may round
        nothing = u_lira(np.full((3, 4), constant), np.full((5, 4), constant))
        assert (nothing.auc, nothing.accuracy) == (0.5, 0.5)


def test_accuracy_is_the_mean_of_both_shares_when_numbers_of_runs_differ() -> None:
    """Law: balanced, by counting."""
    result = u_lira(*populations(shift=0.3, runs=(10, 40)))
    expected = ((result.unlearned_scores > 0).mean() + (result.retrained_scores < 0).mean()) / 2
    assert result.accuracy == pytest.approx(expected, abs=1e-12)
    assert result.tpr_at_01_percent == result.curve.tpr_at(0.001)
    assert result.tpr_at_1_percent == result.curve.tpr_at(0.01)


def test_three_runs_are_needed_of_each() -> None:
    """Law: one is left out, and two make a variance."""
    with pytest.raises(EvaluationError, match=r"^unlearned: expected 3 or more runs, found 2; raise its count"):
        u_lira(np.zeros((2, 4)), np.zeros((3, 4)))
    with pytest.raises(EvaluationError, match=r"^retrained: expected 3 or more runs, found 2; raise its count"):
        u_lira(np.zeros((3, 4)), np.zeros((2, 4)))
    assert np.isfinite(u_lira(*populations(runs=(3, 3))).unlearned_scores).all()
