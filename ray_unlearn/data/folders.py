"""Image folders: one folder per class, also on an object store; or the competition's CSV files and images.

    open_class_folders("faces/")                 # faces/<class name>/**/*.png|jpg|..., or s3://bucket/faces
    open_competition("input/")                   # input/{retain,forget,validation}.csv, input/images/<a>/<b>.png

In the competition's layout the file of `image_id = "a-b"` is `images/<a>/<b>.png`; `age_group` is the label; the name
of the CSV file that lists an image is its set.

Does not cover: the competition's layout on object stores. Many small objects are read with several requests at once,
and are still far slower than Parquet, which holds them together.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path, PurePath, PurePosixPath
from typing import TypeVar, get_args

from pyarrow import fs

from ray_unlearn.data.class_names import in_order, is_split, reordered
from ray_unlearn.data.csv_files import read_csv
from ray_unlearn.data.files import open_filesystem, read_local
from ray_unlearn.data.id_lists import whole
from ray_unlearn.data.rows import GivenSplit, OpenSource, Row
from ray_unlearn.data.strangers import explain, ignored, is_system, unfollowed
from ray_unlearn.errors import DataError
from ray_unlearn.store.retries import attempt
from ray_unlearn.study.identity import digest
from ray_unlearn.study.uris import error_line, label

SUFFIXES = frozenset(
    {".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm"}
)
_SLICE_ROWS = 2048
_AT_ONCE, _HELD = 16, 64  # objects that are requested at once, and held while the first is awaited
_RETAIN = "retain.csv"  # marks the competition's layout
_CSV_COLUMNS = ("image_id", "age_group")
_IMAGE_ID = re.compile(r"[A-Za-z0-9_]+-[A-Za-z0-9_]+")


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry(Row):
    """One image file, not read yet; its label is a name where the source names its classes."""

    path: str


@dataclass(frozen=True, slots=True)
class FileSlice:
    """Some image files of a folder."""

    entries: tuple[Entry, ...]
    root: str = ""
    """URI of the object store with the files; empty for a local disk or mount."""

    @property
    def num_rows(self) -> int:
        """Number of images."""
        return len(self.entries)

    def rows(self) -> Iterator[Row]:
        """Read one file after another."""
        for entry, (image, problem) in zip(self.entries, self._images(), strict=True):
            yield replace(entry, image=image, problem=problem)

    def _images(self) -> Iterator[tuple[bytes | None, str]]:
        if not self.root:
            yield from (_read(entry.path) for entry in self.entries)
            return
        filesystem, _ = open_filesystem(self.root)
        with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="read") as threads:
            for start in range(0, len(self.entries), _HELD):
                yield from threads.map(partial(_read_object, filesystem), self.entries[start : start + _HELD])


def _read_object(filesystem: fs.FileSystem, entry: Entry) -> tuple[bytes | None, str]:
    """Read an object. A missing object is a bad image; a failing store is an error, and skips no image."""

    def read() -> bytes:
        with filesystem.open_input_stream(entry.path) as stream:
            return bytes(stream.read())

    try:
        return attempt(read), ""
    except FileNotFoundError:
        return None, f"{entry.where} does not exist any more"
    except OSError as error:
        raise DataError(f"{entry.where}: cannot be read: {error_line(error, entry.path)}") from error


def _read(path: str) -> tuple[bytes | None, str]:
    try:
        return read_local(Path(path)), ""
    except OSError as error:
        return None, f"{path} cannot be read ({error.strerror})"


def open_class_folders(path: str) -> OpenSource:
    """Open a folder that holds one folder per class; class names are the folders' names, in order.

    Raises:
        DataError: there is no such folder, or no image in it.

    """
    if "://" in path:
        return _open_remote(path)
    root = Path(path)
    if not root.is_dir():
        raise DataError(f"{path}: {explain(root)}")
    names = in_order(item.name for item in root.iterdir() if item.is_dir() and not is_system(PurePath(item.name)))
    check_splits(path, names)
    entries, others = [], [item for item in root.iterdir() if not is_system(PurePath(item.name)) and not item.is_dir()]
    for name in names:
        found = (p for p in (root / name).rglob("*") if not is_system(p.relative_to(root)))
        files = sorted(p for p in found if p.is_symlink() or not p.is_dir())  # a linked folder is not searched
        images = [p for p in files if p.suffix.lower() in SUFFIXES and p.is_file()]
        others += sorted({*files} - {*images})
        for file in images:
            image_id = _text_of(file, root)
            entries.append(Entry(path=str(file), image_id=image_id, label=name, where=str(file)))
    if not entries:
        raise DataError(f"{path}: {explain(root)}")
    links = [p for p in others if p.is_symlink() and not p.is_file()]
    remarks = (*_remarks(names, [p for p in others if p not in links]), *unfollowed(links, root))
    return replace(source_of(path, entries, names), remarks=remarks)


def _text_of(file: Path, root: Path) -> str:
    """Return a file's path below the source as its image id."""
    image_id = file.relative_to(root).as_posix()
    try:
        image_id.encode()
    except UnicodeEncodeError:
        raise DataError(f"{str(file)!a}: the name of this file is not UTF-8; rename it") from None
    return image_id


