"""Permutation tests: by hand, their sizes where nothing differs, their power where something does, and Holm."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy.stats import cauchy
from scored import make_scores

from ray_unlearn.errors import EvaluationError
from ray_unlearn.evaluation.permutation import PERMUTATIONS, choices, combined, holm, least_p, permutation_tests
from ray_unlearn.evaluation.scores import PermutationTest, PopulationScores
from ray_unlearn.evaluation.whole_populations import adjusted


def statistics(first: np.ndarray, second: np.ndarray) -> tuple[float, float]:
    """Return both statistics by their definitions, in loops; both are standardised over all runs."""
    every = np.concatenate([first, second])
    first, second = ((side - every.mean(0)) / every.std(0) for side in (first, second))

    def apart(one, other):
        return np.mean([[np.linalg.norm(x - y) for y in other] for x in one])

    ratio = np.log(first.var(0, ddof=1) / second.var(0, ddof=1))
    return 2 * apart(first, second) - apart(first, first) - apart(second, second), float((ratio**2).mean())


def test_both_statistics_are_their_definitions():
    """Law: the energy distance with distances of 0 to oneself, and the mean squared log ratio of variances."""
    rng = np.random.default_rng(0)
    first, second = rng.normal(0.4, 1, (5, 7)), rng.normal(0, 2, (6, 7))
    found = permutation_tests(first, second, rng, 9)
    assert (found["energy"].statistic, found["log_variance"].statistic) == pytest.approx(statistics(first, second))


def test_p_counts_divisions_that_are_as_large_and_the_true_one():
    """Law: (1 + larger or equal) / (1 + drawn), close to the share over all divisions of 4 and 4 runs."""
    rng = np.random.default_rng(1)
    first, second = rng.normal(1.2, 1, (4, 3)), rng.normal(0, 1, (4, 3))
    every, true = np.concatenate([first, second]), statistics(first, second)
    divisions = [list(rows) for rows in itertools.combinations(range(8), 4)]
    all_ = np.array([statistics(every[rows], np.delete(every, rows, axis=0)) for rows in divisions])
    exact = (all_ >= np.array(true) - 1e-9).mean(axis=0)
    found = permutation_tests(first, second, rng, 3999)
    for name, share in zip(("energy", "log_variance"), exact, strict=True):
        assert found[name].p == pytest.approx(share, abs=0.025)
        assert (found[name].p * 4000) % 1 == pytest.approx(0, abs=1e-6)
    assert 0 < exact[0] < 0.2


@pytest.mark.parametrize("rho", [0.0, 0.4])
def test_where_nothing_differs_five_percent_are_distinguished(rho: float):
    """Law: over 1,000 studies of equal distributions, both p are at most 0.05 in 5 %, within 3 to 7 %."""
    rng = np.random.default_rng(2)

    def runs(number: int) -> np.ndarray:
        return rho**0.5 * rng.normal(size=(number, 1)) + (1 - rho) ** 0.5 * rng.normal(size=(number, 12))

    found = [permutation_tests(runs(8), runs(12), rng, 99) for _ in range(1000)]
    for name in ("energy", "log_variance"):
        assert np.mean([one[name].p <= 0.05 for one in found]) == pytest.approx(0.05, abs=0.02)


def test_a_shift_and_a_smaller_spread_are_seen():
    """Law: 32 against 64 runs on 40 images: a shift of 0.3 sd by energy, a spread of 0.85 by log variance."""
    rng = np.random.default_rng(3)
    reference, shifted, narrow = rng.normal(size=(64, 40)), rng.normal(0.3, 1, (32, 40)), rng.normal(0, 0.85, (32, 40))
    assert permutation_tests(shifted, reference, rng)["energy"].p < 0.01
    assert permutation_tests(narrow, reference, rng)["log_variance"].p < 0.01
    assert permutation_tests(narrow, reference, rng)["energy"].p > 0.01


def test_runs_of_one_original_are_not_independent():
    """Law: perfect over originals, 4 x 8 runs, a quarter of the variance between originals: called different in 5 % of
    studies, and in most if runs counted alone; half a sd above is found, and more often than by one choice alone.
    """
    rng, starts = np.random.default_rng(5), np.repeat(np.arange(4), 8)
    found = []
    for _ in range(60):
        between, within, reference = (rng.normal(size=(runs, 30)) for runs in (4, 32, 32))
        perfect = 0.5 * between[starts] + 0.75**0.5 * within
        alone, level, shifted = (
            permutation_tests(runs, reference, rng, 199, originals)["energy"].p <= 0.05
            for runs, originals in ((perfect, None), (perfect, starts), (perfect + 0.5, starts))
        )
        one = permutation_tests(perfect[::8] + 0.5, reference, rng, 199)["energy"].p <= 0.05
        found.append((alone, level, shifted, one))
    alone, level, shifted, one = np.mean(found, axis=0)
    assert alone > 0.5
    assert level == pytest.approx(0.05, abs=0.05)
    assert shifted > max(0.9, one + 0.1)


def test_p_of_several_choices_are_combined_as_cauchy_numbers():
    """Law: that of the Cauchy distribution's mean of quantiles; of one p it is that p, of equal ones theirs."""
    for p in (np.array([0.02, 0.0004, 0.2, 0.1, 0.8]), np.array([0.9, 0.5, 0.04])):
        assert combined(p) == pytest.approx(cauchy.sf(cauchy.isf(p).mean()))
    assert combined([0.3]) == combined([0.3, 0.3, 0.3]) == pytest.approx(0.3)
    assert combined([1.0]) == 1
    assert 0.99 < combined([1.0, 0.2]) < 1


