"""NVIDIA's Multi-Process Service for a block: a daemon of our own, under its own folders, ended in any case.

    with mps_daemon() as served:                 # the environment of this process states where it is, for its children
        ...                                      # processes started here share the GPU through it
        served()                                 # whether any of them did

Where CUDA does not reach the daemon, it goes on without MPS and does not report it; hence `served`. The daemon runs
in the foreground, as the leader of a process group, so that it and the server it starts can be ended together.
Folders and commands: NVIDIA's MPS manual, "Tools and Interface Reference".

Does not cover: compute modes and limits per client, which are settings of the device.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from ray_unlearn.errors import RayUnlearnError

CONTROL = "nvidia-cuda-mps-control"
_READY_S, _ANSWER_S, _END_S = 20.0, 10.0, 10.0


def missing() -> str:
    """Return why there can be no daemon here; empty where there can."""
    return "" if shutil.which(CONTROL) else f"{CONTROL} is not in PATH"


@contextlib.contextmanager
def mps_daemon() -> Iterator[Callable[[], bool]]:
    """Start a daemon and point this process's environment at it; end it, and put the environment back.

    Raises:
        RayUnlearnError: it does not start.

    """
    with tempfile.TemporaryDirectory(prefix="mps-") as folder:  # short: a socket's path has 107 bytes
        places = {f"CUDA_MPS_{name}_DIRECTORY": str(Path(folder, name.lower())) for name in ("PIPE", "LOG")}
        for place in places.values():
            Path(place).mkdir()
        hidden = "CUDA_VISIBLE_DEVICES"  # numbers would be applied twice: by the daemon, then by each client
        environment = {name: value for name, value in os.environ.items() if name != hidden} | places
        daemon = subprocess.Popen(
            [shutil.which(CONTROL) or CONTROL, "-f"],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            _wait_for(daemon, environment)
            with _environment(places):
                yield lambda: _servers(environment)
        finally:
            _end(daemon, environment)


@contextlib.contextmanager
def without_mps() -> Iterator[None]:
    """Keep processes started in the block out of any daemon: CUDA joins one that is there, and does not report it."""
    with tempfile.TemporaryDirectory(prefix="mps-") as folder, _environment({"CUDA_MPS_PIPE_DIRECTORY": folder}):
        yield


def _wait_for(daemon: subprocess.Popen[bytes], environment: Mapping[str, str]) -> None:
    end = time.monotonic() + _READY_S
    while _asked("get_server_list", environment) is None:
        if daemon.poll() is not None:
            raise RayUnlearnError(f"{CONTROL} ended at once, with {daemon.returncode}")
        if time.monotonic() > end:
            raise RayUnlearnError(f"{CONTROL} does not answer within {_READY_S:g} s")
        time.sleep(0.1)


def _servers(environment: Mapping[str, str]) -> bool:
    """Return whether a process has asked for a server: the daemon lists the process id of each."""
    return any(word.isdigit() for word in (_asked("get_server_list", environment) or "").split())


def _asked(command: str, environment: Mapping[str, str]) -> str | None:
    """Return the daemon's answer; None where there is none."""
    try:
        done = subprocess.run(
            [shutil.which(CONTROL) or CONTROL],
            input=f"{command}\n",
            env=environment,
            capture_output=True,
            text=True,
            timeout=_ANSWER_S,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout


def _end(daemon: subprocess.Popen[bytes], environment: Mapping[str, str]) -> None:
    """Ask it to quit, with its servers; then end its group, which it leads."""
    _asked("quit -t 5", environment)
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(subprocess.TimeoutExpired):
            daemon.wait(_END_S)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(daemon.pid, number)  # the server, too, where it outlived the daemon
    daemon.wait()


@contextlib.contextmanager
def _environment(places: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in places}
    os.environ.update(places)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
