"""Shards of a remote storage on this node's own disk: fetched once for all processes, within a limit.

    cache = NodeCache.of(cache_folder())
    path = cache.get("ab12...", size_bytes, fetch)         # fetch(path) writes it there and returns its sha256
    RAY_UNLEARN_CACHE=/scratch/shards RAY_UNLEARN_CACHE_GIB=200 ray-unlearn generate ...    # on every node

A shard is named by its sha256, so that studies and storages share it. It is fetched under a lock to a temporary
name, checked, and renamed. A process lists the shards that it uses in a lease, which it holds locked while it lives; a
lease that can be locked is a dead process's. Where the limit (64 GiB, in addition to fetches in progress) is reached,
the least recently used shards are removed, but none that a lease lists. All locks are flock(2): the kernel frees them
when a process dies.

Does not cover: a folder that several machines share; each node needs its own (a local disk). Later changes of a shard
(`verified`).
"""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from ray_unlearn.errors import DataError

FOLDER, LIMIT = "RAY_UNLEARN_CACHE", "RAY_UNLEARN_CACHE_GIB"
_DEFAULT_GIB = 64.0
_STRIPES = 2  # hexadecimal digits: 256 lock files serve all shards

_leases: dict[Path, Path] = {}
"""Leases of this process by cache folder; open, and locked, until the process ends."""


def cache_folder() -> Path:
    """Return the folder of a node's copies; each node expands `~` itself. No folder is created."""
    return Path(os.environ.get(FOLDER) or "~/.cache/ray_unlearn")


