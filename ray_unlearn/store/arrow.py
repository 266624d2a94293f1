"""The only module that opens Arrow IPC and Parquet files; it never instantiates an extension type of a file.

    data = ipc_bytes(table)                      # an Arrow IPC file
    table = read_table(data)                     # an Arrow IPC file in memory
    table = map_table(path)                      # one on a disk, its columns views of the page cache
    parquet = open_parquet_file(stream)          # pq.ParquetFile; columns have the types that Parquet itself states
    with ArrowStream(path) as stream: ...        # an Arrow IPC stream on a disk, batch by batch
    with ParquetWriter(path, schema) as writer: ...

pyarrow calls the registered class of every extension type while it reads a schema, and some classes unpickle the
column (`ray.data.arrow_pickled_object`, registered by `import ray.data`; CVE-2026-41486). So the schema that pyarrow
reads is a private copy in which the key of extension types has another name: types stay plain storage, for all
registered types and at every depth. A column of an extension type is then refused, except
`arrow.fixed_shape_tensor` where the caller expects it.

Does not cover: the contents of files, nor whether they were changed (records and manifests hold their hashes).
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING, Any, Protocol, Self

import pyarrow as pa

if TYPE_CHECKING:
    import pyarrow.parquet as pq

_TENSOR = "arrow.fixed_shape_tensor"
_KEY, _INERT = b"ARROW:extension:name", b"inert:extension:name"  # of equal length, so that no offset changes
_SCHEMA, _INERT_SCHEMA = b"ARROW:schema", b"inert:schema"
_CONTINUED = b"\xff\xff\xff\xff"  # before the length of a stream's message, since Arrow 0.15
_IPC_END, _PARQUET_END = 10, 8  # bytes: length of the footer, and the magic
_PARQUET_TAIL = 64 * 2**10  # usually the whole footer


class Source(Protocol):
    """Bytes that can be read at any place."""

    def read_at(self, count: int, offset: int) -> Any:
        """Return `count` bytes from `offset`, as anything that has a buffer."""
        ...


class _Memory:
    """A file in memory, or mapped; reads return views."""

    def __init__(self, data: Any) -> None:
        self._view = memoryview(data)
        self.size = len(self._view)

    def read_at(self, count: int, offset: int) -> memoryview:
        return self._view[offset : offset + count]


class _Inert:
    """An Arrow IPC file for `pa.PythonFile`, whose footer names no extension type."""

    closed = False

    def __init__(self, source: Source, size_bytes: int) -> None:
        self._source, self._size, self._at = source, size_bytes, 0
        end = bytes(source.read_at(_IPC_END, max(0, size_bytes - _IPC_END)))
        length = int.from_bytes(end[:4], "little", signed=True)
        if not (len(end) == _IPC_END and end.endswith(b"ARROW1") and 0 < length <= size_bytes - _IPC_END):
            raise ValueError("not an Arrow IPC file: its end is missing or damaged")
        self._start = size_bytes - _IPC_END - length
        self._footer = bytes(source.read_at(size_bytes - self._start, self._start)).replace(_KEY, _INERT)

    def seek(self, offset: int, whence: int = 0) -> int:
        self._at = offset + (0, self._at, self._size)[whence]
        return self._at

    def tell(self) -> int:
        return self._at

    def read(self, count: int = -1) -> Any:
        begin, end = self._at, self._size if count < 0 else min(self._size, self._at + count)
        self._at = end
        if begin >= self._start:
            return self._footer[begin - self._start : end - self._start]
        if end > self._start:  # across the border: no block of a sound file
            return bytes(self._source.read_at(self._start - begin, begin)) + self._footer[: end - self._start]
        return self._source.read_at(end - begin, begin)

    def close(self) -> None:
        """Do nothing: the code that opened the source closes it."""

    def opened(self) -> pa.NativeFile:
        """Return the file as Arrow reads it.

        Arrow reads a `PythonFile` in threads of its own, and such a thread may still have to free what it read when
        Python ends; then it aborts the process. Memory in which nothing has to be renamed is read without a thread.
        """
        if isinstance(self._source, _Memory) and _INERT not in self._footer:
            return pa.BufferReader(pa.py_buffer(self._source.read_at(self._size, 0)))
        return pa.PythonFile(self, mode="r")


def read_ipc(
    source: Source, size_bytes: int, *, tensors: Collection[str] = (), without: Collection[str] = ()
) -> pa.Table:
    """Return the table of an Arrow IPC file, checked as far as Arrow can check it, except tensors' values.

    Args:
        source: the file.
        size_bytes: its size.
        tensors: columns that are `arrow.fixed_shape_tensor`; they are returned as fixed-size lists.
        without: columns that are not read.

    Raises:
        ValueError, OSError, pa.ArrowException: it is no such file, or a column is of another extension type.

    """
    inert = _Inert(source, size_bytes)
    options = None
    if without:
        with pa.ipc.open_file(inert.opened()) as reader:
            wanted = [i for i, name in enumerate(reader.schema.names) if name not in without]
        options = pa.ipc.IpcReadOptions(included_fields=wanted)
    with pa.ipc.open_file(inert.opened(), options=options) as reader:
        found = extension_types(reader.schema)
        for name in sorted({*found, *tensors}):
            expected = _TENSOR if name in tensors else None
            if found.get(name) != expected:
                kind = f"extension type {found[name]!r}" if name in found else "a plain type"
                raise ValueError(f"column {name!r} is of {kind}; expected {expected or 'plain Arrow types'}")
        table = reader.read_all()
    large = [name for name in tensors if name in table.column_names]
    table.drop_columns(large).validate(full=True)  # Arrow does not check offsets by itself
    table.validate()
    return table


def ipc_bytes(values: pa.Table | pa.RecordBatch) -> bytes:
    """Return an Arrow IPC file of these values."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, values.schema) as writer:
        writer.write(values)
    return bytes(sink.getvalue())


