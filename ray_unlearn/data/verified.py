"""Check that a local shard has its manifest's sha256: computed once per process, and once a day per node.

    found = sha256_of(path, expected, cache_folder())      # `expected`, or the sha256 of other contents

A shard that was found whole leaves a mark in the node's cache folder, so that neither other workers nor the next start
read it all again. A mark names device, inode, size, and times of change of content and of inode: a file that was
written, copied or touched since has others. It counts for a day and until the machine starts anew (a crash may leave
other bytes than were read), and only where its owner is this user and no other user may write it. A file that changed
less than two seconds before gets no mark: another change might not show in its times.

Does not cover: bytes that change after the check, in a process that has them mapped, or within that day on a disk
that changes them without the kernel: `verify` reads everything.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ray_unlearn.data.node_cache import NodeCache, flock

_DAY_S = 24 * 3600.0
_SETTLED_NS = 2 * 10**9
_OTHER_BOOTS_DAYS = 30
_BOOT = Path("/proc/sys/kernel/random/boot_id")

_whole: set[tuple[tuple[int, ...], str]] = set()
"""(stamp, sha256) of the files that this process found whole."""


def sha256_of(path: Path, expected: str, cache: Path) -> str:
    """Return the sha256 of a file, in hexadecimal.

    Args:
        path: the file.
        expected: the sha256 that it should have; a file that was found to have it is not read again.
        cache: the node's cache folder, for marks.

    Raises:
        OSError: it cannot be read.

    """
    known = (_stamp(path), expected)
    if known in _whole:
        return expected
    with _locked(cache, expected) as folder:
        mark = folder and folder / f"{expected}-{known[0][1]:x}"
        if mark is not None and _is_marked(mark, *known):
            _whole.add(known)
            return expected
        began = time.time_ns()
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found == expected and _stamp(path) == known[0]:
            _whole.add(known)
            if mark is not None and began - max(known[0][3:]) > _SETTLED_NS:
                _leave(mark, *known)
    return found


def _stamp(path: Path) -> tuple[int, ...]:
    """Return device, inode, size in bytes, and times of change of content and inode in ns."""
    info = path.stat()
    return info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns, info.st_ctime_ns


@contextmanager
def _locked(cache: Path, sha256: str) -> Iterator[Path | None]:
    """Hold the lock of a shard, so that one worker of a node reads it; yield the folder of marks, or None."""
    folder = NodeCache.of(cache).folder / "verified"
    try:
        here = folder / _BOOT.read_text(encoding="ascii").strip()
        here.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(here / f"{sha256[:2]}.lock", os.O_CREAT | os.O_RDWR, 0o600)
    except OSError:  # no such kernel, a full or read-only disk
        yield None
        return
    try:
        flock(descriptor, wait=True)
        yield here
    finally:
        os.close(descriptor)


def _is_marked(mark: Path, stamp: tuple[int, ...], sha256: str) -> bool:
    try:
        with mark.open("rb") as file:
            info = os.fstat(file.fileno())
            text = file.read(1000)
        own = info.st_uid == os.getuid() and not info.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
        return own and 0 <= time.time() - info.st_mtime < _DAY_S and json.loads(text) == [*stamp, sha256]
    except (OSError, ValueError):
        return False


def _leave(mark: Path, stamp: tuple[int, ...], sha256: str) -> None:
    """Write a mark; a torn mark is no JSON, and the machine that crashed has another boot id."""
    with suppress(OSError):
        temporary = mark.with_suffix(f".{os.getpid()}")
        descriptor = os.open(temporary, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(json.dumps([*stamp, sha256]))
        temporary.replace(mark)
        for folder in mark.parent.parent.iterdir():  # those of other boots, also of other nodes with the same home
            if folder != mark.parent and time.time() - folder.stat().st_mtime > _OTHER_BOOTS_DAYS * _DAY_S:
                shutil.rmtree(folder, ignore_errors=True)
