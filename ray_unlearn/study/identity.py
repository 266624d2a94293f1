"""Digests of plain values, the readable difference between two of them, and what a block of options adds to one.

    identity_of(options)                                   # later options only where they differ from neutral
    digest({"lr": 1e-3})                                   # 64 hex digits: sha256 of canonical JSON
    diff({"a": {"lr": 1}}, {"a": {"lr": 2}})         # ["a.lr: 1 -> 2"]

Does not cover: what else belongs into an identity (`plan`, and the rooms that it asks).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from ray_unlearn.study.uris import labelled

ABSENT = "(absent)"


@dataclass(frozen=True, slots=True)
class Since:
    """Marks an option that did not exist in version 0.1.0, so that populations made before it keep their digests.

        dropout: Annotated[Float, Since("0.2", neutral=0.0)] = Field(0.0, ge=0, lt=1)

    An identity holds such an option only where it differs from its neutral value.
    """

    version: str
    """Version of ray_unlearn that first has the option."""
    neutral: Any
    """Value with which a run is the same as before the option existed. It never changes; defaults may."""


def since_of(block: type[BaseModel], option: str) -> Since | None:
    """Return an option's mark, or None for an option of version 0.1.0."""
    return next((mark for mark in block.model_fields[option].metadata if isinstance(mark, Since)), None)


def identity_of(block: BaseModel) -> dict[str, Any]:
    """Return a block's options as plain JSON values, those of blocks inside it too; neutral later options left out."""
    plain = block.model_dump(mode="json")
    found = {}
    for option in type(block).model_fields:
        value, mark = getattr(block, option), since_of(type(block), option)
        if mark is None or value != mark.neutral:
            found[option] = _inner(value, plain[option])
    return found


def _inner(value: Any, plain: Any) -> Any:
    """Return a value's plain form, where blocks that it holds leave their neutral later options out."""
    if isinstance(value, BaseModel):
        return identity_of(value)
    if isinstance(value, list | tuple):
        return [_inner(one, other) for one, other in zip(value, plain, strict=True)]
    if isinstance(value, Mapping):
        return {key: _inner(one, plain[key]) for key, one in value.items()}
    return plain


def canonical(value: Any) -> str:
    """Return JSON with sorted keys and no spaces; equal values give equal text.

    Raises:
        ValueError: the value holds NaN or infinity, which no identity may.

    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def digest(value: Any) -> str:
    """Return the sha256 of the value's canonical JSON, as 64 hex digits."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()


def diff(old: Any, new: Any, path: str = "") -> list[str]:
    """Return one line `key.path: old -> new` for each leaf that differs."""
    if isinstance(old, dict) and isinstance(new, dict):
        lines = []
        for key in sorted({*old, *new}):
            inner = f"{path}.{key}" if path else str(key)
            lines += diff(old.get(key, ABSENT), new.get(key, ABSENT), inner)
        return lines
    return [] if canonical(old) == canonical(new) else [f"{path}: {_show(old)} -> {_show(new)}"]


def _show(value: Any) -> str:
    value = labelled(value)
    text = value if value == ABSENT else canonical(value)
    if len(text) <= 60:
        return text
    return canonical(f"{value[:55]}...") if isinstance(value, str) else text[:57] + "..."
