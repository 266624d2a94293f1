"""Lists of images to forget: ids or positions, in the study or in a file.

    read_ids("forget.csv")                       # [("forget.csv row 0", "a-1"), ...]; .txt, .json and .npy likewise
    find("12.0", {"12": 3})                      # 3: 12.0 and 12 are the same number

A file may be CSV with a column `image_id` (or `path`, `filename`, `index`, ...), text with an id per line, a JSON list,
or a NumPy array (the starting kit's `forget_idx.npy`) of ids, of positions, or of one boolean per image. File names are
taken with or without folders and suffix, where only one image has the name.

Does not cover: drawing the sets (`splits`).
"""

from __future__ import annotations

import io
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from ray_unlearn.data.class_names import is_split
from ray_unlearn.data.csv_files import read_csv
from ray_unlearn.data.files import read_local, why_unread
from ray_unlearn.errors import DataError, did_you_mean

_LARGEST_BYTES = 256 * 2**20
_EXPECTED = "expected a list of ids, or a .csv file with a column image_id, a .txt, .json or .npy file of them"
_COLUMNS = (
    "image_id",
    "id",
    "path",
    "image_path",
    "file_name",
    "filename",
    "file",
    "image",
    "index",
    "idx",
    "position",
)
"""Columns of a CSV file that hold ids, file names or positions; the first that it has."""
_FORGETTING = {"forget", "forgotten", "unlearn", "delete", "deleted", "remove", "removed", "erase", "erased"}
"""Words in the name of a column that says of each row whether it is to be forgotten."""
_YES_OR_NO = {"0", "1", "0.0", "1.0", "true", "false", "yes", "no", "y", "n", "x", ""}
"""Cells of such a column: empty where the others are marked."""
_NO = {"0", "0.0", "false", "no", "n"}
_PICKLES = (".pt", ".pth", ".pkl", ".pickle")
_NUMBERS = re.compile(r"\[?\d+(?:[\s,;]+\d+)+[\s,;]*\]?")
_SAVED = re.compile(r"\d\.\d{6,}e[+-]\d{2,3}")
"""A number as numpy.savetxt writes it."""
Listed = list[tuple[str, str]]
"""Entries of a list: (where, image id or position)."""


def read_ids(ids: str | Sequence[str], count: int | None = None, *, forget: bool = True) -> Listed:
    """Return the entries of a list in the study, or of a file.

    Args:
        ids: the list, or the file's path.
        count: number of images, which an array of booleans has to have; None where it is not known yet.
        forget: whether it lists images to forget: then no column of a file may say that some rows are not meant.

    Raises:
        DataError: the file does not exist, or is of another kind.

    """
    if not isinstance(ids, str):
        return [(f"data.forget.ids[{i}]", image_id) for i, image_id in enumerate(ids)]
    file = Path(ids)
    if not file.is_file():
        raise DataError(f"{ids}: no such file; data.forget.ids: {_EXPECTED}")
    if file.suffix.lower() in (".txt", ".json", ".npy"):
        return [(f"{ids} entry {i}", text) for i, text in enumerate(_entries(file, count))]
    if file.suffix.lower() in _PICKLES:
        raise DataError(
            f"{ids}: a pickle, which may run code when read; write the positions by numpy.save(FILE, array) or as a "
            f"text; data.forget.ids: {_EXPECTED}"
        )
    table = read_csv(file).rename(columns=str.strip)
    index = [column for column in table.columns if column.startswith("Unnamed: ")]  # as pandas writes its own
    if index and len(table.columns) == 2:
        table = table.drop(columns=index).rename(columns=lambda name: _COLUMNS[0])
    name = next((one for one in _COLUMNS if one in table.columns), None)
    if name is None and len(table.columns) > 1:
        raise DataError(f"{ids}: no column 'image_id'; found {list(table.columns)}")
    for column in table.columns.drop(name or table.columns[0]) if forget else ():
        _check_column(ids, str(column), [str(cell).strip().lower() for cell in table[column]])
    if name is None:  # one column without a name: its first line is an entry, too
        only = str(table.columns[0])
        return [(f"{ids} line {i}", str(entry).strip()) for i, entry in enumerate([only, *table[table.columns[0]]])]
    return [(f"{ids} row {i}", str(image_id).strip()) for i, image_id in enumerate(table[name])]


