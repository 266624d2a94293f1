"""Which image is in which set: disjoint, exhaustive, and a function of the study's seed alone."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pydantic import TypeAdapter

from ray_unlearn.data.splits import SPLITS, ImageTable, Splits, make_splits
from ray_unlearn.errors import DataError
from ray_unlearn.seeds import Seeds
from ray_unlearn.study.schema import Data

TRAIN, VALIDATION, TEST = 60, 8, 12


def table(*, groups: bool = True, given: bool = False, validation: int = VALIDATION, test: int = TEST) -> ImageTable:
    """Return 60 training images of 4 classes and 20 persons (3 images each), then validation's, then test's."""
    total = TRAIN + validation + test
    sets = ["forget"] * 6 + ["validation"] * 9 + ["retain"] * 45
    return ImageTable(
        ids=[f"i{i}" for i in range(total)],
        labels_N=np.arange(total) % 4,
        groups=[f"p{i % 20}" if groups and i < TRAIN else "" for i in range(total)],
        given=[*(sets if given else [""] * TRAIN), *[""] * (total - TRAIN)],
        num_train=TRAIN,
        num_validation=validation,
        class_names=("ant", "bee", "cat", "dog"),
    )


def splits_of(images: ImageTable | None = None, seed: int = 0, **data: Any) -> Splits:
    """Return the splits of a `data` block."""
    block = TypeAdapter(Data).validate_python({"train": "digits", "test": "digits", **data})
    return make_splits(block, Seeds(study=seed), images or table())


FORGETS: dict[str, dict[str, Any]] = {
    "fraction": {"fraction": 0.1},
    "label": {"label": 2},
    "class": {"label": "cat"},
    "group": {"group": "person", "count": 3},
    "ids": {"ids": ["i5", "i50", "i17"]},
    "given": {"given": True},
}


@pytest.mark.parametrize("forget", FORGETS)
def test_sets_are_disjoint_and_exhaustive(forget: str):
    """Law: over every combination, no image is in two sets, and without `limit` every image is in one."""
    kinds = ["none", "fraction", "source", "given"]
    for validation, test, limit in itertools.product(kinds, ["source", "fraction"], [None, 40]):
        check_sets(forget, validation, test, limit)


def check_sets(forget: str, validation: str, test: str, limit: int | None) -> None:
    given = "given" in (forget, validation)
    images = table(
        given=given, validation=VALIDATION if validation == "source" else 0, test=TEST if test == "source" else 0
    )
    data: dict[str, Any] = {"forget": FORGETS[forget], "limit": limit}
    if validation in ("fraction", "given"):
        data["validation"] = {"fraction": 0.2, "given": "given"}[validation]
    data["test"] = 0.15 if test == "fraction" else "digits"
    if forget == "ids" and given:
        data["forget"] = {"ids": ["i20", "i50", "i17"]}
    splits = splits_of(images, **data)

    sets = {name: set(splits.sets[name].tolist()) for name in SPLITS}
    for one, other in itertools.combinations(SPLITS, 2):
        assert not sets[one] & sets[other]
    assert all(len(indexes) == len(sets[name]) for name, indexes in splits.sets.items())
    assert all(np.array_equal(indexes, np.sort(indexes)) for indexes in splits.sets.values())
    assert sets["retain"]
    assert sets["forget"]
    held_out = set(range(6, 15)) if given and validation != "given" else set()  # given as validation, never trained on
    everything = set(range(len(images.ids))) - held_out
    union = set().union(*sets.values())
    assert union <= everything
    if limit is None:
        assert union == everything
    else:
        trained = {i for i in union if i < TRAIN}
        assert len(trained) == limit + (9 if validation == "given" else 0)
    assert splits.train.tolist() == sorted(sets["retain"] | sets["forget"])
    assert splits.sizes() == {name: len(sets[name]) for name in SPLITS}


def test_sizes_worked_by_hand():
    """Law: test first, then validation, each of the training images left, then forget of what remains."""
    splits = splits_of(table(validation=0, test=0), test=0.25, validation=0.2, forget={"fraction": 0.25}, limit=40)
    # 40 of 60; test 0.25 * 40 = 10; validation 0.2 * 30 = 6; forget 0.25 * 24 = 6; retain 18
    assert splits.sizes() == {"retain": 18, "forget": 6, "validation": 6, "test": 10}


def test_the_smallest_fraction_is_one_image():
    """Law: a fraction that rounds to nothing still forgets one."""
    assert splits_of(forget={"fraction": 0.001}).sizes()["forget"] == 1


@pytest.mark.parametrize("label", [2, "cat"])
def test_a_class_is_forgotten_whole(label):
    """Law: by index or by name, every training image of the class and no other."""
    splits = splits_of(forget={"label": label})
    assert splits.sets["forget"].tolist() == list(range(2, 60, 4))


def test_persons_are_forgotten_whole():
    """Law: no person is in both forget and retain; exactly `count` persons are forgotten."""
    for seed in range(5):
        splits = splits_of(seed=seed, forget={"group": "person", "count": 4}, validation=0.1)
        persons = {name: {i % 20 for i in splits.sets[name].tolist()} for name in ("retain", "forget")}
        assert len(persons["forget"]) == 4
        assert not persons["forget"] & persons["retain"]


def test_images_without_a_person_are_never_forgotten_by_group():
    """Law: the empty group is no group."""
    images = table()
    groups = ["" if i < 30 else f"p{i % 2}" for i in range(len(images.ids))]
    anonymous = ImageTable(**{name: getattr(images, name) for name in ImageTable.__slots__} | {"groups": groups})
    forget = splits_of(anonymous, forget={"group": "person", "count": 1}).sets["forget"]
    assert len(forget) == 15
    assert forget.min() >= 30


def test_ids_from_a_list_and_from_a_csv_file_are_the_same(tmp_path):
    """Law: the forget set is exactly the named images, in any order and file; other columns do not matter."""
    file = tmp_path / "forget.csv"
    file.write_text("age,image_id\n3,i50\n9,i5\n1,i17\n")
    by_file, by_list = splits_of(forget={"ids": str(file)}), splits_of(forget={"ids": ["i5", "i17", "i50"]})
    assert by_file.sets["forget"].tolist() == [5, 17, 50]
    assert by_file.digest == by_list.digest


def test_named_images_survive_every_draw():
    """Law: limit, test and validation fractions never take an image that the study names."""
    for seed in range(20):
        splits = splits_of(
            table(validation=0, test=0), seed, limit=10, test=0.3, validation=0.3, forget={"ids": ["i1", "i2", "i3"]}
        )
        assert splits.sets["forget"].tolist() == [1, 2, 3]


def test_given_sets_are_taken_as_they_are():
    """Law: forget.csv and validation.csv are the sets; retain is the rest."""
    splits = splits_of(table(given=True, validation=0), forget={"given": True}, validation="given")
    assert splits.sets["forget"].tolist() == list(range(6))
    assert splits.sets["validation"].tolist() == list(range(6, 15))
    assert splits.sets["retain"].tolist() == list(range(15, 60))


def test_an_empty_given_validation_set_is_no_reason_to_refuse():
    """Law: a source whose validation.csv lists nothing can be used by a study that asks for none."""
    images = table(given=True, validation=0)
    given = [name.replace("validation", "retain") for name in images.given]
    images = ImageTable(**{name: getattr(images, name) for name in ImageTable.__slots__} | {"given": given})
    assert splits_of(images, forget={"given": True}).sizes()["retain"] == 54
    with pytest.raises(DataError, match="the source gives no validation set"):
        splits_of(images, forget={"given": True}, validation="given")


@pytest.mark.parametrize("forget", ["fraction", "group"])
def test_the_seed_decides(forget):
    """Law: the same seed draws the same sets, another seed others; the digest distinguishes them."""
    data = {"forget": FORGETS[forget], "validation": 0.2}
    first, again, other = splits_of(**data), splits_of(**data), splits_of(seed=1, **data)
    assert all(np.array_equal(first.sets[name], again.sets[name]) for name in SPLITS)
    assert first.digest == again.digest != other.digest
    assert not np.array_equal(first.sets["forget"], other.sets["forget"])
    assert not np.array_equal(first.sets["validation"], other.sets["validation"])


def test_the_draws_do_not_hang_together():
    """Law: the forget draw has a stream of its own: asking for other options does not move the test images."""
    images = table(validation=0, test=0)
    tests = [
        splits_of(images, test=0.2, forget=FORGETS[forget], validation=validation).sets["test"].tolist()
        for forget, validation in (("fraction", 0.1), ("label", 0.1), ("group", None))
    ]
    assert tests[0] == tests[1] == tests[2]


def test_every_draw_has_a_stream_of_its_own():
    """Law: limit, test, validation and forget draws share no stream, so that none follows from another."""
    purposes: list[str] = []

    class Watched(Seeds):
        def numpy(self, purpose):
            purposes.append(purpose)
            return super().numpy(purpose)

    tree = {"train": "digits", "limit": 50, "test": 0.2, "validation": 0.2, "forget": {"fraction": 0.1}}
    make_splits(TypeAdapter(Data).validate_python(tree), Watched(study=0), table(validation=0, test=0))
    assert len(set(purposes)) == len(purposes) == 4


def test_saved_splits_read_back():
    """Law: the Arrow file has one row per image with its split, id, label and group."""
    images = table()
    splits = splits_of(images, validation=0.2, forget={"fraction": 0.1})
    with pa.ipc.open_file(pa.BufferReader(splits.arrow(images))) as reader:
        saved = reader.read_all()
    assert saved.column_names == ["split", "image_id", "label", "group"]
    rows = list(zip(*(saved.column(name).to_pylist() for name in saved.column_names), strict=True))
    expected = [
        (name, images.ids[i], int(images.labels_N[i]), images.groups[i])
        for name in SPLITS
        for i in splits.sets[name].tolist()
    ]
    assert rows == expected
    assert splits.arrow(images) == splits_of(images, validation=0.2, forget={"fraction": 0.1}).arrow(images)


def csv(folder: Path, text: str) -> str:
    """Write a CSV file and return its path."""
    path = folder / "ids.csv"
    path.write_text(text)
    return str(path)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ({"forget": {"label": 77}}, "data.forget: the forget set is empty; expected some images in both"),
        ({"forget": {"ids": [f"i{i}" for i in range(60)]}}, "data.forget: the retain set is empty"),
        (
            {"forget": {"fraction": 0.999}},
            "data.forget: the retain set is empty: of 60 images forget took 60; expected",
        ),
        (
            {"forget": {"fraction": 0.1}, "validation": 0.98, "limit": 50},
            "data.validation: the retain set is empty: of 50 images forget took 1, validation took 49; expected",
        ),
        (
            {"forget": {"fraction": 0.1}, "validation": 0.999},
            "data.validation: the retain set is empty: of 60 images forget took 0, validation took 60; expected",
        ),
        (
            {"forget": {"fraction": 0.1}, "validation": 0.5, "test": 0.97},
            "data.test: the retain set is empty: of 60 images forget took 1, validation took 1, test took 58; expected",
        ),
        ({"forget": {"label": "crow"}}, "data.forget.label: 'crow' is none of the classes (valid: ant, bee, cat, dog)"),
        ({"forget": {"label": "catt"}}, "data.forget.label: 'catt' is none of the classes (did you mean 'cat'?)"),
        ({"forget": {"ids": ["i5", "x5"]}}, "data.forget.ids[1]: image id 'x5' is not in data.train (valid: i0, i1"),
        ({"forget": {"ids": ["i55x"]}}, "image id 'i55x' is not in data.train (did you mean 'i55'?)"),
        ({"forget": {"ids": []}}, "data.forget.ids: names no image; the forget set is empty"),
        ({"forget": {"ids": ["i70"]}}, "data.forget.ids[0]: image id 'i70' is not in data.train"),
        (
            {"forget": {"ids": ["i5", "i6", "i5"]}},
            "data.forget.ids[2]: image id 'i5' was already named at data.forget.id",
        ),
        ({"forget": {"group": "person", "count": 20}}, "data.forget.count: asks for 20 of 20 groups; some must remain"),
        ({"forget": {"given": True}}, "data: the source gives no forget set; only the competition's layout does"),
        ({"forget": {"fraction": 0.1}, "validation": "given"}, "data: the source gives no validation set"),
        ({"forget": {"fraction": 0.1}, "limit": 61}, "data.limit: asks for 61 of 60 images"),
        ({"forget": {"ids": ["i1", "i2", "i3"]}, "limit": 2}, "data.limit: asks for -1 of 57 images"),
        ({"forget": {"fraction": 0.1}, "validation": 0.001}, "data.validation: asks for 0 of 60 images"),
        ({"forget": {"fraction": 0.1}, "test": 0.001}, "data.test: asks for 0 of 60 images"),
    ],
)
def test_impossible_splits_are_refused(data, expected):
    """Law: the message states which key asks for what, and what there is."""
    with pytest.raises(DataError) as caught:
        splits_of(**data)
    assert expected in str(caught.value)


def test_groups_need_a_column():
    """Law: a source without groups cannot forget by group."""
    with pytest.raises(DataError, match=r"data\.forget\.group: person: the source has no group for any image"):
        splits_of(table(groups=False), forget={"group": "person", "count": 2})


def test_a_given_validation_image_cannot_be_forgotten():
    """Law: overlapping sets are refused by the place that overlaps, whether or not validation is asked for."""
    for validation in ("given", None):
        with pytest.raises(DataError, match=r"data\.forget\.ids\[1\]: image id 'i7' is in the source's validation set"):
            splits_of(table(given=True), forget={"ids": ["i20", "i7"]}, validation=validation)


def test_id_files_are_checked(tmp_path):
    """Law: a missing file, no CSV, no column, an unknown and a repeated id are refused by file and row."""
    cases = {
        "person,label\ni5,1\n": r"ids\.csv: no column 'image_id'; found \['person', 'label'\]",
        "": r"ids\.csv: not a readable CSV file",
        "image_id\ni5\nnobody\n": r"ids\.csv row 1: image id 'nobody' is not in data\.train",
        "image_id\ni5\ni6\ni5\n": r"ids\.csv row 2: image id 'i5' was already named at .*ids\.csv row 0",
    }
    for text, expected in cases.items():
        with pytest.raises(DataError, match=expected):
            splits_of(forget={"ids": csv(tmp_path, text)})
    with pytest.raises(DataError, match=r"gone\.csv: no such file; data\.forget\.ids: expected a list of ids"):
        splits_of(forget={"ids": str(tmp_path / "gone.csv")})
    with pytest.raises(DataError, match="the forget set is empty"):
        splits_of(forget={"ids": csv(tmp_path, "image_id\n")})
