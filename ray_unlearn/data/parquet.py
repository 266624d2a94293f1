"""Parquet in the Hugging Face image layout, or with a plain binary image column.

    source = open_parquet(("train-*.parquet",), Columns())
    source.class_names                           # from the schema's `huggingface` metadata

Slices are whole row groups, so that each is read once. A struct image with a null `bytes` names a file relative
to the Parquet file's folder; changing such a file alone is not noticed. Columns of extension types are refused
(`store.arrow`).

Does not cover: images as arrays in Parquet.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from pyarrow import fs

from ray_unlearn.data.class_names import in_order, is_split, reordered
from ray_unlearn.data.files import SourceFile, expand, fingerprint, read_local
from ray_unlearn.data.rows import OpenSource, Row
from ray_unlearn.errors import DataError, did_you_mean, first_line
from ray_unlearn.store.arrow import open_parquet_file, parquet_extension_types
from ray_unlearn.store.disk import check_regular_file
from ray_unlearn.study.identity import digest
from ray_unlearn.study.schema import Columns
from ray_unlearn.study.uris import label

if TYPE_CHECKING:
    import pyarrow.parquet as pq

_AT_ONCE = 16  # files that are opened at the same time
_BATCH_ROWS = 256
_SLICE_ROWS = 2000
_LABEL_ROWS = 65_536
_SWOLLEN_BYTES, _SWOLLEN = 64 * 2**20, 100
_HELD_BYTES = 2**30
_BATCH_BYTES = 2**28


@dataclass(frozen=True, slots=True)
class ParquetSlice:
    """Some row groups of one file, whole."""

    file: SourceFile
    row_groups: tuple[int, ...]
    first_row: int
    """Number of the file's row at the start of the first group."""
    num_rows: int
    columns: Columns
    class_names: tuple[str, ...]
    """Names in the file's metadata for its integer labels; empty where it has none."""

    def rows(self) -> Iterator[Row]:
        """Yield the rows, a small batch in memory at a time."""
        row = self.first_row
        for batch in self.batches([name for name in self.columns.model_dump(exclude={"path"}).values() if name]):
            for values in batch.to_pylist():
                yield self.row_of(values, row)
                row += 1

    def batches(self, names: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """Yield batches of these columns of the groups."""
        with _reading(self.file) as parquet:
            rows = _batch_rows(parquet.metadata, self.row_groups, _BATCH_ROWS)
            yield from parquet.iter_batches(rows, row_groups=list(self.row_groups), columns=list(names))

    def row_of(self, values: dict[str, Any], row: int) -> Row:
        """Return a row of the table; its number is for messages, and for ids where no column has them."""
        columns, where = self.columns, f"{self.file.label} row {row}"
        image, problem = self._image(values[columns.image])
        group = values[columns.group] if columns.group else None
        if columns.id and values[columns.id] is None:
            raise DataError(f"{where}: column {columns.id!r} is null; expected an image id")
        return Row(
            image=image,
            image_id=str(values[columns.id]) if columns.id else f"{self.file.name}:{row}",
            label=self._label(values[columns.label]),
            where=where,
            group="" if group is None else str(group),
            age=self._age(values[columns.age], where) if columns.age else float("nan"),
            problem=problem,
        )

    def _age(self, value: Any, where: str) -> float:
        try:
            return float("nan") if value is None else float(value)
        except (TypeError, ValueError, OverflowError):
            found = repr(value)[:40]
            raise DataError(f"{where}: column {self.columns.age!r}: expected a number; found {found}") from None

    def _label(self, value: Any) -> Any:
        """Return the class's name where the file names it, so that sources agree on names, not on numbers."""
        value = int(value) if isinstance(value, float | Decimal) and value == value // 1 else value
        named = isinstance(value, int) and 0 <= value < len(self.class_names)
        return self.class_names[value] if named else value

    def _image(self, value: Any) -> tuple[bytes | None, str]:
        if isinstance(value, dict):
            if value.get("bytes") is None and value.get("path"):
                return self._image_file(str(value["path"]))
            value = value.get("bytes")
        return (value, "") if value else (None, "no image: the cell is null or empty")

    def _image_file(self, path: str) -> tuple[bytes | None, str]:
        inside = PurePosixPath(path)
        if inside.is_absolute() or ".." in inside.parts:
            return None, f"its path {path!r} leaves the Parquet file's folder"
        filesystem, own = self.file.open()
        try:
            if isinstance(filesystem, fs.LocalFileSystem):
                return read_local(Path(own).parent / inside), ""
            with filesystem.open_input_stream(str(PurePosixPath(own).parent / inside)) as stream:
                return stream.read(), ""
        except OSError as error:
            return None, f"its file {path!r} cannot be read ({error.strerror or error})"


class _reading:  # noqa: N801 - a context manager, used as a verb
    """Open a Parquet file; errors of opening and of reading become a `DataError`."""

    def __init__(self, file: SourceFile) -> None:
        self.file = file

    def __enter__(self) -> pq.ParquetFile:
        filesystem, path = self.file.open()
        try:
            if isinstance(filesystem, fs.LocalFileSystem):
                check_regular_file(Path(path))
            self._stream = filesystem.open_input_file(path)
            return open_parquet_file(self._stream)
        except (OSError, ValueError, pa.ArrowException) as error:
            raise DataError(f"{self.file.label}: not a readable Parquet file: {first_line(error)}") from error

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        self._stream.close()
        if isinstance(error, OSError | pa.ArrowException):
            raise DataError(f"{self.file.label}: damaged Parquet file: {first_line(error)}") from error


def open_parquet(paths: tuple[str, ...], columns: Columns) -> OpenSource:
    """Open Parquet files as one source; only footers and label columns are read.

    Raises:
        DataError: a file is missing or damaged, lacks a column, or has one of a type that holds no image or label.

    """
    files = expand(paths, ".parquet")
    _check_one_split(paths, files)
    with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="open") as threads:  # a remote file waits most of the time
        opened = list(threads.map(lambda file: _slices(file, columns), files))
        fingerprints = list(threads.map(fingerprint, files))
    slices = tuple(part for _, parts in opened for part in parts)
    stated = next((names for names, _ in opened if names), ())
    names = stated or _names_from_labels(files, columns.label)
    return OpenSource(
        name=label(paths[0]) + (f" and {len(paths) - 1} more" if len(paths) > 1 else ""),
        fingerprint=digest(
            [[f.name, own] for f, own in zip(files, fingerprints, strict=True)] + [columns.model_dump(exclude={"path"})]
        ),
        class_names=names,
        remarks=tuple(filter(None, [reordered(names)] if names and not stated else [])),
        slices=slices,
        num_rows=sum(part.num_rows for part in slices),
    )


