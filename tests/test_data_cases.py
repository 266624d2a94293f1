"""Data as people bring them: what is read, what is refused by its name, and what is reported.

CSV files and lists of images in the dialects of their writers: `test_dialects`. An id in a test's name (A13, issue 21)
is the row of the table of cases that it holds.
"""

from __future__ import annotations

import datetime
import decimal
import io
import os
import re
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from conftest import TINY, merged
from PIL import Image
from pyarrow import fs
from samples import column, encoded, picture, prepare, write_parquet

from ray_unlearn.data.class_names import alike, in_order, is_split, no_label, remark_on
from ray_unlearn.data.copies import copies
from ray_unlearn.data.decode import decode
from ray_unlearn.data.folders import open_class_folders, open_competition
from ray_unlearn.data.id_lists import read_ids
from ray_unlearn.data.parquet import open_parquet
from ray_unlearn.data.shards import Example, encode_shard, map_shard
from ray_unlearn.data.study_data import StudyData, prepare_study
from ray_unlearn.errors import DataError
from ray_unlearn.store import open_storage
from ray_unlearn.study import parse_study
from ray_unlearn.study.schema import Columns


@pytest.fixture(autouse=True)
def _sets_of_any_size(monkeypatch):
    """Let a few images be enough: `test_preflight_of_data` has the warning about them."""
    monkeypatch.setattr("ray_unlearn.data.copies.FEW_IMAGES", 0)


def folder_of(root: Path, classes: dict[str, int], start: int = 0) -> Path:
    """Write so many different pictures per class."""
    number = start
    for name, count in classes.items():
        (root / name).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            (root / name / f"{i}.png").write_bytes(encoded(picture(number)))
            number += 1
    return root


def data_of(folder: Path, train: Any, **data: Any) -> StudyData:
    """Prepare the data of a study."""
    tree = {**TINY, "storage": str(folder / "store"), "data": {"train": train, "image_size": 8, **data}}
    tree["data"].setdefault("forget", {"fraction": 0.3})
    return prepare_study(parse_study(tree, where="x"), open_storage(str(folder / "store")))


# Classes that are numbers.


def test_numbers_are_in_their_order(tmp_path: Path):
    """Law: folders 0 to 11 are classes 0 to 11, which is reported; in text's order 2 was folder 10."""
    names = tuple(str(i) for i in range(12))
    root = folder_of(tmp_path / "num", dict.fromkeys(names, 2))
    source = open_class_folders(str(root))
    assert source.class_names == names
    assert "label 2 is '2', where version 0.1 sorted them as text and took '10'" in source.remarks[0]
    data = data_of(tmp_path, str(root), forget={"label": 2})
    ids = prepare(source, tmp_path / "s")
    forgotten = [column(ids, "image_id")[i] for i in data.splits.sets["forget"]]
    assert forgotten == ["2/0.png", "2/1.png"]
    assert any("label 2 is '2'" in line for line in data.warnings)


@pytest.mark.parametrize("names", [["cat", "10", "2"], ["b", "a"], ["0", "1", "2"], ["00", "01", "10"]])
def test_other_names_keep_the_order_of_text(names: list[str], tmp_path: Path):
    """Law: what was sorted as text and is no row of numbers stays so, and nothing is reported of it."""
    assert in_order(names) == tuple(sorted(names))
    assert open_class_folders(str(folder_of(tmp_path, dict.fromkeys(names, 1)))).remarks == ()


def test_string_labels_that_are_numbers_are_in_their_order(tmp_path: Path):
    """Law: the same for Parquet's strings and the competition's classes."""
    labels = [str(i) for i in range(12)]
    source = open_parquet((str(write_parquet(tmp_path / "a.parquet", labels)),), Columns())
    assert source.class_names == tuple(labels)
    assert "version 0.1" in source.remarks[0]
    for name, own in (("retain", labels), ("forget", ["x1"]), ("validation", ["2"])):
        rows = [f"{name}-{i},{label},3,p" for i, label in enumerate(own)]
        (tmp_path / f"{name}.csv").write_text("\n".join(["image_id,age_group,age,person_id", *rows]) + "\n")
    assert open_competition(str(tmp_path)).class_names == tuple(sorted([*labels, "x1"]))


def test_a_number_that_could_be_two_classes_is_refused(tmp_path: Path):
    """Law: folders 1 to 3: label 2 may be the class named 2 or number 2, named 3; in quotes it is the name."""
    root = folder_of(tmp_path / "num", {"1": 3, "2": 3, "3": 3})
    with pytest.raises(
        DataError, match=r"2 could be class number 2, '3', or the class named '2', which is number 1; .*\"2\""
    ):
        data_of(tmp_path, str(root), forget={"label": 2})
    assert len(data_of(tmp_path, str(root), forget={"label": "2"}).splits.sets["forget"]) == 3


# What is in folders.


def test_hidden_and_system_files_are_skipped(tmp_path: Path):
    """Law: copies that editors and systems leave are no images, at any depth, nor counted."""
    root = folder_of(tmp_path / "f", {"a": 3, "b": 3})
    for place in ("a/.ipynb_checkpoints", "__MACOSX/a", ".git/x", "a/@eaDir", "b/deeper/.cache"):
        (root / place).mkdir(parents=True)
        (root / place / "0.png").write_bytes(encoded(picture(0)))
    (root / "a/._0.png").write_bytes(b"resource fork")
    source = open_class_folders(str(root))
    assert (source.num_rows, source.class_names, source.remarks) == (6, ("a", "b"), ())
    write_parquet(tmp_path / "p/a.parquet", [0, 1])
    (tmp_path / "p/._a.parquet").write_bytes(b"resource fork")
    assert open_parquet((str(tmp_path / "p"),), Columns()).num_rows == 2


