"""Bytes in and out of any pyarrow file system, published so that present means complete.

    storage = open_storage("./studies")                       # or s3://bucket/prefix, gs://bucket/prefix
    storage.publish_file("faces/study.json", b"...")          # never half a file under the final name
    storage.publish_folder("faces/finetune/00007", {"model.safetensors": b"..."}, last=("record.json", b"..."))

Local disks and NFS: a folder is written beside, fsynced and renamed as one. Object stores have no rename: payload
objects first, the record's object last; an object appears whole or not at all.

Does not cover: which names there are (`layout`).
"""

from __future__ import annotations

import os
import shutil
import socket
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from pyarrow import fs

from ray_unlearn.errors import StoreError
from ray_unlearn.study.uris import label, told

TEMPORARY = ".tmp-"


@dataclass(frozen=True, slots=True)
class Storage:
    """A root folder on a file system; every path below it is relative, with forward slashes."""

    uri: str
    """For messages and records: what the user wrote, without credentials and query."""
    filesystem: fs.FileSystem
    root: str

    @property
    def local(self) -> Path | None:
        """The root as a local path, or None on an object store."""
        return Path(self.root) if isinstance(self.filesystem, fs.LocalFileSystem) else None

    def path(self, name: str) -> str:
        """Return the file system's own path of `name`."""
        return f"{self.root}/{name}" if name else self.root

    def read(self, name: str) -> bytes:
        """Return a file's bytes.

        Raises:
            FileNotFoundError: there is no such file.
            StoreError: it cannot be read.

        """
        with self._errors("read", name), self.filesystem.open_input_stream(self.path(name)) as stream:
            return bytes(stream.read())

    def sizes(self, folder: str, *, recursive: bool = False) -> dict[str, int]:
        """Return {name relative to folder: size in bytes} of its files; empty where there is no folder."""
        return {self._relative(i.path, folder): i.size for i in self._list(folder, recursive) if i.is_file}

    def folders(self, folder: str) -> list[str]:
        """Return the names of the folders directly in `folder`, sorted; temporary ones left out."""
        names = [self._relative(i.path, folder) for i in self._list(folder, False) if i.type == fs.FileType.Directory]
        return sorted(name for name in names if not name.startswith(TEMPORARY))

    def exists(self, name: str) -> bool:
        """Return whether the file or folder exists."""
        with self._errors("look for", name):
            return bool(self.filesystem.get_file_info(self.path(name)).type != fs.FileType.NotFound)

    def publish_file(self, name: str, data: bytes) -> None:
        """Write a file so that readers see the old one or the new one, never a part."""
        with self._errors("write", name):
            if self.local is None:
                self._put(name, data)
                return
            final = self.local / name
            final.parent.mkdir(parents=True, exist_ok=True)
            beside = final.parent / _temporary_name()
            try:
                _write_synced(beside, data)
                beside.replace(final)
                _sync_folder(final.parent)
            finally:
                beside.unlink(missing_ok=True)

    def publish_folder(self, name: str, payloads: Mapping[str, bytes], last: tuple[str, bytes]) -> None:
        """Publish payloads and then `last` as one folder. Whoever is first stays; a complete folder is never replaced.

        Raises:
            StoreError: it cannot be written (full disk, no permission, ...); nothing is left under the final name.

        """
        with self._errors("write", name):
            if self.local is None:
                for file, data in payloads.items():
                    self._put(f"{name}/{file}", data)
                self._put(f"{name}/{last[0]}", last[1])
                return
            final = self.local / name
            final.parent.mkdir(parents=True, exist_ok=True)
            beside = final.parent / _temporary_name()
            try:
                beside.mkdir()
                for file, data in (*payloads.items(), last):
                    _write_synced(beside / file, data)
                _sync_folder(beside)
                _rename_folder(beside, final, complete=last[0])
                _sync_folder(final.parent)
            finally:
                shutil.rmtree(beside, ignore_errors=True)

    def remove(self, name: str) -> None:
        """Remove a file or a folder; no error where there is none."""
        with self._errors("remove", name):
            info = self.filesystem.get_file_info(self.path(name))
            if info.type == fs.FileType.Directory:
                self.filesystem.delete_dir(info.path)
            elif info.type == fs.FileType.File:
                self.filesystem.delete_file(info.path)

    def sweep(self, folder: str) -> None:
        """Remove temporary files that dead processes of this machine left in `folder` (local only)."""
        if self.local is None or not (self.local / folder).is_dir():
            return
        for item in (self.local / folder).glob(f"{TEMPORARY}{socket.gethostname()}-*"):
            pid = item.name.rsplit("-", 2)[1]
            if pid.isdigit() and not _alive(int(pid)):
                shutil.rmtree(item) if item.is_dir() else item.unlink(missing_ok=True)

    def _list(self, folder: str, recursive: bool) -> list[fs.FileInfo]:
        selector = fs.FileSelector(self.path(folder), recursive=recursive, allow_not_found=True)
        with self._errors("list", folder):
            return list(self.filesystem.get_file_info(selector))

    def _put(self, name: str, data: bytes) -> None:
        parent = str(PurePosixPath(self.path(name)).parent)
        if not isinstance(self.filesystem, fs.S3FileSystem | fs.GcsFileSystem):
            self.filesystem.create_dir(parent, recursive=True)
        with self.filesystem.open_output_stream(self.path(name)) as stream:
            stream.write(data)

    def _relative(self, path: str, folder: str) -> str:
        return path.removeprefix(self.path(folder)).lstrip("/")

    @contextmanager
    def _errors(self, verb: str, name: str) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError:
            raise
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
            raise StoreError(f"{self.uri}: cannot {verb} {name or 'the folder'}: {reason}") from error


def open_storage(uri: str) -> Storage:
    """Open a folder, s3://bucket/prefix or gs://bucket/prefix; nothing is created.

    Raises:
        StoreError: the URI is not one that pyarrow can open.

    """
    if "://" not in uri:
        return Storage(uri, fs.LocalFileSystem(), os.path.abspath(uri))  # noqa: PTH100 - no symlink is resolved
    try:
        filesystem, root = fs.FileSystem.from_uri(uri)
    except (OSError, ValueError) as error:
        scheme = uri.partition("://")[0]  # not the whole URI: it may hold credentials
        raise StoreError(f"storage {scheme}://...: cannot be opened: {told(error, uri)}") from error
    return Storage(label(uri), filesystem, root.rstrip("/"))


def _temporary_name() -> str:
    """Name the host and the process, so that `sweep` knows whose it was."""
    return f"{TEMPORARY}{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:12]}"


def _write_synced(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(path: Path) -> None:
    """Make a rename durable; some network file systems cannot, and need not."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError:
        pass
    finally:
        os.close(descriptor)


def _rename_folder(beside: Path, final: Path, complete: str) -> None:
    """Rename; where the final folder exists, keep it if it is complete, else move it out of the way first."""
    try:
        beside.rename(final)
    except OSError:
        if (final / complete).exists():
            return
        if not final.is_dir():
            raise
        aside = final.parent / _temporary_name()
        final.rename(aside)
        beside.rename(final)
        shutil.rmtree(aside, ignore_errors=True)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
