"""Forgetting quality: buckets by hand, the official score, its null and its limits; and the benchmark's figures."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from confidences import BENCHMARK, GOLDEN, gaussian, hundredths

from ray_unlearn.errors import EvaluationError
from ray_unlearn.evaluation import ForgettingQuality, forgetting_quality
from ray_unlearn.evaluation.measures.forgetting_quality import LEAST_TO_SCORE, num_buckets


def test_the_golden_score(shared: Path) -> None:
    """Exactly the official F of 32 models and 16 examples, 0.076171875, whichever of the two is called unlearned."""
    golden = np.load(shared / "golden" / "forgetting_quality_n32.npz")
    quality = forgetting_quality(golden["unlearned_NE"], golden["retrained_NE"])
    assert quality.score == float(golden["forgetting_quality"]) == 0.076171875
    assert quality.bins.tolist() == [3, 4, 4, 7, 6, 101, 4, 101, 5, 4, 5, 7, 6, 4, 4, 101]
    assert forgetting_quality(golden["retrained_NE"], golden["unlearned_NE"]).score == 0.076171875


def test_a_score_by_hand() -> None:
    """Epsilons 1.25, 1.61, 3.33 and 50 are in buckets 3, 4, 7 and 101: (1/4 + 1/8 + 1/64 + 0) / 4."""
    unlearned_NE, retrained_NE = (np.stack([hundredths(golden[k]) for golden in GOLDEN], axis=1) for k in (1, 2))
    quality = forgetting_quality(unlearned_NE, retrained_NE)
    assert quality.bins.tolist() == [3, 4, 7, 101]
    assert quality.bins.dtype == np.int64
    assert quality.score == (1 / 4 + 1 / 8 + 1 / 64) / 4
    assert (quality.mode, quality.num_unlearned, quality.num_retrained) == ("parity", 32, 32)
    assert quality.epsilon_E == pytest.approx([golden[0] for golden in GOLDEN], abs=1e-6)


@pytest.mark.parametrize(
    ("num_runs", "expected"), [(2, 0), (3, 2), (4, 4), (9, 6), (21, 6), (22, 8), (32, 8), (512, 14)]
)
def test_the_number_of_buckets(num_runs: int, expected: int) -> None:
    """2 ceil(log(N - 1)): log 20 is 2.996, log 21 is 3.04, log 511 is 6.24."""
    assert num_buckets(num_runs) == expected


@pytest.mark.parametrize("mode", ["parity", "exact"])
def test_the_least_n_that_can_score(mode: str) -> None:
    """The first N with a bucket: the same models score 1 there, and 0, as everything does, with one run fewer."""
    assert next(n for n in range(2, 100) if num_buckets(n) > 0) == LEAST_TO_SCORE
    sample_NE, _ = gaussian(1)
    scores = [
        forgetting_quality(sample_NE[:n], sample_NE[:n], mode).score for n in (LEAST_TO_SCORE - 1, LEAST_TO_SCORE)
    ]
    assert scores == [0, 1]


def test_a_bucket_is_closed_on_the_left_and_none_counts_beyond_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    """With four runs there are four buckets, [0, 2): at 0.5 the second begins, at 2 nothing is left."""
    from ray_unlearn.evaluation.epsilon import ExampleEpsilons
    from ray_unlearn.evaluation.measures import forgetting_quality as module

    epsilon_E, none_E = np.array([0.0, 0.499, 0.5, 1.999, 2.0, 50.0]), np.zeros(6, bool)
    monkeypatch.setattr(module, "example_epsilons", lambda *_, mode: ExampleEpsilons(epsilon_E, none_E, none_E))
    quality = forgetting_quality(np.zeros((4, 6)), np.zeros((9, 6)), "exact")
    assert quality.bins.tolist() == [1, 1, 2, 4, 5, 101]
    assert quality.score == (1 + 1 + 1 / 2 + 1 / 8) / 6
    assert (quality.num_unlearned, quality.num_retrained) == (4, 9)


@pytest.mark.parametrize("mode", ["parity", "exact"])
def test_the_ends_of_the_scale(mode: str) -> None:
    """The same models score 1; disjoint ones and constant ones 0; with two runs, all score 0."""
    sample_NE, _ = gaussian(1)
    assert forgetting_quality(sample_NE, sample_NE, mode).score == 1
    assert forgetting_quality(sample_NE + 30, sample_NE, mode).score == 0
    constant = forgetting_quality(0 * sample_NE, sample_NE, mode)
    assert constant.score == 0
    assert constant.guarded_E.all()
    assert forgetting_quality(sample_NE[:2], sample_NE[:2], mode).score == 0


def test_a_perfect_unlearner_does_not_score_1() -> None:
    """Two samples of one distribution at N = 64 score 0.19 in parity and 0.07 in exact (1,800 examples: 0.186, 0.071).

    Of 200 examples the standard errors are 0.008 and 0.002. Modes and N do not compare.
    """
    unlearned_NE, retrained_NE = np.random.default_rng(2).normal(0, 1.5, (2, 64, 200))
    parity, exact = (forgetting_quality(unlearned_NE, retrained_NE, mode) for mode in ("parity", "exact"))
    assert 0.15 < parity.score < 0.23
    assert 0.06 < exact.score < 0.085
    assert np.median(parity.epsilon_E) == pytest.approx(math.log(5), abs=0.35)


def test_numbers_of_runs_differ_in_exact_only() -> None:
    """And exact's buckets are those of the unlearned."""
    unlearned_NE, retrained_NE = gaussian(3)
    assert forgetting_quality(unlearned_NE[:9], retrained_NE, "exact").num_unlearned == 9
    with pytest.raises(
        EvaluationError, match="mode parity: expected as many unlearned as retrained runs, found 9 and 24"
    ):
        forgetting_quality(unlearned_NE[:9], retrained_NE)


