"""Distances worked by hand, on tiny arrays, and what is left out or refused."""

from __future__ import annotations

import math

import numpy as np
import pytest

from ray_unlearn.errors import EvaluationError
from ray_unlearn.evaluation.measures.shift_and_spread import shift_and_spread
from ray_unlearn.evaluation.measures.tug_of_war import tug_of_war
from ray_unlearn.evaluation.slices import mean_by


def test_shift_and_spread_worked_by_hand() -> None:
    """Law: retrained 0, 2 have mean 1 and sd sqrt 2; unlearned 3, 7 have 5 and 2 sqrt 2, and 1, 1, 4 have 2 and sqrt 3.

    Hence shifts 4 / sqrt 2 and 1 / sqrt 2, ratios 2 and sqrt(3 / 2).
    """
    result = shift_and_spread([[3], [7]], [[0], [2]])
    assert result.shift == pytest.approx([4 / math.sqrt(2)], abs=1e-12)
    assert result.log_spread_ratio == pytest.approx([math.log(2)], abs=1e-12)
    result = shift_and_spread([[1, -1], [1, -1], [4, -4]], [[0, 0], [2, -2]])
    assert result.shift == pytest.approx([1 / math.sqrt(2), -1 / math.sqrt(2)], abs=1e-12)
    assert result.mean_absolute_shift == pytest.approx(1 / math.sqrt(2), abs=1e-12)
    assert result.median_spread_ratio == pytest.approx(math.sqrt(1.5), abs=1e-12)
    assert result.undefined == 0
    three = shift_and_spread([[-1, -1, -1], [1, 1, 1]], [[-1, -2, -8], [1, 2, 8]])
    assert three.median_spread_ratio == pytest.approx(1 / 2, abs=1e-12)


def test_units_do_not_matter_and_swapping_inverts_the_ratio() -> None:
    """Law: an affine map with a positive factor changes nothing, a negative one the sign of the shift."""
    rng = np.random.default_rng(0)
    unlearned_UE, retrained_RE = rng.normal(1, 3, (8, 5)), rng.normal(size=(6, 5))
    one = shift_and_spread(unlearned_UE, retrained_RE)
    mapped = shift_and_spread(-3 * unlearned_UE + 9, -3 * retrained_RE + 9)
    assert mapped.shift == pytest.approx(-one.shift, abs=1e-9)
    assert mapped.log_spread_ratio == pytest.approx(one.log_spread_ratio, abs=1e-9)
    assert shift_and_spread(retrained_RE, unlearned_UE).log_spread_ratio == pytest.approx(-one.log_spread_ratio)


def test_two_halves_of_one_population_are_close() -> None:
    """Law: the shift's size is about sqrt(2 / R) * sqrt(2 / pi) = 0.14 at 64 runs each, the median ratio about 1."""
    phi_RE = np.random.default_rng(0).normal(4, 2, (128, 400))
    null = shift_and_spread(phi_RE[::2], phi_RE[1::2])
    assert null.mean_absolute_shift == pytest.approx(0.141, abs=0.02)
    assert null.median_spread_ratio == pytest.approx(1, abs=0.03)


def test_examples_on_which_retrained_models_agree_are_counted_and_left_out() -> None:
    """Law: retrained models agree on the first of three examples (no number), unlearned ones on the third (ratio 0)."""
    third = 0.1  # the mean of three 0.1 rounds, which must not make a spread
    result = shift_and_spread([[1, 2, third]] * 2 + [[5, 4, third]], [[third, 0, 0], [third, 2, 2], [third, 1, 1]])
    assert result.undefined == 1
    assert np.isnan(result.shift[0])
    assert np.isnan(result.log_spread_ratio[0])
    assert result.log_spread_ratio[2] == -math.inf
    assert result.shift[1:] == pytest.approx([8 / 3 - 1, third - 1], abs=1e-12)
    assert result.mean_absolute_shift == pytest.approx((8 / 3 - 1 + 1 - third) / 2, abs=1e-12)
    assert result.median_spread_ratio == pytest.approx(math.sqrt(4 / 3) / 2, abs=1e-12)
    nothing = shift_and_spread([[1.0], [2.0]], [[3.0], [3.0]])
    assert nothing.undefined == 1
    assert math.isnan(nothing.mean_absolute_shift)
    assert math.isnan(nothing.median_spread_ratio)


