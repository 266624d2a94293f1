"""A CSV file that lists images: one row per image, with the path of its file and its class.

    open_table("labels.csv", Columns(path="image_path", label="age_class"), images="train_images")

Paths are relative to the folder `images`, by default the CSV file's own; a missing suffix is found. The separator is
found too (comma, semicolon, tab); every cell is read as it is written, so that ids keep leading zeros.

Does not cover: several labels per image; CSV files on object stores.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePath
from typing import Any

from ray_unlearn.data.class_names import in_order, is_split, reordered
from ray_unlearn.data.csv_files import read_csv
from ray_unlearn.data.folders import SUFFIXES, Entry, numbered, source_of
from ray_unlearn.data.id_lists import whole
from ray_unlearn.data.rows import OpenSource
from ray_unlearn.errors import DataError, did_you_mean
from ray_unlearn.study.schema import Columns
from ray_unlearn.study.uris import label

PATHS = (
    *("path", "image_path", "file_name", "filename", "file", "filepath", "img_path", "image", "img"),
    *("fname", "image_name", "img_name", "image_file"),
)
"""Columns that hold an image's path where the study names none: the first that a file has."""
_SHOWN = 12  # names in a message
_SEVERAL = re.compile(r"[\[(]?\s*\d+(?:\.0)?(?:\s*[\s,;|]\s*\d+(?:\.0)?)+\s*[\])]?")


def is_table(path: str) -> bool:
    """Return whether a path is a CSV file's."""
    return path.lower().endswith((".csv", ".tsv"))


def open_table(path: str, columns: Columns, images: str | None = None) -> OpenSource:
    """Open the images that a CSV file lists.

    Args:
        path: the CSV file.
        columns: names of its columns.
        images: folder that the paths are relative to; the CSV file's by default.

    Raises:
        DataError: the file cannot be read, lacks a column, or a row has no path or not one class.

    """
    if "://" in path:
        raise DataError(f"{label(path)}: CSV files of images are read from a local disk or mount only; copy it there")
    file = Path(path)
    if not file.is_file():
        raise DataError(f"{path}: no such file; expected a CSV file with a row per image")
    table = read_csv(file).rename(columns=lambda name: str(name).strip())
    names = list(table.columns)
    where_path = _path_column(path, names, columns)
    for key in ("label", "id", "group", "age"):
        if (column := getattr(columns, key)) and column not in names:
            more = _several(table, [name for name in names if name != where_path]) if key == "label" else ""
            raise _no_column(path, key, column, names, where_path, more)
    root = Path(images) if images else file.parent
    if not root.is_dir():
        raise DataError(f"{images}: no such folder; expected the folder of the images that {path} lists")
    entries = list(_entries(path, table.to_dict("records"), where_path, columns, root))
    if not entries:
        raise DataError(f"{path}: no rows; expected one per image")
    splits = [line for name in names if name not in columns.model_dump().values() and (line := _splits(table[name]))]
    _check_single({str(entry.label) for entry in entries}, path, columns.label)
    if numbers := numbered(entries):
        return replace(source_of(path, numbers, None), remarks=tuple(splits))
    classes = in_order({str(entry.label) for entry in entries})
    remarks = filter(None, [reordered(classes), _mixed(classes), *splits])
    return replace(source_of(path, entries, classes), remarks=tuple(remarks))


def _check_single(classes: Collection[str], path: str, column: str) -> None:
    """Refuse classes that are lists of others, such as `Edema|Mass` beside `Mass`."""
    lists = {name: {part.strip() for part in re.split(r"[|;]", name)} for name in sorted(classes)}
    count = Counter(part for parts in lists.values() for part in parts)
    for name, parts in lists.items():
        if len(parts) > 1 and (shared := sorted(part for part in parts if count[part] > 1)):
            raise DataError(
                f"{path}: column {column!r} holds several labels, {name[:40]!r} (other rows have {shared[0][:40]!r}); "
                "a classifier of one class per image needs one: write a column with one of them"
            )


