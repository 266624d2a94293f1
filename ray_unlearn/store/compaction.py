"""All records of a population in one file, so that a resume reads one object instead of thousands.

    data = encode({"00007": (Stamp(size, mtime_ns), record)})
    held = decode(data)                          # what cannot be read is left out, never believed

The compacted copy proves nothing by itself: a run exists if and only if its record.json does. A line counts where the
folder's listing shows a record.json of the same size and time of change, and it is the run's own; every other record is
read from its own file. Losing the file costs time only.

Does not cover: when it is written (`StudyStore.compact`), nor `verify`, which reads every record itself.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from pydantic import ValidationError

from ray_unlearn.store.filesystem import Stamp
from ray_unlearn.store.records import Record

COMPACTED = "records.jsonl"


def encode(entries: Mapping[str, tuple[Stamp, Record]]) -> bytes:
    """Return one line per run: its folder's name, the stamp of its record.json, and the record."""
    lines = []
    for name, (stamp, record) in sorted(entries.items()):
        head = f'"run": "{name}", "size_bytes": {stamp.size_bytes}, "mtime_ns": {stamp.mtime_ns}'
        lines.append(f'{{{head}, "record": {record.model_dump_json()}}}\n')
    return "".join(lines).encode()


def decode(data: bytes) -> dict[str, tuple[Stamp, Record]]:
    """Return the lines that hold an intact record; a damaged file is one with fewer lines."""
    found = {}
    for line in data.splitlines():
        try:
            entry = json.loads(line)
            record = Record.model_validate(entry["record"])
            stamp = Stamp(int(entry["size_bytes"]), int(entry["mtime_ns"]))
        except (ValueError, KeyError, TypeError, RecursionError, ValidationError):
            continue
        if record.is_intact():
            found[str(entry["run"])] = (stamp, record)
    return found
