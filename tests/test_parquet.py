"""Parquet sources: every layout, any number of files, and refusals that name file and row."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import fs
from samples import IMAGE_STRUCT, column, copied, decoded, encoded, picture, prepare, rows_of, write_parquet

from ray_unlearn.data import files, parquet
from ray_unlearn.data.parquet import is_parquet, open_parquet
from ray_unlearn.errors import DataError
from ray_unlearn.study.schema import Columns


@pytest.mark.parametrize("plain", [False, True])
def test_both_layouts_give_the_exact_pixels_and_labels(tmp_path, plain):
    """Law: struct<bytes, path> and plain binary are the same images."""
    path = write_parquet(tmp_path / "a.parquet", [2, 0, 1], plain=plain)
    prepared = prepare(open_parquet((str(path),), Columns()), tmp_path / "store")
    assert np.array_equal(decoded(prepared), [picture(0), picture(1), picture(2)])
    assert column(prepared, "label") == [2, 0, 1]
    assert column(prepared, "image_id") == ["a.parquet:0", "a.parquet:1", "a.parquet:2"]


def test_large_binary_and_large_string_are_taken_too(tmp_path):
    """Law: pandas and polars write large types; they hold the same."""
    table = pa.table(
        {
            "image": pa.array([encoded(picture(0)), encoded(picture(1))], pa.large_binary()),
            "label": pa.array(["dog", "cat"], pa.large_string()),
        }
    )
    pq.write_table(table, tmp_path / "a.parquet")
    prepared = prepare(open_parquet((str(tmp_path / "a.parquet"),), Columns()), tmp_path / "store")
    assert (prepared.manifest.class_names, column(prepared, "label")) == (("cat", "dog"), [1, 0])


def test_class_names_come_from_the_schema(tmp_path):
    """Law: the `huggingface` metadata names the classes; without it integers name nothing."""
    named = write_parquet(tmp_path / "named.parquet", [0, 1], names=["zebra", "ant"])
    assert open_parquet((str(named),), Columns()).class_names == ("zebra", "ant")
    silent = write_parquet(tmp_path / "silent.parquet", [0, 1])
    assert open_parquet((str(silent),), Columns()).class_names is None


@pytest.mark.parametrize("metadata", ["not json", "[]", '{"info": {"features": {}}}', '{"info": null}'])
def test_unreadable_metadata_names_nothing(tmp_path, metadata):
    """Law: metadata of another tool is no reason to refuse a file."""
    path = write_parquet(tmp_path / "a.parquet", [0, 1])
    table = pq.read_table(path).replace_schema_metadata({"huggingface": metadata})
    pq.write_table(table, path)
    assert open_parquet((str(path),), Columns()).class_names is None


def test_string_labels_are_sorted_into_classes_over_all_files(tmp_path):
    """Law: the classes of string labels are the sorted distinct labels of every file."""
    write_parquet(tmp_path / "0.parquet", ["dog", "cat"])
    write_parquet(tmp_path / "1.parquet", ["ant", "dog"], start=2)
    prepared = prepare(open_parquet((str(tmp_path),), Columns()), tmp_path / "store")
    assert prepared.manifest.class_names == ("ant", "cat", "dog")
    assert column(prepared, "label") == [2, 1, 0, 2]


def test_files_that_number_their_classes_differently_agree_by_name(tmp_path):
    """Law: a class is its name; the second file's 0 is the first file's 1."""
    write_parquet(tmp_path / "0.parquet", [0, 1], names=["cat", "dog"])
    write_parquet(tmp_path / "1.parquet", [0, 1], names=["dog", "cat"], start=2)
    prepared = prepare(open_parquet((str(tmp_path),), Columns()), tmp_path / "store")
    assert column(prepared, "label") == [0, 1, 1, 0]


def test_several_files_may_be_named_in_every_way(tmp_path):
    """Law: a list, a glob, a folder and a file system URI of the same files are the same source."""
    for number in range(3):
        write_parquet(tmp_path / "faces" / f"train-{number}.parquet", [0, 1], start=2 * number)
    (tmp_path / "faces" / "notes.txt").write_text("not a source")
    write_parquet(tmp_path / "faces" / "deeper" / "other.parquet", [0])
    folder = str(tmp_path / "faces")
    names = [f"train-{number}.parquet" for number in range(3)]
    ways = [
        tuple(f"{folder}/{name}" for name in names),
        (f"{folder}/*.parquet",),
        (f"{folder}/train-?.parquet",),
        (folder,),
        (f"{folder}/train-0.parquet", f"{folder}/train-[12].parquet"),
        (f"file://{folder}/*.parquet",),
        (f"file://{folder}",),
        tuple(f"file://{folder}/{name}" for name in names),
    ]
    sources = [open_parquet(way, Columns()) for way in ways]
    assert {source.num_rows for source in sources} == {6}
    assert {source.fingerprint for source in sources[:5]} == {sources[0].fingerprint}
    expected = [f"{name}:{row}" for name in names for row in (0, 1)]
    for source in sources:
        assert [row.image_id for row in rows_of(source)] == expected
    assert open_parquet((f"file://{folder}/**/*.parquet",), Columns()).num_rows == 1


def test_row_groups_are_slices_that_can_be_read_anywhere_in_any_order(tmp_path, monkeypatch):
    """Law: slices are whole row groups, joined while short, picklable; their rows know their number in the file."""
    path = write_parquet(tmp_path / "a.parquet", list(range(7)), rows_per_group=3)
    assert len(open_parquet((str(path),), Columns()).slices) == 1
    monkeypatch.setattr(parquet, "_SLICE_ROWS", 3)
    source = open_parquet((str(path),), Columns())
    assert [part.num_rows for part in source.slices] == [3, 3, 1]
    last, first = copied(source.slices[2]), copied(source.slices[0])
    assert [row.where for row in last.rows()] == [f"{path} row 6"]
    assert [row.label for row in first.rows()] == [0, 1, 2]


def test_long_row_groups_are_read_in_batches_without_losing_a_row(tmp_path):
    """Law: rows are numbered through, past the 256 that are in memory at a time."""
    path = write_parquet(tmp_path / "a.parquet", list(range(600)), images=[b"x"] * 600)
    rows = rows_of(open_parquet((str(path),), Columns()))
    assert [row.label for row in rows] == list(range(600))
    assert rows[-1].where == f"{path} row 599"


def test_id_group_and_age_columns(tmp_path):
    """Law: named columns reach the shards as they are; an unknown group is no group, an unknown age is NaN."""
    path = write_parquet(
        tmp_path / "a.parquet", [0, 1, 0], key=["x", "y", "z"], person=[7, None, 9], years=[31, None, 4]
    )
    columns = Columns(id="key", group="person", age="years")
    prepared = prepare(open_parquet((str(path),), columns), tmp_path / "store")
    assert column(prepared, "image_id") == ["x", "y", "z"]
    assert column(prepared, "group") == ["7", "", "9"]
    ages = column(prepared, "age")
    assert (ages[0], np.isnan(ages[1]), ages[2]) == (31.0, True, 4.0)


def test_a_null_id_is_refused(tmp_path):
    """Law: an image without an id has no stable place in a split."""
    path = write_parquet(tmp_path / "a.parquet", [0, 1], key=["x", None])
    with pytest.raises(DataError, match=r"a\.parquet row 1: column 'key' is null; expected an image id"):
        prepare(open_parquet((str(path),), Columns(id="key")), tmp_path / "store")


def test_null_bytes_with_a_path_read_the_file(tmp_path):
    """Law: a relative path is relative to the Parquet file's folder, on a local path and on a URI."""
    (tmp_path / "img").mkdir()
    (tmp_path / "img" / "5.png").write_bytes(encoded(picture(5)))
    path = write_parquet(tmp_path / "a.parquet", [0], images=[{"bytes": None, "path": "img/5.png"}])
    for number, uri in enumerate((str(path), f"file://{path}")):
        prepared = prepare(open_parquet((uri,), Columns()), tmp_path / f"store-{number}")
        assert np.array_equal(decoded(prepared)[0], picture(5))


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        ({"bytes": None, "path": "../secret.png"}, "its path '../secret.png' leaves the Parquet file's folder"),
        ({"bytes": None, "path": "a/../../secret.png"}, "leaves the Parquet file's folder"),
        ({"bytes": None, "path": "/etc/hostname"}, "its path '/etc/hostname' leaves the Parquet file's folder"),
        ({"bytes": None, "path": "gone.png"}, "its file 'gone.png' cannot be read"),
        ({"bytes": None, "path": None}, "no image: the cell is null or empty"),
        ({"bytes": b"", "path": None}, "no image: the cell is null or empty"),
        ({"bytes": b"junk", "path": "img/5.png"}, "not an image that can be decoded"),
        (encoded(picture(0), "JPEG")[:300], "not an image that can be decoded"),
    ],
)
def test_bad_cells_are_refused_by_file_and_row(tmp_path, cell, expected):
    """Law: the message names file and row, also past the first row group; nothing outside the folder is read."""
    (tmp_path / "secret.png").write_bytes(encoded(picture(9)))
    good = encoded(picture(0))
    images = [good, good, good, cell]
    path = write_parquet(tmp_path / "in" / "a.parquet", [0] * 4, images=images, rows_per_group=2)
    with pytest.raises(DataError) as caught:
        prepare(open_parquet((str(path),), Columns()), tmp_path / "store")
    assert str(caught.value).startswith(f"{path} row 3: ")
    assert expected in str(caught.value)


