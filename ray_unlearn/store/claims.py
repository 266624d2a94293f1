"""Which of several drivers creates a file on an object store, decided with puts and listings alone.

    create_once(storage, "faces/finetune/population.json", data, digest)

A driver first writes a claim, a temporary object of its own name in the file's folder, and then lists the folder. It
creates the file only if it sees no claim for another content; then it removes its claim. Of two drivers that disagree,
the one whose claim came second sees the first's, so at most one goes on; where each sees the other, both step back and
try again. The law that this rests on is that a listing shows every put that ended before it began, as S3, GCS, Azure,
MinIO and Ceph promise. A service without that, or with a cache in front, needs its drivers started one at a time.

So the conditional put (If-None-Match) of another client library is not needed, nor a second way to find credentials.

Does not cover: disks, where a hard link decides (`disk.create_file`); a claim of a process that was killed goes with
`Storage.sweep`: at once on the same machine, after a day elsewhere.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import PurePosixPath

from ray_unlearn.errors import StoreError
from ray_unlearn.store import disk
from ray_unlearn.store.filesystem import Storage

_PAUSES_S = (0.2, 1.0, 3.0)  # times one more than the number of rivals that go first


def create_once(storage: Storage, name: str, data: bytes, meaning: str) -> None:
    """Create a file unless there is one, or somebody else creates it; the caller reads what is there then.

    Args:
        storage: where.
        name: the file's.
        data: its content.
        meaning: letters and digits, the same for contents that may stand for each other.

    Raises:
        StoreError: another process's claim for another content does not go away.

    """
    if storage.local is not None:
        storage.create_file(name, data)
        return
    folder = str(PurePosixPath(name).parent)
    for pause_s in (*_PAUSES_S, 0.0):
        with _claim(storage, folder, meaning) as (own, rivals):
            # Looked for after the listing: who created it in between had its claim there until it was.
            if storage.exists(name):
                return
            if not rivals:
                storage.publish_file(name, data)
                return
        time.sleep(pause_s * (1 + sum(rival < own for rival in rivals)))
    raise StoreError(
        f"{storage.uri}/{name}: another driver is creating it for a study that makes other runs; wait for that driver, "
        f"or, if none is at work, remove {', '.join(rivals)} from that folder; then run the same command again"
    )


@contextmanager
def _claim(storage: Storage, folder: str, meaning: str) -> Iterator[tuple[str, list[str]]]:
    """Yield the name of a claim that is there as long as the block lasts, and those of others with another meaning."""
    own = f"{disk.temporary_name()}.{meaning}"
    storage.publish_file(f"{folder}/{own}", b"")
    try:
        stamp = storage.stamps(folder).get(own)
        storage.sweep(folder, stamp.mtime_ns if stamp else None)
        claims = [name for name in storage.stamps(folder) if name.startswith(disk.TEMPORARY)]
        yield own, sorted(name for name in claims if not name.endswith(f".{meaning}"))
    finally:
        storage.remove(f"{folder}/{own}")
