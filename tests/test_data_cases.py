"""Data as people bring them: what is read, what is refused by its name, and what is reported."""

from __future__ import annotations

import datetime
import decimal
import io
import json
import os
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


def ids_file(folder: Path, name: str, content: Any) -> str:
    file = folder / name
    if name.endswith(".npy"):
        np.save(file, content)
    else:
        file.write_text(content if isinstance(content, str) else json.dumps(content))
    return str(file)


NUMBERED = [str(i) for i in (12, 7, 30, 5, 9, 11)]


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.txt", "12\n7\n\n", ["12", "7"]),
        ("a.json", [12, "7"], ["12", "7"]),
        ("a.npy", np.array([12, 7]), ["12", "7"]),
        ("a.npy", np.array(["12", "7"]), ["12", "7"]),
        ("a.npy", np.array([0, 4, 2]), ["12", "9", "30"]),
        ("a.npy", np.array([True, False, False, True, False, False]), ["12", "5"]),
        ("a.csv", " image_id ,x\n12,1\n7.0,1\n", ["12", "7"]),
        ("a.csv", "image_id\n12.0\n7\n", ["12", "7"]),
        ("a.csv", "image_id,forget,male\n12,1,0\n7,1,1\n", ["12", "7"]),
    ],
)
def test_lists_of_every_kind_are_taken(name: str, content: Any, expected: list[str], tmp_path: Path):
    """Law: ids as text or numbers; positions where no entry is an id; one boolean per image."""
    file = write_parquet(tmp_path / "a.parquet", [0, 1] * 3, key=NUMBERED)
    forget = {"ids": ids_file(tmp_path, name, content)}
    data = data_of(tmp_path, str(file), columns={"id": "key"}, forget=forget)
    assert sorted(NUMBERED[i] for i in data.splits.sets["forget"]) == sorted(expected)


def test_whole_numbers_in_the_study_are_ids(tmp_path: Path):
    """Law: `ids: [12, 7]` needs no quotes; what it names has the same digest as with them."""
    file = write_parquet(tmp_path / "a.parquet", [0, 1] * 3, key=NUMBERED)
    one, other = (
        data_of(tmp_path, str(file), columns={"id": "key"}, forget={"ids": ids}) for ids in ([12, 7], ["12", "7"])
    )
    assert one.splits.digest == other.splits.digest
    with pytest.raises(Exception, match="ids"):
        parse_study(merged(TINY, {"data": {"forget": {"fraction": None, "ids": [True]}}}), where="x")


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.txt", "12\n1234\n", r"entry 1: image id '1234' is not in data\.train; as a position, it is none of 0 to 5"),
        ("a.txt", "-1\n", r"image id '-1' is not in data\.train; as a position, it is none of 0 to 5"),
        (
            "a.npy",
            np.array([1, 0, 0, 1, 0, 0]),
            r"entry 2: .* was already named at .*; a mask of zeros and ones is wri",
        ),
        ("a.json", {"forget": [1], "retain": [2]}, "found a dictionary with the keys 'forget', 'retain': write one of"),
        ("a.npy", np.array([12, 8]), r"entry 1: image id '8' is not in data\.train"),
        ("a.npy", np.array([0, 1, -1]), r"entry 2: -1 is no position in data\.train, which has 0 to 5"),
        ("a.npy", np.array([1, 6]), r"entry 1: 6 is no position in data\.train, which has 0 to 5"),
        (
            "a.csv",
            "image_id,Forget?\n12,0\n7,1\n",
            r"column 'Forget\?' says which rows .* such as '0', '1'; all rows of",
        ),
        ("a.csv", "image_id,split\n12,retain\n7,forget\n", "column 'split' says which rows .*'forget', 'retain'; all"),
        ("a.json", [[1]], "expected a list of ids"),
        ("a.json", "[", "cannot be read as a list of ids"),
        ("a.npy", np.array([{"a": 1}], dtype=object), "cannot be read as a list of ids"),
        ("a.csv", "image_id\n012\n", r"image id '012' is not in data\.train \(did you mean '12'\?\)"),
    ],
)
def test_lists_that_name_nothing_are_refused(name: str, content: Any, said: str, tmp_path: Path):
    """Law: file and entry are named; a number written otherwise is suggested by value; no pickle is read."""
    file = write_parquet(tmp_path / "a.parquet", [0, 1] * 3, key=NUMBERED)
    if name.endswith(".npy") and content.dtype == object:
        np.save(tmp_path / name, content, allow_pickle=True)
        forget = {"ids": str(tmp_path / name)}
    else:
        forget = {"ids": ids_file(tmp_path, name, content)}
    with pytest.raises(DataError, match=said):
        data_of(tmp_path, str(file), columns={"id": "key"}, forget=forget)


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
