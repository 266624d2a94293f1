"""Check that runs started from the originals, or the shadows, that the store holds now.

    astray = other_starts(records, store.made("original"))       # [3, 4]
    check_starts(store, "finetune", records, store.made("original"))

Two drivers at one original whose bytes differ (a GPU that does not repeat itself) may, on an object store, each start
runs from its own before one of them is written over; and an original that was damaged and is made anew elsewhere may
get other bytes than those that older runs started from. Such a population would mix two experiments.

Does not cover: an original without a checkpoint, with which no run can be compared.
"""

from __future__ import annotations

from collections.abc import Mapping

from ray_unlearn.errors import StoreError
from ray_unlearn.store.records import CHECKPOINT, Record
from ray_unlearn.store.study_store import StudyStore
from ray_unlearn.study.plan import ORIGINAL
from ray_unlearn.wording import first_of


def start_population(store: StudyStore, population: str) -> str:
    """Return the name of the population that a population's runs start from, if they start from one."""
    identity = (store.held(population) or {}).get("identity") or {}
    return str(identity.get("starts_from", ORIGINAL))


def other_starts(records: Mapping[int, Record], originals: Mapping[int, Record]) -> list[int]:
    """Return the indexes of the runs that started from other bytes than the original's record names, ascending."""
    return sorted(index for index, record in records.items() if not is_of_original(record, originals))


def is_of_original(record: Record, originals: Mapping[int, Record]) -> bool:
    """Return whether a run started from the original in the store, as far as records show."""
    start = originals.get(record.original)
    checkpoint = start.payloads.get(CHECKPOINT) if start else None
    return not record.original_sha256 or checkpoint is None or checkpoint.sha256 == record.original_sha256


def check_starts(
    store: StudyStore, population: str, records: Mapping[int, Record], originals: Mapping[int, Record] | None = None
) -> None:
    """Check that all runs of a population started from the store's originals, or shadows.

    Args:
        store: the study's folder.
        population: whose runs they are.
        records: the runs, by index.
        originals: records of the original population, if already read; others are read.

    Raises:
        StoreError: some of its runs started from another original.

    """
    start = start_population(store, population)
    starts = store.made(start) if originals is None or start != ORIGINAL else originals
    if astray := other_starts(records, starts):
        raise StoreError(
            f"{store.uri}: {len(astray)} of {len(records)} runs of {population} (runs {first_of(astray)}) started from "
            "another original than is there now (made anew, or by two drivers at once); `ray-unlearn verify --repair` "
            "makes them pending"
        )