def test_ignored_files_are_counted_by_suffix(tmp_path: Path):
    """Law: what is no image that is read is counted; what torchvision reads is read."""
    root = folder_of(tmp_path / "f", {"a": 2, "b": 2})
    for name in ("a/x.heic", "a/y.heic", "b/z.avif", "b/README", "labels.txt"):
        (root / name).write_bytes(b"x")
    for i, suffix in enumerate(("jfif", "jpe", "pgm", "ppm", "tif", "webp", "bmp")):
        form = {"jfif": "JPEG", "jpe": "JPEG", "pgm": "PPM", "tif": "TIFF"}.get(suffix, suffix.upper())
        (root / f"a/{suffix}.{suffix}").write_bytes(encoded(picture(50 + i), form))
    source = open_class_folders(str(root))
    assert source.num_rows == 4 + 7
    said = (
        "5 files ignored, because they are no images of a supported kind: 2 .heic, 1 .avif, 1 .txt, 1 without a suffix"
    )
    assert sorted(source.remarks[0].split(": ")[1].split(", ")) == sorted(said.split(": ")[1].split(", "))
    assert source.remarks[0].startswith("5 files ignored")
    assert any("5 files ignored" in line for line in data_of(tmp_path, str(root)).warnings)
    assert prepare(source, tmp_path / "s").manifest.num_images == 11


def test_symbolic_links_that_are_not_followed_are_named(tmp_path: Path):
    """Law: a broken link is no ignored image but a broken link, also in the place of a class; a folder linked into a
    class is not searched, and said; links to images and to whole classes are read."""
    root, other = folder_of(tmp_path / "f", {"a": 2, "b": 2}), folder_of(tmp_path / "other", {"c": 3})
    (root / "c").symlink_to(other / "c")
    (root / "a" / "one.png").symlink_to(next((other / "c").iterdir()))
    (root / "a" / "more").symlink_to(other / "c")
    (root / "b" / "gone.png").symlink_to("/nowhere/x.png")
    (root / "d").symlink_to("/nowhere/d")
    (root / "b" / "notes.png.txt").symlink_to(Path(__file__))
    source = open_class_folders(str(root))
    assert (source.class_names, source.num_rows) == (("a", "b", "c"), 2 + 1 + 2 + 3)
    assert source.remarks == (
        "1 file ignored, because they are no images of a supported kind: 1 .txt",
        "2 broken symbolic links ignored, such as 'b/gone.png' to '/nowhere/x.png': no such file",
        "1 symbolic link to a folder inside of a class folder ignored, such as 'a/more': put the images there, or link "
        "each",
    )


def test_the_same_on_an_object_store(tmp_path: Path, monkeypatch):
    """Law: order, skipping and counting do not depend on where a folder is."""
    from ray_unlearn.data import folders

    mock = fs._MockFileSystem(datetime.datetime.now(datetime.UTC))
    names = [
        *(f"{i}/a.png" for i in range(11)),
        "1/.hidden/a.png",
        "__MACOSX/1/a.png",
        "1/._a.png",
        "2/x.heic",
        "x.txt",
    ]
    for name in names:
        mock.create_dir(f"b/f/{name.rpartition('/')[0]}", recursive=True)
        with mock.open_output_stream(f"b/f/{name}") as stream:
            stream.write(encoded(picture(1)))
    monkeypatch.setattr(folders, "open_filesystem", lambda uri: (mock, "b/f"))
    source = open_class_folders("s3://b/f")
    assert source.class_names == tuple(str(i) for i in range(11))
    assert source.num_rows == 11
    assert "2 files ignored" in source.remarks[1]
    assert "label 2 is '2'" in source.remarks[0]


# Splits that are together.


def test_files_of_several_splits_are_no_source(tmp_path: Path):
    """Law: a folder or glob with train and test files is refused, both named; files named one by one are meant."""
    for name in ("train-00000-of-00002", "train-00001-of-00002", "test-00000-of-00001"):
        write_parquet(tmp_path / f"hf/{name}.parquet", [0, 1])
    for path in (f"{tmp_path}/hf", f"{tmp_path}/hf/*.parquet"):
        with pytest.raises(
            DataError, match=r"holds train-00000-of-00002\.parquet and test-00000.*data\.train: .*train\*"
        ):
            open_parquet((path,), Columns())
    assert open_parquet((f"{tmp_path}/hf/train*.parquet",), Columns()).num_rows == 4
    both = tuple(str(path) for path in sorted((tmp_path / "hf").iterdir()))
    assert open_parquet(both, Columns()).num_rows == 6
    for split in ("train", "test"):
        write_parquet(tmp_path / f"deep/{split}/0000.parquet", [0, 1])
    with pytest.raises(DataError, match="files of several splits"):
        open_parquet((f"{tmp_path}/deep/**/*.parquet",), Columns())
    for name in ("train", "trainer", "part-0"):
        write_parquet(tmp_path / f"one/{name}.parquet", [0, 1])
    assert open_parquet((f"{tmp_path}/one",), Columns()).num_rows == 6


def test_folders_that_are_splits_are_no_classes(tmp_path: Path):
    """Law: a root of train and test is refused, with what to write; a class that is called train is a class."""
    root = folder_of(tmp_path / "faces", {"train/a": 1, "train/b": 1, "test/a": 1})
    with pytest.raises(
        DataError, match=rf"its folders 'test' and 'train' are splits, .*data\.train: {root}/train, and"
    ):
        open_class_folders(str(root))
    assert open_class_folders(str(folder_of(tmp_path / "v", {"train": 1, "car": 1}))).class_names == ("car", "train")
    assert [is_split(name) for name in ("val", "x_test.parquet", "contest", "latest")] == ["validation", "test", "", ""]


