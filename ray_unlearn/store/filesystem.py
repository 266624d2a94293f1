"""Reads and writes on any pyarrow file system; a file under its final name is always complete.

    storage = open_storage("./studies")                       # or s3://bucket/prefix, gs://bucket/prefix
    storage.publish_file("faces/study.json", b"...")          # never a partial file under the final name
    storage.publish_folder("faces/finetune/00007", {"model.safetensors": b"..."}, last=("record.json", b"..."))

Local disks and NFS: a folder is written under a temporary name, fsynced and renamed. Object stores have no rename:
payload objects come first, the record's object last; an object appears whole or not at all.

Does not cover: the names of files (`layout`), nor which failures are tried again (`retries`). An upload that a kill
cut off stays in the bucket as an incomplete multipart upload, which no listing shows: a lifecycle rule removes those.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TypeVar

from pyarrow import NativeFile, fs

from ray_unlearn.errors import StoreError, StoreReadOnly, StoreUnwritable, first_line
from ray_unlearn.store import disk
from ray_unlearn.store.retries import advice, attempt, is_full, is_read_only
from ray_unlearn.study.uris import error_line, label

OLD_NS = 24 * 3600 * 10**9
"""Age in ns, by the storage's clock, from which a temporary file of any host is a leftover: no write takes a day."""

_PIECE_BYTES = 4 * 2**20

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Stamp:
    """Size and time of change of a file, from a listing."""

    size_bytes: int
    mtime_ns: int


