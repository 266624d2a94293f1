"""Files of a source on any pyarrow file system: expand globs, fingerprint, read.

    for file in expand(("faces/*.parquet", "s3://bucket/more.parquet"), ".parquet"):
        file.name, fingerprint(file)

A file is fingerprinted by name, size and time of change, because reading it whole only to find its decoded shards
would cost minutes where it is large. A fingerprint never enters an identity; the decoded content does.

Does not cover: the contents of files (`parquet`, `folders`).
"""

from __future__ import annotations

import errno
import fnmatch
import glob
import hashlib
import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import quote, urlsplit

from pyarrow import fs

from ray_unlearn.errors import DataError, first_line
from ray_unlearn.store.disk import check_regular_file
from ray_unlearn.study.uris import error_line, label

_LARGEST_BYTES = 2**30  # of one image file, at most


@dataclass(frozen=True, slots=True)
class SourceFile:
    """One file of a source."""

    uri: str
    """Local path, or scheme://... URI."""

    @property
    def name(self) -> str:
        """Last part of the path."""
        return PurePosixPath(self.label).name

    @property
    def label(self) -> str:
        """Path or URI for messages and manifests, without credentials and options."""
        return label(self.uri)

    @property
    def size(self) -> int:
        """Size in bytes; 0 where the file system does not report it."""
        filesystem, path = self.open()
        return int(filesystem.get_file_info(path).size or 0)

    def open(self) -> tuple[fs.FileSystem, str]:
        """Return the file system and the path on it.

        Raises:
            DataError: pyarrow cannot open the URI.

        """
        return open_filesystem(self.uri)


def open_filesystem(uri: str) -> tuple[fs.FileSystem, str]:
    """Return the pyarrow file system of a path or URI, and the path on it."""
    if "://" not in uri:
        return fs.LocalFileSystem(), uri
    try:
        filesystem, path = fs.FileSystem.from_uri(uri)
    except Exception as error:  # hf:// and other file systems in Python raise any error of their clients
        raise DataError(f"{label(uri)}: cannot be opened: {error_line(error, uri)}") from error
    return filesystem, path


def read_local(path: Path, most_bytes: int = _LARGEST_BYTES) -> bytes:
    """Return a local file's bytes.

    Raises:
        OSError: it cannot be read, is a pipe or a device, or is larger than `most_bytes`.

    """
    check_regular_file(path)
    with path.open("rb") as file:
        if os.fstat(file.fileno()).st_size > most_bytes:
            raise OSError(errno.EFBIG, f"it is larger than {most_bytes:,} bytes")
        return file.read()


def why_unread(error: Exception) -> str:
    """Return in one line why NumPy could not read a file: it refuses pickles, which may run code when read."""
    text = first_line(error)
    is_pickle = "allow_pickle" in text or "Python objects" in text
    return "it holds Python objects, a pickle, which may run code when read" if is_pickle else text


def expand(paths: Iterable[str], suffix: str) -> tuple[SourceFile, ...]:
    """Expand files, globs and folders (their files that end with `suffix`) into files, sorted within each path.

    Raises:
        DataError: a path matches nothing, or a file is named twice.

    """
    files: list[SourceFile] = []
    for path in paths:
        found = _expand_remote(path, suffix) if "://" in path else _expand_local(path, suffix)
        if not found:
            raise DataError(f"{label(path)}: no such file; expected a {suffix} file, a glob, or a folder of them")
        files += [SourceFile(uri) for uri in found]
    twice = sorted(uri for uri, count in Counter(file.uri for file in files).items() if count > 1)
    if twice:
        raise DataError(f"{label(twice[0])}: named twice by the source")
    return tuple(files)


def _expand_local(path: str, suffix: str) -> list[str]:
    here = Path(path)
    if here.is_dir():
        return [str(item) for item in sorted(here.glob(f"*{suffix}")) if not item.name.startswith(".")]
    if here.exists():
        return [path]
    return sorted(glob.glob(path, recursive=True))  # noqa: PTH207 - the pattern may be absolute


def _expand_remote(uri: str, suffix: str) -> list[str]:
    filesystem, path = open_filesystem(uri)
    try:
        if "*" in path:
            folder, pattern = str(PurePosixPath(path.split("*")[0] + "x").parent), path
        elif filesystem.get_file_info(path).is_file:
            return [uri]
        else:
            folder, pattern = path, f"{path.rstrip('/')}/*{suffix}"
        listed = filesystem.get_file_info(fs.FileSelector(folder, recursive=True, allow_not_found=True))
    except Exception as error:
        raise DataError(f"{label(uri)}: cannot be listed: {error_line(error, uri)}") from error
    return sorted(_sibling(uri, info.path) for info in listed if info.is_file and _matches(info.path, pattern))


def _sibling(uri: str, path: str) -> str:
    """Return the URI of another path on the same file system, with its credentials and options."""
    if uri.startswith("hf://"):  # its @ is before a revision, and its paths are whole
        return f"hf://{path}"
    parts = urlsplit(uri)
    host = parts.netloc if path.startswith("/") else parts.netloc.rpartition("@")[0]
    start = host if path.startswith("/") or not host else f"{host}@"
    return f"{parts.scheme}://{start}{quote(path)}" + (f"?{parts.query}" if parts.query else "")


def _matches(path: str, pattern: str) -> bool:
    """Match as a local glob does: only `**` reaches into folders below."""
    deep_enough = "**" in pattern or path.count("/") == pattern.count("/")
    hidden = PurePosixPath(path).name.startswith(".") and not PurePosixPath(pattern).name.startswith(".")
    return deep_enough and not hidden and fnmatch.fnmatchcase(path, pattern)


def fingerprint(file: SourceFile) -> str:
    """Return the sha256 of a file's name, size and time of change; the decoded content has its own digest."""
    filesystem, path = file.open()
    try:
        info = filesystem.get_file_info(path)
    except Exception as error:
        reason = getattr(error, "strerror", None) or error_line(error, file.uri)
        raise DataError(f"{file.label}: cannot be read: {reason}") from error
    return hashlib.sha256(f"{file.label} {info.size} {info.mtime_ns}".encode()).hexdigest()