# Classes without images, and copies.


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        ([1, 2, 3] * 4, "no image of class 0, which counts as one of the 4 classes all the same"),
        ([0, 500, 1000] * 4, "no image of 998 of the 1,001 classes (1, 2, 3, ...), which count all the same"),
    ],
)
def test_empty_classes_are_counted(labels, said, tmp_path: Path):
    """Law: numbers that are no row from 0 make classes without images, which is reported with their number."""
    file = write_parquet(tmp_path / "one.parquet", labels)
    assert data_of(tmp_path, str(file)).warnings == (f"data.train: {said}",)


def test_copies_across_sets_are_counted(tmp_path: Path):
    """Law: forget images that are in retain, and test images that were trained on, are warned of with counts."""
    root = folder_of(tmp_path / "f", {"a": 4, "b": 4})
    for i in range(3):
        (root / f"b/copy-{i}.png").write_bytes((root / f"a/{i}.png").read_bytes())
    test = folder_of(tmp_path / "t", {"a": 4, "b": 1}, start=0)
    for file in (test / "a").iterdir():
        file.rename(file.with_stem(f"t{file.stem}"))
    (test / "b/0.png").write_bytes(encoded(picture(99)))
    (test / "b/0.png").rename(test / "b/t0.png")
    data = data_of(tmp_path, str(root), test=str(test), forget={"ids": ["a/0.png", "a/1.png"]}, limit=None)
    lines = [line for line in data.warnings if "pixel by pixel" in line]
    assert lines == [
        "data: 2 of 2 forget images are pixel by pixel in retain too, such as 'a/0.png' and 'b/copy-0.png': "
        "what is to be forgotten is trained on all the same",
        "data: 4 of 5 test images are pixel by pixel in retain too, such as 'a/t2.png' and 'a/2.png': "
        "the test measures memory",
        "data: 2 of 5 test images are pixel by pixel in forget too, such as 'a/t0.png' and 'a/0.png': "
        "the test measures memory",
    ]


def test_sets_without_copies_are_silent():
    """Law: no shared pixels, no line."""
    members = {"retain": [0, 1], "forget": [2], "validation": [], "test": [3]}
    sets = {name: np.array(own, np.int64) for name, own in members.items()}
    assert list(copies(sets, np.arange(4, dtype=np.uint64), list("abcd"))) == []


def test_shards_of_version_0_1_have_no_pixel_digests(tmp_path: Path):
    """Law: a shard without the column is read all the same, and small ones get it when it is asked for."""
    data = encode_shard([Example(picture(i % 2), 0, str(i), "", 0.0, "") for i in range(3)])
    new = pa.ipc.open_file(pa.BufferReader(data)).read_all()
    with pa.OSFile(str(tmp_path / "old.arrow"), "wb") as sink, pa.ipc.new_file(sink, new.schema.remove(7)) as writer:
        writer.write_table(new.drop_columns(["pixel_digest"]))
    old = map_shard(str(tmp_path / "old.arrow"))
    assert "pixel_digest" not in old.table.column_names
    assert old.columns()["pixel_digest"].to_pylist() == new["pixel_digest"].to_pylist()
    assert new["pixel_digest"][0] == new["pixel_digest"][2] != new["pixel_digest"][1]


# Pixels and labels.


@pytest.mark.parametrize(("mode", "dtype"), [("F", np.float32), ("I", np.int32)])
def test_numbers_that_are_no_grey_levels_are_refused(mode: str, dtype):
    """Law: a TIFF of floats or 32-bit integers would become black or white; it is refused by its mode."""
    sink = io.BytesIO()
    Image.fromarray(np.linspace(0, 1000, 64, dtype=dtype).reshape(8, 8), mode=None).save(sink, "TIFF")
    with pytest.raises(DataError, match=rf"mode {mode}, whose numbers have no stated white; save it with 8 bits"):
        decode(sink.getvalue(), 8)


LABELS: dict[str, Callable[[], pa.Array]] = {
    "whole floats": lambda: pa.array([0.0, 1.0, 2.0]),
    "decimals": lambda: pa.array([decimal.Decimal(i) for i in range(3)], pa.decimal128(5, 2)),
    "dictionary of numbers": lambda: pa.array([0, 1, 2], pa.int32()).dictionary_encode(),
    "small": lambda: pa.array([0, 1, 2], pa.uint8()),
}


@pytest.mark.parametrize("kind", LABELS)
def test_labels_that_are_whole_numbers_are_taken(kind: str, tmp_path: Path):
    """Law: pandas and polars write labels in other types; a whole number is a whole number."""
    table = pa.table({"image": [encoded(picture(i)) for i in range(3)], "label": LABELS[kind]()})
    pq.write_table(table, tmp_path / "a.parquet")
    assert column(prepare(open_parquet((str(tmp_path / "a.parquet"),), Columns()), tmp_path / "s"), "label") == [
        0,
        1,
        2,
    ]


