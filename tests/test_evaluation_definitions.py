"""What measures are made of, against independent readings of their sources, on vectors that are hard on purpose.

Every reading is a plain loop over models and images, written from the formula that the measure's docstring cites.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from scipy import stats

from ray_unlearn.evaluation.attack_tables import DELTA
from ray_unlearn.evaluation.epsilon import example_epsilons
from ray_unlearn.evaluation.lower_bounds import epsilon_lower_bounds
from ray_unlearn.evaluation.measures import lira, shadow_rmia
from ray_unlearn.evaluation.measures.forgetting_quality import forgetting_quality, num_buckets
from ray_unlearn.evaluation.measures.klom import klom
from ray_unlearn.evaluation.measures.rmia import rmia
from ray_unlearn.evaluation.measures.shift_and_spread import shift_and_spread
from ray_unlearn.evaluation.measures.u_lira import VARIANCE_FLOOR, u_lira
from ray_unlearn.evaluation.permutation import permutation_tests
from ray_unlearn.evaluation.roc import roc
from ray_unlearn.evaluation.shadow_fits import ShadowFit, Side

Vectors = tuple[np.ndarray, np.ndarray]


def ties(rng: np.random.Generator) -> Vectors:
    """Return populations of whole numbers: most values tie, within and across."""
    return np.round(rng.normal(size=(16, 5))), np.round(rng.normal(size=(16, 5)))


def constants(rng: np.random.Generator) -> Vectors:
    """Return an image that is constant on one side, one that is constant and equal on both, and one that varies."""
    unlearned, retrained = rng.normal(size=(2, 8, 3))
    unlearned[:, :2], retrained[:, 1] = 1.0, 1.0
    return unlearned, retrained


def three_runs(rng: np.random.Generator) -> Vectors:
    """Return the fewest runs that have a score."""
    return rng.normal(size=(3, 4)), rng.normal(size=(3, 4))


def many_runs(rng: np.random.Generator) -> Vectors:
    """Return the challenge's number of runs."""
    return rng.normal(0.3, 0.8, size=(512, 2)), rng.normal(size=(512, 2))


def saturated(rng: np.random.Generator) -> Vectors:
    """Return confidences at both ends of float32: phi of +-103.616, where classes are two and one is certain."""
    ends = rng.choice([-103.616, 103.616], size=(12, 4))
    return ends, np.where(rng.random((12, 4)) < 0.3, rng.normal(size=(12, 4)), -ends)


def two_classes(rng: np.random.Generator) -> Vectors:
    """Return images of two classes whose phi lie at opposite ends, so that all pooled images have two modes."""
    classes = np.where(np.arange(6) % 2, 4.0, -4.0)
    return classes + rng.normal(size=(10, 6)), classes + 0.1 * rng.normal(size=(10, 6))


def one_image(rng: np.random.Generator) -> Vectors:
    """Return one image."""
    return rng.normal(1.0, 1.0, size=(9, 1)), rng.normal(size=(9, 1))


VECTORS = [ties, constants, three_runs, many_runs, saturated, two_classes, one_image]
hard = pytest.mark.parametrize("vectors", VECTORS, ids=lambda vectors: vectors.__name__)


@hard
def test_f_counts_buckets_as_the_organisers_program_does(vectors: Callable[[np.random.Generator], Vectors]) -> None:
    """Points 1, 1/2, 1/4, ... for epsilon below 0.5, 1, 1.5, ... up to ceil(log(N - 1)), nothing beyond."""
    unlearned, retrained = vectors(np.random.default_rng(0))
    for mode in ("parity", "exact"):
        found = forgetting_quality(unlearned, retrained, mode)
        points = []
        for epsilon in found.epsilon_E:
            bucket, worth = 0.5, 1.0
            while epsilon >= bucket and bucket + 0.5 <= math.ceil(math.log(len(unlearned) - 1)):
                bucket, worth = bucket + 0.5, worth / 2
            points.append(worth if epsilon < bucket else 0.0)
        assert found.points_E.tolist() == points
        assert num_buckets(len(unlearned)) == 2 * math.ceil(math.log(len(unlearned) - 1))