def test_a_null_struct_is_no_image(tmp_path):
    """Law: a null cell is refused like an empty one."""
    table = pa.table({"image": pa.array([None], IMAGE_STRUCT), "label": [0]})
    pq.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"a\.parquet row 0: no image"):
        prepare(open_parquet((str(tmp_path / "a.parquet"),), Columns()), tmp_path / "store")


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"image": "imag"}, "no column 'imag' for data.columns.image (did you mean 'image'?)"),
        ({"label": "lable"}, "no column 'lable' for data.columns.label (did you mean 'label'?)"),
        ({"group": "person_id"}, "no column 'person_id' for data.columns.group (valid: image, label)"),
        ({"image": "label", "label": "image"}, "column 'label': expected struct<bytes, path> or binary; found int64"),
        ({"label": "image"}, "column 'image': expected whole numbers or strings; found struct<"),
    ],
)
def test_missing_and_unfit_columns(tmp_path, columns, expected):
    """Law: the message names the file, the column, the study's key, and the nearest column there is."""
    path = write_parquet(tmp_path / "a.parquet", [0])
    with pytest.raises(DataError) as caught:
        open_parquet((str(path),), Columns(**columns))
    assert str(caught.value).startswith(f"{path}: ")
    assert expected in str(caught.value)


@pytest.mark.parametrize(
    ("column", "cell", "expected"),
    [
        (
            "image",
            [[[0, 1, 2]]],
            "found list<element: list<element: list<element: int64>>>; for pixels, write each image",
        ),
        ("image", "aGVsbG8=", "expected struct<bytes, path> or binary; found string; for paths, name a CSV file"),
        (
            "label",
            [0.0, 1.0],
            "found list<element: double>; an image has one class: of rows of scores, or one-hot rows,",
        ),
    ],
)
def test_columns_of_other_forms_are_refused_with_what_to_do(tmp_path, column, cell, expected):
    """Law: pixels in lists, images as text and one-hot labels are named, each with the next step."""
    cells = {"image": encoded(picture(0)), "label": 0} | {column: cell}
    pq.write_table(pa.table({name: pa.array([one]) for name, one in cells.items()}), tmp_path / "a.parquet")
    with pytest.raises(DataError) as caught:
        open_parquet((str(tmp_path / "a.parquet"),), Columns())
    assert expected in str(caught.value)


