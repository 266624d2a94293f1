"""Cache of submitted working directories: it keeps the ten newest, and all that were used within a day.

    with locked(parent):                         # one process at a time
        os.utime(folder)                         # it was used now
        sweep(parent)

A folder that is being read was used a moment ago, so it is never removed during the reading.

Does not cover: the folders' contents (`bundle`); the cache of decoded images (`data.node_cache`).
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

KEPT = 10
"""Number of newest folders that are kept at any age."""
USED_S = 86_400.0
"""Seconds since its last use in which a folder is kept, too: a job's folder is sent within minutes."""


@contextmanager
def locked(parent: Path) -> Iterator[None]:
    """Hold a lock on the cache during the block; do nothing on a file system without locks."""
    descriptor = os.open(parent, os.O_RDONLY)
    try:
        with suppress(OSError, ImportError):
            import fcntl  # not on Windows

            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def sweep(parent: Path) -> None:
    """Remove folders that are too old, and unfinished ones that killed processes left."""
    used = {path: used_at for path in parent.iterdir() if (used_at := _used_at(path)) is not None}
    whole = sorted((path for path in used if not path.name.startswith(".")), key=lambda path: used[path])
    left = [path for path in used if path.name.startswith(".")]
    for path in [*whole[:-KEPT], *left]:
        if time.time() - used[path] > USED_S:
            _remove(path)


def _remove(path: Path) -> None:
    """Rename a folder, then remove it, so that an interruption leaves no half-empty folder under its name."""
    with suppress(OSError):
        shutil.rmtree(path.rename(path.with_name(f".old-{path.name.lstrip('.')}")), ignore_errors=True)


def _used_at(path: Path) -> float | None:
    """Return the time of a folder's last use in seconds since the Unix epoch; None if the path is no folder."""
    try:
        return path.stat().st_mtime if path.is_dir() and not path.is_symlink() else None
    except OSError:
        return None
