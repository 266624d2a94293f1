"""Rows, which every source yields in slices that can be decoded on any machine.

    for row in source.slices[0].rows():
        row.image_id, row.label, row.where      # "a-b", 3, "train.parquet row 17"

Does not cover: pixels; a row holds the encoded image (`decode` opens it).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np

Part = Literal["train", "test"]
"""Parts of an embedded set."""
Role = Literal["train", "validation", "test"]
"""What a study takes a source for."""
GivenSplit = Literal["", "retain", "forget", "validation"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One image before decoding."""

    image: bytes | np.ndarray | None = None
    """Encoded image, or uint8 [H, W] or [H, W, 3]; None before it is read, and where `problem` has the reason."""
    image_id: str
    label: int | str | None
    where: str
    """File and row, for messages."""
    group: str = ""
    age: float = float("nan")
    given: GivenSplit = ""
    """Set in which the source itself puts the image (the competition's CSV files)."""
    problem: str = ""


class Slice(Protocol):
    """A part of a source: small, picklable, and readable on any machine that sees the source."""

    @property
    def num_rows(self) -> int:
        """Number of rows."""
        ...

    def rows(self) -> Iterator[Row]:
        """Yield the slice's rows in the source's order."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class OpenSource:
    """A source whose number of rows is known; no image is decoded."""

    name: str
    """Name for messages."""
    fingerprint: str
    """sha256 over everything that determines the decoded rows."""
    class_names: tuple[str, ...] | None
    """Names of the classes; None where the source does not name them."""
    slices: tuple[Slice, ...]
    num_rows: int
    remarks: tuple[str, ...] = ()
    """Remarks for the user about how the source was read."""
    revision: str = ""
    """Commit of a data set on a hub that it was read at; empty for other sources."""
