"""Image folders: one folder per class, and the competition's CSV files."""

from __future__ import annotations

import math
import os
from pathlib import Path

import numpy as np
import pytest
from samples import column, decoded, encoded, picture, prepare

from ray_unlearn.data import folders
from ray_unlearn.data.folders import is_competition, open_class_folders, open_competition
from ray_unlearn.data.sources import open_source
from ray_unlearn.data.study_data import check_columns
from ray_unlearn.errors import DataError
from ray_unlearn.study.forget import Forget
from ray_unlearn.study.schema import Columns, Data, Source

HEADER = "image_id,age_group,age,person_id"


def class_folders(root: Path, **images: list[int]) -> Path:
    """Write `root/<class>/<index>.png` for every index."""
    for name, indices in images.items():
        for index in indices:
            path = root / name / f"{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encoded(picture(index)))
    return root


def competition(root: Path, *, header: str = HEADER, **rows: list[str]) -> Path:
    """Write the three CSV files, and an image for every id of the form a-b."""
    root.mkdir(parents=True, exist_ok=True)
    for name in ("retain", "forget", "validation"):
        lines = rows.get(name, [])
        (root / f"{name}.csv").write_text("\n".join([header, *lines]) + "\n")
        for line in lines:
            folder, _, file = line.split(",")[0].partition("-")
            path = root / "images" / folder / f"{file}.png"
            if file.isalnum():
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(encoded(picture(int(file))))
    return root


GOOD = {"retain": ["7-1,0,3,anna", "7-2,1,12,ben"], "forget": ["8-3,2,25,carl"], "validation": ["9-4,0,,"]}


def test_a_folder_per_class(tmp_path):
    """Law: classes are the sorted folder names; ids are paths below the root; hidden folders and notes do not count."""
    root = class_folders(tmp_path / "faces", dog=[2, 1], cat=[0])
    class_folders(root, **{".cache": [8]})
    (root / "dog" / "notes.txt").write_text("no image")
    (root / "readme.md").write_text("no class")
    prepared = prepare(open_class_folders(str(root)), tmp_path / "store")
    assert prepared.manifest.class_names == ("cat", "dog")
    assert column(prepared, "image_id") == ["cat/0.png", "dog/1.png", "dog/2.png"]
    assert column(prepared, "label") == [0, 1, 1]
    assert np.array_equal(decoded(prepared), [picture(0), picture(1), picture(2)])


def test_a_folder_of_an_object_store_is_the_same_source(tmp_path, monkeypatch):
    """Law: over a URI the same images, ids, classes and order come as from a path, many requests at a time."""
    monkeypatch.setattr(folders, "_HELD", 3)
    root = class_folders(tmp_path / "faces", dog=list(range(8)), cat=[20, 9], **{"dog/puppies": [30], ".cache": [8]})
    (root / "dog" / "notes.txt").write_text("no image")
    (root / "readme.png").write_bytes(encoded(picture(1)))
    (root / "eel").mkdir()
    here = prepare(open_class_folders(str(root)), tmp_path / "store").manifest
    source = open_source(Source(path=f"file://{root}"), "train", Columns())
    there = prepare(source, tmp_path / "store").manifest
    assert (there.content, there.class_names) == (here.content, here.class_names)
    assert there.class_names == ("cat", "dog", "eel")
    assert there.num_images == 11


def test_a_remote_folders_fingerprint_notices_a_change(tmp_path):
    """Law: another size or time of an object gives another fingerprint; credentials in the URI give none."""
    root = class_folders(tmp_path / "faces", dog=[1], cat=[0])
    uri = f"file://{root}"
    first = open_class_folders(uri).fingerprint
    assert open_class_folders(uri).fingerprint == first
    (root / "dog" / "1.png").write_bytes(encoded(picture(2)) + b"more")
    assert open_class_folders(uri).fingerprint != first


