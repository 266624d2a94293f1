"""All records of a population in one file, so that a resume reads one object instead of thousands.

    data = encode({"00007": (Stamp(size, mtime_ns), record)})
    held = decode(data)                          # damaged lines are left out

A line holds the text of a record as it is stored. The copy proves nothing by itself: a run exists if and only if its
record.json does. A line counts where the folder's listing shows a record.json of the same size and time of change, and
the record belongs to the run; every other record is read from its own file. A lost file, a damaged line and a line in a
later version's format cost time only.

Does not cover: when it is written (`StudyStore.compact`), nor `verify`, which reads every record itself.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from ray_unlearn.errors import StoreError
from ray_unlearn.store.filesystem import Stamp
from ray_unlearn.store.formats import FORMATS, check_format
from ray_unlearn.store.records import Record, parse_record

COMPACTED = "records.jsonl"
_BEFORE_RECORD = '"record": '


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