@pytest.mark.parametrize("kind", ["string", "large_string", "string_view", "dictionary"])
def test_labels_that_are_text_are_taken(kind: str, tmp_path: Path):
    """Law: so is text, and images in views of binary."""
    types = {"string": pa.string(), "large_string": pa.large_string(), "string_view": pa.string_view()}
    labels = pa.array(["dog", "cat", "dog"], types.get(kind))
    labels = labels.dictionary_encode() if kind == "dictionary" else labels
    image_type = pa.binary_view() if kind == "string_view" else pa.binary()
    pq.write_table(
        pa.table({"image": pa.array([encoded(picture(i)) for i in range(3)], image_type), "label": labels}),
        tmp_path / "a.parquet",
    )
    source = open_parquet((str(tmp_path / "a.parquet"),), Columns())
    assert source.class_names == ("cat", "dog")
    assert column(prepare(source, tmp_path / "s"), "label") == [1, 0, 1]


def test_booleans_are_two_classes_and_halves_none(tmp_path: Path):
    """Law: false is 0 and true is 1; 0.5 and NaN are refused by row."""
    images = [encoded(picture(i)) for i in range(2)]
    pq.write_table(pa.table({"image": images, "label": [True, False]}), tmp_path / "a.parquet")
    assert column(prepare(open_parquet((str(tmp_path / "a.parquet"),), Columns()), tmp_path / "s"), "label") == [1, 0]
    for value in (0.5, float("nan")):
        pq.write_table(pa.table({"image": images, "label": [0.0, value]}), tmp_path / "b.parquet")
        with pytest.raises(DataError, match=rf"b\.parquet row 1: label {value}: expected a class number"):
            prepare(open_parquet((str(tmp_path / "b.parquet"),), Columns()), tmp_path / "s")


# What is none of our sources.


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("x.npz", r"x\.npz: not a readable \.npz file"),
        ("x.npy", r"this is a NumPy file, not a folder; name its folder, with data\.npy and label\.npy in it"),
        ("x.tar.gz", "this is a compressed archive, not a folder; unpack it"),
        ("x.zip", "this is a zip archive, not a folder; unzip it"),
        ("x.arrow", r"this is an Arrow file, not a folder; write it as Parquet: datasets"),
        ("x.csv", r"x\.csv: no column with the images' paths; name it by data\.columns: \{path: \.\.\.\}"),
        ("x.txt", "this is a table of text, not a folder; images are read from Parquet"),
        ("x.h5", "this is a data set of another library, not a folder"),
        ("x.pkl", "this is a pickle, which may run code when read"),
        ("x", "this is a file, not a folder; expected one folder per class"),
        ("gone.npz/", "no such file"),
        ("gone/", "no such folder"),
    ],
)
def test_a_file_is_called_what_it_is(name: str, said: str, tmp_path: Path):
    """Law: a path that is there is never `no such folder`; the next step is named."""
    if not name.endswith("/"):
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(DataError, match=said):
        data_of(tmp_path, str(tmp_path / name.rstrip("/")))


@pytest.mark.parametrize(
    ("files", "said"),
    [
        (["dataset_info.json", "state.json", "data-0.arrow"], r"not a folder of save_to_disk: state\.json cannot"),
        (["dataset_dict.json"], "not a folder of save_to_disk"),
        (["data.mdb", "lock.mdb"], "LMDB"),
        (["data_batch_1", "batches.meta"], r"CIFAR-10's pickles; write data\.train: \{format: cifar10, path: "),
        (["cifar-10-batches-py/data_batch_1"], "CIFAR-10's pickles"),
        ([], "no images in class folders; expected .*; 1 file such as 'placeholder' are in no class folder"),
        (["data/train-0.parquet", "README.md"], r"it holds Parquet files: name them, as \S*other/data/\*\.parquet"),
        (["metadata.csv", "0.png"], r"it holds metadata\.csv: where that names images and classes, name it, \S*csv$"),
        (["train-images-idx3-ubyte.gz"], r"it holds MNIST's files: write them as \.npz"),
        (["cat.0.png", "cat.1.png"], r"3 files such as 'cat\.0\.png' are in no class folder"),
        (["a/0.ico", "b/0.ico", "b/1.tga", "-placeholder"], r"found 2 \.ico, 1 \.tga"),
    ],
)
def test_a_folder_of_another_library_is_named(files: list[str], said: str, tmp_path: Path):
    """Law: the same for folders."""
    names = [f"other/{name}" for name in ["placeholder", *files]]
    for name in names[1:-1] if files[-1:] == ["-placeholder"] else names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(DataError, match=said):
        data_of(tmp_path, str(tmp_path / "other"))


def test_a_name_that_is_no_utf_8_is_one_line(tmp_path: Path):
    """Law: the file is named as ASCII; nothing is encoded half-way."""
    folder_of(tmp_path / "f", {"a": 1, "b": 1})
    bad = os.fsencode(tmp_path / "f/a") + b"/caf\xe9.png"
    Path(os.fsdecode(bad)).write_bytes(encoded(picture(7)))
    with pytest.raises(DataError, match=r"caf\\udce9\.png': the name of this file is not UTF-8; rename it"):
        open_class_folders(str(tmp_path / "f"))


def test_a_client_that_fails_is_one_line(monkeypatch):
    """Law: file systems of Python's (hf://) raise what their HTTP clients raise; it is a DataError with the URI."""

    class Offline(Exception):
        """What an HTTP client raises: no OSError."""

    def fails(*_: Any) -> Any:
        raise Offline("[Errno -2] Name or service not known")

    offline = SimpleNamespace(
        FileSystem=SimpleNamespace(from_uri=fails), FileSelector=fs.FileSelector, LocalFileSystem=fs.LocalFileSystem
    )
    monkeypatch.setattr("ray_unlearn.data.files.fs", offline)
    with pytest.raises(DataError, match=r"hf://datasets/x/a\.parquet: cannot be opened: \[Errno -2\]"):
        open_parquet(("hf://datasets/x/a.parquet",), Columns())

    class Client:
        get_file_info = staticmethod(fails)

    monkeypatch.setattr("ray_unlearn.data.files.open_filesystem", lambda uri: (Client(), "datasets/x"))
    with pytest.raises(DataError, match=r"hf://datasets/x/\*\.parquet: cannot be listed: \[Errno -2\]"):
        open_parquet(("hf://datasets/x/*.parquet",), Columns())


