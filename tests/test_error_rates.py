"""The quick form of tests/bench/error_rates.py and attack_rates.py: tests and bounds err in 3 to 7 % of studies."""

from __future__ import annotations

import numpy as np
import pytest
from confidences import recipe

from ray_unlearn.evaluation.equivalence import _of_originals

calibration = recipe("calibration")  # which the next one imports by name
rates = recipe("error_rates")
attacks = recipe("attack_rates")


def test_several_methods_together_err_in_five_per_cent() -> None:
    """Law: both tests of three methods that are all retraining, corrected: 7 % at most; uncorrected, far more."""
    assert rates.families(150, seed=1) <= 0.07


def test_bounds_of_epsilon_err_in_five_per_cent() -> None:
    """Law: of models that do not differ, 2 to 6 % of images have a bound above 0, and 8 % of studies one for all."""
    of_images, of_studies = rates.bounds(60, seed=1, runs=32)
    assert 0.02 <= of_images <= 0.06
    assert of_studies <= 0.08


@pytest.mark.parametrize(("reference_runs", "size"), [(2, 16), pytest.param(1, 8, marks=pytest.mark.long)])
def test_one_in_twenty_methods_at_the_margin_is_called_equivalent(reference_runs: int, size: int) -> None:
    """Law: F a fifth below the null is called equivalent in 12 % of 50 studies at most, retraining in most.

    The standard error is that of the difference, within a third: so the rate is 5 %, as the long form shows.
    """
    shift = rates.AT_THE_MARGIN["exact", size]
    wanted = {"runs": 16, "reference_runs": reference_runs, "resamples": 40}
    at_margin = rates.equivalences(50, seed=1, shift=shift, **wanted)
    assert rates.below(at_margin) == pytest.approx(0.2, abs=0.04)
    assert np.mean([one.equivalent for one in at_margin]) <= 0.12
    quantiles = [one.difference - one.low for one in at_margin]
    above_margin = [one.difference + one.margin for one in at_margin]
    assert np.mean(quantiles) == pytest.approx(1.8 * np.std(above_margin), rel=1 / 3)
    alike = rates.equivalences(10, seed=2, shift=0.0, **wanted)
    assert np.mean([one.equivalent for one in alike]) > 0.6


@pytest.mark.parametrize(("sizes", "effect"), [((3, 3, 3, 3), 3), ((9, 1, 1, 1), 7)])
def test_a_mean_of_equal_runs_varies_as_originals_do(sizes: tuple[int, ...], effect: float) -> None:
    """By hand: the mean of 12 runs that are equal within originals varies (n_1^2 + ... + n_4^2) / 12 times as much."""
    rng, starts = np.random.default_rng(0), np.repeat(np.arange(4), sizes)
    found = _of_originals(rng.normal(size=(4, 5))[starts], rng.normal(size=(12, 5)), starts)
    assert found == (4, pytest.approx(effect))


@pytest.mark.parametrize("studies", [40, pytest.param(400, marks=pytest.mark.long)])
def test_one_of_two_equal_methods_is_rarely_called_better(studies: int) -> None:
    """Law: in 12 % of 40 studies at most, and in 1 to 7 % of 400."""
    cell = calibration.Cell(mode="exact", runs=16, images=40, world="shift", rho=0.2, studies=studies, resamples=40)
    share = rates.places(cell)
    assert share <= 0.12 if studies < 400 else 0.01 <= share <= 0.07


@pytest.mark.parametrize("shadows", [16, 64])
def test_a_model_that_reveals_nothing_is_attacked_in_vain(shadows: int) -> None:
    """Law: without an effect of training the areas of all attacks are 1/2; with one, close to the best attack's."""
    for auc, rate, sd, _ in attacks.shadow_attacks(80, seed=1, shadows=shadows, shift=0.0).values():
        assert auc == pytest.approx(0.5, abs=4 * sd / 80**0.5)
        assert rate == pytest.approx(0.01, abs=0.008)
    found = attacks.shadow_attacks(20, seed=2, shadows=shadows, shift=1.0)
    for name in ("lira_online_one_variance", "lira_offline", "rmia_online"):
        auc, *_, best = found[name]
        assert best - 0.06 < auc < best + 0.01


@pytest.mark.parametrize("pairs", [3, 32])
def test_unlearning_that_is_perfect_is_not_recognised(pairs: int) -> None:
    """Law: U-LiRA on models that started from shadows: area and accuracy 1/2, a true positive rate of 1 % at 1 %."""
    for auc, accuracy, rate in attacks.u_lira(60, seed=1, pairs=pairs).values():
        assert (auc, accuracy) == pytest.approx((0.5, 0.5), abs=0.01)
        assert np.isnan(rate) or rate == pytest.approx(0.01, abs=0.003)


@pytest.mark.parametrize("pairs", [4, 8, 32])
def test_images_called_memorised_by_chance_are_counted(pairs: int) -> None:
    """Law: of images that none memorises, as many have a score of 0.25 as is expected by chance."""
    share, expected = attacks.memorised(4000, seed=1, pairs=pairs, accuracy=0.6)
    assert share == pytest.approx(expected, abs=4 * (share / 4000) ** 0.5)


@pytest.mark.long
def test_intervals_of_attacks_on_single_models_hold_for_these_images() -> None:
    """Law: means over 16 runs: 90 % of 60 intervals hold the mean over all models of the same images."""
    for shares in attacks.coverages(60, seed=1, runs=16, pool=100, draws=1).values():
        assert shares["these images"] >= 0.9
