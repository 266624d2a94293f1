"""A shard's columns without its pixels: what is read of the file, and what is refused."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import fs

from ray_unlearn.data.decode import ShardInfo
from ray_unlearn.data.prepare import Manifest, Prepared
from ray_unlearn.data.shards import Example, encode_shard, map_shard, read_columns
from ray_unlearn.errors import DataError
from ray_unlearn.store import Storage


def shard_of(count: int, size: int, name: str = "image-{:06d}.png") -> bytes:
    pixels = np.zeros((size, size, 3), np.uint8)
    known = {"group": "g", "age": 30.0, "given": ""}
    return encode_shard([Example(pixels, label=i % 9, image_id=name.format(i), **known) for i in range(count)])


class Counted:
    """A file that notes what is read of it."""

    def __init__(self, data: bytes) -> None:
        self.data, self.asked = data, list[tuple[int, int]]()

    def read_at(self, count: int, offset: int) -> bytes:
        self.asked.append((offset, count))
        return self.data[offset : offset + count]


def columns(data: bytes, rows: int) -> tuple[pa.Table, list[tuple[int, int]]]:
    file = Counted(data)
    table = read_columns(file, size_bytes=len(data), rows=rows, where="a")  # type: ignore[arg-type]
    return table, file.asked


@pytest.mark.parametrize(
    ("count", "size", "name", "requests"),
    [(500, 64, "{:06d}", 2), (3, 4, "{:06d}", 1), (200, 64, "x" * 4000 + "{:06d}", 10)],
)
def test_two_pieces_state_all_but_the_pixels(tmp_path: Path, count: int, size: int, name: str, requests: int):
    """Law: of 6.1 MB of pixels, the columns are a mapped shard's, from two requests for less than 150 KB; a small shard
    is one request; names beyond the estimate cost a few more."""
    data = shard_of(count, size, name)
    (tmp_path / "a.arrow").write_bytes(data)
    table, asked = columns(data, count)
    whole = map_shard(str(tmp_path / "a.arrow")).table
    assert table.equals(whole.drop_columns(["image"]))
    assert len(asked) <= requests
    assert len(name) > 100 or sum(length for _, length in asked) < 150_000


def test_what_is_no_shard_is_refused():
    """Law: cut short, of another number of images, or something else: one line that states what to do."""
    data = shard_of(20, 8)
    for bad, rows in ((data[:-100], 20), (data, 19), (b"no", 20), (bytes(len(data)), 20)):
        with pytest.raises(DataError, match=r"^a: .*prepare") as refused:
            columns(bad, rows)
        assert "\n" not in str(refused.value)


def manifest_of(shards: list[ShardInfo]) -> Manifest:
    return Manifest(
        source="",
        image_size=8,
        shards=tuple(shards),
        class_names=None,
        max_label=8,
        num_images=sum(shard.rows for shard in shards),
        content="",
        skipped=(),
    )


@pytest.mark.parametrize("place", [-300, -60, -40, -20, -10])
def test_damage_is_the_shards_and_a_storages_failure_is_its_own(place: int):
    """Law: no matter what Arrow raises for damaged bytes is one line about the shard; what the storage raises
    passes.
    """
    data = bytearray(shard_of(20, 8))
    data[place : place + 8] = b"\xff" * 8
    with pytest.raises(DataError, match=r"^a: .*prepare"):
        columns(bytes(data), 20)

    class Gone(Counted):
        def read_at(self, count: int, offset: int) -> bytes:
            if len(self.asked) > 2:
                raise OSError("connection reset")
            return super().read_at(count, offset)

    long = shard_of(200, 64, "x" * 4000 + "{:06d}")
    with pytest.raises(OSError, match="connection reset"):
        read_columns(Gone(long), size_bytes=len(long), rows=200, where="a")  # type: ignore[arg-type]


def test_a_shard_that_went_away_is_a_data_error(tmp_path: Path):
    """Law: between manifest and columns: one line with the shard's name."""
    shard = ShardInfo(name="0-0.arrow", rows=1, size_bytes=1000, sha256="0" * 64)
    there = Storage("mock://", fs.SubTreeFileSystem(str(tmp_path), fs.LocalFileSystem()), ".")
    with pytest.raises(DataError, match=r"^mock:///?f/0-0\.arrow: missing; .*prepare"):
        Prepared(there, "f", manifest_of([shard])).columns()


def test_splits_need_no_copy_of_a_remote_shard(tmp_path: Path):
    """Law: a prepared source's columns are the same from a disk and from elsewhere, where no cache is given."""
    (tmp_path / "f").mkdir()
    shards = []
    for number, count in enumerate((7, 30)):
        data = shard_of(count, 8)
        (tmp_path / f"f/{number}-0.arrow").write_bytes(data)
        sha256 = hashlib.sha256(data).hexdigest()
        shards.append(ShardInfo(name=f"{number}-0.arrow", rows=count, size_bytes=len(data), sha256=sha256))
    manifest = manifest_of(shards)
    here = Storage("here", fs.LocalFileSystem(), str(tmp_path))
    there = Storage("mock://", fs.SubTreeFileSystem(str(tmp_path), fs.LocalFileSystem()), ".")
    near, far = (Prepared(storage, "f", manifest).columns() for storage in (here, there))
    assert [table.num_rows for table in near] == [7, 30]
    assert all(one.equals(other) for one, other in zip(near, far, strict=True))