# Lists of images to forget.


def test_whole_numbers_in_the_study_are_ids(tmp_path: Path):
    """Law: `ids: [12, 7]` needs no quotes; what it names has the same digest as with them."""
    file = write_parquet(tmp_path / "a.parquet", [0, 1] * 3, key=["12", "7", "30", "5", "9", "11"])
    one, other = (
        data_of(tmp_path, str(file), columns={"id": "key"}, forget={"ids": ids}) for ids in ([12, 7], ["12", "7"])
    )
    assert one.splits.digest == other.splits.digest
    with pytest.raises(Exception, match="ids"):
        parse_study(merged(TINY, {"data": {"forget": {"fraction": None, "ids": [True]}}}), where="x")


@pytest.mark.parametrize(
    ("names", "label", "said"),
    [
        (
            ["class0", "class1", "class10", "class2"],
            2,
            "sorted as text, 'class10'; if 'class2' is meant, write the name",
        ),
        (["1.0", "10.0", "2.0"], 1, "'10.0'; if '2.0' is meant"),
        (["0-2", "10-12", "3-6"], 1, "'10-12'; if '3-6' is meant"),
        (["class0", "class1", "class10", "class2"], 1, ""),
        (["0", "1", "2", "10"], 2, ""),
        (["plane", "car", "bird"], 1, ""),
        (["class0", "class1", "class10"], "class10", ""),
    ],
)
def test_a5_a_number_of_a_class_with_numbers_in_its_name(names: list[str], label: int | str, said: str):
    """Law: a number is warned of where the numbers in the names would give another class, and only there."""
    remark = remark_on(label, names)
    assert said in remark
    assert bool(said) == bool(remark)


def test_class_names_that_look_alike():
    """Law: capitals and blanks make two classes, which is said."""
    said = "data.train: classes 'cat' and 'Cat ' are two, though only capitals or blanks differ"
    assert alike(["cat", "dog", "Cat "]) == said
    assert alike(["cat", "cats"]) == ""
    forms = alike(["Z\u00fcrich", "Zu\u0308rich"])
    assert forms.endswith("are two, though only the forms of Unicode's accents differ")


def test_a_test_folder_whose_accents_have_the_form_of_macos_is_read(tmp_path: Path):
    """Law: the class is the same class, which was refused in favour of a name that looks the same."""
    train = folder_of(tmp_path / "train", {"Bern": 3, "Z\u00fcrich": 3})
    test = folder_of(tmp_path / "test", {"Bern": 2, "Zu\u0308rich": 2}, start=9)
    data = data_of(tmp_path, str(train), test=str(test))
    assert data.test is not None
    assert column(data.test, "label") == [0, 0, 1, 1]


def test_numbers_that_are_taken_for_another_files_names_are_said(tmp_path: Path):
    """Law: number 0 of the test file is the training file's first name, rightly or not, which the report repeats."""
    train = str(write_parquet(tmp_path / "train.parquet", ["dog", "cat", "emu", "fox"] * 2))
    test = str(write_parquet(tmp_path / "test.parquet", [0, 1, 2, 3], start=20))
    said = (
        "data.test: labels are numbers and data.train's are names, which are taken in their order: "
        "0 is 'cat', 1 is 'dog', 2 is 'emu', ..."
    )
    assert said in data_of(tmp_path, train, test=test).warnings
    named = str(write_parquet(tmp_path / "named.parquet", [0, 1], names=["dog", "cat"], start=30))
    digits = str(write_parquet(tmp_path / "digits.parquet", ["0", "1", "2", "3"] * 2))
    for own, other in ((train, named), (digits, test)):  # a folder `0` and the number 0 are one class
        assert not any("labels are numbers" in line for line in data_of(tmp_path, own, test=other).warnings)


def test_a_class_named_as_a_missing_label_is_said():
    """Law: `nan` is a class like any other, which is said."""
    said = "data.train: a class is named 'NaN', which is how a missing label is often written"
    assert no_label(["cat", "NaN"]) == said
    assert no_label(["cat", "nana", "none of these"]) == ""


def test_a_class_without_a_test_image_is_said(tmp_path: Path):
    """Law: one warning names classes that a test source lacks; a whole one, and a part of train, give none."""
    folder_of(tmp_path / "train", {"a": 4, "b": 4, "c": 4})
    folder_of(tmp_path / "test", {"a": 2}, start=50)
    folder_of(tmp_path / "whole", {"a": 1, "b": 1, "c": 1}, start=60)
    lines = data_of(tmp_path, str(tmp_path / "train"), test=str(tmp_path / "test")).warnings
    assert [line for line in lines if "data.test" in line] == [
        "data.test: no image of 2 classes that data.train has (b, c)"
    ]
    for test in (str(tmp_path / "whole"), 0.1, None):
        lines = data_of(tmp_path, str(tmp_path / "train"), test=test).warnings
        assert [line for line in lines if "data.test" in line] == []


@pytest.mark.parametrize("name", ["forget_idx.pt", "forget.pkl"])
def test_a_pickled_list_of_ids_is_named(name: str, tmp_path: Path):
    """Law: a list that torch.save or pickle wrote is called what it is, with what to write instead."""
    torch.save(torch.arange(3), tmp_path / name)
    with pytest.raises(DataError, match=rf"{name}: a pickle, which may run code when read; write .* by numpy\.save"):
        read_ids(str(tmp_path / name))


