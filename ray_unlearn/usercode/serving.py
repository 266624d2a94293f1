"""The fork server itself: a process with one thread that imports what runs need once, and forks a child for each call.

    python -c "...; serve(descriptor, 'ray_unlearn.run.child:prepare')"      # `fork_server` starts it so

It has touched neither CUDA nor Ray, and it computes with one thread, so that a forked child finds every library as if
it had just been imported. A child leads a session of its own, in an empty working folder, with the default handling of
signals, with its output in a pipe, and without a core file. However it ends, the server then ends all that it started,
removes the folder, and says how it ended. The server itself ends when its socket closes, which is when the process that
started it ends, and after a time without a call.

Does not cover: the other end of the socket (`fork_server`), what a call does (`run.child`).
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import io
import os
import resource
import shutil
import signal
import socket
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from ray_unlearn.usercode.processes import (
    adopt_orphans,
    descendants,
    end_children,
    end_with_parent,
    first_to_go,
    gather_pages,
    memory_of,
)
from ray_unlearn.usercode.wire import ready, receive, send

IDLE_S = 120.0
"""Seconds without a call after which the server ends; the next call starts another one."""
NO_RESULT = 74
"""Exit code of a child that could not write its result."""
FOLDER_PREFIX = "ru-run-"
_LOOK_S = 0.1
"""Seconds between two looks at the memory of a child."""


def serve(descriptor: int, preparation: str) -> NoReturn:
    """Prepare for calls, then answer them until the socket closes; the process ends here.

    Args:
        descriptor: the server's end of a Unix socket.
        preparation: package.module:function, which imports what calls need.

    """
    if os.fork():  # Ray kills the children of its workers before they could clean up: the server must be none
        os._exit(0)
    os.setsid()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    adopt_orphans()
    connection = socket.socket(fileno=descriptor)
    try:
        send(connection, {"pid": os.getpid()})
        function(preparation)({}, ())
        gc.collect()
        gc.freeze()  # a child's collector need not touch, and so copy, what the server imported
        gather_pages()
        _serve(connection)
    except (EOFError, OSError, SystemExit):
        pass  # the process that asked has ended
    except Exception as error:  # a damaged library may raise anything when it is imported
        with contextlib.suppress(OSError):
            send(connection, {"refused": f"the process that forks runs cannot start: {type(error).__name__}: {error}"})
    finally:
        os._exit(0)


def _serve(connection: socket.socket) -> None:
    while ready([connection.fileno()], IDLE_S):
        _answer(connection, *receive(connection))


def _answer(connection: socket.socket, request: dict[str, Any], files: list[int]) -> None:
    try:
        if request.get("clone"):
            _clone(connection, files[0])
        elif request["fork"]:
            _fork(connection, request, files)
        else:
            function(request["call"])(request["arguments"], files)
            send(connection, {"done": True})
    except (EOFError, OSError) as error:
        if isinstance(error, EOFError | ConnectionError):
            raise
        send(connection, {"refused": f"{type(error).__name__}: {error}"})
    except Exception as error:  # user code: a model's factory may raise anything
        send(connection, {"refused": f"{type(error).__name__}: {error}", "traceback": traceback.format_exc()})
    finally:
        for descriptor in files:
            os.close(descriptor)


def function(name: str) -> Callable[[Mapping[str, Any], Sequence[int]], None]:
    """Return the function that a call names, `package.module:function`."""
    module, _, attribute = name.partition(":")
    found: Callable[[Mapping[str, Any], Sequence[int]], None] = getattr(importlib.import_module(module), attribute)
    return found


# Another server

_clones: set[int] = set()
"""Servers that this one has forked, which end by themselves."""


def _clone(connection: socket.socket, descriptor: int) -> None:
    """Fork this process; the other one serves the process at the other end of a Unix socket."""
    for pid in [*_clones]:
        with contextlib.suppress(ChildProcessError):
            _clones.difference_update({os.waitpid(pid, os.WNOHANG)[0]})
    clone = os.fork()
    if clone:
        _clones.add(clone)
        send(connection, {"clone": clone})
        return
    _clones.clear()
    try:
        connection.close()
        os.setsid()
        adopt_orphans()
        _serve(socket.socket(fileno=descriptor))
    finally:
        os._exit(0)


# A child, seen from the server


def _fork(connection: socket.socket, request: Mapping[str, Any], files: list[int]) -> None:
    """Fork a child for a call, wait until it has ended, clean up, and report."""
    folder = Path(tempfile.mkdtemp(prefix=FOLDER_PREFIX))
    try:
        server, cpu_s = os.getpid(), _cpu_of_children()
        child = os.fork()
        if not child:
            _be_the_child(server, connection, request, files, folder)
        send(connection, {"child": child, "folder": str(folder)})
        try:
            why = _watch(connection, child, request["limit_s"], request["limit_bytes"])
        finally:
            status = _end(child)
    finally:
        _remove(folder)
    send(connection, {"status": status, "why": why, "cpu_s": _cpu_of_children() - cpu_s})


def _cpu_of_children() -> float:
    """Return the CPU seconds of all children that have ended, and of theirs."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _watch(connection: socket.socket, child: int, limit_s: float | None, limit_bytes: float | None) -> str:
    """Wait until a child has ended, or must be: return `time` or `memory` where it passed a limit, else nothing.

    Raises:
        EOFError: the process that wants the result is gone.

    """
    ends_at, base = None if limit_s is None else time.monotonic() + limit_s, memory_of([os.getpid()])
    with _ending(child) as ended:
        while True:
            left = None if ends_at is None else ends_at - time.monotonic()
            if left is not None and left <= 0:
                return "time"
            look = _LOOK_S if limit_bytes is not None or ended is None else None
            waits = min((one for one in (left, look) if one is not None), default=None)
            found = ready([connection.fileno(), *([ended] if ended is not None else [])], waits)
            if ended in found or (ended is None and _has_ended(child)):
                return ""
            if connection.fileno() in found:
                raise EOFError("the process that asked for the result has ended")
            if limit_bytes is not None and memory_of([child, *descendants(child)], beyond=base) > limit_bytes:
                return "memory"


