"""All records of a population with few reads: one listing, the compacted copy, and the records that the copy lacks.

    found = find_records(storage, layout, "finetune", digest, store.record)
    found.records                                # {index: Record}
    found.lacking                                # how many of them the copy lacks

Does not cover: the format of the compacted copy (`compaction`), nor when it is written (`StudyStore.compact`).
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from ray_unlearn.store.compaction import COMPACTED, decode
from ray_unlearn.store.filesystem import Stamp, Storage
from ray_unlearn.store.layout import Layout, run_index
from ray_unlearn.store.records import RECORD, Record
from ray_unlearn.study.plan import Run

_READERS = 16  # object stores answer in parallel; on a local disk it does no harm


@dataclass(frozen=True, slots=True)
class Found:
    """A population's finished runs, by the name of their folder."""

    entries: dict[str, tuple[Stamp, Record]]
    lacking: int
    """Number of runs that the compacted copy lacks."""
    newest_ns: int
    """Time of the newest change in the population's folder before the listing, in ns of the storage's clock."""

    @property
    def records(self) -> dict[int, Record]:
        """Records by run index, ascending."""
        return {record.index: record for _, record in self.entries.values()}

    def settled(self, age_ns: int) -> dict[str, tuple[Stamp, Record]]:
        """Return the entries whose record was at least `age_ns` old when listed: a later change gives another stamp."""
        return {name: entry for name, entry in self.entries.items() if self.newest_ns - entry[0].mtime_ns >= age_ns}


def find_records(
    storage: Storage, layout: Layout, population: str, digest: str, read: Callable[[Run], Record | None]
) -> Found:
    """Return the records in a population's folder that belong to it.

    Args:
        storage: the storage.
        layout: the study's names.
        population: its name.
        digest: the population's; records of another do not count.
        read: returns a run's record, or None; called where the copy lacks it.

    """
    # The listing comes first: a record that changes while it is read has another stamp in the next listing.
    listed = storage.stamps(layout.population(population), recursive=True)
    stamps = {name.removesuffix(f"/{RECORD}"): stamp for name, stamp in listed.items() if name.endswith(f"/{RECORD}")}
    runs = {name: Run(population=population, index=i) for name in sorted(stamps) if (i := run_index(name)) is not None}
    held = _compacted(storage, layout.compacted(population)) if COMPACTED in listed else {}
    entries = {
        name: held[name]
        for name, run in runs.items()
        if name in held and held[name][0] == stamps[name] and held[name][1].is_of(run, digest)
    }
    missing = {name: run for name, run in runs.items() if name not in entries}
    with ThreadPoolExecutor(_READERS) as readers:
        found = dict(zip(missing, readers.map(read, missing.values()), strict=True))
    own = {name: record for name, record in found.items() if record and record.is_of(runs[name], digest)}
    entries |= {name: (stamps[name], record) for name, record in own.items()}
    newest_ns = max((stamp.mtime_ns for stamp in listed.values()), default=0)
    return Found(entries=dict(sorted(entries.items())), lacking=len(own), newest_ns=newest_ns)


def _compacted(storage: Storage, name: str) -> dict[str, tuple[Stamp, Record]]:
    try:
        return decode(storage.read(name))
    except FileNotFoundError:
        return {}