def test_an_object_store_that_fails_skips_no_image(tmp_path, monkeypatch):
    """Law: an object that is gone is a bad image, which may be skipped; a refused request never is one."""
    root = class_folders(tmp_path / "faces", dog=[1, 2], cat=[0])
    source = open_class_folders(f"file://{root}")
    (root / "dog" / "1.png").unlink()
    skipped = prepare(source, tmp_path / "store", skip_bad=True).manifest.skipped
    assert [skip["reason"] for skip in skipped] == [f"file://{root}/dog/1.png does not exist any more"]

    def refuses(act):
        raise OSError("ACCESS_DENIED during GetObject")

    monkeypatch.setattr(folders, "attempt", refuses)
    with pytest.raises(DataError, match=r"cat/0\.png: cannot be read: ACCESS_DENIED"):
        prepare(source, tmp_path / "other", skip_bad=True)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (None, "no such folder; expected one folder per class"),
        ("a.parquet", r"no images in class folders; .* or file://.*/\*\.parquet for a folder of Parquet files"),
    ],
)
def test_remote_folders_without_images_are_refused(tmp_path, content, expected):
    """Law: the line states what is there and what was expected."""
    if content:
        (tmp_path / "faces").mkdir()
        (tmp_path / "faces" / content).write_text("")
    with pytest.raises(DataError, match=expected):
        open_class_folders(f"file://{tmp_path}/faces")


def test_the_competitions_layout_is_local(tmp_path):
    """Law: what is not read from an object store reports it."""
    with pytest.raises(DataError, match="s3://bucket/input: the competition's layout is read from a local disk"):
        open_competition("s3://key:secret@bucket/input?region=x")


def test_the_competitions_layout_is_no_folder_of_one_class(tmp_path):
    """Law: found on an object store by `auto`, it is refused, not read as one class called images."""
    class_folders(tmp_path / "input", images=[1, 2])
    (tmp_path / "input" / "retain.csv").write_text("image_id,age_group\n")
    with pytest.raises(DataError, match="input: the competition's layout is read from a local disk or mount only"):
        open_source(Source(path=f"file://{tmp_path}/input"), "train", Columns())


def test_images_may_be_deeper_and_end_in_capitals(tmp_path):
    """Law: everything below a class's folder is of that class, no matter what the ending's case."""
    root = class_folders(tmp_path / "faces", cat=[0])
    deep = root / "cat" / "2020" / "9.PNG"
    deep.parent.mkdir()
    deep.write_bytes(encoded(picture(9)))
    source = open_class_folders(str(root))
    assert sorted(row.image_id for part in source.slices for row in part.rows()) == ["cat/0.png", "cat/2020/9.PNG"]


def test_folders_agree_by_class_name(tmp_path):
    """Law: a test folder that lacks a class means the same classes as the training folder; a new one is refused."""
    train = prepare(open_class_folders(str(class_folders(tmp_path / "a", ant=[0], bee=[1], cat=[2]))), tmp_path / "s")
    names = train.manifest.class_names
    test = open_class_folders(str(class_folders(tmp_path / "b", ant=[3], cat=[4])))
    assert column(prepare(test, tmp_path / "s", class_names=names), "label") == [0, 2]
    new = open_class_folders(str(class_folders(tmp_path / "c", catt=[5])))
    with pytest.raises(DataError, match=r"catt/5\.png: label 'catt' is none of the 3 classes \(did you mean 'cat'\?\)"):
        prepare(new, tmp_path / "s", class_names=names)


def test_the_fingerprint_notices_every_change(tmp_path):
    """Law: an untouched folder keeps its fingerprint; a rewritten, added or removed image gives another."""
    root = class_folders(tmp_path / "faces", cat=[0], dog=[1])
    os.utime(root / "cat" / "0.png", ns=(1, 1))  # the clock of file times may be too coarse for two writes
    seen = [open_class_folders(str(root)).fingerprint]
    assert open_class_folders(str(root)).fingerprint == seen[0]
    (root / "cat" / "0.png").write_bytes(encoded(picture(7)))
    seen.append(open_class_folders(str(root)).fingerprint)
    class_folders(root, cat=[5])
    seen.append(open_class_folders(str(root)).fingerprint)
    (root / "cat" / "0.png").unlink()
    seen.append(open_class_folders(str(root)).fingerprint)
    assert len(set(seen)) == 4


