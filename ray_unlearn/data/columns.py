"""The columns of a shard except its pixels, read from an object store.

    table = read_columns(file, size_bytes=101_000_000, rows=2048)
    table["image_id"]                            # label, image_id, group, age, given, digest, pixel_digest

A driver draws splits from names and labels alone. A shard's first column is its pixels, nearly all of it; the others
are together at its end. So two pieces are fetched, the beginning and the end, for a shard of any size.

Does not cover: damage, which only a whole shard shows: a node that fetches one compares its sha256, and so does
`verify`.
"""

from __future__ import annotations

import pyarrow as pa

from ray_unlearn.errors import DataError
from ray_unlearn.store.arrow import read_ipc

_HEAD_BYTES = 16 * 2**10  # the schema, and the place of each column
_ROW_BYTES, _MORE_BYTES = (
    128,
    64 * 2**10,
)  # bytes per image, and more, of the end; longer names cost a few more requests


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
