"""Image folders on a local disk or mount: one folder per class, or the competition's CSV files and images.

    open_class_folders("faces/")                 # faces/<class name>/**/*.png|jpg|...
    open_competition("input/")                   # input/{retain,forget,validation}.csv, input/images/<a>/<b>.png

In the competition's layout `image_id = "a-b"` lies at `images/<a>/<b>.png`; `age_group` is the label; the CSV file
that names an image is the set that it is given to.

Does not cover: folders on object stores; make Parquet of them, which is read far faster there.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_args

from ray_unlearn.data.rows import GivenSplit, OpenSource, Row
from ray_unlearn.errors import DataError
from ray_unlearn.study.identity import digest

_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".tif", ".tiff"})
_SLICE_ROWS = 2048
_CSV_COLUMNS = ("image_id", "age_group")
_IMAGE_ID = re.compile(r"[A-Za-z0-9_]+-[A-Za-z0-9_]+")


@dataclass(frozen=True, kw_only=True, slots=True)
class _Entry:
    """One image file and what is known about it."""

    path: str
    image_id: str
    label: int | str
    """A name where the source names its classes, so that sources agree on names, not on numbers."""
    where: str
    group: str = ""
    age: float = float("nan")
    given: GivenSplit = ""


@dataclass(frozen=True, slots=True)
class FileSlice:
    """Some image files of a folder."""

    entries: tuple[_Entry, ...]

    @property
    def num_rows(self) -> int:
        """Number of images."""
        return len(self.entries)

    def rows(self) -> Iterator[Row]:
        """Read one file after another."""
        for entry in self.entries:
            image, problem = _read(entry.path)
            yield Row(
                image=image,
                image_id=entry.image_id,
                label=entry.label,
                where=entry.where,
                group=entry.group,
                age=entry.age,
                given=entry.given,
                problem=problem,
            )


def _read(path: str) -> tuple[bytes | None, str]:
    try:
        return Path(path).read_bytes(), ""
    except OSError as error:
        return None, f"{path} cannot be read ({error.strerror})"


def open_class_folders(path: str) -> OpenSource:
    """Open a folder that holds one folder per class; class names are the folders' names, sorted.

    Raises:
        DataError: there is no such folder, or no image in it.

    """
    root = Path(path)
    if not root.is_dir():
        raise DataError(f"{path}: no such folder; expected one folder per class, retain.csv and images/, or *.parquet")
    names = tuple(sorted(item.name for item in root.iterdir() if item.is_dir() and not item.name.startswith(".")))
    entries = []
    for name in names:
        for file in sorted(p for p in (root / name).rglob("*") if p.suffix.lower() in _SUFFIXES and p.is_file()):
            image_id = file.relative_to(root).as_posix()
            entries.append(_Entry(path=str(file), image_id=image_id, label=name, where=str(file)))
    if not entries:
        raise DataError(f"{path}: no images in class folders; expected {path}/<class name>/<image>.png or .jpg")
    return _source(path, entries, names)


def is_competition(path: str) -> bool:
    """Return whether a folder has the competition's layout."""
    return (Path(path) / "retain.csv").is_file()


def open_competition(path: str) -> OpenSource:
    """Open a folder in the competition's layout; forget and validation sets are as given.

    Raises:
        DataError: a CSV file is missing, lacks a column, or names an image id that is not `a-b`.

    """
    entries = []
    for given in get_args(GivenSplit)[1:]:
        file = Path(path) / f"{given}.csv"
        if not file.is_file():
            raise DataError(f"{file}: missing; the competition's layout has retain.csv, forget.csv and validation.csv")
        entries += list(_csv_entries(Path(path), file, given))
    if all(isinstance(entry.label, int) for entry in entries):
        return _source(path, entries, None)
    named = [replace(entry, label=str(entry.label)) for entry in entries]
    return _source(path, named, tuple(sorted({str(entry.label) for entry in named})))


def _csv_entries(root: Path, file: Path, given: GivenSplit) -> Iterator[_Entry]:
    import pandas as pd  # half a second that no worker needs

    try:
        table = pd.read_csv(file, dtype={"image_id": str, "person_id": str})
    except (OSError, ValueError, UnicodeDecodeError) as error:
        raise DataError(f"{file}: not a readable CSV file: {str(error).splitlines()[0]}") from error
    missing = [name for name in _CSV_COLUMNS if name not in table.columns]
    if missing:
        raise DataError(
            f"{file}: no column {missing[0]!r}; expected image_id, age_group, age and person_id; "
            f"found {list(table.columns)}"
        )
    for number, row in enumerate(table.to_dict("records")):
        where, image_id = f"{file} row {number}", str(row["image_id"])
        if not _IMAGE_ID.fullmatch(image_id):
            raise DataError(f"{where}: image_id: expected `a-b` of letters, digits and _; found {image_id!r}")
        folder, name = image_id.split("-")
        age, person = row.get("age"), row.get("person_id")
        yield _Entry(
            path=str(root / "images" / folder / f"{name}.png"),
            image_id=image_id,
            label=_label(row["age_group"], where),
            where=where,
            group=person if isinstance(person, str) else "",
            age=float("nan") if not isinstance(age, int | float) else float(age),
            given=given,
        )


def _label(value: object, where: str) -> int | str:
    if isinstance(value, str):
        return value
    if isinstance(value, int | float) and float(value).is_integer():
        return int(value)
    raise DataError(f"{where}: age_group: expected an integer or a name; found {value!r}")


def _source(path: str, entries: list[_Entry], names: tuple[str, ...] | None) -> OpenSource:
    known = [[e.image_id, e.label, e.group, str(e.age), e.given, *_size_and_time(e.path)] for e in entries]
    slices = [FileSlice(tuple(entries[i : i + _SLICE_ROWS])) for i in range(0, len(entries), _SLICE_ROWS)]
    fingerprint = digest([str(Path(path).absolute()), known])
    return OpenSource(
        name=path, fingerprint=fingerprint, class_names=names, slices=tuple(slices), num_rows=len(entries)
    )


def _size_and_time(path: str) -> tuple[int, int]:
    """Return size in bytes and time of change in ns; (-1, -1) where there is no such file."""
    try:
        info = Path(path).stat()
    except OSError:
        return -1, -1
    return info.st_size, info.st_mtime_ns