@hard
def test_klom_is_the_divergence_of_two_histograms(vectors: Callable[[np.random.Generator], Vectors]) -> None:
    """20 bins over both samples, clipped to +-100, empty bins of the second raised to 1e-5; the last bin is closed."""
    unlearned, retrained = vectors(np.random.default_rng(1))
    found = klom(unlearned, retrained)
    for image in range(unlearned.shape[1]):
        samples = [np.clip(side[:, image], -100, 100) for side in (unlearned, retrained)]
        low, high = min(map(np.min, samples)), max(map(np.max, samples))
        shares = []
        for sample in samples:
            counts = [0] * 20
            for value in sample:
                counts[0 if high == low else min(int((value - low) * 20 / (high - low)), 19)] += 1
            shares.append([count / len(sample) for count in counts])
        for (p, q), direction in ((shares, found.unlearned_to_retrained), (shares[::-1], found.retrained_to_unlearned)):
            expected = sum(a * math.log(a / max(b, 1e-5)) for a, b in zip(p, q, strict=True) if a > 0)
            assert direction.per_example[image] == pytest.approx(expected, abs=1e-12)


@hard
def test_rmia_counts_images_that_are_less_likely(vectors: Callable[[np.random.Generator], Vectors]) -> None:
    """Share of z with p(x) / pbar(x) > p(z) / pbar(z), strictly; pbar = ((1 + a) mean p + 1 - a) / 2."""
    rng = np.random.default_rng(2)
    target, reference = vectors(rng)
    target_test, reference_test = (np.round(rng.normal(size=(len(side), 7)), 1) for side in (target, reference))
    population = np.arange(7) % 2 == 0
    found = rmia(
        target_forget=target,
        target_test=target_test,
        reference_forget=reference,
        reference_test=reference_test,
        population=population,
    )

    def ratio(value: float, others: np.ndarray) -> float:
        likely = np.mean([1 / (1 + math.exp(-other)) for other in others])
        return float(1 / (1 + math.exp(-value)) / (0.65 * likely + 0.35))

    for model in range(min(len(target), 8)):
        z = [ratio(target_test[model, i], reference_test[:, i]) for i in range(7) if population[i]]
        for image in range(target.shape[1]):
            x = ratio(target[model, image], reference[:, image])
            expected = [sum(x > one * (1 + way * 1e-9) for one in z) / len(z) for way in (1, -1)]
            assert min(expected) <= found.member_scores[model, image] <= max(expected)


@hard
def test_u_lira_is_a_ratio_of_gaussians_that_exclude_the_model(
    vectors: Callable[[np.random.Generator], Vectors],
) -> None:
    """Log density under the other unlearned models minus that under the retrained ones but one at the same place."""
    unlearned, retrained = vectors(np.random.default_rng(3))
    found = u_lira(unlearned, retrained).unlearned_scores
    for image in range(unlearned.shape[1]):
        ours, theirs = unlearned[:, image], retrained[:, image]
        floor = VARIANCE_FLOOR * np.concatenate([ours, theirs]).var(ddof=1)
        if floor == 0:
            assert not found[:, image].any()
            continue
        for model in range(min(len(ours), 8)):
            densities = []
            for side in (np.delete(ours, model), np.delete(theirs, model % len(theirs))):
                variance = max(side.var(ddof=1), floor)
                densities.append(stats.norm.logpdf(ours[model], side.mean(), math.sqrt(variance)))
            assert found[model, image] == pytest.approx(densities[0] - densities[1], rel=1e-6, abs=1e-6)


@hard
def test_shift_and_spread_are_means_and_standard_deviations(
    vectors: Callable[[np.random.Generator], Vectors],
) -> None:
    """Shift in standard deviations of the retrained models, and the log ratio of both; undefined where theirs is 0."""
    unlearned, retrained = vectors(np.random.default_rng(4))
    found = shift_and_spread(unlearned, retrained)
    for image in range(unlearned.shape[1]):
        ours, theirs = unlearned[:, image].tolist(), retrained[:, image].tolist()
        if len(set(theirs)) == 1:
            assert np.isnan(found.shift[image])
            continue
        mean = sum(theirs) / len(theirs)
        sd = math.sqrt(sum((value - mean) ** 2 for value in theirs) / (len(theirs) - 1))
        assert found.shift[image] == pytest.approx((sum(ours) / len(ours) - mean) / sd, abs=1e-9)
        if len(set(ours)) > 1:
            own = math.sqrt(sum((value - sum(ours) / len(ours)) ** 2 for value in ours) / (len(ours) - 1))
            assert found.log_spread_ratio[image] == pytest.approx(math.log(own / sd), abs=1e-9)
        else:
            assert np.isneginf(found.log_spread_ratio[image])


