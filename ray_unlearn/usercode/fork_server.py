"""A process that forks others for a user's code: started once by each process that needs one, and shared by its calls.

    start()                                      # early: its imports take seconds, beside those of this process
    with fork_server() as server:
        server.do("ray_unlearn.run.child:open_job", {...}, [file])       # in the server itself: the package's own code
        ended = server.fork("ray_unlearn.run.child:make", {...}, [result], log=log, limit_s=60.0)
    ended.status, ended.why                      # wait status; "time" or "memory" where it was ended for a limit
    other = start().clone()                      # another server, forked from the first: no import again

To fork this process itself would not be safe: it has threads, perhaps a GPU, perhaps Ray. The server has none of them.
It ends with this process, also where that is killed, and ends what it forked before. A server has one call at a time; a
process that wants several forks at once has a clone for each.

Does not cover: what the server does (`serving`), the meaning of a call, reading its result (`wire.read_result`).
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray_unlearn.usercode.wire import ready, receive, send

_PREPARATION = "ray_unlearn.run.child:prepare"
"""Function that the server executes before the first call: it imports all that a run needs."""
_PROGRAM = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from ray_unlearn.usercode.serving import serve; "
    "serve(int(sys.argv[2]), sys.argv[3])"
)
_PIPE_BYTES = 2**20
_ENDS_S = 8.0
"""Seconds that the server has to end what it forked, before it is killed itself."""


class ServerLost(Exception):
    """The server ended during a call, or refused it; the text says what is known."""


@dataclass(frozen=True, slots=True)
class Ended:
    """How a forked process ended."""

    status: int
    """Wait status (`os.waitstatus_to_exitcode`)."""
    why: str = ""
    """`time` or `memory` where it was ended for a limit."""
    cpu_s: float = 0.0
    """CPU seconds of it, and of what it started."""


class ForkServer:
    """A server, seen from the process that started it."""

    owner: object = None
    """The object for which the server opened what it holds."""

    def __init__(self, connection: socket.socket, pid: int = 0) -> None:
        """Take a server's connection, and its process id, where it is known already."""
        self._socket, self._pid = connection, pid
        self.process = os.getpid()
        self._folder, self._output = "", -1
        self._starting: subprocess.Popen[bytes] | None = None

    @classmethod
    def started(cls) -> ForkServer:
        """Start a server as a new interpreter; do not wait until it is ready."""
        ours, theirs = socket.socketpair()
        found = cls(ours)
        path = [str(Path(entry or ".").absolute()) for entry in sys.path]
        command = [sys.executable, "-c", _PROGRAM, json.dumps(path), str(theirs.fileno()), _PREPARATION]
        found._starting = subprocess.Popen(  # noqa: S603 - this interpreter
            command,
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            start_new_session=True,  # a terminal's Ctrl-C is for this process alone
        )
        theirs.close()
        return found

    def clone(self) -> ForkServer:
        """Fork the server itself, once it is ready; return the other one, which has imported what this one has.

        Raises:
            ServerLost: the server has ended, or cannot fork.

        """
        ours, theirs = socket.socketpair()
        try:
            with theirs, self._whole_calls():
                self._begin("", {}, [theirs.fileno()], fork=False, clone=True)
                return ForkServer(ours, int(self._answer()["clone"]))
        except BaseException:
            ours.close()
            raise

    def given_away(self) -> int:
        """Return the descriptor of the connection, for another process (`adopt`); this object is of no use then."""
        return self._socket.detach()

    def do(self, call: str, arguments: Mapping[str, Any], files: Sequence[int] = ()) -> None:
        """Execute a function of this package in the server.

        Raises:
            ServerLost: it raised an error, or the server has ended.

        """
        with self._whole_calls():
            self._begin(call, arguments, files, fork=False)
            self._answer()

    def fork(
        self,
        call: str,
        arguments: Mapping[str, Any],
        files: Sequence[int],
        *,
        log: Callable[[bytes], object],
        limit_s: float | None = None,
        limit_bytes: float | None = None,
    ) -> Ended:
        """Execute a function in a process that is forked for it; return when that and all it started have ended.

        Args:
            call: package.module:function, called with the arguments and the files' descriptors.
            arguments: values that JSON can hold.
            files: descriptors of open files that it gets.
            log: takes what it prints, piece by piece.
            limit_s: seconds after which it is ended.
            limit_bytes: memory above which it is ended.

        Raises:
            ServerLost: the server ended meanwhile, or cannot fork.

        """
        self.begin_fork(call, arguments, files, limit_s=limit_s, limit_bytes=limit_bytes)
        return self.end_fork(log)

    def begin_fork(
        self,
        call: str,
        arguments: Mapping[str, Any],
        files: Sequence[int],
        *,
        limit_s: float | None = None,
        limit_bytes: float | None = None,
    ) -> int:
        """Execute a function in a process that is forked for it, as `fork` does; return at once.

        What it prints can be read from the descriptor that is returned, and must be: a full pipe stops the process.

        Raises:
            ServerLost: the server has ended, or cannot fork.

        """
        with self._whole_calls():
            self._output, write_end = _pipe()
            try:
                limits = {"limit_s": limit_s, "limit_bytes": limit_bytes, "environment": dict(os.environ)}
                self._begin(call, arguments, [write_end, *files], fork=True, **limits)
            finally:
                os.close(write_end)
            self._folder = self._answer()["folder"]
            return self._output

    def end_fork(self, log: Callable[[bytes], object]) -> Ended:
        """Wait until the forked process and all that it started have ended; `log` takes what they still print.

        Raises:
            ServerLost: the server ended meanwhile.

        """
        with self._whole_calls():
            answer = self._drained(self._output, log)
            self._close_output()
            self._folder = ""
            return Ended(int(answer["status"]), str(answer["why"]), float(answer["cpu_s"]))

    def _close_output(self) -> None:
        if self._output >= 0:
            os.close(self._output)
        self._output = -1

    def close(self) -> None:
        """End the server, and what it forked; kill it where that takes too long."""
        self._close_output()
        ended = False
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)
            self._socket.settimeout(_ENDS_S)
            while self._socket.recv(2**16):  # the end of the stream is the end of the server
                pass
            ended = True
        self._socket.close()
        if self._pid and not ended:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(self._pid, signal.SIGKILL)  # the kernel kills its children with it
        if self._folder:  # a server that was killed cannot remove it
            shutil.rmtree(self._folder, ignore_errors=True)
        if self._starting is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._starting.wait(_ENDS_S)

    def leave(self) -> None:
        """Close the connection, and wait for nothing: the server ends by itself. For the end of this process."""
        self._socket.close()
        if self._starting is not None:
            self._starting.wait(_ENDS_S)

    @property
    def has_ended(self) -> bool:
        """Whether the server is gone, for example because it had nothing to do for a time."""
        if self._socket.fileno() < 0:
            return True
        if not ready([self._socket.fileno()], 0):
            return False
        try:
            return not self._socket.recv(1, socket.MSG_PEEK)
        except OSError:
            return True

    @contextlib.contextmanager
    def _whole_calls(self) -> Iterator[None]:
        """End the server where a call is broken off, by an interrupt or by the server's own end."""
        try:
            yield
        except (EOFError, OSError) as error:
            self.close()
            raise ServerLost(f"the process that forks runs has ended ({error})") from error
        except ServerLost:
            self._close_output()
            raise
        except BaseException:
            self.close()
            raise

    def _begin(self, call: str, arguments: Mapping[str, Any], files: Sequence[int], *, fork: bool, **more: Any) -> None:
        if self._starting is not None:
            self._pid = int(receive(self._socket)[0]["pid"])
            self._starting.wait()
            self._starting = None
        send(self._socket, {"call": call, "arguments": arguments, "fork": fork, **more}, files)

    def _answer(self) -> dict[str, Any]:
        answer, _ = receive(self._socket)
        if "refused" in answer:
            raise ServerLost(str(answer["refused"]))
        return answer

    def _drained(self, read_end: int, log: Callable[[bytes], object]) -> dict[str, Any]:
        """Take the output until the server says how the process ended; return its answer."""
        sources = [self._socket.fileno(), read_end]
        while True:
            if read_end not in ready(sources):  # all writers have ended, and their last bytes were read
                return self._answer()
            if data := os.read(read_end, _PIPE_BYTES):
                log(data)
            else:
                sources.remove(read_end)


