r"""The order of class names where a source does not state one, and names that are splits rather than classes.

    in_order({"10", "2", "1"})                   # ("1", "2", "10"): numbers by value, everything else as text
    remark_on(2, ("class0", "class1", "class10", "class2"))      # 2 is 'class10' ...
    alike(("cat", "Cat"))                        # classes 'cat' and 'Cat' are two ...
    composed("Zu\u0308rich", names)                # "Z\u00fcrich": a file name of macOS as other systems write it
    by_number("test", ("cat", "dog"))            # data.test: labels are numbers ... 0 is 'cat', 1 is 'dog'
    is_split("train-00000-of-00002.parquet")     # "train"

Does not cover: names whose order a source states (the `huggingface` metadata, `data.classes`).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence

_SPLITS = {"train": "train", "training": "train", "test": "test", "testing": "test", "val": "validation"}
_SPLITS |= {"valid": "validation", "validation": "validation", "dev": "validation", "eval": "test"}
_NO_LABELS = ("nan", "none", "null", "n/a", "<na>", "nat", "unlabeled", "unlabelled")
_NUMBER = re.compile(r"[0-9]{1,18}")
_SHOWN = 3


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


def remark_on(label: int | str | None, names: Sequence[str]) -> str:
    """Return a remark where a number means a class that the numbers in names would not give: `class10` for 2.

    Names in an order that their source states are not sorted, and have no other number.
    """
    if not isinstance(label, int) or not 0 <= label < len(names) or list(names) != sorted(names):
        return ""
    other = sorted(names, key=_by_numbers)[label]
    if other == names[label]:
        return ""
    return (
        f"data.forget.label: {label} is class number {label} of names that are sorted as text, {names[label]!r}; if "
        f"{other!r} is meant, write the name"
    )


def alike(names: Sequence[str]) -> str:
    """Return a remark where two names differ by capitals or blanks alone; else an empty text."""
    known: dict[str, str] = {}
    for name in names:
        other = known.setdefault("".join(_composed(name).split()).casefold(), name)
        if other != name:
            differ = "capitals or blanks" if _composed(other) != _composed(name) else "the forms of Unicode's accents"
            return f"data.train: classes {other!r} and {name!r} are two, though only {differ} differ"
    return ""


def composed(name: str, names: Sequence[str]) -> str:
    """Return the one of `names` that is this name but for the form of Unicode's accents; else the name itself."""
    same = [other for other in names if _composed(other) == _composed(name)]
    return same[0] if len(same) == 1 else name


def by_number(role: str, names: Sequence[str]) -> str:
    """Return a remark on a source of numbers, where classes have the training source's names; "" if they are these."""
    if all(name == str(number) for number, name in enumerate(names)):
        return ""
    shown = ", ".join(f"{number} is {name!r}" for number, name in enumerate(names[:_SHOWN]))
    more = ", ..." * (len(names) > _SHOWN)
    return f"data.{role}: labels are numbers and data.train's are names, which are taken in their order: {shown}{more}"


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def no_label(names: Sequence[str]) -> str:
    """Return a remark where a name is how programs write that there is no label; else an empty text.

    Among numbers, every other name is remarked on already (`data.tables`).
    """
    if any(map(_NUMBER.fullmatch, names)):
        return ""
    found = next((name for name in names if name.strip().casefold() in _NO_LABELS), "")
    return found and f"data.train: a class is named {found!r}, which is how a missing label is often written"


def _by_numbers(name: str) -> list[tuple[int, str]]:
    return [(int(part), "") if _NUMBER.fullmatch(part) else (-1, part) for part in re.split(r"([0-9]+)", name)]


def is_split(name: str) -> str:
    """Return the split in a file or folder name (`train-0.parquet`, `x_test.parquet`, `val`), or an empty text."""
    words = re.split(r"[^a-z]+", name.lower())
    return next((_SPLITS[word] for word in words if word in _SPLITS), "")