def read_table(data: Any) -> pa.Table:
    """Return the table of an Arrow IPC file in memory; raises as `read_ipc` does."""
    memory = _Memory(data)
    return read_ipc(memory, memory.size)


def map_table(path: str, *, tensors: Collection[str] = ()) -> pa.Table:
    """Return the table of an Arrow IPC file on a disk, views of the page cache; raises as `read_ipc` does."""
    with pa.memory_map(path) as mapped:
        memory = _Memory(mapped.read_buffer())
    return read_ipc(memory, memory.size, tensors=tensors)


class ArrowStream:
    """An Arrow IPC stream on a disk, as a context manager; its schema names no extension type.

    with ArrowStream("data-00000-of-00001.arrow") as stream:
        stream.schema, list(stream.batches())
    """

    def __init__(self, path: str) -> None:
        """Open the file and read its schema; errors as `read_ipc`, but for extension types, which the caller checks."""
        with pa.memory_map(path) as mapped:
            self._view = memoryview(mapped.read_buffer()).cast("B")
        start = 8 if self._view[:4] == _CONTINUED else 4
        length = int.from_bytes(self._view[start - 4 : start], "little", signed=True)
        if not 0 < length <= len(self._view) - start:
            raise ValueError("not an Arrow IPC stream: its schema is missing or damaged")
        self._end = start + length
        self._head = bytes(self._view[: self._end]).replace(_KEY, _INERT)
        self._at = 0
        self._reader = pa.ipc.open_stream(pa.PythonFile(self, mode="r"))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._reader.close()

    @property
    def schema(self) -> pa.Schema:
        """The schema, made inert."""
        return self._reader.schema

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Yield the record batches, checked as far as Arrow can check them."""
        for batch in self._reader:
            batch.validate(full=True)
            yield batch

    closed = False

    def read(self, count: int = -1) -> Any:
        """Return the next bytes; called by Arrow."""
        begin, stop = self._at, len(self._view) if count < 0 else min(len(self._view), self._at + count)
        self._at = stop
        if begin >= self._end:
            return self._view[begin:stop]
        return self._head[begin:stop] + bytes(self._view[self._end : max(stop, self._end)])

    def close(self) -> None:
        """Do nothing: the mapping ends with its last view."""


class ParquetWriter:
    """A Parquet file that is written in pieces, as a context manager."""

    def __init__(self, path: str, schema: pa.Schema) -> None:
        import pyarrow.parquet as pq  # costs 0.1 s, and few commands need it

        self._writer = pq.ParquetWriter(path, schema, compression="zstd")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._writer.close()

    def write_table(self, table: pa.Table) -> None:
        """Write a table as a row group."""
        self._writer.write_table(table, row_group_size=max(1, len(table)))


def open_parquet_file(file: pa.NativeFile) -> pq.ParquetFile:
    """Open a Parquet file without the Arrow schema that its writer may have left in it.

    Dictionary, large and view strings are returned as strings.

    Raises:
        ValueError, OSError, pa.ArrowException: it is no such file.

    """
    import pyarrow.parquet as pq  # costs 0.1 s, and few commands need it

    footer = _parquet_footer(file)
    if footer.count(_SCHEMA) > 1:
        raise ValueError("the footer has several Arrow schemas; expected at most one")
    inert = b"PAR1" + footer.replace(_SCHEMA, _INERT_SCHEMA) + len(footer).to_bytes(4, "little") + b"PAR1"
    return pq.ParquetFile(file, metadata=pq.ParquetFile(pa.BufferReader(inert)).metadata)


def parquet_extension_types(parquet: pq.ParquetFile) -> dict[str, str]:
    """Return {column: extension type} of a file that `open_parquet_file` opened, from its writer's Arrow schema."""
    text = (parquet.metadata.metadata or {}).get(_INERT_SCHEMA, b"")
    try:
        message = base64.b64decode(text).replace(_KEY, _INERT)
        return extension_types(pa.ipc.read_schema(pa.py_buffer(message))) if message else {}
    except (binascii.Error, ValueError, OSError, pa.ArrowException):
        return {}  # pyarrow could not read it either


def _parquet_footer(file: pa.NativeFile) -> bytes:
    size = int(file.size())
    tail = bytes(file.read_at(min(size, _PARQUET_TAIL), max(0, size - _PARQUET_TAIL)))
    length = int.from_bytes(tail[-_PARQUET_END:-4], "little")
    if tail[-4:] != b"PAR1" or not 0 < length <= size - _PARQUET_END:
        raise ValueError("not a Parquet file: its end is missing or damaged")
    if length + _PARQUET_END > len(tail):
        return bytes(file.read_at(length, size - _PARQUET_END - length))
    return tail[-_PARQUET_END - length : -_PARQUET_END]


def extension_types(schema: pa.Schema) -> dict[str, str]:
    """Return {column: extension type} of the columns that are or hold one, in a schema that was made inert."""
    found = {}
    for field in schema:
        for inner in _fields(field):
            name = (inner.metadata or {}).get(_INERT)
            if name is not None or isinstance(inner.type, pa.BaseExtensionType):
                found[field.name] = (name or str(inner.type).encode()).decode("utf-8", "replace")
    return found


def _fields(field: pa.Field) -> Iterator[pa.Field]:
    """Yield a field and all that it holds."""
    yield field
    inner = field.type
    while pa.types.is_dictionary(inner):
        inner = inner.value_type
    for i in range(inner.num_fields):
        yield from _fields(inner.field(i))
