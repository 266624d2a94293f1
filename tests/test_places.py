"""Lines of a study file in messages: every wrong key, in the file's order, also where another room finds it wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from ray_unlearn.errors import DataError, MethodError, StoreError, StudyError
from ray_unlearn.study import load_study
from ray_unlearn.study.loading import examine, located
from ray_unlearn.study.places import Places
from ray_unlearn.study.yaml12 import line_of

TEXT = """\
# a comment
name: tiny
data: &digits
  train: digits
  test: digits
  forget: {fraction: 0.1}
again:
  <<: *digits
  on: [1,
       2]
populations:
  original: {method: train, on: train}
  mine: {method: finetune, epoch: 1}
"""
STUDY = TEXT.replace("again:\n  <<: *digits\n  on: [1,\n       2]\n", "")


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("name", 2),
        ("data.forget.fraction", 6),
        ("data.forget.absent", 6),
        ("again.train", 7),  # copied by <<: the block around it
        ("again.on.1", 10),
        ("again.on.7", 9),
        ("populations.mine.epoch", 13),
        ("absent", 0),
    ],
)
def test_a_key_has_the_line_that_it_is_written_on(path: str, line: int) -> None:
    """Of a key that is not there, the innermost block around it."""
    assert line_of(TEXT, path.split(".")) == line


def test_the_place_comes_before_what_begins_with_a_key() -> None:
    """Other messages, keys of other files and a study without a file stay as they are; `--set` has no line."""
    places = Places("a.yaml", TEXT, ("data.test",))
    assert places.before("data.train: no images") == "a.yaml:4: data.train: no images"
    assert places.before("data.test: no images") == "a.yaml: data.test: no images"
    assert places.before("training.lr: too large") == "training.lr: too large"
    assert places.before("train.parquet: no images") == "train.parquet: no images"
    assert Places().before("data.train: no images") == "data.train: no images"


def test_all_wrong_keys_are_named_in_the_order_of_the_file(tmp_path: Path) -> None:
    """One line each, with the file and the key's line."""
    file = tmp_path / "study.yaml"
    file.write_text(STUDY.replace("name: tiny", "name: tiny\nseed: -1").replace("0.1}", "2}") + "training: {lrr: 1}\n")
    with pytest.raises(StudyError) as caught:
        load_study(file)
    lines = str(caught.value).splitlines()
    assert [line.partition(": ")[0] for line in lines] == [f"{file}:{n}" for n in (3, 7, 11)]
    assert [line.split(": ")[1] for line in lines] == ["seed", "data.forget.fraction", "training.lrr"]


def test_the_rest_of_a_wrong_study_can_be_examined(tmp_path: Path) -> None:
    """Without its wrong keys; None where a required one is wrong."""
    file = tmp_path / "study.yaml"
    file.write_text(STUDY + "seed: -1\n")
    study, wrong = examine(file)
    assert study is not None
    assert (study.seed, len(wrong)) == (0, 1)
    file.write_text(STUDY.replace("digits\n  test", "3\n  test"))
    study, wrong = examine(file)
    assert study is None
    assert [line.partition(": ")[0] for line in wrong] == [f"{file}:4"]


def test_errors_of_later_checks_get_the_line(tmp_path: Path) -> None:
    """Where they begin with a key of the study; the error stays of its kind."""
    file = tmp_path / "study.yaml"
    file.write_text(STUDY)
    study = load_study(file, ["seed=3"])
    with pytest.raises(MethodError, match=rf"^{file}:9: populations\.mine\.epoch: unknown"), located(study):
        raise MethodError("populations.mine.epoch: unknown")
    with pytest.raises(DataError, match=r"^broken\.png: no image"), located(study):
        raise DataError("broken.png: no image")
    with pytest.raises(StoreError, match=r"^data: gone"), located(study):
        raise StoreError("data: gone")


def test_where_a_study_is_written_makes_no_difference(tmp_path: Path) -> None:
    """Two files with the same study are equal."""
    for name in ("a.yaml", "b.yaml"):
        (tmp_path / name).write_text("#\n" * (name == "b.yaml") + STUDY)
    assert load_study(tmp_path / "a.yaml") == load_study(tmp_path / "b.yaml")