def test_folders_without_images_are_refused(tmp_path):
    """Law: a missing folder, an empty one, and one of loose images state what was expected."""
    with pytest.raises(
        DataError, match=r"gone: no such folder; expected one folder per class, retain\.csv and images/"
    ):
        open_class_folders(str(tmp_path / "gone"))
    (tmp_path / "loose").mkdir()
    (tmp_path / "loose" / "1.png").write_bytes(encoded(picture(1)))
    with pytest.raises(DataError, match="loose: no images in class folders; expected"):
        open_class_folders(str(tmp_path / "loose"))


def test_damaged_files_are_named(tmp_path):
    """Law: the file is the row."""
    root = class_folders(tmp_path / "faces", cat=[0, 1])
    (root / "cat" / "1.png").write_bytes(encoded(picture(1))[:40])
    with pytest.raises(DataError, match=r"faces/cat/1\.png: not an image that can be decoded"):
        prepare(open_class_folders(str(root)), tmp_path / "store")


def test_the_competitions_layout(tmp_path):
    """Law: `a-b` is at images/a/b.png; the CSV file is the given set; group and age come along."""
    root = competition(tmp_path / "input", **GOOD)
    source = open_source(Source(path=str(root)), "train", Columns())
    prepared = prepare(source, tmp_path / "store")
    assert column(prepared, "image_id") == ["7-1", "7-2", "8-3", "9-4"]
    assert column(prepared, "label") == [0, 1, 2, 0]
    assert column(prepared, "given") == ["retain", "retain", "forget", "validation"]
    assert column(prepared, "group") == ["anna", "ben", "carl", ""]
    ages = column(prepared, "age")
    assert ages[:3] == [3.0, 12.0, 25.0]
    assert math.isnan(ages[3])
    assert np.array_equal(decoded(prepared), [picture(i) for i in (1, 2, 3, 4)])
    assert (prepared.manifest.class_names, prepared.manifest.max_label) == (None, 2)


def test_numeric_persons_keep_their_text(tmp_path):
    """Law: an id of digits is text: a missing neighbour does not turn 007 into 7.0."""
    rows = {"retain": ["7-1,0,3,007", "7-2,1,12,"], "forget": ["8-3,2,25,010"], "validation": ["9-4,0,1,1"]}
    source = open_competition(str(competition(tmp_path / "input", **rows)))
    assert [row.group for part in source.slices for row in part.rows()] == ["007", "", "010", "1"]


def test_named_age_groups_become_classes(tmp_path):
    """Law: where one file names its groups, all labels are names."""
    rows = {
        "retain": ["7-1,0-2,3,a", "7-2,10,12,b"],
        "forget": ["8-3,10,25,c"],  # alone, pandas would read this file's groups as integers
        "validation": ["9-4,0-2,1,d"],
    }
    prepared = prepare(open_competition(str(competition(tmp_path / "input", **rows))), tmp_path / "store")
    assert prepared.manifest.class_names == ("0-2", "10")
    assert column(prepared, "label") == [0, 1, 1, 0]


def test_age_and_person_are_optional(tmp_path):
    """Law: only image_id and age_group are needed."""
    root = competition(tmp_path / "input", header="image_id,age_group", retain=["7-1,0"], forget=["8-3,1"])
    rows = [row for part in open_competition(str(root)).slices for row in part.rows()]
    assert [(row.group, math.isnan(row.age)) for row in rows] == [("", True)] * 2


def test_missing_csv_files_and_columns(tmp_path):
    """Law: each is named, with what the layout has."""
    root = competition(tmp_path / "a", **GOOD)
    (root / "forget.csv").unlink()
    assert is_competition(str(root))
    with pytest.raises(DataError, match=r"a/forget\.csv: missing; the competition's layout has"):
        open_competition(str(root))
    root = competition(tmp_path / "b", header="image_id,group,age,person_id", **GOOD)
    with pytest.raises(DataError, match=r"retain\.csv: no column 'age_group'; expected image_id, age_group.*found \["):
        open_competition(str(root))
    (root / "retain.csv").write_text("")
    with pytest.raises(DataError, match=r"retain\.csv: not a readable CSV file"):
        open_competition(str(root))
    (root / "retain.csv").write_bytes(b"\xff\xfe\x00binary")
    with pytest.raises(DataError, match=r"retain\.csv: not a readable CSV file"):
        open_competition(str(root))


