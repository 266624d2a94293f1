"""Payloads on an object store that no record names: left by killed drivers, or by two drivers at the same run.

    found = leftovers(store, {run: record})      # {"faces/finetune/00007/model-0123456789abcdef.safetensors": Stamp}
    remove_old(store, found)                     # returns how many were older than a day

Such objects do no harm, and cost storage only. One that is younger than a day may belong to a driver that is
about to write its record. Only names that `layout.addressed` returns count: other files in a run's folder stay.

Does not cover: temporary files (`Storage.sweep`), nor uploads that were cut off, which no listing shows.
"""

from __future__ import annotations

from collections.abc import Mapping

from ray_unlearn.store.filesystem import OLD_NS, Stamp
from ray_unlearn.store.layout import is_addressed, run_index
from ray_unlearn.store.records import Record
from ray_unlearn.store.study_store import StudyStore
from ray_unlearn.study.plan import Run


def leftovers(store: StudyStore, records: Mapping[Run, Record | None]) -> dict[str, Stamp]:
    """Return the payloads in the folders of these runs that their records do not name, by name; none on a disk."""
    found: dict[str, Stamp] = {}
    if store.storage.local is not None:
        return found
    named = {
        f"{store.layout.run(run)}/{store.stored_as(file, payload)}"
        for run, record in records.items()
        for file, payload in (record.payloads.items() if record else ())
    }
    runs = {(run.population, run.index) for run in records}
    for population in sorted({run.population for run in records}):
        folder = store.layout.population(population)
        for name, stamp in store.storage.stamps(folder, recursive=True).items():
            index = run_index(name.partition("/")[0])
            if is_addressed(name) and (population, index) in runs and f"{folder}/{name}" not in named:
                found[f"{folder}/{name}"] = stamp
    return found


def remove_old(store: StudyStore, found: Mapping[str, Stamp]) -> int:
    """Remove the leftovers that are older than a day by the storage's clock; return their number.

    Raises:
        StoreError: the storage cannot be written.

    """
    probe = store.storage.temporary(store.name)
    store.storage.publish_file(probe, b"")
    stamp = store.storage.stamps(store.name).get(probe.rpartition("/")[2])
    store.storage.remove(probe)
    old = [name for name, left in found.items() if stamp and stamp.mtime_ns - left.mtime_ns > OLD_NS]
    for name in old:
        store.storage.remove(name)
    return len(old)