def test_every_file_is_checked_not_only_the_first(tmp_path):
    """Law: the second file's missing column is found before any work, and named."""
    write_parquet(tmp_path / "0.parquet", [0], person=["a"])
    write_parquet(tmp_path / "1.parquet", [0])
    with pytest.raises(DataError, match=r"1\.parquet: no column 'person'"):
        open_parquet((str(tmp_path),), Columns(group="person"))


def test_extension_types_are_refused(tmp_path):
    """Law: registered or not, a column of an extension type is never read: some of them unpickle."""
    tensors = pa.FixedShapeTensorArray.from_numpy_ndarray(np.zeros((1, 2, 2), np.uint8))
    pq.write_table(pa.table({"image": tensors, "label": [0]}), tmp_path / "known.parquet")
    unknown = pa.field("image", pa.binary(), metadata={"ARROW:extension:name": "ray.data.arrow_pickled_object"})
    table = pa.table([pa.array([b"x"]), pa.array([0])], pa.schema([unknown, pa.field("label", pa.int64())]))
    pq.write_table(table, tmp_path / "unknown.parquet")
    for name in ("known", "unknown"):
        with pytest.raises(DataError, match=f"{name}.parquet: column 'image' has an extension type"):
            open_parquet((str(tmp_path / f"{name}.parquet"),), Columns())