def _check_one_split(paths: tuple[str, ...], files: tuple[SourceFile, ...]) -> None:
    """Check that a folder or glob holds files of one split; a list that names every file is not checked."""
    if len(files) <= len(paths):
        return
    found: dict[str, SourceFile] = {}
    for file in files:
        parts = PurePosixPath(file.label).parts[-2:]
        found.setdefault(is_split(parts[-1]) or is_split(parts[0]), file)
    if "train" in found and len(found.keys() - {""}) > 1:
        train, other = found["train"], next(file for split, file in found.items() if split not in ("", "train"))
        raise DataError(
            f"{label(paths[0])}: holds {train.name} and {other.name}, files of several splits; name those of one: "
            f"data.train: {PurePosixPath(train.label).parent}/train*.parquet, and the others as data.test"
        )


def _slices(file: SourceFile, columns: Columns) -> tuple[tuple[str, ...], list[ParquetSlice]]:
    """Return the class names and the slices of one file, from its footer."""
    with _reading(file) as parquet:
        schema, metadata = parquet.schema_arrow, parquet.metadata
        check_columns(file, schema, parquet_extension_types(parquet), columns)
        _check_unpacked_size(file, metadata)
        own_names = class_names_of(schema, columns.label) or ()
    return own_names, [ParquetSlice(file, *part, columns, own_names) for part in _row_groups(metadata)]


def _row_groups(metadata: pq.FileMetaData) -> Iterator[tuple[tuple[int, ...], int, int]]:
    """Yield (row groups, first row, rows) of slices that have at least `_SLICE_ROWS` rows, but for the last."""
    groups: list[int] = []
    first = rows = 0
    for group in range(metadata.num_row_groups):
        groups.append(group)
        rows += metadata.row_group(group).num_rows
        if rows >= _SLICE_ROWS or group == metadata.num_row_groups - 1:
            yield tuple(groups), first, rows
            groups, first, rows = [], first + rows, 0


def _check_unpacked_size(file: SourceFile, metadata: pq.FileMetaData) -> None:
    """Check that a small file does not unpack to far more than encoded images, which are compressed already, can."""
    size = file.size
    if size and metadata.num_rows > size:  # 0 where the file system does not report it
        raise DataError(f"{file.label}: claims {metadata.num_rows:,} rows in {size:,} bytes; no image is that small")
    for group in range(metadata.num_row_groups):
        for column in range(metadata.num_columns):
            chunk = metadata.row_group(group).column(column)
            packed, unpacked = chunk.total_compressed_size, chunk.total_uncompressed_size
            most = chunk.num_values * unpacked if _has_dictionary(chunk) else unpacked
            large = unpacked > _SWOLLEN_BYTES or most > _HELD_BYTES
            if large and unpacked > _SWOLLEN * min(max(packed, 1), size):
                raise DataError(
                    f"{file.label}: column {chunk.path_in_schema!r} of row group {group} would unpack to {most:,} "
                    f"bytes from {packed:,}; encoded images do not; write smaller row groups, or without compression"
                )


