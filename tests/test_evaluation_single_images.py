"""Bounds of epsilon, the worst images, and variance shares of originals: by hand, and where nothing differs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from scipy.stats import beta, binom, norm

from ray_unlearn.evaluation import forgetting_quality
from ray_unlearn.evaluation.attack_errors import _order, leaks, lower_bound
from ray_unlearn.evaluation.lower_bounds import Attacks, epsilon_lower_bounds, joint_bounds
from ray_unlearn.evaluation.measures.measure import Pair
from ray_unlearn.evaluation.originals import buys_more, variance_shares
from ray_unlearn.evaluation.outputs import Outputs, SplitOutputs
from ray_unlearn.evaluation.single_images import missed
from ray_unlearn.evaluation.worst_images import QUANTILES, image_scores, limit, quantiles, share_beyond


@pytest.mark.parametrize(("runs", "ceiling"), [(16, 2.32), (32, 3.04), (64, 3.74), (128, 4.44)])
def test_an_attack_without_errors_shows_what_so_many_runs_allow(runs: int, ceiling: float):
    """Law: no error in n and n has p = 5 % at rates of 1 - 0.05^(1/2n) each, whose epsilon is 2.32 at 16."""
    rate = 1 - 0.05 ** (1 / (2 * runs))
    assert lower_bound(runs, runs, 0, 0, 0.05) == pytest.approx(math.log((1 - rate) / rate), abs=2e-4)
    assert lower_bound(runs, runs, 0, 0, 0.05) == pytest.approx(ceiling, abs=0.01)


@pytest.mark.parametrize(("false_positives", "false_negatives"), [(0, 0), (0, 2), (1, 1), (2, 0)])
def test_the_bound_is_where_results_as_good_have_five_percent(false_positives: int, false_negatives: int):
    """Law: over a fine grid of rates that epsilon allows, as good results have 5 % at most, and above more.

    As good: an epsilon from Clopper-Pearson bounds of both rates that is no smaller. Of 9 retrained and 7 unlearned.
    """
    each, delta = norm.cdf(norm.ppf(0.05) / 2**0.5), 1e-5

    def epsilon_of(v: int, w: int) -> float:
        first = beta.ppf(1 - each, v + 1, 9 - v) if v < 9 else 1.0
        second = beta.ppf(1 - each, w + 1, 7 - w) if w < 7 else 1.0
        both = [(1 - delta - x) / y for x, y in ((first, second), (second, first))]
        return math.log(max(both)) if max(both) > 0 else -math.inf

    as_good = [
        (v, w)
        for v in range(10)
        for w in range(8)
        if epsilon_of(v, w) >= epsilon_of(false_positives, false_negatives) - 1e-12
    ]

    def largest_p(epsilon: float) -> float:
        fpr, fnr = np.meshgrid(np.linspace(0, 1, 401), np.linspace(0, 1, 401))
        allowed = (fpr + math.exp(epsilon) * fnr >= 1 - delta) & (math.exp(epsilon) * fpr + fnr >= 1 - delta)
        p = sum(binom.pmf(v, 9, fpr[allowed]) * binom.pmf(w, 7, fnr[allowed]) for v, w in as_good)
        return float(np.max(p))

    bound = lower_bound(9, 7, false_positives, false_negatives, 0.05)
    assert 0.2 < bound < 2
    assert largest_p(bound) <= 0.05
    assert largest_p(bound + 0.02) > 0.05 - 0.002


def halved(num_retrained: int, num_unlearned: int, false_positives: int, false_negatives: int, error: float) -> float:
    """Return the bound by halving 0 to 20 until it is known to 1e-4: 200 pairs of rates at every epsilon."""
    sizes, order = (num_retrained, num_unlearned), _order(num_retrained, num_unlearned, error)
    if order[false_positives, false_negatives] == -math.inf:
        return 0.0
    as_good = order >= order[false_positives, false_negatives] - 1e-12

    def largest_p(epsilon: float) -> float:
        low = np.linspace(0, (1 - 1e-5) / (1 + math.exp(epsilon)), 100)
        high = 1 - 1e-5 - math.exp(epsilon) * low
        rates = np.concatenate([low, high]), np.concatenate([high, low]).clip(0, 1)
        exactly = [
            np.stack([math.comb(size, k) * rate**k * (1 - rate) ** (size - k) for k in range(size + 1)])
            for size, rate in zip(sizes, rates, strict=True)
        ]
        return float(np.einsum("vp,vw,wp->p", exactly[0], as_good, exactly[1]).max())

    low, high = 0.0, 20.0
    while high - low > 1e-4 and largest_p(0.0) <= error:
        middle = (low + high) / 2
        low, high = (low, middle) if largest_p(middle) > error else (middle, high)
    return low


@pytest.mark.parametrize("error", [0.05, 0.05 / 300])
@pytest.mark.parametrize("sizes", [(2, 2), (3, 5), (7, 4), (24, 17)])
def test_the_bound_is_that_of_halving_an_interval(sizes: tuple[int, int], error: float):
    """Law: to the last bit, for all errors that a few runs can make, and for some of more."""
    every = tuple(range(0, size + 1, 1 + size // 8) for size in sizes)
    for first in every[0]:
        for second in every[1]:
            assert lower_bound(*sizes, first, second, error) == halved(*sizes, first, second, error), (first, second)


def test_results_that_show_nothing_have_a_bound_of_zero():
    """Law: an attack that errs as often as chance, or always, shows nothing; nor does one run less than it takes."""
    assert lower_bound(16, 16, 8, 8, 0.05) == lower_bound(16, 16, 16, 16, 0.05) == 0
    assert lower_bound(2, 2, 0, 0, 0.05) == 0  # p = 1/16 at rates of a half
    assert lower_bound(3, 3, 0, 0, 0.05) > 0  # 1/64


def test_of_retrained_models_against_themselves_one_image_in_twenty_has_a_bound():
    """Law: over 600 images, 2 to 6 % of the bounds of single images are above 0, and none or one of those for all."""
    rng = np.random.default_rng(0)
    found = [epsilon_lower_bounds(rng.normal(size=(32, 60)), rng.normal(size=(32, 60)), rng) for _ in range(10)]
    assert 0.02 < np.mean([one.each_E > 0 for one in found]) < 0.06
    assert sum((one.all_E > 0).any() for one in found) <= 2
    assert found[0].ceiling == lower_bound(16, 16, 0, 0, 0.9 * 0.05)


@pytest.mark.long
@pytest.mark.parametrize("runs", [16, 32])
def test_an_image_of_those_that_do_not_leak_is_shown_to_in_3_to_7_per_cent(runs):
    """Law: of 1,200 studies of 40 images without any difference; with equal weights 1.6 and 2.3 %."""
    rng = np.random.default_rng(5)
    sides = rng.normal(size=(1200, 2, runs, 40)) + 0.42 * rng.normal(size=(1200, 2, runs, 1))
    assert 0.03 < np.mean([epsilon_lower_bounds(*pair, rng).shown > 0 for pair in sides]) < 0.07


def test_the_image_that_looks_worst_has_nearly_all_of_the_error():
    """Law: of 40 images that 64 runs a side distinguish without any error, one has the ceiling, the others less."""
    rng = np.random.default_rng(1)
    found = epsilon_lower_bounds(rng.normal(size=(64, 40)) + 20, rng.normal(size=(64, 40)), rng)
    assert sorted(found.all_E)[-2] < found.all_E.max() == found.ceiling == lower_bound(32, 32, 0, 0, 0.9 * 0.05)
    weight = 0.1 * 2**-1.5 / sum(size * 2.0 ** (-1.5 * at) for at, size in enumerate((2, 4, 8, 16, 9), 1))
    assert sorted(found.all_E)[-2] == lower_bound(32, 32, 0, 0, weight * 0.05)
    assert found.shown == 40


def test_images_that_are_distinguished_show_the_ceiling():
    """Law: where nothing overlaps, the bound is the ceiling, whichever side is above, or in the middle of the other."""
    rng = np.random.default_rng(1)
    unlearned, retrained = rng.normal(size=(64, 3)), rng.normal(size=(64, 3))
    unlearned[:, 0] += 20
    unlearned[:, 1] -= 20
    retrained[:, 2] = 20 * np.sign(retrained[:, 2])
    for image in range(3):
        found = epsilon_lower_bounds(unlearned[:, [image]], retrained[:, [image]], rng)
        assert found.all_E == found.each_E == found.ceiling


def test_the_error_of_images_that_leak_passes_on_to_the_others():
    """Law: Holm's procedure, step by step: the first at 0.9 of 5 %, then the others at all of it by their weights."""
    judged = np.array([[2, 2], [3, 2], [3, 3], [5, 5], [4, 3]])
    attacks = Attacks(judged=(12, 12), wrong_E2=judged, looks_E=-np.arange(5.0), apart_E=np.zeros(5))
    rest = np.array([0, 1 / 2**1.5, 1 / 2**1.5, 1 / 8, 1 / 8])
    weights = np.where(rest > 0, 0.1 * rest / rest.sum(), 0.9)
    left = list(range(5))
    while left:
        errors = {at: 0.05 * weights[at] / weights[left].sum() for at in left}
        leak = [at for at in left if lower_bound(12, 12, *map(int, judged[at]), float(errors[at])) > 0]
        left = [at for at in left if at not in leak]
        if not leak:
            break
    found = joint_bounds([attacks])
    assert found.shown == 5 - len(left) == 3
    assert (found.all_E > 0).sum() == 1
    halves = [
        Attacks(judged=(12, 12), wrong_E2=judged[k], looks_E=-np.arange(5.0)[k], apart_E=np.zeros(len(k)))
        for k in ([3, 0], [1, 4, 2])
    ]
    several = joint_bounds(halves)
    assert several.shown == 3
    assert several.all_E == pytest.approx(found.all_E[[3, 0, 1, 4, 2]])


