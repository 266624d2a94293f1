"""The forget sets of a population that is made: their splits files, and which runs are about which.

    splits_held(store.held("finetune"))          # ("ab12...", "cd34..."): digests of splits, one for each forget set
    wrong_set(record, 2)                         # "", or how a run's record differs from its index

Does not cover: drawing the sets (`data.splits`), and which run is about which (`study.forget_sets`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ray_unlearn.store.records import Record
from ray_unlearn.study.plan import ORIGINAL


def splits_held(content: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the digests of the splits that a population.json names, by forget set; empty where it names none."""
    data = (content.get("identity") or {}).get("data") or {}
    return (str(data["splits"]), *map(str, data.get("further_splits", ()))) if "splits" in data else ()


def wrong_set(record: Record, sets: int) -> str:
    """Return how the forget set of a run's record differs from that of its index; empty where it does not."""
    expected = 0 if record.population == ORIGINAL else record.index % max(1, sets)
    return f"is about forget set {record.forget_set}; expected {expected}" if record.forget_set != expected else ""
