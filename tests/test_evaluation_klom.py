"""KLOM: two histograms by hand, NumPy's own as witness, directions that swap, and its value between likes."""

from __future__ import annotations

import math

import numpy as np
import pytest

from ray_unlearn.errors import EvaluationError
from ray_unlearn.evaluation.measures.klom import klom


def slowly(first: np.ndarray, second: np.ndarray) -> float:
    """Return KL(first || second) of one example by NumPy's histogram and a loop."""
    first, second = np.clip(first, -100, 100), np.clip(second, -100, 100)
    edges = np.histogram_bin_edges(np.concatenate([first, second]), 20)
    p, q = (np.histogram(part, edges)[0] / len(part) for part in (first, second))
    return sum(a * math.log(a / max(b, 1e-5)) for a, b in zip(p, q, strict=True) if a > 0)


def test_two_histograms_worked_by_hand() -> None:
    """Law: margins from 0 to 20 make bins of width 1, left-closed; 20 itself is in the last, with 19.

    Unlearned 0, 0.5, 1, 20 are shares 1/2, 1/4, ..., 1/4; retrained 0, 1, 1.5, 19 are 1/4, 1/2, ..., 1/4.
    On the second example they share no bin: each direction is log(1 / 1e-5), neither renormalised.
    """
    unlearned_UE = np.array([[0, 0], [0.5, 0], [1, 0], [20, 0]])
    retrained_RE = np.array([[0, 9], [1, 9], [1.5, 9], [19, 9]])
    result = klom(unlearned_UE, retrained_RE)
    assert result.unlearned_to_retrained.per_example == pytest.approx([math.log(2) / 4, math.log(1e5)], abs=1e-12)
    assert result.retrained_to_unlearned.per_example == pytest.approx([math.log(2) / 4, math.log(1e5)], abs=1e-12)


def test_a_direction_is_what_its_name_states() -> None:
    """Law: unlearned all at 0, retrained half there and half far: 1 log(1 / 0.5), and 0.5 log(0.5) + 0.5 log(0.5e5)."""
    result = klom([[0.0], [0.0]], [[0.0], [1.0]])
    assert result.unlearned_to_retrained.mean == pytest.approx(math.log(2), abs=1e-12)
    assert result.retrained_to_unlearned.mean == pytest.approx(math.log(0.5) + math.log(1e5) / 2, abs=1e-12)


def test_every_example_is_what_numpys_histogram_makes_of_it() -> None:
    """Law: by a loop over examples; the numbers of runs differ, and values beyond +-100 are clipped."""
    rng = np.random.default_rng(0)
    unlearned_UE, retrained_RE = rng.normal(0, 60, (30, 25)), rng.normal(20, 60, (50, 25))
    assert np.abs(retrained_RE).max() > 100
    result = klom(unlearned_UE, retrained_RE)
    forth = [slowly(unlearned_UE[:, e], retrained_RE[:, e]) for e in range(25)]
    back = [slowly(retrained_RE[:, e], unlearned_UE[:, e]) for e in range(25)]
    assert result.unlearned_to_retrained.per_example == pytest.approx(forth, abs=1e-9)
    assert result.retrained_to_unlearned.per_example == pytest.approx(back, abs=1e-9)
    swapped = klom(retrained_RE, unlearned_UE)
    assert swapped.unlearned_to_retrained.per_example.tolist() == result.retrained_to_unlearned.per_example.tolist()


def test_the_summaries_are_the_mean_and_the_95th_percentile() -> None:
    """Law: of 0, 0, ..., 0, L with 21 examples the 95th percentile is the 20th value, 0; with 20, L / 20 above it."""
    for examples, share in ((21, 0), (20, 0.05)):
        unlearned_UE, retrained_RE = np.zeros((4, examples)), np.zeros((4, examples))
        retrained_RE[:, 3] = 1
        result = klom(unlearned_UE, retrained_RE).retrained_to_unlearned
        assert result.p95 == pytest.approx(share * math.log(1e5), abs=1e-9)
        assert result.mean == pytest.approx(math.log(1e5) / examples, abs=1e-12)


def test_equal_populations_are_at_0_and_so_are_constant_ones() -> None:
    """Law: no difference, no divergence; clipping makes everything beyond 100 alike; scale and offset do not matter."""
    phi_RE = np.random.default_rng(0).normal(0, 10, (16, 9))
    assert klom(phi_RE, phi_RE[::-1]).retrained_to_unlearned.per_example.tolist() == [0] * 9
    assert klom(np.ones((3, 2)), np.ones((2, 2))).unlearned_to_retrained.per_example.tolist() == [0, 0]
    assert klom(np.full((3, 1), 101), np.full((3, 1), 555)).unlearned_to_retrained.mean == 0
    other_RE = phi_RE * 0.5 + 1
    mapped = klom(phi_RE * 2 - 8, other_RE * 2 - 8).retrained_to_unlearned.per_example
    assert mapped == pytest.approx(klom(phi_RE, other_RE).retrained_to_unlearned.per_example, abs=1e-12)


def test_like_populations_are_near_the_floor_of_their_number_of_runs() -> None:
    """Law: never 0; 0.64 nats at 64 runs and 0.05 at 512 between two samples of one Gaussian, as the module states."""
    rng = np.random.default_rng(0)
    means = {}
    for runs in (64, 512):
        one_RE, other_RE = rng.normal(size=(2, runs, 300))
        means[runs] = klom(one_RE, other_RE).retrained_to_unlearned.mean
    assert means[64] == pytest.approx(0.64, abs=0.06)
    assert means[512] == pytest.approx(0.05, abs=0.005)
    far = klom(one_RE + 20, other_RE)
    assert far.retrained_to_unlearned.per_example.min() > 9
    assert far.unlearned_to_retrained.p95 < math.log(1e5)


def test_margins_of_different_images_are_refused() -> None:
    """Law: one line."""
    with pytest.raises(EvaluationError, match=r"^unlearned has 3 examples, retrained has 2; compare the same images$"):
        klom(np.zeros((2, 3)), np.zeros((2, 2)))
    with pytest.raises(EvaluationError, match=r"^unlearned: expected 1 or more runs, found 0"):
        klom(np.zeros((0, 3)), np.zeros((2, 3)))
