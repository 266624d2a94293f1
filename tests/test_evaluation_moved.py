"""Tests of measures after moves, and of the ends of intervals that are made of them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
from confidences import recipe

from ray_unlearn.evaluation.common_shift import ALONG, CommonShift, common_shift, moves
from ray_unlearn.evaluation.comparison import compare
from ray_unlearn.evaluation.intervals import OF_SCORE, Error, Subsets, interval, standard_error
from ray_unlearn.evaluation.measures import MEASURES
from ray_unlearn.evaluation.measures.measure import Pair
from ray_unlearn.evaluation.measures.u_lira import u_lira
from ray_unlearn.evaluation.moved import Moved, moved_measures
from ray_unlearn.evaluation.resampling import Draws, Settings
from ray_unlearn.evaluation.roc import share_below
from ray_unlearn.evaluation.t_distribution import t_quantile

calibration = recipe("calibration")
SETTINGS = Settings(mode="exact", resamples=1, seed=0)
MEASURED = ("u_lira_auc", "mean_shift", "score")


def pair_of(images: int = 12, rho: float = 0.3, runs: int = 16, seed: int = 0) -> Pair:
    rng = np.random.default_rng(seed)
    cell = calibration.Cell(mode="exact", runs=runs, images=images, world="shift", rho=rho, every=True)
    return Pair(*(cell.population(name, rng) for name in ("unlearned", "retrained")), "exact", SETTINGS.attack_rng)


def moved_of(pair: Pair) -> tuple[dict[str, float], Mapping[str, Moved]]:
    values = compare(pair)
    shift = common_shift(*pair.phi("forget"), pair.mode, values["forgetting_quality"])
    return values, moved_measures(pair, values, shift)


def test_moved_measures_are_those_of_moved_images():
    """Law: after a move, a measure of distance is that of outputs to which the move was added; without, its value."""
    pair = pair_of()
    seen_UE, unseen_RE = pair.phi("forget")
    found = moves(seen_UE, unseen_RE)
    assert found is not None
    areas = MEASURES["u_lira_auc"].distance.moved(pair, found.by_ME)
    shifts = MEASURES["mean_shift"].distance.moved(pair, found.by_ME)
    sd_E = unseen_RE.std(axis=0, ddof=1)
    for step in (0, 6, 9):
        ours_UE = seen_UE + found.by_ME[step]
        assert areas[step] == pytest.approx(u_lira(ours_UE, unseen_RE).auc)
        assert shifts[step] == pytest.approx(np.abs((ours_UE.mean(axis=0) - unseen_RE.mean(axis=0)) / sd_E).mean())
    values, moved = moved_of(pair)
    assert set(moved) == set(MEASURED)
    assert [moved[name].value for name in MEASURED] == [values[name] for name in MEASURED]
    assert moved["u_lira_auc"].slope == pytest.approx((areas[7] - areas[5]) / 2)


def test_what_images_have_alone_is_their_variance_over_their_number():
    """Law: over 150 studies whose images share nothing, `own` is the variance of the measure within a quarter."""
    found = []
    for seed in range(150):
        pair = pair_of(images=40, rho=0.0, seed=seed)
        found.append(
            [(MEASURES[name].compute(pair), MEASURES[name].distance.own(pair)) for name in ("u_lira_auc", "mean_shift")]
        )
    value_SM, own_SM = np.moveaxis(np.array(found), 2, 0)
    assert own_SM.mean(axis=0) == pytest.approx(value_SM.var(axis=0, ddof=1), rel=0.25)


def test_shares_below_are_counted_with_ties_as_halves():
    """By hand: of 1, 2, 2 and 4, one half of the first is below 1, two of four below 2, and all below 5."""
    assert share_below(np.array([[1.0, 2.0], [5.0, 0.0]]), np.array([4.0, 2.0, 1.0, 2.0])).tolist() == [
        [0.125, 0.5],
        [1.0, 0.0],
    ]


def test_ratios_of_a_score_follow_the_shift_by_the_covariance_of_runs():
    """Law: over 60 studies the logarithm of the ratios rises with the distance found as each study says on average."""
    slopes, distances, ratios = [], [], []
    for seed in range(60):
        pair = pair_of(images=30, rho=0.6, seed=seed)
        values = {name: MEASURES[name].compute(pair) for name in ("score", "forgetting_quality")}
        f = common_shift(*pair.phi("forget"), "exact", values["forgetting_quality"])
        assert f is not None
        moved = moved_measures(pair, values, f)
        along = np.log(moved["score"].shift.along / f.along)
        assert np.diff(along) == pytest.approx(np.full(28, along[15] - along[14]))
        assert along[14] == pytest.approx(np.log(values["score"] / values["forgetting_quality"]))
        slopes.append((along[15] - along[14]) / (ALONG[1] - ALONG[0]))
        distances.append(f.distance)
        ratios.append(along[14])
    assert np.polyfit(distances, ratios, 1)[0] == pytest.approx(np.mean(slopes), rel=0.15)


def test_few_images_or_none_that_vary_have_no_moves():
    """Law: 7 images are too few; without F along the shift there is no score."""
    assert moved_of(pair_of(images=7))[1] == {}
    pair = pair_of(images=8)
    assert set(moved_measures(pair, compare(pair), None)) == {"u_lira_auc", "mean_shift"}
    assert moves(np.ones((4, 9)), np.zeros((4, 9))) is None


DISTANCE = CommonShift(distance=1.0, wider=1.0, along=0.5 + 0.1 * np.abs(1.0 + ALONG))


@pytest.mark.parametrize(
    ("variance", "own", "slope", "se", "df"),
    [
        (0.01**2, 1.0, 0.0, 0.01, 99),  # a jackknife below what images can have alone is all of it
        (0.02, 0.01**2, 0.1, (0.02 - 0.01 - 0.0001) ** 0.5, 5),  # else their part and what no shift explains
        (0.1**2, 0.01**2, 0.1, 0.01, 99),  # the slope explains it
    ],
)
def test_ends_of_a_distance_are_those_of_the_shift_and_a_margin(variance, own, slope, se, df):
    """By hand: the measure is 0.5 + 0.1 x distance; at 1 it is 0.6, and distances of 0 to 2.92 allow 0.5 to 0.792."""
    name, drawn = "u_lira_auc", Subsets(pairs=[], factor=2.0, units=16, over_originals=False)
    values_K = np.sqrt(variance / 2) * np.array([1.0, -1.0] * 20) * np.sqrt(39 / 40)
    moved = Moved(value=0.6, shift=DISTANCE, slope=slope, own=own, images=100)
    draws = Draws(values={name: values_K}, points_KE=np.empty((0, 0)), moved={name: moved})
    found = standard_error(name, draws, drawn, "exact")
    low, high = interval(name, 0.6, found)
    margin = se * t_quantile(0.975, found.df)
    assert found.df == pytest.approx(df, rel=0.05)
    assert 0.6 - low == pytest.approx(np.hypot(margin, 0.1), rel=0.01)
    assert high - 0.6 == pytest.approx(np.hypot(margin, 0.192), rel=0.01)
    assert found.se * t_quantile(0.975, found.df) == pytest.approx((high - low) / 2)


def test_over_originals_distances_are_those_of_originals():
    """Law: with 4 originals of 4 runs each the error is that of originals' means, and there is no score."""
    pair, starts_U = pair_of(), np.arange(16) % 4
    values, f = compare(pair), common_shift(*pair.phi("forget"), "exact", 0.1, np.arange(16) % 4)
    moved = moved_measures(pair, values, f, starts_U)
    assert set(moved) == {"u_lira_auc", "mean_shift"}
    assert f is not None
    assert moved["mean_shift"].shift.distance == f.distance
    assert moved["mean_shift"].shift.wider == f.wider > common_shift(*pair.phi("forget"), "exact", 0.1).wider