@hard
def test_epsilon_is_the_largest_over_all_intervals(vectors: Callable[[np.random.Generator], Vectors]) -> None:
    """Interval by interval: both directions, log((1 - delta - one error) / the other), the official rules for zeros."""
    unlearned, retrained = vectors(np.random.default_rng(5))
    found = example_epsilons(unlearned[:24], retrained[:24], mode="exact")
    for image in range(unlearned.shape[1]):
        ours, theirs = (np.sort(side[:24, image]) for side in (unlearned, retrained))
        ranges = sorted(np.ptp(side) for side in (ours, theirs))
        if ranges[1] == 0 or ranges[0] / ranges[1] < 0.01:
            assert (found.epsilon_E[image], found.guarded_E[image]) == (50, True)
            continue
        cuts = [-np.inf, *np.unique(np.concatenate([ours, theirs])), np.inf]
        best = 0.0
        for low in range(len(cuts) - 1):
            for high in range(low, len(cuts) - 1):
                u, r = (((side >= cuts[low]) & (side <= cuts[high])).mean() for side in (ours, theirs))
                for fpr, fnr in ((u, 1 - r), (r, 1 - u)):
                    best = max(best, attack_epsilon(round(fpr, 9), round(fnr, 9)))
        assert found.epsilon_E[image] == pytest.approx(min(best, 50.0), abs=1e-5)


def attack_epsilon(fpr: float, fnr: float) -> float:
    """Return an attack's epsilon after the official rules."""
    if fpr == fnr == 0:
        return 50.0
    if fpr == 0 or fnr == 0:
        return 0.0  # dropped
    terms = [math.log((1 - DELTA - a) / b) for a, b in ((fpr, fnr), (fnr, fpr)) if 1 - DELTA - a > 0]
    return max(terms, default=0.0)


@hard
def test_lira_is_a_ratio_of_gaussians_of_medians(vectors: Callable[[np.random.Generator], Vectors]) -> None:
    """As the authors' program: medians, standard deviations (ddof 0) plus 1e-30, of each image or of all at once."""
    rng = np.random.default_rng(6)
    inside, outside = vectors(rng)
    target = vectors(rng)[0][:3]
    fit = fit_of(inside, outside)
    for one_variance in (False, True):
        online = lira.online(target, fit, one_variance=one_variance)
        offline = lira.offline(target, fit, one_variance=one_variance)
        for model, image in np.ndindex(target.shape):
            sides = []
            for side in (inside, outside):
                values = side.ravel() if one_variance else side[:, image]
                sd = math.sqrt(sum((v - values.mean()) ** 2 for v in values) / len(values)) + 1e-30
                sides.append((sorted_median(side[:, image]), sd))
            spread = sides[0][1]  # of all images at once, the program takes that of the models inside twice
            both = [(middle, spread if one_variance else sd) for middle, sd in sides]
            densities = [stats.norm.logpdf(target[model, image], *side) for side in both]
            if sides[0][1] > 1e-9 and sides[1][1] > 1e-9:
                assert online[model, image] == pytest.approx(densities[0] - densities[1], rel=1e-9, abs=1e-9)
                z = (target[model, image] - sides[1][0]) / sides[1][1]
                assert offline[model, image] == pytest.approx(z, rel=1e-9, abs=1e-9)
            else:  # a constant: infinitely far, but on the right side, and a number
                assert np.isfinite([online[model, image], offline[model, image]]).all()
                assert np.sign(offline[model, image]) == np.sign(target[model, image] - sides[1][0])