@dataclass(frozen=True, slots=True)
class NodeCache:
    """A folder of shards with a limit."""

    folder: Path
    limit_bytes: float

    @classmethod
    def of(cls, folder: Path) -> NodeCache:
        """Return the cache in a folder, with this node's limit.

        Raises:
            DataError: the limit in the environment is not a number.

        """
        text = os.environ.get(LIMIT, "") or str(_DEFAULT_GIB)
        try:
            gib = float(text)
        except ValueError:
            raise DataError(f"{LIMIT}: expected a number of GiB; found {text!r}") from None
        return cls(Path(os.environ.get(FOLDER) or folder).expanduser(), gib * 2**30)

    def get(self, sha256: str, size_bytes: int, fetch: Callable[[Path], str]) -> Path:
        """Return the local path of a shard, fetching it where it is missing; it stays while this process lives.

        Args:
            sha256: sha256 of its bytes, its name in the cache.
            size_bytes: its size.
            fetch: writes the shard to a path and returns the sha256 of what it wrote.

        Raises:
            DataError: the bytes that arrived are not the shard's, or shards in use fill the cache's limit or disk.

        """
        with self._locked(sha256[:_STRIPES]):
            if not self._take(sha256, size_bytes):
                self._free_space(size_bytes)
                self._fetch(sha256, fetch)
        return self._path(sha256)

    def drop(self, sha256: str) -> None:
        """Remove a damaged shard; processes that have it mapped keep it."""
        with self._locked(sha256[:_STRIPES]):
            self._path(sha256).unlink(missing_ok=True)

    def _path(self, sha256: str) -> Path:
        return self.folder / "shards" / f"{sha256}.arrow"

    def _take(self, sha256: str, size_bytes: int) -> bool:
        """Add a shard to this process's lease, so that it stays once fetched; return whether it is in the cache."""
        with self._locked("evict"):
            with self._lease().open("a", encoding="ascii") as lease:
                lease.write(f"{sha256}\n")
            path = self._path(sha256)
            if not (path.exists() and path.stat().st_size == size_bytes):
                return False
            self._used(path).parent.mkdir(exist_ok=True)
            self._used(path).touch()  # the last use; the shard's own times show whether it changed
            return True

    def _fetch(self, sha256: str, fetch: Callable[[Path], str]) -> None:
        part_path = self._path(sha256).with_suffix(f".{uuid.uuid4().hex[:8]}.part")
        part_path.parent.mkdir(parents=True, exist_ok=True)
        with self._locked("evict"):  # no process sweeps between the part and its lock
            part = os.open(part_path, os.O_CREAT | os.O_RDWR, 0o644)
            flock(part, wait=True)
        try:
            if fetch(part_path) != sha256:
                raise DataError(f"{part_path.name}: the fetched bytes are not the shard of that sha256; prepare again")
            part_path.rename(self._path(sha256))
        finally:
            part_path.unlink(missing_ok=True)
            os.close(part)

    def _free_space(self, size_bytes: int) -> None:
        """Remove unused shards, oldest first, until `size_bytes` more fit within the limit and on the disk."""
        shards = self.folder / "shards"
        shards.mkdir(parents=True, exist_ok=True)
        with self._locked("evict"):
            self._sweep_parts(shards)
            used = self._in_use()
            held = {path: path.stat() for path in shards.glob("*.arrow")}
            total = sum(stat.st_size for stat in held.values())
            for path in sorted(held, key=self._last_used_ns):
                if total + size_bytes <= self.limit_bytes and shutil.disk_usage(shards).free > size_bytes:
                    return
                if path.stem not in used:
                    path.unlink()
                    self._used(path).unlink(missing_ok=True)
                    total -= held[path].st_size
            self._check_space(total, size_bytes)

    def _used(self, path: Path) -> Path:
        """Return the file whose time is that of a shard's last use after it was fetched."""
        return self.folder / "used" / path.stem

    def _last_used_ns(self, path: Path) -> int:
        used = self._used(path)
        return (used if used.exists() else path).stat().st_mtime_ns

    def _check_space(self, total: int, size_bytes: int) -> None:
        gib, free = 2**30, shutil.disk_usage(self.folder).free
        if total + size_bytes > self.limit_bytes:
            raise DataError(
                f"{self.folder}: the cache of decoded shards is full of shards in use: {total / gib:.2f} GiB, "
                f"limit {self.limit_bytes / gib:.2f}; raise {LIMIT} on this node, or use a smaller image_size"
            )
        if free <= size_bytes:
            raise DataError(
                f"{self.folder}: no space for a decoded shard of {size_bytes:,} bytes, {free:,} are free; "
                f"free some, or name another disk in {FOLDER} on this node"
            )

    def _sweep_parts(self, shards: Path) -> None:
        """Remove parts of dead processes, found by locks, because pods on one node do not see each other's ids."""
        for part in shards.glob("*.part"):
            with suppress(FileNotFoundError):  # fetched meanwhile
                descriptor = os.open(part, os.O_RDWR)
                try:
                    if flock(descriptor, wait=False):
                        part.unlink()
                finally:
                    os.close(descriptor)

    def _lease(self) -> Path:
        """Return this process's lease; the first call makes it, and locks it until the process ends."""
        known = _leases.get(self.folder)
        forked = known is not None and known.name.partition("-")[0] != str(os.getpid())  # a child has its own
        if known is None or forked or not known.exists():  # the user may have removed the folder
            known = self.folder / "leases" / f"{os.getpid()}-{uuid.uuid4().hex[:8]}"
            known.parent.mkdir(parents=True, exist_ok=True)
            flock(os.open(known, os.O_CREAT | os.O_RDWR, 0o644), wait=True)  # never closed: the lock is the lease
            _leases[self.folder] = known
        return known

    def _in_use(self) -> set[str]:
        """Return the shards that live processes use; remove the leases of dead ones."""
        used: set[str] = set()
        for lease in self.folder.glob("leases/*"):
            descriptor = os.open(lease, os.O_RDWR)
            try:
                if flock(descriptor, wait=False):
                    lease.unlink()
                else:
                    used |= set(lease.read_text(encoding="ascii").split())
            finally:
                os.close(descriptor)
        return used

    @contextmanager
    def _locked(self, name: str) -> Iterator[None]:
        """Hold a lock of this node: of a stripe of shards while one is fetched, or of the whole cache for a moment."""
        path = self.folder / "locks" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_CREAT | os.O_RDWR, 0o644)
        try:
            flock(descriptor, wait=True)
            yield
        finally:
            os.close(descriptor)


def flock(descriptor: int, *, wait: bool) -> bool:
    """Lock an open file; return whether this process holds the lock."""
    import fcntl  # not on Windows, where no storage is remote either

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    return True
