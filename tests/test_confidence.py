"""phi: the official evaluator's numbers, its order of casts, and refusals that state where."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ray_unlearn.errors import EvaluationError
from ray_unlearn.evaluation import logit_scaled_confidence

GOLDEN_LOGITS = [
    *(-4.009657, -6.621795, -1.241808, 2.1022263, 5.6802325),
    *(0.548532, -2.7632365, -3.9239018, 3.7437289, 8.173915),
]
"""The first of the official evaluator's golden vectors; its label is 3."""


def test_phi_is_the_logarithm_of_the_odds_of_the_right_class() -> None:
    """Logits log 1 and log 3 are odds of 1 to 3; three equal classes are odds of 1 to 2."""
    logits_NC = np.array([[0.0, math.log(3.0)], [0.0, math.log(3.0)]], np.float32)
    assert logit_scaled_confidence(logits_NC, [0, 1]) == pytest.approx([-math.log(3), math.log(3)], abs=1e-6)
    assert logit_scaled_confidence(np.zeros((1, 3), np.float32), [2]) == pytest.approx([-math.log(2)], abs=1e-12)


def test_a_golden_vector() -> None:
    """The official number to the last digit that it was copied with."""
    phi_N = logit_scaled_confidence(np.array([GOLDEN_LOGITS], np.float32), [3])
    assert phi_N == pytest.approx([-6.16254868], abs=5e-9)
    assert phi_N.dtype == np.float64


def test_the_golden_vectors(shared: Path) -> None:
    """All forty, and far nearer than an exponential in float64 would come (1e-7)."""
    golden = np.load(shared / "golden" / "logit_scaled_confidence.npz")
    phi_N = logit_scaled_confidence(golden["logits"], golden["labels"])
    assert np.abs(phi_N - golden["phi"]).max() < 1e-9


def test_the_exponential_is_taken_in_float32_and_the_rest_in_float64() -> None:
    """Odds of exp(-1) as float32 has it to 1, not as float64 has it: they differ by 1e-8."""
    phi = logit_scaled_confidence(np.array([[0.0, -1.0]], np.float32), [0])[0]
    assert phi == pytest.approx(-math.log(float(np.exp(np.float32(-1.0)))), abs=1e-15)
    assert abs(phi - 1.0) > 1e-9


def test_phi_saturates_where_a_probability_is_nothing() -> None:
    """exp(-200) is 0 in float32: phi is log(1 + 1e-45) - log(1e-45) and its negative."""
    phi_N = logit_scaled_confidence(np.array([[200.0, 0.0], [200.0, 0.0]], np.float32), [0, 1])
    assert phi_N == pytest.approx([103.616329, -103.616329], abs=1e-6)


def test_small_probabilities_are_summed_and_not_subtracted_from_one() -> None:
    """At odds of exp(-40), 1 - p is 0, and its phi would be 103.6 instead of 40."""
    assert logit_scaled_confidence(np.array([[40.0, 0.0]], np.float32), [0]) == pytest.approx([40.0], abs=1e-6)


def test_many_models_at_once_give_the_same_bits() -> None:
    """Leading axes are only leading, in any order in memory."""
    logits_RNC = np.random.default_rng(0).normal(0, 5, (4, 33, 10)).astype(np.float32)
    labels_N = np.arange(33) % 10
    phi_RN = logit_scaled_confidence(logits_RNC, labels_N)
    assert phi_RN.shape == (4, 33)
    for run in range(4):
        assert np.array_equal(phi_RN[run], logit_scaled_confidence(logits_RNC[run], labels_N))
    turned = np.ascontiguousarray(logits_RNC.transpose(2, 1, 0)).transpose(2, 1, 0)
    assert np.array_equal(phi_RN, logit_scaled_confidence(turned, labels_N))


def test_inputs_stay_as_they_are() -> None:
    """Also read-only ones are taken."""
    logits_NC, labels_N = np.ones((2, 3), np.float32), np.array([0, 2])
    logits_NC.setflags(write=False)
    labels_N.setflags(write=False)
    logit_scaled_confidence(logits_NC, labels_N)
    assert (logits_NC == 1).all()
    assert labels_N.tolist() == [0, 2]


def test_wider_and_narrower_logits_are_taken_as_float32() -> None:
    """A float64 logit counts as the float32 nearest to it, a float16 one as itself."""
    logits_NC = np.array([[0.1, 0.7], [2.3, -1.1]])
    as_float32 = logit_scaled_confidence(logits_NC.astype(np.float32), [0, 1])
    assert np.array_equal(logit_scaled_confidence(logits_NC, [0, 1]), as_float32)
    halves = logits_NC.astype(np.float16)
    expected = logit_scaled_confidence(halves.astype(np.float32), [0, 1])
    assert np.array_equal(logit_scaled_confidence(halves, [0, 1]), expected)


OK = np.zeros((2, 3), np.float32)


@pytest.mark.parametrize(
    ("logits", "labels", "message"),
    [
        (np.zeros(3), [0], "logits: expected real numbers [..., examples, classes] with 2 classes or more, found"),
        (np.zeros((2, 1)), [0, 0], "2 classes or more, found float64 [2, 1]"),
        (np.zeros((2, 3), complex), [0, 0], "found complex128 [2, 3]"),
        (np.array([[0, np.nan]]), [0], "logits: expected finite float32 values, found nan at [0, 1]"),
        (np.array([[[0, 1]], [[-np.inf, 1]]]), [0], "found -inf at [1, 0, 0]"),
        (np.array([[0, 1e39]]), [0], "found 1e+39 at [0, 1]"),
        (OK, [0], "labels: expected 2 integers, one per example of the logits, found int64 [1]"),
        (OK, [[0], [1]], "found int64 [2, 1]"),
        (OK, [0.0, 1.0], "found float64 [2]"),
        (OK, [True, False], "found bool [2]"),
        (OK, [0, 3], "labels: expected 0 to 2 for 3 classes, found 3 at [1]"),
        (OK, [-1, 0], "labels: expected 0 to 2 for 3 classes, found -1 at [0]"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line(logits: Any, labels: Any, message: str) -> None:
    """What was expected, what was found, and where."""
    with pytest.raises(EvaluationError) as caught:
        logit_scaled_confidence(logits, labels)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
