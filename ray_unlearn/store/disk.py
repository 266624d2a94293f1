"""Files and folders on a local disk or NFS: written under a temporary name, flushed, and renamed.

    replace_file(Path("studies/faces/study.json"), b"...")
    publish_folder(Path("studies/faces/finetune/00007"), {"model.safetensors": b"..."}, last=("record.json", b"..."))

A temporary name holds its host and process, so that files of a killed process can be distinguished from those
being written.

Does not cover: object stores, nor messages of errors (`filesystem`).
"""

from __future__ import annotations

import errno
import os
import shutil
import socket
import stat
import uuid
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

TEMPORARY = ".tmp-"
_DIGITS = 20  # of a process id, at most
HELD = ".held"
"""Suffix of temporary files that live as long as their process; never swept by age."""


def temporary_name() -> str:
    """Return a new name of this host and process."""
    return f"{TEMPORARY}{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:12]}"


def existing(path: Path) -> Path:
    """Return the path, or the nearest one above it that exists."""
    return next((each for each in (path, *path.parents) if each.exists()), path)


def check_regular_file(path: Path) -> None:
    """Check that a path, if it exists, is a regular file: reading a pipe could block, and a device may never end.

    Raises:
        OSError: it is not; the message names its kind.

    """
    with suppress(FileNotFoundError):  # opening it raises the error
        mode = path.stat().st_mode
        kinds = {stat.S_IFIFO: "a named pipe", stat.S_IFSOCK: "a socket", stat.S_IFDIR: "a folder"}
        if not stat.S_ISREG(mode):
            raise OSError(errno.EINVAL, f"it is {kinds.get(stat.S_IFMT(mode), 'a device')}, not a file")


def remove(root: Path, name: str) -> None:
    """Remove a file or folder below `root`; of a symbolic link, the link alone.

    Raises:
        FileNotFoundError: there is none.
        OSError: its folder is behind a symbolic link that leads out of `root`.

    """
    path, inside = root / name, root.resolve()
    if inside not in (path.parent.resolve(), *path.parent.resolve().parents):
        raise OSError(errno.EXDEV, f"it is behind a symbolic link, in {path.parent.resolve()}; remove it there by hand")
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def replace_file(final: Path, data: bytes) -> None:
    """Write a file so that readers see the old one or the new one."""
    final.parent.mkdir(parents=True, exist_ok=True)
    temporary = final.parent / temporary_name()
    try:
        _write_synced(temporary, data)
        temporary.replace(final)
        _sync_folder(final.parent)
    finally:
        temporary.unlink(missing_ok=True)


def create_file(final: Path, data: bytes) -> None:
    """Write a file unless it exists; of several processes at once, one succeeds."""
    final.parent.mkdir(parents=True, exist_ok=True)
    temporary = final.parent / temporary_name()
    try:
        _write_synced(temporary, data)
        try:
            final.hardlink_to(temporary)
        except FileExistsError:
            return
        except OSError:  # a file system without hard links
            temporary.replace(final)
        _sync_folder(final.parent)
    finally:
        temporary.unlink(missing_ok=True)


def append_file(final: Path, data: bytes) -> int:
    """Append to a file with one writer, without flushing it to the disk: a crash may lose its end.

    Returns:
        Number of bytes appended: fewer than given where the disk is full.

    Raises:
        OSError: nothing could be appended.

    """
    final.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(final, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    before = os.fstat(descriptor).st_size
    try:
        try:
            os.write(descriptor, data)
        finally:
            os.close(descriptor)
    except OSError:  # a network file system may report it at close, after a part was written
        reached = final.stat().st_size - before
        if not reached:
            raise
        return reached
    return final.stat().st_size - before


def publish_folder(final: Path, payloads: Mapping[str, bytes], last: tuple[str, bytes]) -> None:
    """Write files as one folder; a folder that already holds `last` is complete and stays as it is."""
    final.parent.mkdir(parents=True, exist_ok=True)
    temporary = final.parent / temporary_name()
    try:
        temporary.mkdir()
        for file, data in (*payloads.items(), last):
            _write_synced(temporary / file, data)
        _sync_folder(temporary)
        _rename_folder(temporary, final, complete=last[0])
        _sync_folder(final.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _write_synced(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(path: Path) -> None:
    """Make a rename durable; some network file systems cannot do that, and need not."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError:
        pass
    finally:
        os.close(descriptor)


def _rename_folder(temporary: Path, final: Path, complete: str) -> None:
    """Rename; an existing final folder is kept if it is complete, else moved away and removed first."""
    for _ in range(3):  # another driver may create or move the folder in between
        try:
            temporary.rename(final)
            return
        except OSError:
            if (final / complete).exists():
                return
            if not final.is_dir() or not temporary.exists():
                raise
        aside = final.parent / temporary_name()
        with suppress(FileNotFoundError):
            final.rename(aside)
        shutil.rmtree(aside, ignore_errors=True)
    temporary.rename(final)


def is_dead(name: str) -> bool:
    """Return whether a temporary name belongs to a process of this machine that has ended."""
    host, _, pid = name.removeprefix(TEMPORARY).rpartition("-")[0].rpartition("-")
    return name.startswith(TEMPORARY) and has_ended(host, pid)


def has_ended(host: str, pid: str) -> bool:
    """Return whether a process of this machine has ended; False for other machines, whose processes are not visible."""
    return host == socket.gethostname() and pid.isdecimal() and not (len(pid) < _DIGITS and _alive(int(pid)))


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True
