"""Every error that a user can cause, as one tree; each carries one message and the exit code it ends with.

    BaseException
    ├── Interrupted                a signal stopped the command: it is resumable               130 | 143
    └── Exception
        └── RayUnlearnError        anything below ends the command with one line               1
            ├── StudyError         the study file or an override is wrong                      2
            ├── DataError          a source, an image or a split is wrong                      1
            ├── ModelError         an architecture or weights do not fit                       1
            ├── MethodError        a method's code or options are wrong                        1
            ├── TrainingDiverged   a run's loss or weights became NaN or infinite              1
            ├── StoreError         the study's folder cannot be read or written                1
            │   ├── PopulationChanged  the folder holds this population, made differently      1
            │   ├── DamagedFile        a file of the store cannot be read, or was changed      1
            │   ├── NewerFormat        a file of the store is of a later version's format      1
            │   ├── ReferenceNotMade   the reference population has no finished run            1
            │   ├── StoreUnwritable    writes fail until a person acts (space, rights)             1
            │   │   └── StoreReadOnly  it can be read, but this user may not write it              1
            │   └── StorageNotShared   a worker's machine does not see the driver's storage    1
            ├── EvaluationError    populations cannot be scored as asked                       1
            └── ClusterError       Ray cannot be reached, or cannot give what was asked        1
                └── ClusterLost        Ray died; the same command makes what is missing        3

A message names what, where, expected, found, and what to do. One string per exception, so that it survives pickling.

Does not cover: failures inside a run, which become failed records, not exceptions of the command.
"""

from __future__ import annotations

import difflib
import os
import shutil
import signal
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path


class RayUnlearnError(Exception):
    """Base of every error that a user can cause; ends the command with one line."""

    exit_code = 1


class StudyError(RayUnlearnError):
    """The study file or an override is wrong."""

    exit_code = 2


class DataError(RayUnlearnError):
    """A source, an image or a split is wrong."""


class ModelError(RayUnlearnError):
    """An architecture or its weights do not fit."""


class MethodError(RayUnlearnError):
    """A method's code or its options are wrong."""


class TrainingDiverged(RayUnlearnError):
    """A run's loss or weights became NaN or infinite."""


class StoreError(RayUnlearnError):
    """The study's folder cannot be read or written."""


def check_new(path: Path, more: str = "") -> None:
    """Refuse to write over a file or folder; `more` ends the message.

    Raises:
        StudyError: it exists.

    """
    if path.exists():
        raise StudyError(f"{path}: exists already and is not overwritten; choose another name{more}")


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn a failure of the system inside this block into a `StoreError` that names the file or folder."""
    try:
        yield
    except OSError as error:
        raise StoreError(f"{path}: cannot be written: {error.strerror or error}") from error


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary file, which takes the place of `path` once the block is done: whole, or not at all.

    A file that is there keeps its mode; of a symbolic link, the file that it leads to is replaced. A pipe or a device,
    such as /dev/stdout, and a file in a folder that takes no other are yielded themselves.

    Raises:
        StoreError: it cannot be written; a file that is there stays as it was.

    """
    with writing(path):
        final, is_old = Path(os.path.realpath(path)), path.exists()
        if is_old and not (path.is_file() and os.access(path, os.W_OK) and os.access(final.parent, os.W_OK)):
            yield path
            return
        temporary = final.with_name(f".tmp-{os.getpid()}-{uuid.uuid4().hex[:8]}")
        try:
            temporary.touch(0o600 if is_old else 0o666)
            yield temporary
            if is_old:
                shutil.copymode(path, temporary)
            temporary.replace(final)
        finally:
            temporary.unlink(missing_ok=True)


def write_file(path: Path, content: bytes) -> None:
    """Write a file; errors as `replacing`."""
    with replacing(path) as file:
        file.write_bytes(content)


def write_text(path: Path, text: str) -> None:
    """Write a text in UTF-8 into a file; errors as `replacing`."""
    write_file(path, text.encode())


class PopulationChanged(StoreError):
    """The folder already holds this population, made from something else."""


class DamagedFile(StoreError):
    """A file of the study's folder is damaged: it cannot be read in its format, or was changed."""


class NewerFormat(StoreError):
    """A file of the study's folder is of a format that a later version wrote."""


class StoreUnwritable(StoreError):
    """Writes to the study's folder fail until a person acts: no space, a quota, no permission, mounted read-only."""


class StoreReadOnly(StoreUnwritable):
    """The study's folder can be read, but this user may not write to it."""


class ReferenceNotMade(StoreError):
    """The reference population has no finished run, so no other can be compared with it."""


class StorageNotShared(StoreError):
    """A worker's machine does not see the storage that the driver writes to."""


class EvaluationError(RayUnlearnError):
    """Populations, or their outputs, cannot be scored as asked."""


class ClusterError(RayUnlearnError):
    """Ray cannot be reached, or lacks the resources that were asked for."""


class ClusterLost(ClusterError):
    """Ray died while runs were made; the same command makes the missing ones."""

    exit_code = 3


class Interrupted(BaseException):
    """SIGINT or SIGTERM stopped the command; not an `Exception`, so that no run can swallow it."""

    def __init__(self, signum: int) -> None:
        super().__init__(signum)
        self.signum = signum

    @property
    def exit_code(self) -> int:
        """128 + the signal's number: 130 for SIGINT, 143 for SIGTERM."""
        return 128 + self.signum

    def __str__(self) -> str:
        return f"interrupted by {signal.Signals(self.signum).name}"


_TOO_LONG = 1000  # characters: the comparison keeps a list of positions for each
_TOO_MANY = 5000  # names to compare: a second's work


def first_line(error: BaseException) -> str:
    """Return the first line of an error's text; the name of its type where it has none; of an exit, the call."""
    if isinstance(error, SystemExit):
        code = "" if error.code is None else repr(error.code)
        return f"it calls {getattr(error, 'call', f'sys.exit({code})')}"
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def did_you_mean(found: str, valid: Iterable[str]) -> str:
    """Return ` (did you mean 'x'?)` when a valid name is close, else the list of valid names.

    >>> did_you_mean("adm", ["sgd", "adam"])
    " (did you mean 'adam'?)"
    """
    names = sorted(valid)
    if len(names) > _TOO_MANY or len(str(found)) > _TOO_LONG:
        return ""
    close = difflib.get_close_matches(str(found), names, n=1)
    if close:
        return f" (did you mean {close[0]!r}?)"
    shown = ", ".join(names[:12]) + (", ..." if len(names) > 12 else "")
    return f" (valid: {shown})" if names else ""