def test_resampled_rows_are_a_sample_like_any_other() -> None:
    """Repeated rows are ties, with their weight: two copies of every model leave exact's rates, hence its epsilon."""
    unlearned_NE, retrained_NE = gaussian(4)
    twice = np.repeat(np.arange(24), 2)
    once = forgetting_quality(unlearned_NE, retrained_NE, "exact").epsilon_E
    doubled = forgetting_quality(unlearned_NE[twice], retrained_NE[twice], "exact").epsilon_E
    assert np.array_equal(once, doubled)


def test_a_quality_is_frozen() -> None:
    """A score is a result, not a place to write."""
    quality: Any = forgetting_quality(*gaussian(5))
    assert isinstance(quality, ForgettingQuality)
    with pytest.raises(AttributeError):
        quality.score = 1.0


def test_the_benchmark_finds_no_difference() -> None:
    """Its figures are of every kind that it prints; times are not judged here."""
    found = BENCHMARK.measure(8, 3, 2, 1, memory_examples=20)
    assert found["largest_difference"] < 1e-6
    assert set(found["ms_per_example"]) == {"definition", "parity", "exact"}
    assert 0 < found["peak_mb"]["parity"] < 10


def test_a_study_is_extrapolated_from_two_measurements() -> None:
    """Law: 5 s with 2 halvings and 10 s with 12 are 54 s with 100; a study is its methods and one null."""
    assert BENCHMARK.extrapolated((2, 12), (5.0, 10.0), 100) == 54
    found = BENCHMARK.whole(8, {"retain": 12, "forget": 5, "test": 12}, (2, 3), 4, 3)
    assert found["study"] == 3 * found["method"]["extrapolated"] + found["null"]["extrapolated"]
    assert min(found["method"]["seconds"] + found["null"]["seconds"]) > 0
    assert "3 methods and the null, 4 halvings, extrapolated: " in BENCHMARK.whole_lines(found, 4, 3)[-1]
