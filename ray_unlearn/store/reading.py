"""All records of a population with few reads: one listing, the compacted copy, and the records that the copy lacks.

    found = find_records(storage, layout, "finetune", digest, store.record)
    found.records                                # {index: Record}
    found.lacking                                # how many of them the copy lacks
    data = encode(found.entries)                 # the compacted copy: one object instead of thousands
    held = decode(data)                          # damaged lines are left out

A line of the copy holds the text of a record as it is stored. The copy proves nothing by itself: a run exists if and
only if its record.json does. A line counts where the folder's listing shows a record.json of the same size and time of
change, and the record belongs to the run; every other record is read from its own file. A lost file, a damaged line and
a line in a later version's format cost time only.

Does not cover: when the copy is written (`StudyStore.compact`), nor `verify`, which reads every record itself.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from ray_unlearn.errors import DamagedFile, StoreError
from ray_unlearn.store.filesystem import Stamp, Storage
from ray_unlearn.store.formats import FORMATS, check_format
from ray_unlearn.store.layout import Layout, run_index
from ray_unlearn.store.records import COMPACTED, RECORD, Record, parse_record
from ray_unlearn.study.plan import Run

_READERS = 16  # object stores answer in parallel; on a local disk it does no harm
_BEFORE_RECORD = '"record": '


@dataclass(frozen=True, slots=True)
class Found:
    """A population's finished runs, by the name of their folder."""

    entries: dict[str, tuple[Stamp, Record]]
    lacking: int
    """Number of runs that the compacted copy lacks."""
    other: Record | None
    """A record of this population and another digest, where the folder holds one."""
    newest_ns: int
    """Time of the newest change in the population's folder before the listing, in ns of the storage's clock."""

    @property
    def records(self) -> dict[int, Record]:
        """Records by run index, ascending."""
        return {record.index: record for _, record in self.entries.values()}

    def check_digest(self, digest: str, where: str) -> None:
        """Check that, where no record is of the digest that population.json states, none is of another.

        Raises:
            DamagedFile: one is: the file was changed, or the runs are another store's, and none would count as made.

        """
        if self.other and not self.entries:
            raise unowned(digest, self.other, where)

    def settled(self, age_ns: int) -> dict[str, tuple[Stamp, Record]]:
        """Return the entries whose record was at least `age_ns` old when listed: a later change gives another stamp."""
        return {name: entry for name, entry in self.entries.items() if self.newest_ns - entry[0].mtime_ns >= age_ns}


def unowned(digest: str, other: Record, where: str) -> DamagedFile:
    """Return the error that a population.json states a digest that none of its runs has."""
    return DamagedFile(
        f"{where}: states the digest {digest[:12]}, which no run has: {other.population}/{other.index} is of "
        f"{other.digest[:12]}; restore it, or remove the population"
    )


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
    others = (record for name, record in found.items() if record and record.is_of(runs[name], record.digest))
    other = next((record for record in others if record.digest != digest), None)
    return Found(entries=dict(sorted(entries.items())), lacking=len(own), other=other, newest_ns=newest_ns)


def _compacted(storage: Storage, name: str) -> dict[str, tuple[Stamp, Record]]:
    try:
        return decode(storage.read(name))
    except FileNotFoundError:
        return {}


def encode(entries: Mapping[str, tuple[Stamp, Record]]) -> bytes:
    """Return one line per run: its folder's name, the stamp of its record.json, and the record."""
    lines, version = [], FORMATS[COMPACTED]
    for name, (stamp, record) in sorted(entries.items()):
        head = f'"format": {version}, "run": "{name}", "size_bytes": {stamp.size_bytes}, "mtime_ns": {stamp.mtime_ns}'
        lines.append(f"{{{head}, {_BEFORE_RECORD}{record.text}}}\n")
    return "".join(lines).encode()


def decode(data: bytes) -> dict[str, tuple[Stamp, Record]]:
    """Return the lines that hold an intact record; other lines are left out."""
    found = {}
    for number, line in enumerate(data.splitlines()):
        try:
            head, _, record = line.decode().partition(_BEFORE_RECORD)
            entry = json.loads(f"{head}{_BEFORE_RECORD}null}}")
            check_format(COMPACTED, entry, COMPACTED)
            stamp = Stamp(int(entry["size_bytes"]), int(entry["mtime_ns"]))
            found[str(entry["run"])] = stamp, parse_record(record.removesuffix("}"), f"line {number} of {COMPACTED}")
        except (ValueError, KeyError, TypeError, RecursionError, StoreError):
            continue
    return found