@pytest.mark.parametrize("sizes", [(3, 3), (8, 8), (8, 16), (12, 5)])
def test_what_leaks_at_a_smaller_error_leaks_at_a_larger_one(sizes):
    """Law: what Holm's procedure needs; and `leaks` finds by bisection what each result's bound says."""
    results = np.array([(first, second) for first in range(sizes[0] + 1) for second in range(sizes[1] + 1)])
    before = np.zeros(len(results), dtype=bool)
    for error in np.geomspace(1e-5, 0.05, 12):
        found = leaks(*sizes, results, float(error))
        assert not (before & ~found).any()
        before = found
    each = [lower_bound(*sizes, int(first), int(second), 0.05) > 0 for first, second in results]
    assert before.tolist() == each


def pair_of(unlearned: np.ndarray, retrained: np.ndarray, originals: Sequence[int] = ()) -> Pair:
    """Return a pair with these phi of the forget images, whose unlearned runs start from these originals."""
    sides = []
    for phi, starts in ((unlearned, originals or range(len(unlearned))), (retrained, ())):
        split = SplitOutputs(np.arange(phi.shape[1]), np.zeros(phi.shape[1], np.int64), phi, phi > 0)
        records: Any = [SimpleNamespace(method="a", original=int(k), original_sha256="a") for k in starts]
        records = records or [SimpleNamespace(method="a", original=0, original_sha256="")] * len(phi)
        sides.append(Outputs("a", tuple(records), {"forget": split}))
    return Pair(*sides, "exact", lambda: np.random.default_rng(0))