@dataclass(frozen=True, slots=True)
class Storage:
    """A root folder on a file system; every path below it is relative, with forward slashes."""

    uri: str
    """URI for messages and records: as the user wrote it, without credentials and query."""
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

        def read() -> bytes:
            if self.local is not None:
                disk.check_regular_file(self.local / name)
            with self.filesystem.open_input_stream(self.path(name)) as stream:
                return bytes(stream.read())

        return self._try("read", name, read)

    def read_within(self, name: str, read: Callable[[NativeFile], _T]) -> _T:
        """Return the result of `read` on the open file, which it may read at any place.

        Raises:
            FileNotFoundError: there is no such file.
            StoreError: it cannot be read.

        """

        def within() -> _T:
            with self.filesystem.open_input_file(self.path(name)) as file:
                return read(file)

        return self._try("read", name, within)

    def copy_to(self, name: str, path: Path) -> str:
        """Copy a file to a local path, a piece in memory at a time; return the sha256 of what was written.

        Raises:
            FileNotFoundError: there is no such file.
            StoreError: the file cannot be read, or the path cannot be written.

        """
        return self._try("copy", name, lambda: self._copy(name, path))

    def _copy(self, name: str, path: Path) -> str:
        sha256 = hashlib.sha256()
        with self.filesystem.open_input_stream(self.path(name)) as stream, path.open("wb") as file:
            while piece := stream.read(_PIECE_BYTES):
                file.write(piece)
                sha256.update(piece)
            file.flush()
            os.fsync(file.fileno())
        return sha256.hexdigest()

    def sizes(self, folder: str, *, recursive: bool = False) -> dict[str, int]:
        """Return {name relative to folder: size in bytes} of its files; empty where the folder does not exist."""
        return {name: stamp.size_bytes for name, stamp in self.stamps(folder, recursive=recursive).items()}

    def stamps(self, folder: str, *, recursive: bool = False) -> dict[str, Stamp]:
        """Return {name relative to folder: stamp} of its files; empty where the folder does not exist."""
        files = (info for info in self._list(folder, recursive) if info.is_file)
        return {self._relative(info.path, folder): Stamp(info.size, info.mtime_ns or 0) for info in files}

    def folders(self, folder: str) -> list[str]:
        """Return the names of the folders directly in `folder`, sorted; temporary ones left out."""
        names = [self._relative(i.path, folder) for i in self._list(folder, False) if i.type == fs.FileType.Directory]
        return sorted(name for name in names if not name.startswith(disk.TEMPORARY))

    def exists(self, name: str) -> bool:
        """Return whether the file or folder exists."""
        info = self._try("look for", name, lambda: self.filesystem.get_file_info(self.path(name)))
        return bool(info.type != fs.FileType.NotFound)

    def publish_file(self, name: str, data: bytes) -> None:
        """Write a file so that readers see the old one or the new one, never a part."""
        local = self.local
        self._try("write", name, lambda: disk.replace_file(local / name, data) if local else self._put(name, data))

    def create_file(self, name: str, data: bytes) -> None:
        """Write a file on a disk unless it exists; of several processes, one succeeds; its content stays.

        pyarrow has no conditional put for object stores; `claims` creates files there.
        """
        self._try("write", name, lambda: disk.create_file(Path(self.path(name)), data))

    def publish_folder(self, name: str, payloads: Mapping[str, bytes], last: tuple[str, bytes]) -> None:
        """Publish payloads and then `last` as one folder. The first to finish stays; no complete folder is replaced.

        Raises:
            StoreError: it cannot be written (full disk, no permission, ...); nothing is left under the final name.

        """
        local = self.local
        if local is not None:
            self._try("write", name, lambda: disk.publish_folder(local / name, payloads, last))
            return
        for file, data in payloads.items():
            self._try("write", name, partial(self._put, f"{name}/{file}", data))
        if not self.exists(f"{name}/{last[0]}"):  # else another driver was quicker
            self._try("write", name, partial(self._put, f"{name}/{last[0]}", last[1]))

    def remove(self, name: str) -> None:
        """Remove a file or a folder; no error where it does not exist."""
        with suppress(FileNotFoundError):  # another driver was quicker
            self._try("remove", name, lambda: self._remove(name))

    def _remove(self, name: str) -> None:
        if self.local is not None:
            disk.remove(self.local, name)
            return
        info = self.filesystem.get_file_info(self.path(name))
        if info.type == fs.FileType.Directory:
            self._remove_folder(info.path)
        elif info.type == fs.FileType.File:
            self.filesystem.delete_file(info.path)

    def _remove_folder(self, path: str) -> None:
        try:
            self.filesystem.delete_dir(path)
        except OSError as error:
            if "Content-MD5" not in str(error):
                raise
            # Older services require a header for bulk removals, Content-MD5, that the AWS SDK no longer sends.
            for info in self.filesystem.get_file_info(fs.FileSelector(path, recursive=True)):
                if info.is_file:
                    self.filesystem.delete_file(info.path)

    def temporary(self, folder: str) -> str:
        """Return a new name in `folder` that `sweep` removes once this process is dead, and no sooner."""
        return f"{folder}/{disk.temporary_name()}{disk.HELD}"

    def sweep(self, folder: str, now_ns: int | None = None) -> None:
        """Remove temporary files that dead processes left in `folder`; failures are ignored.

        Args:
            folder: the folder to sweep.
            now_ns: the storage's time, from the stamp of a file just written. With it, files of any host that are older
                than a day are removed; without it, only those of dead processes of this machine.

        """
        for info in self._list(folder, False):
            name, age_ns = self._relative(info.path, folder), (now_ns or 0) - (info.mtime_ns or 0)
            old = age_ns > OLD_NS and not name.endswith(disk.HELD)
            if name.startswith(disk.TEMPORARY) and (disk.is_dead(name) or old):
                if self.local is not None and info.type == fs.FileType.Directory:
                    shutil.rmtree(info.path, ignore_errors=True)  # another driver may be sweeping, too
                    continue
                with suppress(StoreError):
                    self.remove(f"{folder}/{name}")

    def _list(self, folder: str, recursive: bool) -> list[fs.FileInfo]:
        selector = fs.FileSelector(self.path(folder), recursive=recursive, allow_not_found=True)
        return self._try("list", folder, lambda: list(self.filesystem.get_file_info(selector)))

    def _put(self, name: str, data: bytes) -> None:
        """Write an object, in a thread of its own.

        An exception closes a stream, and closing it publishes the part written until then. The exception of a signal is
        raised in the main thread, so it cannot interrupt this one.
        """
        parent = str(PurePosixPath(self.path(name)).parent)
        if not isinstance(self.filesystem, fs.S3FileSystem | fs.GcsFileSystem):
            self.filesystem.create_dir(parent, recursive=True)
        with ThreadPoolExecutor(1, thread_name_prefix="put") as thread:
            thread.submit(self._upload, name, data).result()

    def _upload(self, name: str, data: bytes) -> None:
        with self.filesystem.open_output_stream(self.path(name)) as stream:
            stream.write(data)
        size_bytes = self.filesystem.get_file_info(self.path(name)).size
        if size_bytes != len(data):
            raise OSError(f"{size_bytes} of {len(data)} bytes arrived")

    def _relative(self, path: str, folder: str) -> str:
        return path.removeprefix(self.path(folder)).lstrip("/")

    def _try(self, verb: str, name: str, act: Callable[[], _T]) -> _T:
        """Do something that may be done twice; a failure becomes an error of one line."""
        swept = (FileNotFoundError,) if verb == "write" and self.local is not None else ()
        try:
            return attempt(act, again=swept)
        except (OSError, ValueError) as error:
            if isinstance(error, FileNotFoundError) and verb != "write":
                raise
            reason = getattr(error, "strerror", None) or first_line(error)
            parts = [f"{self.uri}: cannot {verb} {name or 'the folder'}: {reason}", advice(error)]
            raise _kind(verb, error)("; ".join(filter(None, parts))) from error


def _kind(verb: str, error: BaseException) -> type[StoreError]:
    """Return the error class of a failure: `StoreUnwritable` where only a person can end it."""
    if verb not in ("write", "remove"):
        return StoreError
    if is_read_only(error):
        return StoreReadOnly
    return StoreUnwritable if is_full(error) else StoreError


def open_storage(uri: str) -> Storage:
    """Open a folder, s3://bucket/prefix or gs://bucket/prefix; no file is created.

    Raises:
        StoreError: the URI is not one that pyarrow can open.

    """
    if "://" not in uri:
        return Storage(uri, fs.LocalFileSystem(), os.path.abspath(uri))  # noqa: PTH100 - no symlink is resolved
    try:
        filesystem, root = fs.FileSystem.from_uri(uri)
    except (OSError, ValueError) as error:
        scheme = uri.partition("://")[0]  # not the whole URI: it may hold credentials
        raise StoreError(f"storage {scheme}://...: cannot be opened: {error_line(error, uri)}") from error
    return Storage(label(uri), filesystem, root.rstrip("/"))
