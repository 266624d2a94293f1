"""CSV files of users: every cell is read as it is written, and compressed or very large files are refused.

    table = read_csv(Path("forget.csv"))         # pandas, every cell text: "NA" and "007" are ids, too
    table = read_csv(file, text=("image_id", "person_id"), numbers=("age",))

Only cells of `numbers` may be empty, `NA` and so on for "unknown"; columns that are neither are read as pandas guesses.

Does not cover: the meaning of columns (`folders`, `splits`).
"""

from __future__ import annotations

import io
import re
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ray_unlearn.data.files import read_local
from ray_unlearn.errors import DataError, first_line

if TYPE_CHECKING:
    import pandas as pd

_LARGEST_BYTES = 256 * 2**20  # ten million ids
_UNKNOWN = ["", "NA", "N/A", "n/a", "nan", "NaN", "null", "NULL", "None", "#N/A", "<NA>"]
_MAGIC = {
    b"\x1f\x8b": "gzip",
    b"PK\x03\x04": "zip",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"\x28\xb5\x2f\xfd": "zstandard",
}


def read_csv(file: Path, text: Collection[str] | None = None, numbers: Collection[str] = ()) -> pd.DataFrame:
    """Return a CSV file's cells.

    Args:
        file: local, UTF-8, not compressed.
        text: columns that are read as text; all by default.
        numbers: columns in which an empty cell, `NA`, `nan` and the like mean an unknown number, NaN.

    Raises:
        DataError: it is not a plain CSV file, or too large.

    """
    import pandas as pd  # costs 0.5 s, and no worker needs it

    try:
        data = read_local(file, _LARGEST_BYTES)
    except OSError as error:
        raise DataError(f"{file}: not a readable CSV file: {error.strerror or error}") from error
    if packed := packed_as(data):
        raise DataError(f"{file}: compressed ({packed}); expected plain CSV: unpack it first")
    if problem := _no_text(data):
        raise DataError(f"{file}: not a readable CSV file: {problem}")
    types: Any = str if text is None else dict.fromkeys(text, str)
    unknown = dict.fromkeys(numbers, _UNKNOWN)
    try:
        return pd.read_csv(
            io.BytesIO(data), sep=_separator(data), dtype=types, keep_default_na=False, na_values=unknown
        )
    except (OSError, ValueError, OverflowError) as error:
        raise DataError(f"{file}: not a readable CSV file: {first_line(error)}") from error


def packed_as(data: bytes) -> str:
    """Return how a file that begins with these bytes is compressed; empty where it is not."""
    return next((name for magic, name in _MAGIC.items() if data.startswith(magic)), "")


def _no_text(data: bytes) -> str:
    """Return why a file is no UTF-8 text, and what to do; empty where it is one."""
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "it is UTF-16 (Excel's Unicode Text); save it as CSV UTF-8"
    if b"\0" in data[:4096]:
        return "it holds zero bytes, so it is no text; expected CSV in UTF-8"
    try:
        data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        return f"line {line} is not UTF-8 (byte 0x{data[error.start]:02x}); save it as CSV UTF-8"
    return ""


def _separator(data: bytes) -> str:
    """Return the separator of a CSV file: the one that its first line has most often outside of quotes."""
    first = re.sub(r'"[^"]*"', "", data.lstrip(b"\r\n").partition(b"\n")[0].decode("utf-8", "replace"))
    return max((",", ";", "\t", "|"), key=first.count)
