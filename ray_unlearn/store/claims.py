"""Which of several drivers creates a file on an object store, decided with puts and listings alone.

    create_once(storage, "faces/finetune/population.json", data, digest)

A driver first writes a claim, a temporary object of its own name in the file's folder, and then lists the folder. It
creates the file only if it sees no claim for another content; then it removes its claim. Of two drivers that disagree,
the one whose claim came second sees the first's, so at most one continues; where each sees the other, both withdraw and
try again. This needs listings that show every put that ended before they began, as S3, GCS, Azure, MinIO and Ceph
promise. On a service without that, or with a cache in front, start drivers one at a time.

So neither another client library with conditional puts (If-None-Match) nor its own credentials are needed.

Does not cover: disks, where a hard link decides (`disk.create_file`); `Storage.sweep` removes the claim of a killed
process: at once on the same machine, after a day elsewhere.
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
    """Create a file unless it exists or another driver creates it; the caller then reads the file.

    Args:
        storage: the storage.
        name: the file's name.
        data: the file's content.
        meaning: letters and digits, the same for contents that are interchangeable.

    Raises:
        StoreError: a claim of another process for another content stays.

    """
    if storage.local is not None:
        storage.create_file(name, data)
        return
    folder = str(PurePosixPath(name).parent)
    for pause_s in (*_PAUSES_S, 0.0):
        with _claim(storage, folder, meaning) as (own, rivals):
            # Checked after the listing: a driver that created the file in between kept its claim until then.
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
    """Yield the name of a claim that exists during the block, and other drivers' claims with another meaning."""
    own = f"{disk.temporary_name()}.{meaning}"
    storage.publish_file(f"{folder}/{own}", b"")
    try:
        stamp = storage.stamps(folder).get(own)
        storage.sweep(folder, stamp.mtime_ns if stamp else None)
        claims = [name for name in storage.stamps(folder) if name.startswith(disk.TEMPORARY)]
        yield own, sorted(name for name in claims if not name.endswith(f".{meaning}"))
    finally:
        storage.remove(f"{folder}/{own}")