def _has_dictionary(chunk: pq.ColumnChunkMetaData) -> bool:
    """Return whether rows may repeat one large value that is stored once."""
    return bool(chunk.has_dictionary_page) and chunk.physical_type in ("BYTE_ARRAY", "FIXED_LEN_BYTE_ARRAY")


def _batch_rows(metadata: pq.FileMetaData, groups: Iterable[int], most: int) -> int:
    """Return the number of rows to read at once, so that rows of the largest possible size take 256 MiB."""
    chunks = (metadata.row_group(group).column(i) for group in groups for i in range(metadata.num_columns))
    largest = max((chunk.total_uncompressed_size for chunk in chunks if _has_dictionary(chunk)), default=0)
    return max(1, min(most, _BATCH_BYTES // max(largest, 1)))


_USUAL = {
    "image": ("image", "img", "images", "picture", "pixel_values", "jpg", "png"),
    "label": ("label", "labels", "fine_label", "class", "cls", "target", "y"),
    "group": ("coarse_label", "person_id", "identity", "group"),
}
"""Names that data sets give to their columns, the usual one first."""


def check_columns(file: SourceFile, schema: pa.Schema, extensions: Collection[str], columns: Columns) -> None:
    """Check that a table has the columns that the study names, of types that hold images and labels.

    Raises:
        DataError: it has not; the message suggests columns of usual names.

    """
    for key, name in columns.model_dump().items():
        if name is not None and name not in schema.names:
            hint = _suggested(schema.names) if key in ("image", "label") else ""
            hint = hint or did_you_mean(name, schema.names)
            raise DataError(f"{file.label}: no column {name!r} for data.columns.{key}{hint}")
    for name in (n for n in columns.model_dump().values() if n is not None):
        if name in extensions or isinstance(schema.field(name).type, pa.BaseExtensionType):
            raise DataError(f"{file.label}: column {name!r} has an extension type; expected plain Arrow types")
    image, label = schema.field(columns.image).type, schema.field(columns.label).type
    has_bytes = pa.types.is_struct(image) and image.get_field_index("bytes") >= 0
    if not (has_bytes or _is_a(image, "binary")):
        raise DataError(
            f"{file.label}: column {columns.image!r}: expected struct<bytes, path> or binary; found {image}"
            f"{_for_images(image)}"
        )
    if not (is_number(label) or _is_a(label, "string")):
        several = "; an image has one class: of rows of scores, or one-hot rows, write the place of the largest"
        raise DataError(
            f"{file.label}: column {columns.label!r}: expected whole numbers or strings; found {label}"
            f"{several if _is_list(label) else ''}"
        )


def _for_images(kind: pa.DataType) -> str:
    """Return how images that are in another form are brought; empty for unknown forms."""
    if _is_list(kind):
        return "; for pixels, write each image as a PNG file's bytes, or all of them as an array in an .npz file"
    if _is_a(kind, "string"):
        return "; for paths, name a CSV file with them; for base64, write the bytes that it stands for"
    return ""


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def _suggested(names: Sequence[str]) -> str:
    """Return columns of a table that have usual names, as a study writes them; empty where image or label has none."""
    found = {key: next((one for one in usual if one in names), None) for key, usual in _USUAL.items()}
    if not found["image"] or not found["label"]:
        return ""
    chosen = ", ".join(f"{key}: {name}" for key, name in found.items() if name and name != key)
    return f"; it has {', '.join(names[:8])}: data.columns: {{{chosen}}}" if chosen else ""


def _is_a(kind: pa.DataType, name: str) -> bool:
    return str(kind) in (name, f"large_{name}", f"{name}_view")


def is_number(kind: pa.DataType) -> bool:
    """Return whether labels of a type may be whole numbers; each value is checked when it is read."""
    types = pa.types
    return bool(types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind) or types.is_decimal(kind))


def class_names_of(schema: pa.Schema, label: str) -> tuple[str, ...] | None:
    """Return the names in the `huggingface` metadata; None where it has none that can be read."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return tuple(str(name) for name in features[label]["names"])
    except (KeyError, TypeError, ValueError):
        return None


def _names_from_labels(files: tuple[SourceFile, ...], label: str) -> tuple[str, ...] | None:
    """Return the sorted distinct labels where labels are strings; None for integers."""
    names: set[str] = set()
    for file in files:
        with _reading(file) as parquet:
            if is_number(parquet.schema_arrow.field(label).type):
                return None
            rows = _batch_rows(parquet.metadata, range(parquet.metadata.num_row_groups), _LABEL_ROWS)
            for batch in parquet.iter_batches(rows, columns=[label]):
                names |= {str(n) for n in batch.column(0).unique().to_pylist() if n is not None}
    return in_order(names)


def is_parquet(path: str) -> bool:
    """Return whether a path is Parquet: by its ending, or as a local folder of .parquet files."""
    path = label(path)
    return path.endswith((".parquet", ".parquet*")) or (Path(path).is_dir() and any(Path(path).glob("*.parquet")))
