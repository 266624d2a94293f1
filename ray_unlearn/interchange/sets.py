"""A study's populations by forget set, for formats whose columns are the images of one.

    for one in by_forget_set(store, ["retrained", "scrub"]):
        one.folder, one.records["scrub"]         # "forget_set_0", the runs about it; "" where the study has one set

Originals are trained on all images and have outputs of set 0 alone, so they are with set 0.

Does not cover: which run is about which set (`ray_unlearn.study.forget_sets`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ray_unlearn.errors import StoreError
from ray_unlearn.store import Record, StudyStore
from ray_unlearn.store.forget_sets import splits_held
from ray_unlearn.store.starts import check_starts


@dataclass(frozen=True, kw_only=True)
class OfSet:
    """The runs about one forget set."""

    number: int
    sets: int
    """How many the study has."""
    records: Mapping[str, Mapping[int, Record]]
    """By population and run."""
    splits: Mapping[str, str]
    """Digest of the splits by population."""

    @property
    def folder(self) -> str:
        """Name of the set's folder; empty where it is the only set."""
        return f"forget_set_{self.number}" if self.sets > 1 else ""


def by_forget_set(store: StudyStore, populations: Sequence[str]) -> list[OfSet]:
    """Return the finished runs of populations by forget set, which has to be the same for all.

    Raises:
        StoreError: a population has no finished run, or its runs started from another original than the store holds.

    """
    made = {name: _made(store, name) for name in populations}
    splits = {name: splits_held(store.held(name) or {}) for name in populations}
    sets = max(map(len, splits.values()))
    found = []
    for number in range(sets):
        about = {name: {i: r for i, r in records.items() if r.forget_set == number} for name, records in made.items()}
        records = {name: runs for name, runs in about.items() if runs}
        if records:
            own = {name: splits[name][number] for name in records}
            found.append(OfSet(number=number, sets=sets, records=records, splits=own))
    return found


def _made(store: StudyStore, name: str) -> dict[int, Record]:
    records = store.made(name)
    if not records:
        raise StoreError(f"{store.uri}: population {name} has no finished run; `ray-unlearn generate` makes them")
    check_starts(store, name, records)
    return records