def test_a_list_that_names_another_split_is_refused(tmp_path: Path):
    """Law: `test/a/0.png` is no image of data.train, though it has one of that name below its own folder."""
    root = folder_of(tmp_path / "train", {"a": 3, "b": 3})
    held = folder_of(tmp_path / "held", {"a": 3, "b": 3}, start=50)
    named = [f"{split}/a/0.png" for split in ("faces/train", "faces", "test", "val")]
    assert [len(data_of(tmp_path, str(root), forget={"ids": [one]}).splits.sets["forget"]) for one in named[:2]] == [
        1,
        1,
    ]
    for one, split in zip(named[2:], ("test", "validation"), strict=True):
        with pytest.raises(DataError, match=f"'{one}' is in a folder of {split} images, .* name it 'a/0.png' if"):
            data_of(tmp_path, str(root), forget={"ids": [one]})
    with pytest.raises(DataError, match=r"'held/a/0\.png' is in a folder of test images, "):
        data_of(tmp_path, str(root), test=str(held), forget={"ids": ["held/a/0.png"]})


# Depth of grey images.


def grey(levels: np.ndarray, form: str = "PNG") -> bytes:
    """Return a 16-bit grey image."""
    sink = io.BytesIO()
    Image.fromarray(levels.astype(np.uint16)).save(sink, form)
    return sink.getvalue()


def deep_colours(levels_HWC: np.ndarray) -> bytes:
    """Return a PNG of 16-bit colours, which Pillow reads and does not write."""
    height, width, _ = levels_HWC.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in levels_HWC)

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


RAMP = np.linspace(0, 4095, 64).reshape(8, 8)


@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_a13_twelve_bits_in_sixteen(form: str):
    """Law: 12-bit data are refused with the reason, and keep all their levels once the study names the depth."""
    with pytest.raises(
        DataError, match=r"levels up to 4,095 of 65,535: .* 16 levels would be left; set data.grey_bits: 12"
    ):
        decode(grey(RAMP, form), 8)
    assert np.array_equal(decode(grey(RAMP, form), 8, grey_bits=12)[:, :, 0], RAMP.astype(np.uint16) >> 4)
    assert len(np.unique(decode(grey(RAMP, form), 8, grey_bits=12))) == 64
    assert decode(grey(RAMP, form), 8, grey_bits=16).max() == 15
    with pytest.raises(DataError, match=r"levels up to 4,095, which take more than the 10 bits of data\.grey_bits"):
        decode(grey(RAMP, form), 8, grey_bits=10)


def test_a13_sixteen_bits_and_black_are_as_before():
    """Law: an image that uses its sixteen bits, and one that is black, need no key."""
    assert decode(grey(RAMP * 16), 8).max() == 255
    assert decode(grey(RAMP * 0), 8).max() == 0


def test_a13_colours_of_twelve_bits():
    """Law: the same for colours, of which Pillow reads the upper eight of sixteen bits."""
    ramp = np.repeat(RAMP[:, :, None], 3, 2)
    with pytest.raises(DataError, match="16 levels would be left: it seems to hold twelve bits or fewer"):
        decode(deep_colours(ramp), 8)
    assert decode(deep_colours(ramp), 8, grey_bits=16).max() == 15
    assert decode(deep_colours(ramp * 16), 8).max() == 255


def faces(folder: Path, make: Callable[[int], bytes]) -> str:
    """Write two classes of six images each."""
    for number in range(12):
        file = folder / f"faces/{'ab'[number % 2]}/{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(make(number))
    return str(folder / "faces")


def test_a13_in_a_study(tmp_path: Path):
    """Law: the keys of the study reach the decoder, and the cache holds each depth's images apart."""
    train = faces(tmp_path, lambda number: grey((RAMP - number).clip(0)))
    with pytest.raises(DataError, match=r"data\.grey_bits: 12"):
        data_of(tmp_path, train)
    twelve, sixteen = (data_of(tmp_path, train, grey_bits=bits) for bits in (12, 16))
    assert twelve.train.folder != sixteen.train.folder
    assert twelve.identity["images"] != sixteen.identity["images"]


# Images that are not square


def wide(number: int = 0) -> bytes:
    """Return an image of 24x8 pixels: a red, a green and a blue square."""
    colours = np.eye(3, dtype=np.uint8) * (255 - number)
    return encoded(np.repeat(np.repeat(colours[None], 8, 1), 8, 0).transpose(0, 1, 2))


@pytest.mark.parametrize(("resize", "column"), [("stretch", [0, 1, 2]), ("crop", [1, 1, 1]), ("pad", [0, 1, 2])])
def test_issue_21_resize(resize: Any, column: list[int]):
    """Law: stretch shows all thirds over the whole height, crop the middle one, pad all with black above and below."""
    found = decode(wide(), 24, resize)
    assert [int(found[12, x].argmax()) for x in (2, 12, 21)] == column
    assert (found[2].max() == 0) == (resize == "pad")
    assert np.array_equal(found[12], decode(wide(), 24, resize)[11])
    square = encoded(np.full((8, 8, 3), 7, np.uint8))
    assert np.array_equal(decode(square, 24, resize), decode(square, 24))


def test_issue_21_resize_in_a_study(tmp_path: Path):
    """Law: the study's key chooses, and without it the digests are as before."""
    train = faces(tmp_path, wide)
    found = {name: data_of(tmp_path, train, resize=name).identity["images"]["train"] for name in ("crop", "pad")}
    found["stretch"] = data_of(tmp_path, train).identity["images"]["train"]
    assert len({*found.values()}) == 3


