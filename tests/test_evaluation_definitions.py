"""Measures against independent readings of their sources, on vectors that are hard on purpose.

Every reading is a plain loop over models and images, written from the formula that the measure's docstring cites.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from scipy import stats

from ray_unlearn.evaluation.measures.forgetting_quality import forgetting_quality, num_buckets
from ray_unlearn.evaluation.measures.klom import klom
from ray_unlearn.evaluation.measures.rmia import rmia
from ray_unlearn.evaluation.measures.shift_and_spread import shift_and_spread
from ray_unlearn.evaluation.measures.u_lira import VARIANCE_FLOOR, u_lira

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


def one_image(rng: np.random.Generator) -> Vectors:
    """Return one image."""
    return rng.normal(1.0, 1.0, size=(9, 1)), rng.normal(size=(9, 1))


VECTORS = [ties, constants, three_runs, many_runs, saturated, one_image]
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
