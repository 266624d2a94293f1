"""Tar files of images: WebDataset's samples and folders per class, read in place."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from samples import column, copied, decoded, encoded, picture, prepare

from ray_unlearn.data.rows import OpenSource
from ray_unlearn.data.sources import open_source
from ray_unlearn.errors import DataError
from ray_unlearn.study.schema import Columns, Source


def tar(path: Path, files: Mapping[str, bytes], form: int = tarfile.PAX_FORMAT) -> str:
    """Write a tar file; return its path."""
    with tarfile.open(path, "w", format=form) as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return str(path)


def png(index: int) -> bytes:
    return encoded(picture(index))


def opened(path: Any, **columns: str) -> OpenSource:
    return open_source(Source(path=path), "train", Columns(**columns))


def samples(start: int, count: int, **more: Any) -> dict[str, bytes]:
    """Return samples of WebDataset with a class in .cls."""
    files = {}
    for i in range(start, start + count):
        files |= {f"{i:05d}.png": png(i), f"{i:05d}.cls": str(i % 3).encode()}
    return files


def test_webdataset_is_read_in_place(tmp_path):
    """Law: ids are the names before the dot, classes from .cls, pixels those of the files; slices cross processes."""
    for number in range(3):
        tar(tmp_path / f"train-{number:02d}.tar", samples(4 * number, 4))
    for path in (str(tmp_path / "train-{00..02}.tar"), str(tmp_path / "train-*.tar"), str(tmp_path)):
        source = opened(path)
        assert (source.num_rows, source.class_names, source.remarks) == (12, None, ())
    made = prepare(copied(source), tmp_path / "store")
    assert column(made, "image_id") == [f"{i:05d}" for i in range(12)]
    assert column(made, "label") == [i % 3 for i in range(12)]
    assert np.array_equal(decoded(made), np.stack([picture(i) for i in range(12)]))


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_every_form_of_tar_is_read(form: int, tmp_path):
    """Law: also with names of more than 100 characters."""
    long = "x" * 60 + "/" + "y" * 60
    path = tar(tmp_path / "a.tar", {f"{long}/{i}.png": png(i) for i in range(2)} | {"b/c.png": png(3)}, form)
    source = opened(path)
    assert [row.image for part in source.slices for row in part.rows()] == [png(3), png(0), png(1)]


def test_what_json_says_is_read(tmp_path):
    """Law: class, id, group and age under the names of data.columns."""
    about = {"fine": "cat", "who": "p1", "years": 31, "key": 7}
    files = {"a/1.jpg": png(1), "a/1.json": json.dumps(about).encode(), "a/2.jpg": png(2)}
    files["a/2.json"] = json.dumps(about | {"fine": "dog", "key": 8}).encode()
    path = tar(tmp_path / "a.tar", files)
    source = opened(path, label="fine", group="who", age="years", id="key")
    rows = [row for part in source.slices for row in part.rows()]
    assert [(row.image_id, row.label, row.group, row.age) for row in rows] == [
        ("7", "cat", "p1", 31),
        ("8", "dog", "p1", 31),
    ]
    assert source.class_names == ("cat", "dog")


def test_a_tar_of_class_folders(tmp_path):
    """Law: the folders are classes, below the one that holds all; systems' files are skipped, others counted."""
    files = {f"faces/{name}/{i}.png": png(i) for name in ("dog", "cat") for i in range(2)}
    path = tar(tmp_path / "a.tar", files | {"faces/._x.png": b"", "faces/cat/notes.txt": b"x"})
    source = opened(path)
    rows = [row for part in source.slices for row in part.rows()]
    assert source.class_names == ("cat", "dog")
    assert [(row.image_id, row.label) for row in rows][:2] == [("cat/0.png", "cat"), ("cat/1.png", "cat")]
    assert "1 file ignored" in source.remarks[0]


BAD = {
    "compressed": (lambda: gzip.compress(b"x" * 600), r"compressed \(gzip\), so no image can be read by itself"),
    "no tar": (lambda: b"x" * 600, "not a readable tar file"),
}