def _pipe() -> tuple[int, int]:
    """Return a pipe's read end and its write end."""
    read_end, write_end = os.pipe()
    with contextlib.suppress(OSError, AttributeError):
        fcntl.fcntl(write_end, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
    return read_end, write_end


# The one server of this process

_lock = threading.RLock()
_server: ForkServer | None = None


def start() -> ForkServer:
    """Start the server, unless it runs already; do not wait until it is ready."""
    global _server  # noqa: PLW0603 - one per process
    with _lock:
        if _server is None or _server.process != os.getpid() or _server.has_ended:
            if _server is not None:
                _leave(_server)
            _server = ForkServer.started()
            atexit.register(_leave, _server)
        return _server


def adopt(descriptor: int) -> None:
    """Let a server that another process cloned be this process's one."""
    global _server  # noqa: PLW0603 - one per process
    with _lock:
        _server = ForkServer(socket.socket(fileno=descriptor))


def _leave(server: ForkServer) -> None:
    if server.process == os.getpid():
        server.leave()


@contextlib.contextmanager
def fork_server() -> Iterator[ForkServer]:
    """Yield this process's server; one thread at a time has it."""
    with _lock:
        yield start()


def stop() -> None:
    """End this process's server, where it has one."""
    global _server  # noqa: PLW0603
    with _lock:
        if _server is not None and _server.process == os.getpid():
            _server.close()
        _server = None
