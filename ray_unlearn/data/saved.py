"""Folders that `datasets.Dataset.save_to_disk` wrote: Arrow IPC streams of structs with encoded images.

    source = open_saved("cifar10/train", Columns())

Such a folder has `state.json`, which lists its files, and `dataset_info.json`. That of a `DatasetDict` has
`dataset_dict.json` and a folder per split: name one of these. Slices are whole files.

Does not cover: images that the files only name (save them with their bytes), and the caches of `datasets`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from ray_unlearn.data.class_names import in_order, reordered
from ray_unlearn.data.files import SourceFile, fingerprint
from ray_unlearn.data.parquet import ParquetSlice, check_columns, class_names_of, is_number
from ray_unlearn.data.rows import OpenSource
from ray_unlearn.errors import DataError, first_line
from ray_unlearn.store.arrow import ArrowStream, extension_types
from ray_unlearn.study.identity import digest
from ray_unlearn.study.schema import Columns

STATE, DICT = "state.json", "dataset_dict.json"


@dataclass(frozen=True, slots=True)
class SavedSlice(ParquetSlice):
    """One Arrow stream of a saved data set."""

    def batches(self, names: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """Yield these columns of the file's record batches."""
        with _opened(self.file) as stream:
            for batch in _whole(self.file, stream):
                yield batch.select(names)


def is_saved(path: str) -> bool:
    """Return whether a local folder is one that save_to_disk wrote."""
    return "://" not in path and any((Path(path) / name).is_file() for name in (STATE, DICT))


def open_saved(path: str, columns: Columns) -> OpenSource:
    """Open a saved data set.

    Raises:
        DataError: it holds several splits, a file is missing or damaged, or it lacks a column.

    """
    files = _files(Path(path))
    slices: list[SavedSlice] = []
    labels: dict[str, None] = {}
    stated: tuple[str, ...] = ()
    first = 0
    for file in files:
        with _opened(file) as stream:
            schema = stream.schema
            check_columns(file, schema, extension_types(schema), columns)
            named = not is_number(schema.field(columns.label).type)
            stated = stated or class_names_of(schema, columns.label) or ()
            count = 0
            for batch in _whole(file, stream):
                count += len(batch)
                if named:
                    unique = batch.column(columns.label).unique().to_pylist()
                    labels |= dict.fromkeys(str(one) for one in unique if one is not None)
        slices.append(SavedSlice(file, (), first, count, columns, stated))
        first += count
    names = stated or (in_order({*labels}) if labels else None)
    return OpenSource(
        name=path,
        fingerprint=digest([[f.name, fingerprint(f)] for f in files] + [columns.model_dump(exclude={"path"})]),
        class_names=names,
        remarks=tuple(filter(None, [reordered(names)] if names and not stated else [])),
        slices=tuple(slices),
        num_rows=first,
    )


def _files(folder: Path) -> list[SourceFile]:
    """Return the files that state.json lists.

    Raises:
        DataError: the folder holds several splits, or state.json cannot be read.

    """
    try:
        if (folder / DICT).is_file():
            splits = json.loads((folder / DICT).read_bytes())["splits"]
            named = ", ".join(map(str, splits))
            raise DataError(f"{folder}: holds the splits {named}; name the folder of one: {folder / str(splits[0])}")
        names = [str(one["filename"]) for one in json.loads((folder / STATE).read_bytes())["_data_files"]]
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise DataError(f"{folder}: not a folder of save_to_disk: {STATE} cannot be read ({error})") from error
    if not names or any(Path(name).name != name for name in names):
        raise DataError(f"{folder / STATE}: expected names of files in this folder; found {names[:3]}")
    if lacking := [name for name in names if not (folder / name).is_file()]:
        raise DataError(f"{folder / lacking[0]}: no such file, which {STATE} lists; copy the whole folder")
    return [SourceFile(str(folder / name)) for name in names]


def _opened(file: SourceFile) -> ArrowStream:
    try:
        return ArrowStream(file.uri)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise DataError(f"{file.label}: not a readable Arrow stream: {first_line(error)}") from error


def _whole(file: SourceFile, stream: ArrowStream) -> Iterator[pa.RecordBatch]:
    try:
        yield from stream.batches()
    except (OSError, ValueError, pa.ArrowException) as error:
        raise DataError(f"{file.label}: damaged Arrow stream: {first_line(error)}") from error
