"""The objective of tuning: worked by hand, and blind to test images and forget labels."""

from __future__ import annotations

import dataclasses
import inspect
import math

import numpy as np
import pyarrow as pa
import pytest
from presets_job import objective

from ray_unlearn.errors import StoreError
from ray_unlearn.store.arrow import ipc_bytes

FAILED, Seen, judge, seen_in = objective.FAILED, objective.Seen, objective.judge, objective.seen_in
kolmogorov_smirnov, margins = objective.kolmogorov_smirnov, objective.margins

CLASSES = 3


def outputs(splits: list[str], labels: list[int], logits_NC: np.ndarray) -> bytes:
    """Return an outputs.arrow with these rows."""
    values = pa.FixedSizeListArray.from_arrays(pa.array(logits_NC.astype(np.float32).ravel()), CLASSES)
    table = pa.table(
        {
            "split": pa.array(splits).dictionary_encode(),
            "position": pa.array(range(len(splits)), pa.int32()),
            "label": pa.array(labels, pa.int32()),
            "logits": values,
        }
    )
    return ipc_bytes(table)


def likeliest(classes: list[int], sure: float = 2.0) -> np.ndarray:
    """Return logits [N, 3] whose largest is `sure`, at these classes, the others 0."""
    return sure * np.eye(CLASSES)[classes]


def seen(*, retain: int = 4, validation: int = 4, forget: np.ndarray | None = None, sure: float = 2.0) -> Seen:
    """Return a model that is right about `retain` and `validation` of 4 images each, equally sure everywhere."""
    right = [[0] * correct + [1] * (4 - correct) for correct in (retain, validation)]
    labels = np.zeros(4, np.int32)
    return Seen(
        retain_NC=likeliest(right[0]),
        validation_NC=likeliest(right[1], sure),
        forget_NC=likeliest([0, 1], sure) if forget is None else forget,
        retain_labels_N=labels,
        validation_labels_N=labels,
    )


def test_the_margin_is_the_log_odds_of_the_likeliest_class():
    """Law: log p / (1 - p) of the largest p; of ln 6, ln 2, ln 1 (p = 6/9) it is ln 2, wherever the largest is."""
    logits_NC = np.log([[6.0, 2.0, 1.0], [1.0, 2.0, 6.0]])
    assert margins(logits_NC) == pytest.approx([math.log(2)] * 2)


def test_margins_do_not_saturate():
    """Law: two images of probability 1.0 in float32 are still distinguished, and nothing overflows."""
    assert margins(np.array([[200.0, 0.0, 0.0], [900.0, 0.0, 0.0]], np.float32)) == pytest.approx(
        [200 - math.log(2), 900 - math.log(2)]
    )


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ([1, 2, 3, 4], [1, 2, 3, 4], 0.0),
        ([1, 2], [3, 4, 5], 1.0),
        ([1, 2, 3, 4], [3, 4], 0.5),  # below 3 are half of the first and none of the second
        ([1, 1, 1, 2], [1, 2, 2, 2], 0.5),  # ties: at 1, 3/4 against 1/4
        ([0, 10], [1, 2], 0.5),  # the same median; only the spread differs
    ],
)
def test_kolmogorov_smirnov_by_hand(first, second, expected):
    """Law: the largest distance between the distribution functions, symmetric in the samples."""
    assert kolmogorov_smirnov(np.array(first), np.array(second)) == expected
    assert kolmogorov_smirnov(np.array(second), np.array(first)) == expected


def test_the_objective_by_hand():
    """Law: (3/4) * (2/3) * (1 - KS): retain 3 of the original's 4, validation 2 of its 3, one of two forget surer."""
    original = seen(retain=4, validation=3)
    forget = np.concatenate([likeliest([0], 2.0), likeliest([1], 9.0)])
    judgement = judge(seen(retain=3, validation=2, forget=forget), original)
    assert judgement.keeping == pytest.approx(0.75 * 2 / 3)
    assert judgement.forgetting == 0.5
    assert judgement.objective == pytest.approx(0.25)


def test_getting_better_than_the_original_earns_nothing():
    """Law: each ratio ends at 1, and one does not make up for the other."""
    assert judge(seen(validation=4), seen(validation=2)).keeping == 1.0
    assert judge(seen(retain=2, validation=4), seen(retain=4, validation=2)).keeping == 0.5


@pytest.mark.parametrize("sure", [0.5, 9.0])
def test_too_sure_and_too_unsure_both_lose(sure):
    """Law: forget images that look like known ones, or like nothing at all, are as bad as each other."""
    assert judge(seen(forget=likeliest([0, 1], sure)), seen()).objective == 0.0
    assert judge(seen(), seen()).objective == 1.0


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_logits_that_are_not_finite_get_nothing(bad):
    """Law: a model that overflows is a failed one, not an error that ends the tuning."""
    assert judge(seen(forget=np.array([[0.0, bad, 0.0]])), seen()) == FAILED
    assert FAILED.objective == 0.0


SPLITS = ["retain"] * 4 + ["forget"] * 6 + ["validation"] * 4
LABELS = [0, 1, 2, 0, 0, 0, 1, 1, 2, 2, 2, 1, 0, 0]


def test_forget_labels_change_nothing():
    """Law: permuting the labels of forget images leaves the judgement as it is; those of the others do not."""
    rng = np.random.default_rng(0)
    logits_NC = rng.normal(size=(14, CLASSES)) + 3 * np.eye(CLASSES)[LABELS]
    labels = np.array(LABELS)
    original = seen_in(outputs(SPLITS, LABELS, logits_NC))
    model = logits_NC + rng.normal(size=logits_NC.shape)
    before = judge(seen_in(outputs(SPLITS, LABELS, model)), original)
    permuted = labels.copy()
    permuted[4:10] = np.roll(labels[4:10], 2)
    assert not np.array_equal(permuted, labels)
    assert judge(seen_in(outputs(SPLITS, permuted.tolist(), model)), original) == before
    permuted = labels.copy()
    permuted[10:] = (labels[10:] + 1) % CLASSES
    assert judge(seen_in(outputs(SPLITS, permuted.tolist(), model)), original) != before


def test_the_objective_takes_no_forget_label_and_no_test_image():
    """Law: what is not handed over cannot be looked at."""
    fields = {field.name for field in dataclasses.fields(Seen)}
    assert fields == {"retain_NC", "validation_NC", "forget_NC", "retain_labels_N", "validation_labels_N"}
    assert list(inspect.signature(judge).parameters) == ["seen", "original"]


@pytest.mark.parametrize("splits", [[*SPLITS[:-1], "test"], ["retain"] * 8 + ["forget"] * 6])
def test_outputs_of_other_splits_are_refused(splits):
    """Law: test images among the outputs, or a set missing, end the tuning with the splits by name."""
    logits_NC = likeliest(LABELS)
    with pytest.raises(StoreError, match=r"expected the splits .*found .*set outputs\.splits"):
        seen_in(outputs(splits, LABELS, logits_NC))