def test_not_a_parquet_file(tmp_path):
    """Law: text, an empty file and a truncated file are refused with their name."""
    whole = write_parquet(tmp_path / "whole.parquet", [0, 1]).read_bytes()
    for name, content in {"text": b"hello, world", "empty": b"", "cut": whole[: len(whole) // 2]}.items():
        path = tmp_path / f"{name}.parquet"
        path.write_bytes(content)
        with pytest.raises(DataError, match=f"{name}.parquet: not a readable Parquet file") as caught:
            open_parquet((str(path),), Columns())
        assert "\n" not in str(caught.value)


def test_damage_behind_a_good_footer_is_found_while_reading(tmp_path):
    """Law: a file whose pages are overwritten is refused, not read as something else."""
    path = write_parquet(tmp_path / "a.parquet", list(range(50)))
    content = bytearray(path.read_bytes())
    content[4:400] = b"\xff" * 396
    path.write_bytes(bytes(content))
    with pytest.raises(DataError, match=r"a\.parquet: damaged Parquet file"):
        prepare(open_parquet((str(path),), Columns()), tmp_path / "store")


def test_nothing_found(tmp_path):
    """Law: a path that matches nothing, an empty folder and a file named twice are refused."""
    write_parquet(tmp_path / "a.parquet", [0])
    (tmp_path / "empty").mkdir()
    for path in ("gone.parquet", "gone-*.parquet", "empty"):
        for uri in (f"{tmp_path}/{path}", f"file://{tmp_path}/{path}"):
            with pytest.raises(DataError, match=r"no such file; expected a \.parquet file, a glob, or a folder"):
                open_parquet((uri,), Columns())
    with pytest.raises(DataError, match=r"a\.parquet: named twice by the source"):
        open_parquet((f"{tmp_path}/a.parquet", f"{tmp_path}/*.parquet"), Columns())
    with pytest.raises(DataError, match=r"nowhere://x/a\.parquet: cannot be opened"):
        open_parquet(("nowhere://x/a.parquet",), Columns())


def test_an_empty_source_has_no_images(tmp_path):
    """Law: zero rows are refused, in one file or in many."""
    path = write_parquet(tmp_path / "a.parquet", [])
    with pytest.raises(DataError, match=r"a\.parquet: no images"):
        prepare(open_parquet((str(path),), Columns()), tmp_path / "store")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_an_unreadable_file_is_refused(tmp_path):
    """Law: a file without permission is refused with the system's reason."""
    path = write_parquet(tmp_path / "a.parquet", [0])
    path.chmod(0)
    with pytest.raises(DataError, match=r"a\.parquet: .*denied"):
        open_parquet((str(path),), Columns())


def test_a_storage_that_fails_is_one_line(monkeypatch):
    """Law: an object store's refusal names the URI and its first line."""

    class Refusing(fs.FileSystemHandler):
        def get_type_name(self):
            return "refusing"

        def get_file_info(self, paths):
            raise OSError("access denied\nlong story")

        def get_file_info_selector(self, selector):
            raise OSError("access denied\nlong story")

        def __eq__(self, other):
            return self is other

        def __hash__(self):
            return id(self)

        def _unused(self, *args, **kwargs):
            raise NotImplementedError

        create_dir = delete_dir = delete_dir_contents = delete_root_dir_contents = delete_file = _unused
        move = copy_file = open_input_stream = open_input_file = open_output_stream = open_append_stream = _unused
        normalize_path = _unused

    monkeypatch.setattr(files, "open_filesystem", lambda uri: (fs.PyFileSystem(Refusing()), uri.split("://")[1]))
    for uri in ("s3://bucket/a.parquet", "s3://bucket/*.parquet"):
        with pytest.raises(DataError) as caught:
            open_parquet((uri,), Columns())
        assert str(caught.value) == f"{uri}: cannot be listed: access denied"


def test_the_fingerprint_notices_every_change(tmp_path):
    """Law: an untouched file keeps its fingerprint; rewritten in place, or read by other columns, it has another."""
    path = write_parquet(tmp_path / "a.parquet", [0, 1], person=["p", "q"])
    os.utime(path, ns=(1, 1))  # the clock of file times may be too coarse to distinguish two writes

    def fingerprint(**columns: str) -> str:
        return open_parquet((str(path),), Columns(**columns)).fingerprint

    first = fingerprint()
    assert fingerprint() == first
    assert fingerprint(group="person") != first
    size = path.stat().st_size
    write_parquet(path, [1, 0], person=["p", "q"])
    assert path.stat().st_size == size
    assert fingerprint() != first


def test_what_means_parquet(tmp_path: Path):
    """Law: by the ending, a glob of it, or a folder that holds such files."""
    write_parquet(tmp_path / "faces" / "a.parquet", [0])
    (tmp_path / "classes").mkdir()
    assert is_parquet("a.parquet")
    assert is_parquet("s3://bucket/a-*.parquet")
    assert is_parquet(str(tmp_path / "faces"))
    assert not is_parquet(str(tmp_path / "classes"))
    assert not is_parquet("faces.zip")