def _mixed(classes: Sequence[str]) -> str:
    """Return a remark where some labels are whole numbers from 0 and others are not; else an empty text."""
    others = [name for name in classes if whole(name) is None]
    if len(others) == len(classes):
        return ""
    return (
        f"{len(classes) - len(others)} of {len(classes)} classes are whole numbers from 0, and others are not, "
        f"such as {others[0]!r}: all are taken as names, as they are written"
    )


def _splits(column: Any) -> str:
    """Return a remark where a column puts rows into several splits; else an empty text."""
    found = sorted({str(value) for value in column if str(value).isalpha() and is_split(str(value))})
    if len(found) < 2:
        return ""
    return (
        f"column {column.name!r} names splits ({', '.join(found[:4])}), and is not read: all {len(column):,} rows are "
        "taken; write a CSV file for each split"
    )


def _path_column(path: str, names: list[str], columns: Columns) -> str:
    if columns.path is not None:
        if columns.path not in names:
            raise _no_column(path, "path", columns.path, names, "", "")
        return columns.path
    found = [name for known in PATHS for name in names if name.lower() == known]
    if not found:
        rows = [name for name in names if PurePath(name).suffix.lower() in SUFFIXES]
        hint = f"; its first line is a row, {rows[0]!r}: write the columns' names above it" if rows else ""
        raise DataError(
            f"{path}: no column with the images' paths; name it by data.columns: {{path: ...}} (columns: "
            f"{', '.join(names[:_SHOWN])}{', ...' * (len(names) > _SHOWN)}){hint}"
        )
    return found[0]


def _no_column(path: str, key: str, column: str, names: list[str], taken: str, more: str) -> DataError:
    rest = [name for name in names if name != taken]
    only = rest[0] if len(rest) == 1 else "..."
    return DataError(
        f"{path}: no column {column!r} for data.columns.{key}{did_you_mean(column, rest)}; name it by "
        f"data.columns: {{{key}: {only}}}{more}"
    )


def _several(table: Any, names: Sequence[str]) -> str:
    """Return what to know of columns that are 0 or 1 in every row, one label each; empty for fewer than two such."""
    found = [name for name in names if {*table[name].str.strip()} <= {"0", "1", "-1"}]
    if len(found) < 2:
        return ""
    return (
        f"; {', '.join(found[:4])}{', ...' * (len(found) > 4)} are 0 or 1: several labels per image (multi-label), of "
        "which a classifier of one class per image learns one"
    )


def _entries(path: str, rows: list[dict[Any, Any]], where_path: str, columns: Columns, root: Path) -> Iterator[Entry]:
    for number, row in enumerate(rows):
        where, text = f"{path} row {number}", str(row[where_path]).strip()
        if "\\" in text and not (root / text).is_file():  # written on Windows
            text = text.replace("\\", "/")
        if not text:
            raise DataError(f"{where}: column {where_path!r} is empty; expected the image's path")
        yield Entry(
            path=str(_file(root, text)),
            image_id=_cell(row, columns.id) or text,
            label=_class(_cell(row, columns.label), where, columns.label),
            where=where,
            group=_cell(row, columns.group),
            age=_age(_cell(row, columns.age)),
        )


def _cell(row: Mapping[Any, Any], column: str | None) -> str:
    return "" if column is None else str(row[column]).strip()


def _file(root: Path, text: str) -> Path:
    """Return the image's file; one that does not exist is reported, or skipped, where images are decoded."""
    file = root / text
    if file.suffix.lower() in SUFFIXES or file.is_file():
        return file
    return next((other for end in (".png", ".jpg", ".jpeg") if (other := Path(f"{file}{end}")).is_file()), file)


def _class(text: str, where: str, column: str) -> str:
    if not text:
        raise DataError(f"{where}: column {column!r} is empty; expected a class")
    if _SEVERAL.fullmatch(text):
        raise DataError(
            f"{where}: column {column!r} holds several labels, {text[:40]!r}; a classifier of one class per image "
            "needs one: write a column with one of them"
        )
    return text


def _age(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return float("nan")