@contextlib.contextmanager
def _ending(child: int) -> Any:
    """Yield a descriptor that is readable once a child has ended; None where the system has no such thing."""
    try:
        descriptor = os.pidfd_open(child)
    except (AttributeError, OSError):
        yield None
        return
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _has_ended(child: int) -> bool:
    return os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _end(child: int) -> int:
    """End a child and everything that it started; return its wait status."""
    ended = _has_ended(child)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child, signal.SIGKILL)  # its whole group; where orphans are adopted, the next lines find the others
    if not ended:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
    status = os.waitpid(child, 0)[1]
    end_children(_clones)
    return status


def _remove(folder: Path) -> None:
    """Remove a child's folder, also where the child took its own rights to folders in it away."""
    with contextlib.suppress(OSError, RecursionError):  # the child may have removed it, or made a very deep one
        folder.chmod(0o700)
        for place, names, _ in os.walk(folder):
            for path in (Path(place, name) for name in names):
                if not path.is_symlink():  # a link may lead out of the folder
                    path.chmod(0o700)
        shutil.rmtree(folder, ignore_errors=True)


# The child itself


def _be_the_child(
    server: int, connection: socket.socket, request: Mapping[str, Any], files: Sequence[int], folder: Path
) -> NoReturn:
    """Arrange the process for a stranger's code, execute the call, and end. The first of the files takes the output."""
    code = 1
    try:
        end_with_parent(server)
        os.setsid()
        connection.close()
        _reset_signals()
        _reset_streams(files[0])
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        first_to_go()
        _enter(folder, request["environment"])
        function(request["call"])(request["arguments"], files[1:])
        code = 0
    except BrokenPipeError:
        pass
    except BaseException as error:  # a user's code may raise anything, and no caller handles it
        code = NO_RESULT if isinstance(error, OSError | MemoryError) else 1
        with contextlib.suppress(BaseException):
            traceback.print_exc()
    finally:
        with contextlib.suppress(BaseException):
            sys.stdout.flush()
        os._exit(code)


def _reset_signals() -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)


def _reset_streams(output: int) -> None:
    """Let standard output and error be one stream into a pipe, in the order of the writes; there is no input."""
    empty = os.open(os.devnull, os.O_RDONLY)
    os.dup2(empty, 0)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.close(empty)
    # Both are one object, so that lines keep their order; bytes go to the pipe at once, so that a crash loses none.
    stream = io.TextIOWrapper(
        _Unbuffered(1, "wb", closefd=False), "utf-8", errors="backslashreplace", newline="\n", line_buffering=True
    )
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115 - open as long as the process lives
    sys.stdout = sys.stderr = sys.__stdout__ = sys.__stderr__ = stream  # type: ignore[misc]


class _Unbuffered(io.FileIO):
    """File that writes all bytes: a pipe may take a part of them."""

    def write(self, data: Any, /) -> int:
        view = memoryview(data).cast("B")
        size = len(view)
        while len(view):
            view = view[super().write(view) :]
        return size


def _enter(folder: Path, environment: Mapping[str, str]) -> None:
    """Enter an empty working folder, with temporary files beside it, and the caller's environment."""
    work, temporary = folder / "work", folder / "tmp"
    work.mkdir()
    temporary.mkdir()
    before = tempfile.gettempdir()
    os.environ.clear()
    os.environ.update(environment)
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", f"{before}/torchinductor_{os.getuid()}")  # compiled once for all
    os.environ["TMPDIR"] = str(temporary)
    tempfile.tempdir = None
    os.chdir(work)