# CSV files of images


MUFAC = "image_path,age_class,family\n" + "".join(f"x{i:02d}.png,{i % 3},F0{i % 2}\n" for i in range(12))


def table(folder: Path, text: str, images: str = "train_images") -> str:
    """Write a CSV file, and 12 images in a folder beside it."""
    for i in range(12):
        file = folder / images / f"x{i:02d}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(encoded(np.full((8, 8, 3), 10 + i, np.uint8)))
    (folder / "train.csv").write_bytes(text.encode())
    return str(folder / "train.csv")


def test_issue_21_mufacs_csv(tmp_path: Path):
    """Law: a CSV of paths and classes is a source; groups are read, and ids are the paths as they are written."""
    path = table(tmp_path, MUFAC)
    columns = {"label": "age_class", "group": "family"}
    source = {"path": path, "images": str(tmp_path / "train_images")}
    data = data_of(tmp_path, source, columns=columns, forget={"ids": ["x03"]})
    shard = data.train.columns()[0]
    assert shard["image_id"].to_pylist() == [f"x{i:02d}.png" for i in range(12)]
    assert shard["label"].to_pylist() == [i % 3 for i in range(12)]
    assert shard["group"].to_pylist() == [f"F0{i % 2}" for i in range(12)]
    assert data.num_classes == 3


@pytest.mark.parametrize(
    ("text", "columns", "said"),
    [
        (
            MUFAC,
            {},
            r"no column 'label' for data\.columns\.label.*age_class.*name it by data\.columns: \{label: \.\.\.\}",
        ),
        (
            MUFAC.replace("image_path", "who"),
            {"label": "age_class"},
            r"no column with the images' paths; .*who, age_class",
        ),
        (MUFAC, {"label": "age_class", "path": "pth"}, r"no column 'pth' for data\.columns\.path"),
        (MUFAC.replace(",1,", ",,"), {"label": "age_class"}, r"row 1: column 'age_class' is empty; expected a class"),
        ("image_path,label\n", {}, "no rows; expected one per image"),
        (MUFAC.replace("x03", "gone"), {"label": "age_class"}, r"row 3: .*gone\.png cannot be read"),
    ],
)
def test_issue_21_csv_refusals(text: str, columns: dict[str, str], said: str, tmp_path: Path):
    """Law: what is missing is named with its row or column, and with what to write."""
    with pytest.raises(DataError, match=said):
        data_of(tmp_path, table(tmp_path, text, "."), columns=columns)


@pytest.mark.parametrize(
    ("cells", "said"),
    [
        (["0", "1", "nan"], "data.train: 2 of 3 classes are whole numbers from 0, and others are not, such as 'nan': "),
        (["-1", "1", "2"], "data.train: 2 of 3 classes are whole numbers from 0, and others are not, such as '-1': "),
        (["a", "b", "c"], ""),
        (["0", "1", "2"], ""),
    ],
)
def test_issue_21_csv_classes_that_are_partly_numbers(cells: list[str], said: str, tmp_path: Path):
    """Law: a cell that stands for `no label` among numbers would be a class of its own, which is reported."""
    text = "".join(re.sub(r",(\d),", lambda found: f",{cells[int(found[1])]},", f"{line}\n") for line in MUFAC.split())
    found = data_of(tmp_path, table(tmp_path, text, "."), columns={"label": "age_class"}).warnings
    assert len(found) == bool(said)
    assert all(line.startswith(said) for line in found)


def test_issue_21_csv_of_several_splits(tmp_path: Path):
    """Law: a column that puts rows into splits is reported as not read; the classes may be called so."""
    lines = [f"{line},{'Training' if i % 2 else 'Test'}" for i, line in enumerate(MUFAC.split())]
    text = "\n".join([lines[0].rpartition(",")[0] + ",usage", *lines[1:]])
    path = table(tmp_path, text, ".")
    found = data_of(tmp_path, path, columns={"label": "age_class"}).warnings
    assert found == (
        "data.train: column 'usage' names splits (Test, Training), and is not read: all 12 rows are taken; write a CSV "
        "file for each split",
    )
    assert data_of(tmp_path, path, columns={"label": "usage"}).warnings == ()


# NumPy's arrays