def _check_column(ids: str, column: str, cells: Sequence[str]) -> None:
    """Refuse a column that says which of the rows are to be forgotten: a list names all of its rows."""
    kinds, named = {*cells}, _FORGETTING & {*re.split(r"[^a-z]+", column.lower())}
    if (named and kinds <= _YES_OR_NO and (len(kinds) > 1 or kinds <= _NO)) or (len(kinds) > 1 and "forget" in kinds):
        raise DataError(
            f"{ids}: column {column!r} says which rows are to be forgotten, with values such as "
            f"{', '.join(map(repr, sorted(kinds)[:3]))}; all rows of a list are, and its other columns do not count: "
            "keep the rows that are to be forgotten alone, without this column"
        )


def _entries(file: Path, count: int | None) -> list[str]:
    try:
        data = read_local(file, _LARGEST_BYTES)
        if file.suffix.lower() == ".npy":
            found: Any = _of_array(np.load(io.BytesIO(data), allow_pickle=False), count)
        elif file.suffix.lower() == ".json":
            found = json.loads(data)
        else:
            found = [entry for line in data.decode("utf-8-sig").splitlines() for entry in _in_line(line.strip())]
    except (OSError, ValueError, EOFError, RecursionError) as error:
        raise DataError(f"{file}: cannot be read as a list of ids ({why_unread(error)}); {_EXPECTED}") from error
    if not isinstance(found, list) or not all(map(_is_entry, found)):
        keys = ", ".join(map(repr, list(found)[:5])) if isinstance(found, dict) else ""
        what = f"a dictionary with the keys {keys}: write one of its lists alone" if keys else "other values"
        raise DataError(f"{file}: data.forget.ids: {_EXPECTED}; found {what}")
    return [str(one) for one in found]


def _of_array(found: np.ndarray, count: int | None) -> list[Any]:
    """Return the entries of an array; of one of booleans the positions of the true ones."""
    if found.ndim == 2 and 1 in found.shape:
        found = found.reshape(-1)
    if found.dtype != bool:
        return list(np.atleast_1d(found).tolist())
    if count is not None and len(found) != count:
        raise ValueError(f"{len(found):,} booleans, and data.train has {count:,} images")
    return list(np.flatnonzero(found).tolist())


def _in_line(line: str) -> list[str]:
    """Return the entries of a line of text: one, or several numbers in a row."""
    if _NUMBERS.fullmatch(line):
        return re.findall(r"\d+", line)
    if _SAVED.fullmatch(line) and float(line).is_integer():
        return [str(int(float(line)))]
    return [line] if line else []


def _is_entry(value: Any) -> bool:
    return isinstance(value, str | int | float) and not isinstance(value, bool)


def find(text: str, position: Mapping[str, int]) -> int | None:
    """Return the position of an id, also of a number that a table wrote as `12.0`; None where it is unknown."""
    if text in position:
        return position[text]
    number = whole(text)
    if number is None:
        return None
    return position.get(str(number) if "." in text else f"{text}.0")


def names_of(position: Mapping[str, int]) -> dict[str, dict[str, int]]:
    """Return id -> position of images by the shorter forms of their ids: without folders, without a suffix."""
    found: dict[str, dict[str, int]] = {}
    for image_id, place in position.items():
        path = PurePosixPath(image_id)
        for short in {path.name, path.stem, image_id.removesuffix(path.suffix)} - {image_id, ""}:
            found.setdefault(short, {})[image_id] = place
    return found