def test_p_of_several_choices_is_not_below_that_of_one():
    """Law: 4 originals and 4 retrained models can be divided in 35 ways, however many runs the originals have."""
    rng = np.random.default_rng(6)
    far = 5 + rng.normal(size=(4, 10))[np.arange(32) % 4] + 0.1 * rng.normal(size=(32, 10))
    found = permutation_tests(far, rng.normal(size=(4, 10)), rng, originals_U=np.arange(32) % 4)
    assert found["energy"].p == least_p([(4, 4)]) == 1 / 35


def test_runs_are_chosen_by_original():
    """Law: from 4 originals on, each choice has one run of each, and 16 choices at most; else all runs are one."""
    for starts in (np.arange(40) % 5, np.repeat([0, 1, 2, 3], [50, 3, 2, 1])):
        found = choices(starts, len(starts))
        assert len(found) == min(16, np.bincount(starts).max())
        assert all(len({*starts[rows]}) == len(rows) == starts.max() + 1 for rows in found)
    assert [len(rows) for rows in choices(np.arange(30) % 3, 30)] == [30]
    assert [len(rows) for rows in choices(None, 30)] == [30]


def test_runs_that_do_not_differ_are_distinguished():
    """Law: a deterministic method has a variance of 0 and is seen; where nothing differs at all there is no test."""
    rng = np.random.default_rng(4)
    found = permutation_tests(np.zeros((8, 5)), rng.normal(size=(8, 5)), rng)
    assert found["log_variance"].p < 0.01
    assert permutation_tests(np.zeros((8, 5)), np.zeros((8, 5)), rng) == {}
    with pytest.raises(EvaluationError, match="unlearned: expected 3 or more runs, found 2"):
        permutation_tests(np.zeros((2, 5)), np.zeros((8, 5)), rng)


def test_holm_by_hand():
    """Law: 0.01, 0.04, 0.03, 0.005 become 0.03, 0.06, 0.06, 0.02: times 4, 3, 2, 1 in order, never falling."""
    found = holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005})
    assert found == pytest.approx({"a": 0.03, "b": 0.06, "c": 0.06, "d": 0.02})
    assert holm({"a": 0.9, "b": 0.8}) == {"a": 1.0, "b": 1.0}
    assert holm({}) == {}


@pytest.mark.parametrize(("ours", "theirs"), [(3, 3), (4, 4), (3, 5), (2, 7)])
def test_the_smallest_p_is_that_of_populations_that_share_nothing(ours: int, theirs: int):
    """Law: 1 over the divisions that differ; where sides are of one size, each is there twice, in both statistics."""
    every = np.concatenate([np.arange(ours) * 0.01, 5 + np.arange(theirs) ** 1.5])[:, None]
    energies = []
    for chosen in itertools.combinations(range(ours + theirs), ours):
        rest = [row for row in range(ours + theirs) if row not in chosen]
        energies.append(statistics(every[list(chosen)], every[rest])[0])
    assert least_p([(ours, theirs)]) == pytest.approx(np.mean(np.array(energies) >= max(energies) - 1e-9))


def test_the_smallest_p_of_several_sets_and_of_many_runs():
    """Law: divisions within each set multiply; no p is below that of the divisions drawn."""
    assert least_p([(3, 3), (3, 3)]) == pytest.approx(1 / 100)
    assert least_p([(32, 32)]) == 1 / (1 + PERMUTATIONS)


def test_tests_that_could_find_nothing_say_how_many_runs_could():
    """Law: 4 runs a side reach p = 1/35; over 6 tests that find nothing or 2, it takes 5; over 24, 7."""
    for populations, runs in ((3, 5), (1, 5), (12, 7)):
        found = adjusted({f"m{i}": of_four(0.2) for i in range(populations)})
        assert {test.least_runs for one in found.values() for test in one.tests.values()} == {runs}
    enough = {f"m{i}": of_four(0.2, least=1 / 126) for i in range(3)}
    assert {test.least_runs for one in adjusted(enough).values() for test in one.tests.values()} == {None}
    distinguished = adjusted({"m": of_four(0.001, least=0.0005)})
    assert distinguished["m"].tests["energy"].least_runs is None


def of_four(p: float, least: float = 1 / 35) -> PopulationScores:
    """A population of 4 runs against 4 with this p in both tests."""
    tests = {name: PermutationTest(statistic=1.0, p=p, least=least) for name in ("energy", "log_variance")}
    return make_scores().populations["kookmin"].model_copy(update={"tests": tests, "look": None})