def check_splits(path: str, names: Sequence[str]) -> None:
    """Check that folders are not all splits: they would be learnt as classes, and the test images trained on.

    Raises:
        DataError: they are.

    """
    splits = [is_split(name) for name in names]
    if len(set(splits)) > 1 and all(splits) and "train" in splits:
        shown = " and ".join(repr(name) for name in names[:3])
        train = names[splits.index("train")]
        raise DataError(
            f"{label(path)}: its folders {shown} are splits, not classes; name each by itself: "
            f"data.train: {label(path).rstrip('/')}/{train}, and data.test likewise"
        )


def _remarks(names: Sequence[str], others: Sequence[PurePath]) -> tuple[str, ...]:
    return tuple(filter(None, (reordered(names), ignored(others))))


def _open_remote(uri: str) -> OpenSource:
    """Open class folders on an object store, with names, sizes and times from one listing."""
    filesystem, root = open_filesystem(uri)
    try:
        found = filesystem.get_file_info(fs.FileSelector(root, recursive=True))
    except FileNotFoundError:
        raise DataError(f"{label(uri)}: no such folder; expected one folder per class") from None
    except OSError as error:
        raise DataError(f"{label(uri)}: cannot be listed: {error_line(error, uri)}") from error
    inside = {PurePosixPath(info.path).relative_to(root.rstrip("/")): info for info in found}
    if PurePosixPath(_RETAIN) in inside:
        raise _local_only(uri)
    names = in_order({_class_of(path, info.is_file) for path, info in inside.items()} - {""})
    check_splits(uri, names)
    files = [path for path, info in inside.items() if info.is_file and not is_system(path)]
    images = [path for path in files if path.suffix.lower() in SUFFIXES]
    others = sorted({*files} - {path for path in images if len(path.parts) > 1})
    entries, known = [], []
    for path in sorted((path for path in images if len(path.parts) > 1), key=lambda path: (path.parts[0], path)):
        if path.parts[0] in names:
            where = f"{label(uri).rstrip('/')}/{path}"
            entries.append(Entry(path=inside[path].path, image_id=str(path), label=path.parts[0], where=where))
            known.append((int(inside[path].size), int(inside[path].mtime_ns or 0)))
    if not entries:
        raise DataError(
            f"{label(uri)}: no images in class folders; expected {label(uri)}/<class name>/<image>.png or .jpg, or "
            f"{label(uri)}/*.parquet for a folder of Parquet files"
        )
    return replace(source_of(uri, entries, names, known), remarks=_remarks(names, others))