def test_an_image_has_its_own_numbers():
    """Law: the area is over models at that image alone; quantiles are from the median to the worst image."""
    rng = np.random.default_rng(2)
    unlearned, retrained = rng.normal(size=(40, 50)), rng.normal(size=(40, 50))
    unlearned[:, 7] += 50
    found = image_scores(pair_of(unlearned, retrained))
    assert {name: int(scores.argmax()) for name, scores in found.items()} == {"epsilon": 7, "u_lira_auc": 7, "klom": 7}
    assert found["u_lira_auc"][7] == 1
    assert found["epsilon"][7] == 50
    assert abs(np.delete(found["u_lira_auc"], 7).mean() - 0.5) < 0.1  # of one image, models left out lower it
    assert len(quantiles(found["klom"])) == len(QUANTILES)
    assert quantiles(found["epsilon"])[-1] == 50
    assert image_scores(pair_of(unlearned[:2], retrained[:2])) == {}


def test_models_of_one_original_are_left_out_together():
    """Law: of a method that is perfect over originals, two originals are not recognised, image by image."""
    rng = np.random.default_rng(3)
    retrained, starts = rng.normal(size=(16, 200)), [0] * 8 + [1] * 8
    unlearned = rng.normal(size=(2, 200))[np.array(starts)] + 0.2 * rng.normal(size=(16, 200))
    apart, together = (
        image_scores(pair_of(unlearned, retrained, originals))["u_lira_auc"].mean() for originals in ((), starts)
    )
    assert together < apart - 0.1


