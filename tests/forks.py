"""Commands in processes of their own that are forked from one server, which has imported torch and the package already.

    done = run(["generate", "study.yaml"], environment={**os.environ, "PYTHONPATH": str(site)})
    done.returncode, done.stdout, done.stderr
    process = start(["generate", "study.yaml"], output=folder / "log")     # a multiprocessing.Process
    os.kill(process.pid, signal.SIGTERM)

A fresh interpreter takes 3 to 5 s of processor time to import torch; a fork takes none. Modules that only the command
would import are not imported in the server: methods of distributions, scripts, Ray. The command's own fork server is a
fork, too.

Does not cover: what a command does while it imports; /proc/PID/environ, which is the server's.
"""

from __future__ import annotations

import io
import json
import multiprocessing
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from ray_unlearn.usercode import fork_server, imports
from ray_unlearn.usercode.serving import serve

_LOADED = [
    *("ray_unlearn.run.worker", "ray_unlearn.generation.inline", "ray_unlearn.generation.driver", "ray_unlearn.cli"),
    *("pandas", "sklearn.datasets", "torch._dynamo"),  # what a run imports when it needs it
]


def forked(target: Callable[..., None], *arguments: Any) -> BaseProcess:
    """Start a function of a module in a forked process."""
    imports.forget()  # the process gets this one's path, on which the folder of the last study may be
    return _started(target, *arguments)


def _started(target: Callable[..., None], *arguments: Any) -> BaseProcess:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_LOADED)
    process = context.Process(target=target, args=arguments)
    process.start()
    return process


class Server:
    """Stands for the new interpreter that a fork server is: it is forked, and imports nothing again."""

    def __init__(self, command: list[str], **how: Any) -> None:
        path, descriptor, preparation = command[-3:]
        with socket.socket(fileno=os.dup(int(descriptor))) as theirs:
            self._process = _started(_served, json.loads(path), theirs, preparation)

    def wait(self, timeout_s: float | None = None) -> None:
        self._process.join(timeout_s)  # it ends as soon as it has forked


def _served(path: list[str], connection: socket.socket, preparation: str) -> None:
    sys.path[:] = path
    serve(connection.detach(), preparation)


def start(
    arguments: Sequence[str], output: Path, errors: Path | None = None, environment: Mapping[str, str] = os.environ
) -> BaseProcess:
    """Start a command; both of its streams go to a file, or each to its own."""
    return forked(_command, list(arguments), str(output), str(errors or output), dict(environment))


def run(
    arguments: Sequence[str], timeout_s: float = 120, environment: Mapping[str, str] = os.environ
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, in the current folder."""
    with tempfile.TemporaryDirectory() as folder:
        output, errors = Path(folder) / "output", Path(folder) / "errors"
        process = start(arguments, output, errors, environment)
        process.join(timeout_s)
        if process.exitcode is None:
            process.kill()
            raise subprocess.TimeoutExpired(list(arguments), timeout_s)
        return subprocess.CompletedProcess(arguments, process.exitcode, output.read_text(), errors.read_text())


_MOST_FILES = 4096


class _Forking:
    """Stands for the process that starts a fork server, which is a fork of this one: nothing is imported again."""

    def __init__(self, command: list[str], **how: Any) -> None:
        descriptor = how["pass_fds"][0]
        self._pid = os.fork()
        if not self._pid:
            os.closerange(3, descriptor)
            os.closerange(descriptor + 1, _MOST_FILES)
            serve(descriptor, command[-1])

    def wait(self, timeout_s: float | None = None) -> None:
        os.waitpid(self._pid, 0)  # it ends as soon as it has forked


def _command(arguments: list[str], output: str, errors: str, environment: dict[str, str]) -> None:
    """Become the command: its streams, environment, path and arguments."""
    from ray_unlearn import cli

    fork_server.subprocess = SimpleNamespace(Popen=_Forking, DEVNULL=subprocess.DEVNULL)  # type: ignore[assignment]
    for name, number in ((output, 1), (errors, 2)):
        file = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(file, number)
        os.close(file)
    sys.stdout = io.TextIOWrapper(os.fdopen(1, "wb"), encoding="utf-8", line_buffering=True)
    sys.stderr = io.TextIOWrapper(os.fdopen(2, "wb", 0), encoding="utf-8", write_through=True)
    os.environ.clear()
    os.environ.update(environment)
    sys.path[:0] = filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))
    sys.argv = ["ray-unlearn", *arguments]
    cli.run()