def sorted_median(values: np.ndarray) -> float:
    """Return the value in the middle, or the mean of two."""
    ordered = sorted(values.tolist())
    return float((ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2)


def fit_of(inside: np.ndarray, outside: np.ndarray) -> ShadowFit:
    """Return what shadows with these phi make of the images."""
    sides = [Side(median_N=np.median(a, 0), sd_N=a.std(0), probability_N=sigmoid(a).mean(0)) for a in (inside, outside)]
    return ShadowFit(
        inside=sides[0],
        outside=sides[1],
        pairs=len(inside),
        inside_spread=float(inside.std()),
        outside_spread=float(outside.std()),
    )


def sigmoid(phi: np.ndarray) -> np.ndarray:
    """Return probabilities."""
    return np.asarray(1 / (1 + np.exp(-phi)))


@hard
def test_shadow_rmia_divides_by_the_mean_of_both_sides(vectors: Callable[[np.random.Generator], Vectors]) -> None:
    """Online p / ((mean inside + mean outside) / 2), offline p / (((1 + a) mean outside + 1 - a) / 2), a = 0.3."""
    rng = np.random.default_rng(7)
    inside, outside = vectors(rng)
    target, fit = vectors(rng)[0][:3], fit_of(inside, outside)
    online, offline = (shadow_rmia.relative(target, fit, both_sides=both) for both in (True, False))
    for model, image in np.ndindex(target.shape):
        p, p_in, p_out = (
            np.mean([1 / (1 + math.exp(-v)) for v in values])
            for values in (target[model, [image]], inside[:, image], outside[:, image])
        )
        assert online[model, image] == pytest.approx(p / ((p_in + p_out) / 2), rel=1e-9)
        assert offline[model, image] == pytest.approx(p / ((1.3 * p_out + 0.7) / 2), rel=1e-9)


@hard
def test_the_energy_distance_is_a_sum_over_pairs_of_models(vectors: Callable[[np.random.Generator], Vectors]) -> None:
    """2 E|x - y| - E|x - x'| - E|y - y'|, and squared log ratios of variances, of phi standardised over all models."""
    unlearned, retrained = (side[:12] for side in vectors(np.random.default_rng(10)))
    pooled = np.concatenate([unlearned, retrained])
    varies = [image for image in range(pooled.shape[1]) if len(set(pooled[:, image].tolist())) > 1]
    z = (pooled[:, varies] - pooled[:, varies].mean(0)) / pooled[:, varies].std(0)
    ours, theirs = z[: len(unlearned)].tolist(), z[len(unlearned) :].tolist()

    def mean(one: list[list[float]], other: list[list[float]]) -> float:
        return sum(math.dist(a, b) for a in one for b in other) / (len(one) * len(other))

    found = permutation_tests(unlearned, retrained, np.random.default_rng(0), permutations=1)
    expected = 2 * mean(ours, theirs) - mean(ours, ours) - mean(theirs, theirs)
    assert found["energy"].statistic == pytest.approx(expected, abs=1e-6)
    logs = []
    for image in range(len(varies)):
        variances = [max(np.var([row[image] for row in side], ddof=1), 1e-4) for side in (ours, theirs)]
        logs.append(math.log(variances[0] / variances[1]) ** 2)
    assert found["log_variance"].statistic == pytest.approx(sum(logs) / len(logs), rel=1e-6, abs=1e-9)


@hard
def test_an_area_is_the_share_of_pairs_in_order(vectors: Callable[[np.random.Generator], Vectors]) -> None:
    """Pairs of a positive and a negative: 1 where the positive is above, 1/2 where they tie; rates by counting."""
    positives, negatives = (side.ravel()[:60] for side in vectors(np.random.default_rng(11)))
    found = roc(positives, negatives)
    wins = [(p > n) + (p == n) / 2 for p in positives for n in negatives]
    assert found.auc == pytest.approx(sum(wins) / len(wins))
    for fpr in (0.0, 0.01, 0.1, 0.5):
        rates = [
            ((positives >= t).mean() if (negatives >= t).mean() <= fpr else 0.0)
            for t in np.append(positives, negatives)
        ]
        assert found.tpr_at(fpr) == pytest.approx(max(rates))


@hard
def test_no_lower_bound_exceeds_what_errors_allow(vectors: Callable[[np.random.Generator], Vectors]) -> None:
    """Without any error on M and M judged models, p = (1 - a)^(2 M) at rates a = (1 - delta) / (1 + e^epsilon)."""
    unlearned, retrained = vectors(np.random.default_rng(12))
    if len(unlearned) < 4:
        return
    found = epsilon_lower_bounds(unlearned, retrained, np.random.default_rng(0))
    judged = len(unlearned) - len(unlearned) // 2
    error = 0.05 if unlearned.shape[1] == 1 else 0.9 * 0.05  # of the image that looks worst
    rate = 1 - error ** (1 / (2 * judged))
    assert found.ceiling == pytest.approx(max(0.0, math.log((1 - DELTA - rate) / rate)), abs=2e-4)
    assert (found.all_E <= found.each_E + 1e-12).all()
    assert found.all_E.max() <= found.ceiling
    same = epsilon_lower_bounds(retrained, retrained, np.random.default_rng(0))
    assert not same.all_E.any()
