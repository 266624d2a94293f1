"""Digests of plain values, and the readable difference between two of them.

    digest({"lr": 1e-3})                                   # 64 hex digits: sha256 of canonical JSON
    difference({"a": {"lr": 1}}, {"a": {"lr": 2}})         # ["a.lr: 1 -> 2"]

Does not cover: what belongs into an identity; whoever builds the value decides.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

from ray_unlearn.study.uris import labelled

_ABSENT = "(absent)"


def canonical(value: Any) -> str:
    """Return JSON with sorted keys and no spaces; equal values give equal text.

    Raises:
        ValueError: the value holds NaN or infinity, which no identity may.

    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def digest(value: Any) -> str:
    """Return the sha256 of the value's canonical JSON, as 64 hex digits."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()


def difference(old: Any, new: Any, path: str = "") -> list[str]:
    """Return one line `key.path: old -> new` for each leaf that differs."""
    if isinstance(old, dict) and isinstance(new, dict):
        lines = []
        for key in sorted({*old, *new}):
            inner = f"{path}.{key}" if path else str(key)
            lines += difference(old.get(key, _ABSENT), new.get(key, _ABSENT), inner)
        return lines
    return [] if canonical(old) == canonical(new) else [f"{path}: {_show(old)} -> {_show(new)}"]


def _show(value: Any) -> str:
    value = labelled(value)
    text = value if value == _ABSENT else canonical(value)
    if len(text) <= 60:
        return text
    return canonical(f"{value[:55]}...") if isinstance(value, str) else text[:57] + "..."
