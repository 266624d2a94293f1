"""`weights:` of a population -> its files: names, a glob, a folder, or a CSV file of them.

    expanded({"weights": "oracles/"}, folder)                      # {"weights": ["/.../sd_2.pt", "/.../sd_10.pt"]}
    expanded({"weights": "oracle.csv"}, folder)                    # with seeds and from_originals where it has them

Files of a glob or a folder are in the order of the numbers in their names. A CSV file has a column `path`, relative to
it, and may have `seed` and `original` (the number of the original that a checkpoint was unlearned from). Only local
paths are looked up.

Does not cover: what the files hold (`ray_unlearn.models`).
"""

from __future__ import annotations

import csv
import difflib
import glob
import os
import re
from pathlib import Path
from typing import Any

from ray_unlearn.errors import StudyError

ENDINGS = (".safetensors", ".pth", ".pt", ".bin", ".ckpt", ".pth.tar")
_WILD = re.compile(r"[*?\[]")
_COLUMNS = {"seed": "seeds", "original": "from_originals"}
"""Column of a CSV file -> option of the method `weights`."""


def expanded(spec: dict[str, Any], where: str) -> dict[str, Any]:
    """Return a population's keys with every entry of `weights` that stands for several files replaced by these.

    Args:
        spec: the keys; paths are absolute.
        where: the population's key, for messages.

    Raises:
        StudyError: a glob matches nothing, a folder holds no weights, a CSV file cannot be read, or a file is named
            twice.

    """
    given = spec.get("weights")
    entries = [one for one in (given if isinstance(given, list) else [given]) if isinstance(one, str)]
    if not entries or (isinstance(given, list) and len(entries) < len(given)):
        return spec  # the schema says what is wrong
    if len(entries) == 1 and entries[0].lower().endswith(".csv") and "://" not in entries[0]:
        listed = _listed_in(Path(entries[0]), f"{where}.weights")
        if twice := sorted(spec.keys() & (listed.keys() - {"weights"})):
            raise StudyError(f"{where}.{twice[0]}: {entries[0]} has a column of it; leave one out")
        _check_once(listed["weights"], f"{where}.weights: {entries[0]}")  # seeds and originals do not tell them apart
        return {**spec, **listed}
    files = [file for entry in entries for file in _files_of(entry, f"{where}.weights")]
    if files == entries:
        return spec  # names, as they are; study files of earlier versions may repeat one
    _check_once(files, f"{where}.weights")
    return {**spec, "weights": files}


def _check_once(files: list[str], where: str) -> None:
    """Refuse a file that is named twice, as by globs that overlap: its run would count as two independent ones."""
    seen = set[str]()
    for file in files:
        if (one := os.path.realpath(file) if "://" not in file else file) in seen:
            raise StudyError(f"{where}: {file} is named twice; runs are taken as independent, so name each file once")
        seen.add(one)


def _files_of(entry: str, where: str) -> list[str]:
    if "://" in entry:
        return [entry]
    path = Path(entry)
    if path.is_dir():
        found = [str(one) for one in path.iterdir() if one.name.lower().endswith(ENDINGS) and one.is_file()]
        if not found:
            raise StudyError(f"{where}: {entry}: the folder holds no weights ({', '.join(ENDINGS)})")
    elif _WILD.search(entry) and not path.exists():
        found = glob.glob(entry, recursive=True)  # noqa: PTH207 - the pattern may be absolute
        if not found:
            raise StudyError(f"{where}: {entry}: no file matches")
    else:
        return [entry]
    return sorted(found, key=_by_number)


def _by_number(path: str) -> list[tuple[int, int, str]]:
    """Return a key that sorts sd_2 before sd_10."""
    return [(1, int(part), "") if part.isdecimal() else (0, 0, part) for part in re.split(r"(\d+)", path)]


def _listed_in(file: Path, where: str) -> dict[str, Any]:
    """Return the files that a CSV file names, and what it says about each."""
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise StudyError(f"{where}: {file}: cannot be read ({getattr(error, 'strerror', None) or error})") from error
    table = csv.DictReader(text.splitlines(), delimiter=";" if ";" in text.partition("\n")[0] else ",")
    rows = list(table)
    if "path" not in (table.fieldnames or ()) or not rows:
        columns = ", ".join(table.fieldnames or ()) or "none"
        raise StudyError(
            f"{where}: {file}: expected rows with a column path, and seed, original; found columns {columns}"
        )
    if hint := next((h for one in table.fieldnames or () if (h := _meant(one))), ""):
        raise StudyError(f"{where}: {file}: {hint}")
    for i, row in enumerate(rows):
        if not row["path"] or "://" in row["path"]:
            raise StudyError(f"{where}: {file} row {i}: path: expected a local file; found {row['path'] or 'none'}")
    paths = [str(file.parent / os.path.expanduser(row["path"])) for row in rows]  # noqa: PTH111
    found: dict[str, Any] = {"weights": paths}
    for column, option in _COLUMNS.items():
        if column in (table.fieldnames or ()):
            found[option] = [_whole(row[column], f"{where}: {file} row {i}: {column}") for i, row in enumerate(rows)]
    return found


def _meant(column: str) -> str:
    """Return that a column is misspelt; empty where it is read, or is about another thing."""
    known = ("path", *_COLUMNS)
    close = [] if column in known else difflib.get_close_matches(column.strip().lower(), known, cutoff=0.75)
    return f"column {column!r} is not read; did you mean {close[0]!r}?" if close else ""


def _whole(text: str | None, where: str) -> int:
    value = (text or "").strip()
    if not (value.isascii() and value.isdecimal() and len(value) < 19):
        raise StudyError(f"{where}: expected a whole number; found {value!r}")
    return int(value)
