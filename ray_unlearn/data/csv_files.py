"""CSV files of users: every cell is read as it is written, and compressed or very large files are refused.

    table = read_csv(Path("forget.csv"))         # pandas, every cell text: "NA" and "007" are ids, too
    table = read_csv(file, text=("image_id", "person_id"), numbers=("age",))

Only cells of `numbers` may be empty, `NA` and so on for "unknown"; columns that are neither are read as pandas guesses.

Does not cover: the meaning of columns (`folders`, `splits`).
"""

from __future__ import annotations

import io
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
    packed = next((name for magic, name in _MAGIC.items() if data.startswith(magic)), "")
    if packed:
        raise DataError(f"{file}: compressed ({packed}); expected plain CSV: unpack it first")
    types: Any = str if text is None else dict.fromkeys(text, str)
    unknown = dict.fromkeys(numbers, _UNKNOWN)
    try:
        return pd.read_csv(
            io.BytesIO(data), sep=_separator(data), dtype=types, keep_default_na=False, na_values=unknown
        )
    except (OSError, ValueError, OverflowError) as error:
        raise DataError(f"{file}: not a readable CSV file: {first_line(error)}") from error


def _separator(data: bytes) -> str:
    """Return the separator of a CSV file: a comma, unless its first line has none and another one instead."""
    first = data.partition(b"\n")[0].decode("utf-8", "replace")
    return "," if "," in first else next((one for one in (";", "\t", "|") if one in first), ",")