def arrays(count: int, start: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return grey images of 8x8 pixels, all different, and their classes."""
    return np.arange(start, start + count, dtype=np.uint8)[:, None, None].repeat(8, 1).repeat(8, 2), np.arange(
        count
    ) % 3


def test_issue_21_medmnists_npz(tmp_path: Path):
    """Law: one file serves as train, validation and test, each with its own arrays."""
    held = {}
    for number, role in enumerate(("train", "val", "test")):
        images, labels = arrays(12, 50 * number)
        held |= {f"{role}_images": images, f"{role}_labels": labels[:, None]}
    np.savez_compressed(tmp_path / "m.npz", **held)
    file = str(tmp_path / "m.npz")
    data = data_of(tmp_path, file, test=file, validation=file, forget={"ids": ["m-train-00003"]})
    assert {name: len(members) for name, members in data.splits.sets.items()} == {
        "retain": 11,
        "forget": 1,
        "validation": 12,
        "test": 12,
    }
    assert data.num_classes == 3
    assert data.test is not None
    assert data.test.map()[0].pixels_NHWC[:, 0, 0, 0].tolist() == list(range(100, 112))


IMAGES, CLASSES = arrays(12)


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        (IMAGES[:, None], CLASSES),
        (IMAGES[:, None].repeat(3, 1), CLASSES.astype(np.float32)),
        (IMAGES[..., None].repeat(3, 3), CLASSES.astype(np.uint8)),
        (IMAGES.astype(np.float32), CLASSES),
        ((IMAGES / 255).astype(np.float32)[:, None].repeat(3, 1), CLASSES),
        (IMAGES, np.array(["cat", "dog", "owl"])[CLASSES]),
    ],
)
def test_issue_21_npy_folder(images: np.ndarray, labels: np.ndarray, tmp_path: Path):
    """Law: SCRUB's data.npy and label.npy are read in every layout and type that loses nothing."""
    np.save(tmp_path / "data.npy", images)
    np.save(tmp_path / "label.npy", labels)
    data = data_of(tmp_path, str(tmp_path), forget={"fraction": 0.3})
    shard = data.train.map()[0]
    assert shard.pixels_NHWC[:, 4, 4].tolist() == [[i] * 3 for i in range(12)]
    assert shard.labels_N.tolist() == CLASSES.tolist()
    assert data.class_names == (("cat", "dog", "owl") if labels.dtype.kind == "U" else None)


@pytest.mark.parametrize("dtype", [bool, np.float32])
def test_issue_21_npy_black_and_white(dtype: type, tmp_path: Path):
    """Law: booleans, and fractions that are all 0 or 1, are black and white, not two shades of black."""
    np.save(tmp_path / "data.npy", (IMAGES % 2).astype(dtype))
    np.save(tmp_path / "label.npy", CLASSES)
    shard = data_of(tmp_path, str(tmp_path), forget={"fraction": 0.3}).train.map()[0]
    assert shard.pixels_NHWC[:, 4, 4, 0].tolist() == [0, 255] * 6


@pytest.mark.parametrize(
    ("images", "labels", "said"),
    [
        (IMAGES, CLASSES[:, None].repeat(14, 1), r"several labels per image \(multi-label\), and one-hot rows"),
        (IMAGES / 100 - 1, CLASSES, r"numbers from -1 to .*; expected 0\.\.255, or fractions in 0\.\.1"),
        (IMAGES, CLASSES[:9], "has 12 images, and label 9 labels"),
        (IMAGES[:, 0, :5], CLASSES, r"expected images \[N, H, W\] or \[N, H, W, 3\]; found uint8 \[12, 5\]"),
        (
            np.array([{"a": 1}] * 12, dtype=object),
            CLASSES,
            "holds Python objects, a pickle, which may run code when read",
        ),
        (IMAGES, CLASSES + 0.5, "expected whole numbers; found float64"),
        (IMAGES, CLASSES.astype("datetime64[D]"), r"expected whole numbers; found datetime64\[D\]"),
        (IMAGES.astype(np.complex64), CLASSES, r"expected images .*; found complex64 \[12, 8, 8\]"),
        (IMAGES[:0], CLASSES, "has 0 images, and label 12 labels"),
        (IMAGES[..., None].repeat(2, 3), CLASSES, r"or \[N, H, W, 3\]; found uint8 \[12, 8, 8, 2\]"),
        (IMAGES[..., None].repeat(4, 3), CLASSES, r"or \[N, H, W, 3\]; found uint8 \[12, 8, 8, 4\]"),
        (IMAGES % 2, CLASSES, "whole numbers 0 and 1, of which only black would be left"),
    ],
)
def test_issue_21_arrays_refusals(images: np.ndarray, labels: np.ndarray, said: str, tmp_path: Path):
    """Law: arrays that are no images of one class each are refused with what was found; no pickle is read."""
    np.save(tmp_path / "data.npy", images, allow_pickle=True)
    np.save(tmp_path / "label.npy", labels)
    with pytest.raises(DataError, match=said):
        data_of(tmp_path, str(tmp_path))
    np.savez(tmp_path / "a.npz", other=IMAGES)
    with pytest.raises(
        DataError, match=r"a\.npz: no images and labels for data\.train; it holds other; expected train_im"
    ):
        data_of(tmp_path, str(tmp_path / "a.npz"))


# Pre-flight


def test_issue_21_groups_that_straddle_sets(tmp_path: Path):
    """Law: persons whose images are partly forgotten are counted; those that are forgotten whole are not."""
    columns = {"label": "age_class", "group": "family"}
    data = data_of(tmp_path, table(tmp_path, MUFAC, "."), columns=columns, forget={"ids": ["x03"]})
    assert data.warnings == (
        "data: 1 of 1 groups in forget have images in retain too, such as 'F01': they are trained on all the same",
    )
    whole = data_of(tmp_path, table(tmp_path, MUFAC, "."), columns=columns, forget={"group": "family", "count": 1})
    assert whole.warnings == ()


def test_issue_21_strict(tmp_path: Path):
    """Law: with data.strict, what would be warned of is refused; a clean set passes."""
    columns = {"label": "age_class", "group": "family"}
    path = table(tmp_path, MUFAC, ".")
    with pytest.raises(DataError, match=r"data\.strict: data: 1 of 1 groups in forget have images in retain too"):
        data_of(tmp_path, path, columns=columns, forget={"ids": ["x03"]}, strict=True)
    (tmp_path / "x04.png").write_bytes((tmp_path / "x03.png").read_bytes())
    with pytest.raises(DataError, match=r"retain too, .* \(and 1 more such, which data\.strict: false prints\)"):
        data_of(tmp_path, path, columns=columns, forget={"ids": ["x03"]}, strict=True)
    path = table(tmp_path, MUFAC, ".")  # without the copy
    assert data_of(tmp_path, path, columns=columns, forget={"group": "family", "count": 1}, strict=True).warnings == ()