def _class_of(path: PurePosixPath, is_file: bool) -> str:
    """Return the class folder that a path is or is in; empty for files outside class folders and for hidden folders."""
    outside = is_file and len(path.parts) == 1
    return "" if outside or is_system(PurePath(path.parts[0])) else path.parts[0]


def is_competition(path: str) -> bool:
    """Return whether a folder has the competition's layout."""
    return (Path(path) / _RETAIN).is_file()


def _local_only(uri: str) -> DataError:
    return DataError(f"{label(uri)}: the competition's layout is read from a local disk or mount only; copy it there")


def open_competition(path: str) -> OpenSource:
    """Open a folder in the competition's layout; forget and validation sets are as given.

    Raises:
        DataError: a CSV file is missing, lacks a column, or names an image id that is not `a-b`.

    """
    if "://" in path:
        raise _local_only(path)
    entries = []
    for given in get_args(GivenSplit)[1:]:
        file = Path(path) / f"{given}.csv"
        if not file.is_file():
            raise DataError(f"{file}: missing; the competition's layout has retain.csv, forget.csv and validation.csv")
        entries += list(_csv_entries(Path(path), file, given))
    if all(isinstance(entry.label, int) for entry in entries):
        return source_of(path, entries, None)
    named = [replace(entry, label=str(entry.label)) for entry in entries]
    names = in_order({str(entry.label) for entry in named})
    return replace(source_of(path, named, names), remarks=_remarks(names, ()))


def _csv_entries(root: Path, file: Path, given: GivenSplit) -> Iterator[Entry]:
    table = read_csv(file, text=("image_id", "person_id"), numbers=("age",))
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
        yield Entry(
            path=str(root / "images" / folder / f"{name}.png"),
            image_id=image_id,
            label=_label(row["age_group"], where),
            where=where,
            group=person if isinstance(person, str) else "",
            age=_age(age),
            given=given,
        )


def _age(value: object) -> float:
    """Return an age; NaN where the cell holds no number, or one that no float holds."""
    try:
        return float(value) if isinstance(value, int | float) else float("nan")
    except OverflowError:
        return float("nan")


def _label(value: object, where: str) -> int | str:
    if isinstance(value, str) and value:
        return value
    if isinstance(value, int) or (isinstance(value, float) and value.is_integer()):
        return int(value)
    raise DataError(f"{where}: age_group: expected an integer or a name; found {value!r}")


EntryT = TypeVar("EntryT", bound=Row)


def numbered(entries: Sequence[EntryT]) -> list[EntryT]:
    """Return images with their labels as whole numbers from 0; none where a label is no such number."""
    numbers = [whole(str(entry.label)) for entry in entries]
    return [replace(e, label=n) for e, n in zip(entries, numbers, strict=True)] if None not in numbers else []


def source_of(
    path: str, entries: list[Entry], names: tuple[str, ...] | None, sizes_and_times: list[tuple[int, int]] | None = None
) -> OpenSource:
    """Return the source; sizes and times are given for an object store, and read for local files."""
    remote = path if sizes_and_times is not None else ""
    stats = sizes_and_times if sizes_and_times is not None else [size_and_time(e.path) for e in entries]
    known = [[e.image_id, e.label, e.group, str(e.age), e.given, *stat] for e, stat in zip(entries, stats, strict=True)]
    slices = [FileSlice(tuple(entries[i : i + _SLICE_ROWS]), remote) for i in range(0, len(entries), _SLICE_ROWS)]
    where = label(path) if remote else str(Path(path).absolute())
    return OpenSource(
        name=label(path),
        fingerprint=digest([where, known]),
        class_names=names,
        slices=tuple(slices),
        num_rows=len(entries),
    )


def size_and_time(path: str | Path) -> tuple[int, int]:
    """Return size in bytes and time of change in ns; (-1, -1) where there is no such file."""
    try:
        info = Path(path).stat()
    except OSError:
        return -1, -1
    return info.st_size, info.st_mtime_ns
