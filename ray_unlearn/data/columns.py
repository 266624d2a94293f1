"""What a shard says of its images, read from an object store without their pixels.

    table = read_columns(file, size_bytes=101_000_000, rows=2048)
    table["image_id"]                            # label, image_id, group, age, given, digest

A driver draws splits from names and labels alone. A shard's first column is its pixels, nearly all of it; the others
lie together at its end. So two pieces are fetched, the beginning and the end, whatever a shard's size.

Does not cover: whether the bytes are those that were written, which only a whole shard shows: a node that fetches one
compares its sha256, and so does `verify`.
"""

from __future__ import annotations

import pyarrow as pa

from ray_unlearn.errors import DataError

_HEAD_BYTES = 16 * 2**10  # the schema, and where each column lies
_ROW_BYTES, _MORE_BYTES = 128, 64 * 2**10  # of the end: names that are longer cost a few more requests
_NOT_PIXELS = list(range(1, 7))  # of `shards.encode_shard`'s columns


def read_columns(file: pa.NativeFile, *, size_bytes: int, rows: int, where: str) -> pa.Table:
    """Return every column of a shard but its pixels.

    Args:
        file: the shard, open for reading at any place.
        size_bytes: its size.
        rows: how many images it holds.
        where: its name, for errors.

    Raises:
        DataError: it is not a shard of so many images.

    """
    ends = _Ends(file, size_bytes, rows * _ROW_BYTES + _MORE_BYTES)
    try:
        table = pa.ipc.open_file(
            pa.PythonFile(ends, mode="r"), options=pa.ipc.IpcReadOptions(included_fields=_NOT_PIXELS)
        ).read_all()
        table.validate(full=True)  # Arrow itself believes every offset in a file
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
    """A file whose beginning and end were fetched; what else is asked for is fetched then."""

    closed = False
    unread = False
    """Whether the file could not be read."""

    def __init__(self, file: pa.NativeFile, size_bytes: int, end_bytes: int) -> None:
        self._file, self._size, self._at = file, size_bytes, 0
        end = max(0, size_bytes - end_bytes)
        self._pieces = [(end, file.read_at(size_bytes - end, end))]
        if end:
            self._pieces.append((0, file.read_at(min(_HEAD_BYTES, end), 0)))

    def seek(self, offset: int, whence: int = 0) -> int:
        self._at = offset + (0, self._at, self._size)[whence]
        return self._at

    def tell(self) -> int:
        return self._at

    def read(self, count: int = -1) -> bytes:
        end = self._size if count < 0 else min(self._size, self._at + count)
        data = self._between(self._at, end)
        self._at += len(data)
        return data

    def _between(self, begin: int, end: int) -> bytes:
        for start, data in self._pieces:
            if start <= begin and end <= start + len(data):
                return bytes(data[begin - start : end - start])
        try:
            return bytes(self._file.read_at(end - begin, begin))
        except OSError:
            self.unread = True
            raise

    def close(self) -> None:
        """Nothing: the file is its opener's."""