def test_a_distance_with_a_sign_has_both_sides():
    """By hand: 1 standard error apart, -0.96 to 2.96 are allowed, and a number that rises with the distance follows."""
    rising = CommonShift(distance=1.0, wider=1.0, along=1.0 + ALONG, has_sign=True)
    assert rising.allowed() == pytest.approx((1 - 1.96, 1 + 1.96), abs=0.01)
    assert not rising.may_be_none


def test_intervals_of_equal_populations_are_narrower_than_the_jackknifes():
    """Law: 16 runs, 40 equal images: 93 % and more of 60 studies, at 0.85 of the jackknife's width or less."""
    cell = calibration.Cell(mode="exact", runs=16, images=40, world="perfect", rho=0.0, resamples=20, every=True)
    rng, held, widths = np.random.default_rng(5), [], []
    for study in range(60):
        sides = [cell.population(name, rng) for name in ("unlearned", "retrained")]
        settings = Settings(mode="exact", resamples=20, seed=study)
        drawn = calibration.subsets(*sides, settings)
        value, low, high = ends_of_shift(sides, drawn, settings, moves_too=True)
        _, lower, higher = ends_of_shift(sides, drawn, settings, moves_too=False)
        held.append((low, value, high))
        widths.append([high - low, higher - lower])
    low_S, value_S, high_S = np.array(held).T
    assert ((low_S <= value_S.mean()) & (value_S.mean() <= high_S)).mean() >= 0.93
    ours, jackknife = np.mean(widths, axis=0)
    assert ours < 0.85 * jackknife