@pytest.mark.parametrize("what", BAD)
def test_what_is_no_plain_tar_is_refused(what: str, tmp_path):
    """Law: one line."""
    data, message = BAD[what]
    (tmp_path / "a.tar").write_bytes(data())
    with pytest.raises(DataError, match=message):
        opened(str(tmp_path / "a.tar"))


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"1.png": b"", "1.cls": b"0", "2.png": b""}, r"2\.png: the sample '2' has no class; expected 2\.cls, or"),
        ({"1.a.png": b"", "1.b.png": b"", "1.cls": b"0"}, "the sample '1' has 2 images"),
        ({"1.png": b"", "1.PNG": b"", "1.cls": b"0"}, "the sample '1' has 2 images"),
        ({"a/1.5.png": b"", "a/1.5.cls": b"0", "b/2.5.png": b""}, r"a/1\.5\.cls: a class without an image"),
        ({"1.png": b"", "1.json": b"{"}, "not JSON"),
        ({"1.png": b"", "1.cls": b"\xff"}, "not a text"),
        ({"train/a/1.png": b"", "test/a/1.png": b""}, "are splits, not classes"),
        ({"1.png": b"", "2.png": b""}, "no images; expected samples of WebDataset"),
    ],
)
def test_samples_without_one_image_and_one_class_are_refused(files: dict[str, bytes], message: str, tmp_path):
    """Law: the member is named, and what was expected."""
    with pytest.raises(DataError, match=message):
        opened(tar(tmp_path / "a.tar", files))


def test_files_of_two_splits_are_refused(tmp_path):
    """Law: a folder with train-0.tar and test-0.tar would train on the test images."""
    for name in ("train-0", "test-0"):
        tar(tmp_path / f"{name}.tar", samples(0, 1))
    with pytest.raises(DataError, match=r"files of several splits \(test, train\)"):
        opened(str(tmp_path))


def test_links_and_places_outside_are_no_images(tmp_path):
    """Law: no member is followed or written anywhere; a torn file is a bad image with its place."""
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as archive:
        for name in ("../../cat/1.png", "dog/2.png"):
            info = tarfile.TarInfo(name)
            info.size = 700
            archive.addfile(info, io.BytesIO(b"x" * 700))
        link = tarfile.TarInfo("dog/3.txt")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    source = opened(str(path))
    assert [row.image_id for part in source.slices for row in part.rows()] == ["cat/1.png", "dog/2.png"]
    path.write_bytes(path.read_bytes()[: 512 + 1024 + 512 + 100])
    assert [row.problem for part in source.slices for row in part.rows()] == ["", "the tar file ends inside this image"]


@pytest.mark.parametrize(
    ("kind", "what"),
    [
        (tarfile.SYMTYPE, "a link to 'cat/1.png'"),
        (tarfile.LNKTYPE, "a link to 'cat/1.png'"),
        (tarfile.CHRTYPE, "a sparse or special file"),
    ],
)
def test_an_image_that_is_a_link_or_a_device_is_refused(kind: bytes, what: str, tmp_path):
    """Law: it would be missing from the data without a word; tar itself stores a second name of a file as a link."""
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for name in ("cat/1.png", "dog/2.png"):
            archive.addfile(tarfile.TarInfo(name))
        other = tarfile.TarInfo("dog/3.png")
        other.type, other.linkname = kind, "cat/1.png"
        archive.addfile(other)
    with pytest.raises(DataError, match=rf"a\.tar: dog/3\.png: {what}, which is not read; write the tar file with"):
        opened(str(tmp_path / "a.tar"))


def test_what_follows_the_end_of_a_tar_file_is_noticed(tmp_path):
    """Law: tarfile stops without a word at the end of the first of two joined files, and at a damaged header."""
    first, second = (Path(tar(tmp_path / f"{name}.tar", samples(i, 2))) for i, name in enumerate("ab"))
    (tmp_path / "joined.tar").write_bytes(first.read_bytes() + second.read_bytes())
    damaged = bytearray(first.read_bytes())
    with tarfile.open(first) as archive:
        damaged[archive.getmembers()[2].offset + 150] ^= 1  # in the checksum
    (tmp_path / "damaged.tar").write_bytes(damaged)
    for name in ("joined", "damaged"):
        with pytest.raises(DataError, match=rf"{name}\.tar: something follows the end of the tar file \(byte"):
            opened(str(tmp_path / f"{name}.tar"))


def test_images_outside_of_the_class_folders_are_counted(tmp_path):
    """Law: as in a folder on a disk."""
    source = opened(tar(tmp_path / "a.tar", {"cat/1.png": png(1), "dog/2.png": png(2), "3.png": png(3)}))
    assert (source.num_rows, len(source.remarks)) == (2, 1)
    assert source.remarks[0].startswith("1 file ignored")
