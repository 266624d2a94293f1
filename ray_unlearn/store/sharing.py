"""Check, before workers start a run, that they see the driver's storage, as Ray Train does.

    with marked(store) as marker:                # the driver
        ...
    check_shared(store, marker)               # each worker, before anything else

Without the check, a folder of the head node alone would be created anew on every node, or a shard be missing.

Does not cover: workers in the driver's own process, which share its storage.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from ray_unlearn.errors import StorageNotShared, StoreError
from ray_unlearn.store.study_store import StudyStore

_LOOK_AGAIN_S = (1.0, 3.0)  # a network file system may take a moment to show a new file


@contextmanager
def marked(store: StudyStore) -> Iterator[str]:
    """Yield the name of a file that exists in the study's folder during the block."""
    name = store.storage.temporary(store.name)
    store.storage.publish_file(name, b"A driver is at work; `sweep` removes this once it is dead.\n")
    try:
        yield name
    finally:
        with suppress(StoreError):
            store.storage.remove(name)


def check_shared(store: StudyStore, marker: str) -> None:
    """Check that this machine sees the driver's marker; an empty name skips the check.

    Raises:
        StorageNotShared: this machine's storage is another one.

    """
    for pause in (*_LOOK_AGAIN_S, 0.0) if marker else ():
        if store.storage.exists(marker):
            return
        time.sleep(pause)
    if marker:
        raise StorageNotShared(
            f"worker on {socket.gethostname()} does not see {store.uri}, where the driver has just written: storage "
            "must be shared by all nodes (NFS at the same path, s3://bucket/prefix, gs://bucket/prefix)"
        )
