"""Arrow IPC shards of decoded images: one record batch each, so that a mapped shard is one array.

    data = encode_shard([Example(pixels, label=3, image_id="a", group="p1", age=31.0, given=""), ...])
    shard = map_shard(path)
    shard.pixels_NHWC[5]                         # uint8, a view into the page cache
    table = read_columns(file, size_bytes=101_000_000, rows=2048, where="...")      # all but the pixels

Schema: image fixed_shape_tensor[uint8, [H, W, 3]], label int64, image_id, group and given strings, age float64,
digest fixed binary of 16 bytes, and pixel_digest likewise (absent in shards of version 0.1), equal for equal pixels.

A driver draws splits from names and labels alone. A shard's first column is its pixels, nearly all of it; the others
are together at its end. So `read_columns` fetches two pieces from an object store, the beginning and the end, for a
shard of any size.

Does not cover: the list of a source's shards (`prepare`); damage, which only a whole shard shows: a node that fetches
one compares its sha256, and so does `verify`.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from ray_unlearn.errors import DataError
from ray_unlearn.store.arrow import ipc_bytes, map_table, read_ipc

_HEAD_BYTES = 16 * 2**10  # the schema, and the place of each column
_ROW_BYTES, _MORE_BYTES = 128, 64 * 2**10  # of the end, per image and in all; longer names cost a few more requests
_HASHED_ANEW_BYTES = 16 * 2**20  # at every start, in a moment


@dataclass(frozen=True, slots=True)
class Example:
    """One decoded image."""

    pixels: np.ndarray
    """uint8 [H, W, 3]."""
    label: int
    image_id: str
    group: str
    age: float
    """Years; NaN where unknown."""
    given: str
    """Set in which the source puts the image; empty where it names none."""

    def pixel_digest(self) -> bytes:
        """Return 16 bytes that identify the pixels, without id and label."""
        return pixel_digest(self.pixels)

    def digest(self) -> bytes:
        """Return 16 bytes that identify the example, independent of its source."""
        known = json.dumps([self.image_id, self.label, self.group, str(self.age), self.given, self.pixels.shape])
        return hashlib.sha256(known.encode() + self.pixels.tobytes()).digest()[:16]


@dataclass(frozen=True, slots=True)
class Shard:
    """A mapped shard; the arrays stay valid as long as it lives."""

    pixels_NHWC: np.ndarray
    labels_N: np.ndarray
    table: pa.Table
    """All columns; image ids, groups, ages and given sets are read from here."""

    def columns(self) -> pa.Table:
        """Return all columns except the pixels; a small shard of version 0.1 gets the digests that it lacks."""
        table = self.table.drop_columns(["image"])
        if "pixel_digest" in table.column_names or self.pixels_NHWC.nbytes > _HASHED_ANEW_BYTES:
            return table
        digests = pa.array([pixel_digest(pixels) for pixels in self.pixels_NHWC], pa.binary(16))
        return table.append_column("pixel_digest", digests)


def pixel_digest(pixels: np.ndarray) -> bytes:
    """Return 16 bytes that identify pixels."""
    return hashlib.blake2b(np.ascontiguousarray(pixels).data, digest_size=16).digest()


def encode_shard(examples: Sequence[Example], digests: Sequence[bytes] | None = None) -> bytes:
    """Return an Arrow IPC file of these images, whose digests may be known; the same images give the same bytes."""
    pixels = np.stack([e.pixels for e in examples])
    images = pa.FixedShapeTensorArray.from_numpy_ndarray(pixels)
    columns = {
        "image": images,
        "label": pa.array([e.label for e in examples], pa.int64()),
        "image_id": pa.array([e.image_id for e in examples], pa.string()),
        "group": pa.array([e.group for e in examples], pa.string()),
        "age": pa.array([e.age for e in examples], pa.float64(), from_pandas=False),
        "given": pa.array([e.given for e in examples], pa.string()),
        "digest": pa.array(digests or [e.digest() for e in examples], pa.binary(16)),
        "pixel_digest": pa.array([e.pixel_digest() for e in examples], pa.binary(16)),
    }
    batch = pa.record_batch(list(columns.values()), names=list(columns))
    return ipc_bytes(batch)


def map_shard(path: str) -> Shard:
    """Memory-map a shard; no pixel is copied.

    Raises:
        DataError: it is not a shard, or cannot be read.

    """
    try:
        table = map_table(path, tensors=("image",))
        if any(column.null_count for column in table.columns):
            raise ValueError("it has empty cells")
        images = table.column("image").chunk(0)
        return Shard(_pixels(images), table.column("label").to_numpy(), table)
    except (OSError, KeyError, IndexError, ValueError, pa.ArrowException) as error:
        raise DataError(
            f"{path}: not a readable shard ({error}); remove its folder and run `ray-unlearn prepare`"
        ) from error


def _pixels(images: pa.Array) -> np.ndarray:
    """Return uint8 [N, H, W, 3] of a fixed_shape_tensor column as it is stored, a view."""
    side = math.isqrt(images.type.list_size // 3) if pa.types.is_fixed_size_list(images.type) else 0
    if not side or images.type != pa.list_(pa.uint8(), 3 * side**2):
        raise ValueError(f"expected square RGB pixels, uint8, in the column `image`; found {images.type}")
    return np.asarray(images.flatten().to_numpy()).reshape(len(images), side, side, 3)


def read_columns(file: pa.NativeFile, *, size_bytes: int, rows: int, where: str) -> pa.Table:
    """Return every column of a shard except its pixels.

    Args:
        file: the shard, open for reading at any place.
        size_bytes: its size.
        rows: its number of images.
        where: its name, for errors.

    Raises:
        DataError: it is not a shard with this number of images.

    """
    ends = _Ends(file, size_bytes, rows * _ROW_BYTES + _MORE_BYTES)
    try:
        table = read_ipc(ends, size_bytes, without=["image"])
    except (OSError, IndexError, ValueError, pa.ArrowException) as error:
        if ends.unread:  # the storage's failure, which may pass
            raise
        raise DataError(
            f"{where}: not a readable shard ({error}); remove its folder and run `ray-unlearn prepare`"
        ) from error
    if table.num_rows != rows:
        raise DataError(f"{where}: expected {rows} images; found {table.num_rows}; remove its folder and prepare again")
    return table


class _Ends:
    """A file whose beginning and end were fetched; any other part is fetched when it is read."""

    unread = False
    """Whether the file could not be read."""

    def __init__(self, file: pa.NativeFile, size_bytes: int, end_bytes: int) -> None:
        self._file = file
        end = max(0, size_bytes - end_bytes)
        self._pieces = [(end, file.read_at(size_bytes - end, end))]
        if end:
            self._pieces.append((0, file.read_at(min(_HEAD_BYTES, end), 0)))

    def read_at(self, count: int, offset: int) -> bytes:
        """Return a part of the file."""
        for start, data in self._pieces:
            if start <= offset and offset + count <= start + len(data):
                return bytes(data[offset - start : offset - start + count])
        try:
            return bytes(self._file.read_at(count, offset))
        except OSError:
            self.unread = True
            raise
