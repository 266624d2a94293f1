"""Outputs read back: what every score is made of."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from evaluated import SPLITS_DIGEST, draw_logits, evaluated_store, labels_of, publish

from ray_unlearn.errors import StoreError
from ray_unlearn.evaluation.confidence import probability_of
from ray_unlearn.evaluation.outputs import SplitOutputs, read_outputs
from ray_unlearn.evaluation.slices import slices, summary
from ray_unlearn.store.arrow import ipc_bytes, read_table
from ray_unlearn.store.splits import read_image_names, without_groups


def test_outputs_are_the_runs_in_order(tmp_path: Path):
    """Law: row i of every array is run i; phi, correctness and loss follow from its logits."""
    _, store = evaluated_store(tmp_path, {"retrained": 3})
    outputs = read_outputs(store, "retrained", store.made("retrained"))
    assert [record.index for record in outputs.records] == [0, 1, 2]
    for run in range(3):
        for split, logits in draw_logits(1000 + run).items():
            found, labels = outputs.splits[split], labels_of(split)
            exp = np.exp(logits.astype(np.float64))
            p = exp[np.arange(len(labels)), labels] / exp.sum(1)
            assert np.allclose(found.phi_RN[run], np.log(p / (1 - p)), atol=1e-5)
            assert np.allclose(found.loss_RN[run], -np.log(p), atol=1e-5)
            assert (found.correct_RN[run] == (logits.argmax(1) == labels)).all()
            assert found.accuracy_R[run] == (logits.argmax(1) == labels).mean()
    half = outputs.take([2, 0])
    assert [record.index for record in half.records] == [2, 0]
    assert (half.splits["forget"].phi_RN == outputs.splits["forget"].phi_RN[[2, 0]]).all()


def test_probabilities_are_computed_once_for_all_subsets_of_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Law: some runs, and some of these, share what was computed of all; the bits are those of their own phi."""
    phi_RN = np.random.default_rng(0).normal(0, 20, (9, 13))
    whole = SplitOutputs(np.arange(13), np.zeros(13, np.int64), phi_RN, phi_RN > 0)
    calls: list[int] = []
    monkeypatch.setattr(
        "ray_unlearn.evaluation.outputs.probability_of", lambda phi: calls.append(len(phi)) or probability_of(phi)
    )
    some = whole.take([4, 1, 7, 0])
    for found, rows in ((some, [4, 1, 7, 0]), (some.take([2, 0]), [7, 4]), (whole, range(9))):
        assert found.probability_RN.tolist() == probability_of(phi_RN[list(rows)]).tolist()
        assert found.accuracy_R.tolist() == found.correct_RN.mean(1).tolist()
    assert calls == [9]


def test_accuracies_of_few_originals_are_as_uncertain_as_their_originals():
    """Law: 5 x 8 equal runs have the interval of 5 numbers, by hand 0.5 +- 2.7764 x 0.1581 / sqrt 5; and 4 originals
    with a quarter of the variance are held in 95 % of studies, with 32 runs alone in 69.
    """
    values = np.array([0.3, 0.4, 0.5, 0.6, 0.7])
    found = summary(np.repeat(values, 8), 1.0, np.repeat(np.arange(5), 8))
    assert (found.n, found.mean) == (40, pytest.approx(0.5))
    assert (found.low, found.high) == pytest.approx((0.5 - 0.19633, 0.5 + 0.19633), abs=1e-4)
    assert summary(values, 1.0, np.arange(5)) == summary(values, 1.0)
    rng, starts, held = np.random.default_rng(0), np.arange(32) % 4, np.zeros((2, 400))
    for study in range(400):
        runs = 5 + 0.5 * rng.normal(size=4)[starts] + 0.75**0.5 * rng.normal(size=32)
        for row, originals in enumerate((starts, None)):
            one = summary(runs, originals_R=originals)
            held[row, study] = one.low < 5 < one.high
    assert 0.92 <= held[0].mean() <= 0.98
    assert held[1].mean() < 0.85


def test_runs_from_scratch_that_arrive_in_parts_are_no_originals(tmp_path: Path):
    """Law: accuracies of runs in parts are those of all at once, also of runs from scratch, numbered in each part."""
    _, store = evaluated_store(tmp_path, {"retrained": 12})
    whole = read_outputs(store, "retrained", store.made("retrained"))
    names = read_image_names(store, SPLITS_DIGEST)
    parts = [whole.take(range(start, start + 6)) for start in (0, 6)]
    assert slices(parts, names) == slices([whole], names)
    assert slices(parts, names)[0].accuracy == summary(whole.splits["retain"].accuracy_R, 1.0)


def test_damaged_outputs_are_refused(tmp_path: Path):
    """Law: a byte that is not what the record states is an error with the run's name, never a number."""
    _, store = evaluated_store(tmp_path, {"retrained": 2})
    file = next(tmp_path.glob("tiny/retrained/00001/outputs.arrow"))
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    with pytest.raises(StoreError, match=r"retrained/00001: outputs\.arrow differs from its record"):
        read_outputs(store, "retrained", store.made("retrained"))


def test_runs_of_other_images_are_refused(tmp_path: Path):
    """Law: runs whose outputs are of different splits never become one array."""
    _, store = evaluated_store(tmp_path, {"retrained": 2})
    logits = draw_logits(1)
    publish(store, "retrained", 2, {"forget": logits["forget"]})
    with pytest.raises(StoreError, match="retrained/00002 has outputs of other images"):
        read_outputs(store, "retrained", store.made("retrained"))


def test_image_names_are_those_of_the_splits_file(tmp_path: Path):
    """Law: ids and class names come back in order; a file without groups has empty ones."""
    _, store = evaluated_store(tmp_path, {"retrained": 1})
    names = read_image_names(store, SPLITS_DIGEST)
    assert names.ids["forget"][:2] == ["forget-000", "forget-001"]
    assert names.class_names == ("young", "middle", "old")
    assert set(names.groups["test"]) == {""}
    with pytest.raises(StoreError, match=r"tiny/splits/.* is missing"):
        read_image_names(store, "cd" * 32)


def test_a_splits_file_of_an_older_version_has_no_groups_to_hide(tmp_path: Path):
    """Law: a file without the column is packed as it is, and its groups are read as empty."""
    _, store = evaluated_store(tmp_path, {"retrained": 1})
    name = store.layout.splits(SPLITS_DIGEST)
    older = ipc_bytes(read_table(store.storage.read(name)).drop_columns(["group"]))
    assert without_groups(older) == older
    store.storage.publish_file(name, older)
    assert set(read_image_names(store, SPLITS_DIGEST).groups["forget"]) == {""}