def by_name(
    text: str,
    names: Mapping[str, Mapping[str, int]],
    position: Mapping[str, int],
    where: str,
    elsewhere: Mapping[str, str] | None = None,
) -> int | None:
    """Return the position of the only image with this file name, with or without folders and suffix; None for none.

    Where both the text and the image's id have folders, these agree from the file upwards.

    Args:
        text: the file name.
        names: id -> position of images by the shorter forms of their ids (`names_of`).
        position: id -> position.
        where: the entry, for errors.
        elsewhere: name of the folder of another source -> its split.

    Raises:
        DataError: several images have it, or a folder before the image's says that it is of another split.

    """
    path = PurePosixPath(text.replace("\\", "/"))
    parts = [text, *("/".join(path.parts[start:]) for start in range(1, len(path.parts)))]
    start = next((start for start, part in enumerate(parts) if part in position), None)
    if start is not None:
        folder = path.parts[start - 1] if start else ""
        split = (elsewhere or {}).get(folder) or is_split(folder)
        if split in ("test", "validation"):
            raise DataError(
                f"{where}: {text!r} is in a folder of {split} images, and only images of data.train are forgotten; "
                f"name it {parts[start]!r} if the image of that name in data.train is meant"
            )
        return position[parts[start]]
    for short in dict.fromkeys([*parts, path.name, path.stem]):
        if len(places := _in_folders_of(path, names.get(short, {}))) > 1:
            raise DataError(f"{where}: {text!r} is the name of {len(places)} images; name them with their folders")
        if places:
            return places[0]
    return None


def _in_folders_of(path: PurePosixPath, named: Mapping[str, int]) -> list[int]:
    """Return the positions of images whose folders end in those of a path, or are the end of them."""

    def agree(image_id: str) -> bool:
        own, theirs = path.parts[:-1][::-1], PurePosixPath(image_id).parts[:-1][::-1]
        return all(one == other for one, other in zip(own, theirs, strict=False))

    return [place for image_id, place in named.items() if agree(image_id)]


def whole(text: str) -> int | None:
    """Return the whole number that a text holds; None for any other text."""
    head, _, tail = text.strip().partition(".")
    return int(head) if head.isascii() and head.isdecimal() and len(head) < 19 and not tail.strip("0") else None


def positions(listed: Listed, ids: Sequence[str], *, certain: bool) -> list[int] | None:
    """Return the entries as positions in data.train; None unless every entry is one.

    Args:
        listed: the entries.
        ids: id of each image.
        certain: whether numbers can only be positions, as those of a NumPy array; else they may be names of files.

    Raises:
        DataError: an entry is the position of one image and the name of another.

    """
    numbers = [whole(text) for _, text in listed]
    found = [number for number in numbers if number is not None and number < len(ids)]
    if len(found) != len(listed):
        return None
    if certain:
        return found
    named = Counter(whole(PurePosixPath(image_id).stem) for image_id in ids)
    place_of = {n: i for i, one in enumerate(ids) if named[n := whole(PurePosixPath(one).stem)] == 1 and n is not None}
    for (where, text), place in zip(listed, found, strict=True):
        other = place_of.get(place, place)
        if other != place:
            raise DataError(
                f"{where}: {text} is the position of image {ids[place]!r}, and the name of image {ids[other]!r}; "
                "write the images' ids"
            )
    return found


def no_position(listed: Listed, count: int) -> str:
    """Return the error of the first number of an array that is no position; empty where it holds other than numbers."""
    numbers = [whole(text.removeprefix("-")) for _, text in listed]
    outside = (entry for entry, n in zip(listed, numbers, strict=True) if n is None or n >= count or "-" in entry[1])
    where, text = next(outside, ("", ""))
    return (
        f"{where}: {text} is no position in data.train, which has 0 to {count - 1}"
        if text and None not in numbers
        else ""
    )


def no_image(text: str, position: Mapping[str, int], num_train: int) -> str:
    """Return what else an entry that names no image may be: another id, or a position."""
    number, same = whole(text.removeprefix("-")), like(text, position)
    if not same and number is not None and (number >= num_train or text.startswith("-")):
        return f"; as a position, it is none of 0 to {num_train - 1}"
    return same or did_you_mean(text, position)


def mask_of(listed: Listed, num_train: int) -> str:
    """Return what to do where the entries are a mask of zeros and ones, one for each image; else an empty text."""
    is_mask = len(listed) == num_train and {text for _, text in listed} <= {"0", "1", "0.0", "1.0"}
    return "; a mask of zeros and ones is written as booleans: numpy.save(FILE, mask.astype(bool))" if is_mask else ""


def like(text: str, position: Mapping[str, int]) -> str:
    """Return ` (did you mean '007'?)` where an id is the same number, written differently; else an empty text."""
    number = whole(text)
    same = next((known for known in position if number is not None and whole(known) == number), None)
    return f" (did you mean {same!r}?)" if same else ""