def test_a_spread_needs_two_runs() -> None:
    """Law: ddof 1."""
    with pytest.raises(EvaluationError, match=r"^unlearned: expected 2 or more runs, found 1"):
        shift_and_spread(np.zeros((1, 3)), np.zeros((2, 3)))


def test_tug_of_war_worked_by_hand() -> None:
    """Law: (1 - |1 - 0.9|)(1 - |0.5 - 0.75|)(1 - |0.8 - 0.7|) = 0.9 * 0.75 * 0.9; equal accuracies give 1."""
    retrained = {"forget": 0.75, "retain": 0.9, "test": 0.7}
    tug = tug_of_war({"retain": [1.0, 0.9], "forget": [0.5, 0.75], "test": [0.8, 0.7]}, retrained)
    assert tug.per_run == pytest.approx([0.9 * 0.75 * 0.9, 1], abs=1e-12)
    assert tug.splits == ("retain", "forget", "test")
    partly = tug_of_war({"test": [0.8], "forget": [1.0]}, {"forget": 0.75, "test": 0.7})
    assert partly.per_run == pytest.approx([0.75 * 0.9], abs=1e-12)
    assert partly.splits == ("forget", "test")


@pytest.mark.parametrize(
    ("accuracies", "means", "message"),
    [
        ({"forget": [1.0]}, {"forget": 1.0, "test": 1.0}, "found ['forget'] and ['forget', 'test']"),
        ({}, {}, "tug_of_war: expected the same splits on both sides, among retain, forget, test; found [] and []"),
        ({"validation": [1.0]}, {"validation": 1.0}, "found ['validation'] and ['validation']"),
        (
            {"forget": [1.0, 1.0], "test": [1.0]},
            {"forget": 1.0, "test": 1.0},
            "tug_of_war: expected as many runs on every split, found forget 2, test 1",
        ),
        ({"test": [96.0]}, {"test": 0.9}, "unlearned test accuracies: expected shares in [0, 1], found 96 to 96"),
        ({"test": [0.9]}, {"test": -1.0}, "retrained test accuracy: expected shares in [0, 1], found -1 to -1"),
    ],
)
def test_a_tug_of_war_between_different_things_is_refused(accuracies, means, message) -> None:
    """Law: the same splits, as many runs, shares and not per cent."""
    with pytest.raises(EvaluationError) as caught:
        tug_of_war(accuracies, means)
    assert str(caught.value).endswith(message)


def test_means_by_key_worked_by_hand() -> None:
    """Law: keys 2, 0, 2, 1: class 2 is examples 0 and 2; keys come in order, one value per run."""
    correct_RE = np.array([[True, False, False, True], [True, True, True, False]])
    by_class = mean_by(correct_RE, np.array([2, 0, 2, 1]))
    assert list(by_class) == [0, 1, 2]
    assert {key: values.tolist() for key, values in by_class.items()} == {0: [0, 1], 1: [1, 0], 2: [0.5, 1]}
    assert mean_by([[0.5, 1.5, 4.0]], ["b", "a", "b"])["b"].tolist() == [2.25]


def test_means_by_key_are_those_of_a_loop_and_weigh_up_to_the_mean() -> None:
    """Law: by brute force; and by size they are the mean over all."""
    rng = np.random.default_rng(0)
    losses_RE, keys = rng.exponential(1, (7, 50)), rng.integers(0, 4, 50)
    found = mean_by(losses_RE, keys)
    for key, values_R in found.items():
        assert values_R == pytest.approx(losses_RE[:, keys == key].mean(axis=1), abs=1e-12)
    total_R = sum(values_R * (keys == key).sum() for key, values_R in found.items()) / 50
    assert total_R == pytest.approx(losses_RE.mean(axis=1), abs=1e-12)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ([0, 1], "mean_by: expected 3 keys, one per example, found shape [2]"),
        (np.array([0, None, "a"], object), "mean_by: expected keys of one kind, such as labels or groups: "),
    ],
)
def test_keys_that_do_not_fit_are_refused(keys, message) -> None:
    """Law: one key per example, and an order among them."""
    with pytest.raises(EvaluationError) as caught:
        mean_by(np.zeros((2, 3)), keys)
    assert str(caught.value).startswith(message)