def test_one_in_twenty_images_is_beyond_the_nulls_own_quantile():
    """Law: a null against itself has 5 % of its images above its 95 % quantile."""
    scores = np.arange(100.0)
    assert share_beyond(scores, limit(scores)) == 0.05
    assert share_beyond(scores, limit(np.zeros(100))) == 0.99


def test_shares_of_the_variance_are_those_that_were_drawn():
    """Law: a quarter of the variance from 200 originals of 4 runs is found; by hand for two originals of two runs.

    0, 2 and 4, 6: between 2 (1 - 3)^2 + 2 (5 - 3)^2 = 16, within (1 + 1 + 1 + 1) / 2 = 2: (16 - 2) / 2 = 7 and 2.
    """
    rng = np.random.default_rng(3)
    starts = np.repeat(np.arange(200), 4)
    phi = 0.25**0.5 * rng.normal(size=(200, 30))[starts] + 0.75**0.5 * rng.normal(size=(800, 30))
    found = variance_shares(phi, starts, np.ones(30))
    assert found.original == pytest.approx(0.25, abs=0.02)
    assert (found.originals, found.runs_each) == (200, 4)
    hand = variance_shares(np.array([[0.0], [2.0], [4.0], [6.0]]), np.array([1, 1, 2, 2]), np.ones(1))
    assert (hand.original, hand.run) == pytest.approx((7 / 9, 2 / 9))


def test_without_several_originals_or_runs_of_them_there_are_no_shares():
    """Law: one original, or one run of each, cannot distinguish the parts; nor can runs that do not differ."""
    phi = np.random.default_rng(4).normal(size=(6, 5))
    assert variance_shares(phi, np.zeros(6), np.ones(5)) is None
    assert variance_shares(phi, np.arange(6), np.ones(5)) is None
    assert variance_shares(np.zeros((6, 5)), np.repeat([0, 1, 2], 2), np.ones(5)) is None
    assert variance_shares(phi, np.repeat([0, 1, 2], 2), np.zeros(5)) is None


def test_the_next_hour_buys_what_varies_more():
    """Law: where originals make the difference, originals; where only runs do and originals are dear, runs."""
    rng = np.random.default_rng(5)
    starts = np.repeat(np.arange(4), 8)
    of_originals = variance_shares(
        rng.normal(size=(4, 30))[starts] + 0.1 * rng.normal(size=(32, 30)), starts, np.ones(30)
    )
    of_runs = variance_shares(rng.normal(size=(32, 30)), starts, np.ones(30))
    assert buys_more(of_originals, original_s=600, run_s=5) == "originals"
    assert buys_more(of_runs, original_s=600, run_s=5) == "runs"


def test_images_that_the_official_grid_misses_are_counted():
    """Law: samples with a gap, both narrower than the grid's step, or one of them between two runs of the other."""
    rng = np.random.default_rng(6)
    narrow, wide = np.repeat([0.001, 0.0007], 30), np.repeat([0.001, 0.05], 30)
    unlearned = np.repeat([0.006, 0.08], 30) + narrow * rng.normal(size=(32, 60))
    retrained = wide * rng.normal(size=(32, 60))
    parity, exact = (forgetting_quality(unlearned, retrained, mode) for mode in ("parity", "exact"))
    told = int(((exact.epsilon_E == 50) & (parity.epsilon_E < 50)).sum())
    pair = pair_of(unlearned, retrained)
    assert missed(pair, parity) == told > 0
    assert missed(pair, exact) == 0
    assert missed(pair, None) == 0
