"""A Ray cluster for one process: its token is kept in memory, its files in a private folder, its ports on loopback.

    cluster = LocalCluster()
    cluster.start(include_dashboard=False)       # ray.init(address="local"), closed to other users
    cluster.end()                                # Ray's processes, the token and the folder are gone

By default, Ray writes its token to a file that every user can read (~/.ray/auth_token), keeps its session in folders
of mode 0777 that are never removed, and listens on every interface. Here the token is in the environment of this
process and of its Ray processes. The folder is `/tmp/ru-<user id>/<name>`, or below RAY_TMPDIR or TMPDIR if they are
set; its parent has mode 0700. The names are short because a socket's path has at most 107 bytes. The next start removes
the folders of processes that have died.

Does not cover: Ray's metrics ports, which require no token (they are on loopback, too); existing clusters.
"""

from __future__ import annotations

import os
import secrets
import shutil
import stat
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import ray
from ray._private import ray_constants
from ray._raylet import AuthenticationTokenLoader, Config  # type: ignore[attr-defined]

from ray_unlearn.errors import ClusterError
from ray_unlearn.submit import folder_cache

_SESSION_BYTES = len("/session_2026-11-30_00-07-25_042642_4194304/sockets/plasma_store")
_SOCKET_BYTES = 107
_STARTS = 2
"""Number of starts: on a busy machine, Ray may time out while it starts, and is started once more."""
_TIMED_OUT = "timed out during startup"


class LocalCluster:
    """Ray on this machine, for this process alone."""

    def __init__(self) -> None:
        self._folder: _Folder | None = None
        self._variables: dict[str, str | None] = {}

    @property
    def folder(self) -> Path | None:
        """Ray's temporary folder, with its logs; None if no cluster runs."""
        return self._folder.path if self._folder else None

    def start(self, log: Callable[[str], None], **options: Any) -> None:
        """Start Ray and connect to it; start it once more if it timed out.

        Args:
            log: called with a line if Ray is started once more.
            options: further options of `ray.init`.

        Raises:
            ClusterError: the private folder cannot be made.
            Exception: what `ray.init` raises.

        """
        for left in reversed(range(_STARTS)):
            try:
                self._start(options)
                return
            except Exception as error:
                self._end_processes()
                self.end()
                if _TIMED_OUT not in str(error) or not left:
                    raise
                log("Ray timed out while it started, as it may on a busy machine; starting it once more")

    def _start(self, options: Mapping[str, Any]) -> None:
        self._folder = _Folder.make()
        # With RAY_AUTH_MODE unset, Ray requires the token, also if this user's other clusters have another mode.
        self._set({"RAY_AUTH_TOKEN": secrets.token_hex(32), "RAY_AUTH_TOKEN_PATH": None, "RAY_AUTH_MODE": None})
        AuthenticationTokenLoader.instance().reset_cache()
        several, ray_constants.ENABLE_RAY_CLUSTER = ray_constants.ENABLE_RAY_CLUSTER, False  # the node is 127.0.0.1
        try:
            ray.init(address="local", _temp_dir=str(self._folder.path), **options)
        finally:
            ray_constants.ENABLE_RAY_CLUSTER = several

    def end(self, *, keep_logs: bool = False) -> None:
        """Shut Ray down, delete the token, and remove the folder; with `keep_logs`, the next start removes it."""
        ray.shutdown()
        if self._folder:
            self._folder.leave(remove=not keep_logs)
            self._folder = None
        if self._variables:
            self._set(self._variables)
            self._variables = {}
            Config.initialize("")
            AuthenticationTokenLoader.instance().reset_cache()

    def _end_processes(self) -> None:
        """Kill processes left by a failed start: children of this process that work in its folder."""
        import psutil  # Ray brings its own

        for child in psutil.Process().children(recursive=True):
            with suppress(psutil.Error):
                if self._folder and any(str(self._folder.path) in word for word in child.cmdline()):
                    child.kill()

    def _set(self, variables: Mapping[str, str | None]) -> None:
        """Set and unset variables; their previous values are kept and restored at the end."""
        self._variables = {name: os.environ.get(name) for name in variables} | self._variables
        for name, value in variables.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


class _Folder:
    """A private folder for one process, which holds a lock on it for as long as it lives."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path, self._descriptor = path, descriptor

    @classmethod
    def make(cls) -> _Folder:
        """Make a folder that no other user can enter; remove those of processes that have died.

        Raises:
            ClusterError: the folder cannot be made, or its path is too long for Ray's sockets.

        """
        base = Path(_temporary())
        parent = base / f"ru-{os.getuid()}"
        spare = _SOCKET_BYTES - _SESSION_BYTES - len(os.fsencode(parent)) - len("/abcdefgh")
        if spare < 0:
            raise ClusterError(
                f"RAY_TMPDIR: {base} is {-spare} bytes too long for Ray's sockets, whose paths have at most "
                f"{_SOCKET_BYTES} bytes; set RAY_TMPDIR to a shorter folder"
            )
        try:
            parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            _check_owner(parent)
            with folder_cache.locked(parent):
                _sweep(parent)
                path = Path(tempfile.mkdtemp(prefix="", dir=parent))
                return cls(path, _lock(path))
        except OSError as error:
            raise ClusterError(
                f"{parent}: no private folder for Ray can be made: {error.strerror or error}; set RAY_TMPDIR to a "
                "folder of your own"
            ) from error

    def leave(self, *, remove: bool) -> None:
        """Release the lock; remove the folder now, or leave that to the next start."""
        if remove:
            shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._descriptor)


def _temporary() -> str:
    """Return the folder in which Ray makes its temporary folder by default."""
    given = os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR")
    return given or "/tmp"  # noqa: S108 - the folder made there is private; the paths of gettempdir() may be long


def _check_owner(parent: Path) -> None:
    """Check that a folder is this user's; remove other users' permissions from it.

    Raises:
        ClusterError: it is a link, no folder, or another user's.

    """
    found = parent.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise ClusterError(
            f"{parent}: expected a folder of this user's; found another user's, or a link; remove it, or set "
            "RAY_TMPDIR to a folder of your own"
        )
    parent.chmod(0o700)


def _lock(path: Path) -> int:
    """Return a descriptor that holds a lock on a folder.

    Raises:
        BlockingIOError: another process holds it.
        OSError: the file system has no locks.

    """
    import fcntl  # not on Windows, where there are no such folders

    descriptor = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _sweep(parent: Path) -> None:
    """Remove the folders whose process has died."""
    for path in parent.iterdir():
        with suppress(OSError):  # its process is alive
            descriptor = _lock(path)
            shutil.rmtree(path, ignore_errors=True)
            os.close(descriptor)