@pytest.mark.parametrize("image_id", ["../../etc-passwd", "7-../8", "../7-1", "7", "", "7-1-2", "7/1-2", "/a-b"])
def test_ids_that_could_leave_the_folder_are_refused(tmp_path, image_id):
    """Law: only `a-b` of letters, digits and _ is turned into a path; file and row are named."""
    root = competition(tmp_path / "input", **GOOD)
    with (root / "forget.csv").open("a") as file:
        file.write(f"{image_id},0,1,x\n")
    with pytest.raises(DataError, match=r"forget\.csv row 1: image_id: expected `a-b` of letters, digits and _; found"):
        open_competition(str(root))


@pytest.mark.parametrize("label", ["", "1.5"])
def test_age_groups_that_are_no_class_are_refused(tmp_path, label):
    """Law: a missing or fractional group is refused by file and row."""
    root = competition(tmp_path / "input", **GOOD)
    with (root / "retain.csv").open("a") as file:
        file.write(f"7-2,{label},1,x\n")
    with pytest.raises(DataError, match=r"retain\.csv row 2: age_group: expected an integer or a name; found"):
        open_competition(str(root))


def test_a_missing_image_is_refused_or_skipped_by_its_csv_row(tmp_path):
    """Law: the CSV row and the path of the image are named."""
    root = competition(tmp_path / "input", **GOOD)
    (root / "images" / "7" / "2.png").unlink()
    source = open_competition(str(root))
    with pytest.raises(DataError, match=r"retain\.csv row 1: .*images/7/2\.png cannot be read \(No such file"):
        prepare(source, tmp_path / "store")
    prepared = prepare(source, tmp_path / "store", skip_bad=True)
    assert column(prepared, "image_id") == ["7-1", "8-3", "9-4"]
    assert [skip["image_id"] for skip in prepared.manifest.skipped] == ["7-2"]


def test_an_image_in_two_sets_is_refused(tmp_path):
    """Law: overlapping retain and forget ids are refused, both places named."""
    root = competition(tmp_path / "input", **{**GOOD, "forget": ["7-2,1,12,ben"]})
    with pytest.raises(DataError, match=r"'7-2' occurs twice: .*retain\.csv row 1 and .*forget\.csv row 0"):
        prepare(open_competition(str(root)), tmp_path / "store")


def test_formats_that_need_one_folder(tmp_path):
    """Law: a format without a path, or a folder format with two, reports it."""
    with pytest.raises(DataError, match=r"data\.train: format folder needs a path"):
        open_source(Source(format="folder"), "train", Columns())
    with pytest.raises(DataError, match=r"data\.test: format folder takes one path; found 2 paths"):
        open_source(Source(path=("a", "b"), format="folder"), "test", Columns())
    with pytest.raises(DataError, match="gone: no such folder"):
        open_source(Source(path=str(tmp_path / "gone")), "train", Columns())
    with pytest.raises(DataError, match=r"data\.validation\.images: is the folder of a CSV file's images; .* folder"):
        open_source(Source(path=str(tmp_path), images="b"), "validation", Columns())


def test_columns_without_a_table_are_refused(tmp_path):
    """Law: names of columns that change nothing are an error; one table is enough, and defaults written out change
    nothing either.
    """
    (tmp_path / "a").mkdir()
    folder = Source(path=str(tmp_path / "a"))
    with pytest.raises(
        DataError, match=r"data\.columns\.label: names a column, and no source of the study has columns"
    ):
        check_columns(Data(train=folder, image_size=8, columns=Columns(label="age"), forget=Forget(fraction=0.1)))
    table = Source(path="test.csv")
    check_columns(
        Data(train=folder, test=table, image_size=8, columns=Columns(label="age"), forget=Forget(fraction=0.1))
    )


@pytest.mark.parametrize("path", ["a" * 5000, "b/" * 3000])
def test_a_path_that_no_file_system_takes_is_refused(path: str):
    """Law: a name too long to be looked at is one short line, not a traceback."""
    with pytest.raises(DataError, match=r"data\.train: (a{80}|(b/){40}): cannot be read \(File name too long\)"):
        open_source(Source(path=path), "train", Columns())