def ends_of_shift(sides, drawn, settings, moves_too: bool) -> tuple[float, float, float]:
    """Return the mean shift of two populations, and its interval."""
    compute, name = MEASURES["mean_shift"].compute, "mean_shift"
    pairs = [Pair(sides[0].take(a), sides[1].take(b), "exact", settings.attack_rng) for a, b in drawn.pairs]
    whole = Pair(*sides, "exact", settings.attack_rng)
    value = compute(whole)
    moved = moved_measures(whole, {name: value}, None) if moves_too else {}
    draws = Draws(values={name: np.array([compute(one) for one in pairs])}, points_KE=np.empty((0, 0)), moved=moved)
    return value, *interval(name, value, standard_error(name, draws, drawn, "exact"))


@pytest.mark.parametrize(
    ("value", "margin", "ends"),
    [(0.04, 0.02, (0.0225, 0.0625)), (0.01, 0.04, (0.0, 0.09)), (0.01, 0.02, (0.0, 0.04)), (0.0, 0.02, (0.0, 0.04))],
)
def test_a_rare_share_has_an_interval_on_the_scale_of_roots(value, margin, ends):
    """By hand: 0.04 with a margin of 0.02 is (0.2 - 0.05)^2 to (0.2 + 0.05)^2; 0 has twice its margin above it."""
    error = Error(se=margin / t_quantile(0.975, 15), df=15)
    assert interval("u_lira_tpr_1", value, error) == pytest.approx(ends)
    assert interval("rmia_tpr_1", value, error) == pytest.approx((max(0.0, value - margin), value + margin))


def test_a_score_has_factors_of_its_own():
    """By hand: images share nothing and no shift changes the score, so that their own part is all of it."""
    rng = np.random.default_rng(0)
    points_KE = rng.permutation(np.tile([0.0, 1.0], 50_000)).reshape(100, 1000)
    values = {"forgetting_quality": points_KE.mean(axis=1), "score": points_KE.mean(axis=1) / 2}
    still = CommonShift(distance=0.0, wider=1.0, along=np.full(29, 0.25), has_sign=True)
    moved = {"score": Moved(value=0.25, shift=still, slope=0.0, own=0.0, images=1000)}
    draws = Draws(values=values, points_KE=points_KE, points_E=np.full(1000, 0.5), moved=moved)
    drawn = Subsets(pairs=[], factor=4.0, units=32, over_originals=False)
    found = standard_error("score", draws, drawn, "parity")
    low, high = interval("score", 0.25, found)
    margin = 1.96 * 0.25 * (OF_SCORE["parity"][1] / 1000) ** 0.5
    assert (0.25 - low, high - 0.25) == pytest.approx((margin, margin), rel=0.03)


@pytest.mark.parametrize("rho", [0.0, 0.4])
def test_the_error_of_a_median_of_spreads_is_that_between_studies(rho: float):
    """Law: 16 runs, 40 images, 120 studies: within 0.87 and 1.25 of the true spread, whatever images share.

    The jackknife alone has 1.4 times the spread where images share nothing; its 0.7 without halves 0.8 where they do.
    """
    cell = calibration.Cell(mode="exact", runs=16, images=40, world="perfect", rho=rho)
    rng, spread = np.random.default_rng(1), MEASURES["spread_ratio"]
    values, errors = [], []
    for study in range(120):
        sides = [cell.population(name, rng) for name in ("unlearned", "retrained")]
        drawn = calibration.subsets(*sides, Settings(mode="exact", resamples=20, seed=study))
        pairs = [Pair(sides[0].take(a), sides[1].take(b), "exact", SETTINGS.attack_rng) for a, b in drawn.pairs]
        draws = Draws(
            values={"spread_ratio": np.array([spread.compute(one) for one in pairs])},
            points_KE=np.empty((0, 0)),
            halves={"spread_ratio": np.array([spread.halves(one) for one in pairs])},
        )
        values.append(spread.compute(Pair(*sides, "exact", SETTINGS.attack_rng)))
        errors.append(standard_error("spread_ratio", draws, drawn, "exact").se)
    assert 0.87 < np.sqrt(np.mean(np.square(errors))) / np.std(values, ddof=1) < 1.25
