"""State of a run that is still being trained: one file beside the finished runs, until the run is made.

    publish_state(store, run, {"digest": "...", "epoch": 12, ...}, tensors)      # the file is replaced as a whole
    content, tensors = read_state(store, run)    # None where there is none; DamagedFile where its sha256 differs
    remove_made(store, "finetune", made)         # states of runs that are made

The first line is a JSON object with `format`, `made_by`, and the sha256 of all that follows; the second line is the
content, a JSON object; the rest is the tensors, as safetensors. A state saves time only: a run whose state is missing,
damaged or of another version begins anew, to the same bytes.

Does not cover: what a state holds (`training.resuming`), and when it is used (`run.unfinished`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from typing import Any

from pyarrow import NativeFile

from ray_unlearn.errors import DamagedFile, RayUnlearnError
from ray_unlearn.store.formats import parse_object, stamped
from ray_unlearn.store.layout import run_indexes
from ray_unlearn.store.study_store import StudyStore
from ray_unlearn.study.plan import Run

_KIND = "unfinished run"
_CHUNK_BYTES = 2**16
_HEADER_BYTES = 2**24
"""Most that the two lines before the tensors have; a damaged file may have no line at all."""


def publish_state(store: StudyStore, run: Run, content: Mapping[str, Any], tensors: bytes) -> None:
    """Write a run's state; readers see the earlier one or this one, never a part.

    Raises:
        StoreError: it cannot be written; the earlier one stays.

    """
    body = json.dumps(dict(content)).encode() + b"\n" + tensors
    first = json.dumps(stamped(_KIND, {"sha256": hashlib.sha256(body).hexdigest()})).encode()
    store.storage.publish_file(store.layout.unfinished(run), first + b"\n" + body)


def read_state(store: StudyStore, run: Run) -> tuple[dict[str, Any], bytes] | None:
    """Return the content and the tensors of a run's state; None where it has none.

    Raises:
        DamagedFile: it is cut off, or was changed.
        NewerFormat: a later version wrote it.
        StoreError: it cannot be read.

    """
    name = store.layout.unfinished(run)
    where = f"{store.storage.uri}/{name}"
    try:
        first, _, body = store.storage.read(name).partition(b"\n")
    except FileNotFoundError:
        return None
    expected = parse_object(_KIND, first, where).get("sha256")
    if hashlib.sha256(body).hexdigest() != expected:
        raise DamagedFile(f"{where}: its sha256 differs from the one that it states")
    content, _, tensors = body.partition(b"\n")
    return parse_object(_KIND, content, where), tensors


def epoch_of(store: StudyStore, run: Run) -> int | None:
    """Return the number of epochs that a run's state has, from its beginning alone; None where that cannot be read."""

    def two_lines(file: NativeFile) -> list[bytes]:
        data = b""
        while data.count(b"\n") < 2 and len(data) < _HEADER_BYTES and (more := file.read(_CHUNK_BYTES)):
            data += more
        return data.split(b"\n")[:2]

    name = store.layout.unfinished(run)
    try:
        first, content = store.storage.read_within(name, two_lines)
        parse_object(_KIND, first, name)
        return int(parse_object(_KIND, content, name)["epoch"])
    except (FileNotFoundError, RayUnlearnError, KeyError, TypeError, ValueError):
        return None


def remove_state(store: StudyStore, run: Run) -> None:
    """Remove a run's state; no error where it has none."""
    store.storage.remove(store.layout.unfinished(run))


def unfinished(store: StudyStore, population: str) -> list[int]:
    """Return the indexes of the runs that have a state, sorted; states are not read, and a run may be made since."""
    return run_indexes(store.storage.sizes(store.layout.unfinished_folder(population)), ".state")


def remove_made(store: StudyStore, population: str, made: Collection[int]) -> list[int]:
    """Remove the states of runs that are made, which a worker killed in between leaves; return their indexes."""
    stale = [index for index in unfinished(store, population) if index in made]
    for index in stale:
        remove_state(store, Run(population=population, index=index))
    return stale
