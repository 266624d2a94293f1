"""Cache of submitted working directories: the ten newest stay, and all that were used within a day.

    with locked(parent):                         # one process at a time
        os.utime(folder)                         # it was used now
        sweep(parent)

Whoever reads a folder has used it a moment ago, so none is taken away from under a reader.

Does not cover: what is in them (`bundle`); the cache of decoded images (`data.node_cache`).
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

KEPT = 10
"""Folders that stay, however old."""
USED_S = 86_400.0
"""What was used within this time stays, too: a job's folder is sent within minutes."""


@contextmanager
def locked(parent: Path) -> Iterator[None]:
    """Keep other processes out; where the file system has no locks, nobody is kept out."""
    descriptor = os.open(parent, os.O_RDONLY)
    try:
        with suppress(OSError, ImportError):
            import fcntl  # not on Windows

            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def sweep(parent: Path) -> None:
    """Remove what is too old, and what a killed process left half made."""
    used = {path: used_at for path in parent.iterdir() if (used_at := _used_at(path)) is not None}
    whole = sorted((path for path in used if not path.name.startswith(".")), key=lambda path: used[path])
    left = [path for path in used if path.name.startswith(".")]
    for path in [*whole[:-KEPT], *left]:
        if time.time() - used[path] > USED_S:
            _remove(path)


def _remove(path: Path) -> None:
    """Take a folder away at once: whoever is stopped in the middle leaves no half of one under its name."""
    with suppress(OSError):
        shutil.rmtree(path.rename(path.with_name(f".old-{path.name.lstrip('.')}")), ignore_errors=True)


def _used_at(path: Path) -> float | None:
    """Return when a folder was used last, in seconds since the epoch; None for anything else."""
    try:
        return path.stat().st_mtime if path.is_dir() and not path.is_symlink() else None
    except OSError:
        return None
