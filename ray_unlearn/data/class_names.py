"""The order of class names where a source does not state one, and names that are splits rather than classes.

    in_order({"10", "2", "1"})                   # ("1", "2", "10"): numbers by value, everything else as text
    is_split("train-00000-of-00002.parquet")     # "train"

Does not cover: names whose order a source states (the `huggingface` metadata, `data.classes`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

_SPLITS = {"train": "train", "training": "train", "test": "test", "testing": "test", "val": "validation"}
_SPLITS |= {"valid": "validation", "validation": "validation", "dev": "validation", "eval": "test"}
_NUMBER = re.compile(r"[0-9]{1,18}")


def in_order(names: Iterable[str]) -> tuple[str, ...]:
    """Return names sorted as text, or by value where all are numbers, so that number 2 is folder `2`."""
    known = sorted(names)
    if known and all(map(_NUMBER.fullmatch, known)):
        known.sort(key=int)
    return tuple(known)


def reordered(names: Sequence[str]) -> str:
    """Return a remark where the order differs from version 0.1, which sorted numbers as text; else an empty text."""
    old = sorted(names)
    if tuple(names) != in_order(names) or list(names) == old:
        return ""
    first = next(i for i, (new, was) in enumerate(zip(names, old, strict=True)) if new != was)
    return (
        f"classes are numbers and in their order: label {first} is {names[first]!r}, where version 0.1 sorted them as "
        f"text and took {old[first]!r}; populations made with that order are refused as made differently"
    )


def same_number(label: int, names: Sequence[str]) -> int | None:
    """Return the index of the name that is this number; None where no name is."""
    return next((i for i, name in enumerate(names) if _NUMBER.fullmatch(name) and int(name) == label), None)


def is_split(name: str) -> str:
    """Return the split in a file or folder name (`train-0.parquet`, `x_test.parquet`, `val`), or an empty text."""
    words = re.split(r"[^a-z]+", name.lower())
    return next((_SPLITS[word] for word in words if word in _SPLITS), "")
