"""Hard forget sets: what another study's originals memorised."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import TINY, merged
from evaluated import draw_logits, evaluated_store, labels_of, publish, publish_splits, study_of
from samples import encoded, picture

from ray_unlearn.errors import DataError, StudyError
from ray_unlearn.evaluation.memorisation import hardest_images
from ray_unlearn.generation import generate
from ray_unlearn.store import StudyStore, open_storage
from ray_unlearn.store.splits import read_image_names
from ray_unlearn.study import parse_study


def test_the_gap_is_what_the_original_knows_and_retrained_models_do_not(tmp_path: Path):
    """Law: images come in the order of mean p(label) under originals minus that under retrained models."""
    study = study_of(tmp_path, {"retrained": 2})
    store = StudyStore(open_storage(str(tmp_path)), study.name)
    publish_splits(store)
    store.storage.publish_file(store.layout.study_json, study.model_dump_json().encode())
    gaps = [0.1, 0.5, 0.0, -0.2, 0.4, 0.5, 0.3, 0.0, 0.0, 0.0, 0.0, 0.2]
    for name, lift in (("original", 1.0), ("retrained", 0.0)):
        for index in range(1 if name == "original" else 2):
            logits = draw_logits(0)
            p = 0.3 + lift * np.array(gaps) + (0.05 if index else -0.05) * (name == "retrained")  # means 0.3
            logits["forget"] = np.repeat(np.log((1 - p) / 2)[:, None], 3, axis=1).astype(np.float32)
            logits["forget"][np.arange(12), labels_of("forget")] = np.log(p)
            publish(store, name, index, logits)
    assert hardest_images(store, 5) == [f"forget-{i:03d}" for i in (1, 5, 4, 6, 11)]
    with pytest.raises(DataError, match="asks for 13 of its 12 forget images"):
        hardest_images(store, 13)


def test_a_study_forgets_the_hardest_of_another(tmp_path: Path):
    """Law: from the study file alone, the forget set is exactly those images."""
    easy = {"storage": str(tmp_path), "name": "easy", "populations": {"finetune": None, **RETRAINED}}
    first = parse_study(merged(TINY, easy), "a test")
    generate(first, backend="inline")
    wanted = hardest_images(StudyStore(open_storage(str(tmp_path)), "easy"), 4)
    forget = {"fraction": None, "hardest": 4, "by": "confidence_gap", "of": "easy"}
    hard = {**easy, "name": "hard", "data": {"forget": forget}, "populations": {"finetune": None}}
    second = parse_study(merged(TINY, hard | {"evaluation": None}), "a test")
    assert generate(second, backend="inline").exit_code == 0
    held = StudyStore(open_storage(str(tmp_path)), "hard").held("original")
    names = read_image_names(StudyStore(open_storage(str(tmp_path)), "hard"), held["identity"]["data"]["splits"])
    assert sorted(names.ids["forget"]) == sorted(wanted)


def test_the_hardest_of_other_images_are_refused(tmp_path: Path):
    """Law: the message names the study that was made from other images, not ids that no one wrote."""
    easy = {"storage": str(tmp_path), "name": "easy", "populations": {"finetune": None, **RETRAINED}}
    generate(parse_study(merged(TINY, easy), "a test"), backend="inline")
    ids = hardest_images(StudyStore(open_storage(str(tmp_path)), "easy"), 4)
    (tmp_path / "faces").mkdir()
    rows = [{"image": encoded(picture(i)), "label": i % 3, "id": name} for i, name in enumerate([ids[0], *"abcdefgh"])]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "faces" / "train.parquet")
    forget = {"fraction": None, "hardest": 4, "by": "confidence_gap", "of": "easy"}
    faces = {"train": str(tmp_path / "faces" / "train.parquet"), "test": None, "limit": None, "columns": {"id": "id"}}
    hard = {**easy, "name": "hard", "data": {**faces, "forget": forget}}
    with pytest.raises(DataError) as caught:
        generate(parse_study(merged(TINY, hard), "a test"), backend="inline")
    assert str(caught.value) == (
        f"data.forget.of: study easy was made from other images: 3 of its 4 hardest, such as {min(ids[1:])!r}, are not "
        "in data.train; name a study of the same images"
    )


RETRAINED = {"retrained": {"method": "train", "on": "retain", "count": 2}}


@pytest.mark.parametrize(
    ("forget", "said"),
    [
        ({"hardest": 4}, "hardest needs by and of"),
        ({"hardest": 4, "by": "confidence_gap"}, "hardest needs by and of"),
        ({"fraction": 0.1, "by": "confidence_gap"}, "by and of belong to hardest"),
        (
            {"hardest": 4, "by": "luck", "of": "x"},
            "data.forget.by: .* found 'luck'",
        ),
        ({"hardest": 0, "by": "confidence_gap", "of": "x"}, "greater than or equal to 1; found 0"),
        ({"hardest": 4, "by": "confidence_gap", "of": "../x"}, "data.forget.of"),
    ],
)
def test_half_a_wish_is_refused(tmp_path: Path, forget: dict, said: str):
    """Law: what is missing or impossible is reported before any work."""
    with pytest.raises(StudyError, match=said):
        parse_study(merged(TINY, {"data": {"forget": {"fraction": None, **forget}}}), "a test")


def test_without_that_study_there_is_no_set(tmp_path: Path):
    """Law: an unknown study, or one without retrained models, is one error that states what to do."""
    with pytest.raises(DataError, match=r"study nobody in .*: no such study; generate it first"):
        hardest_images(StudyStore(open_storage(str(tmp_path)), "nobody"), 1)
    _, store = evaluated_store(tmp_path, {"retrained": 1})
    store.storage.remove("tiny/retrained")
    with pytest.raises(DataError, match="population retrained: 0 of 1 of its runs made; generate all"):
        hardest_images(store, 1)
