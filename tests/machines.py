"""Machines on this one that share a network and nothing else: a network namespace and a /tmp of its own for each.

    with machines(3, folder) as (head, *others):
        ray = head.start("ray", "start", "--head", ...)
        head.run("ray-unlearn", ...)             # next to what was started there
        others[0].unplug()                       # no process dies, and none is noticed again

Needs root, `ip` and `nsenter` (Linux). What a machine started is killed at the end, and its network removed.

Does not cover: CPUs and memory, which all of them share.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_OWN = os.getpid() % 10_000
_NET = f"10.213.{_OWN % 250}"


def possible() -> bool:
    """Return whether this process may make such machines."""
    if os.geteuid() or not shutil.which("ip") or not shutil.which("nsenter"):
        return False
    return subprocess.run(["unshare", "-n", "-m", "true"], check=False, capture_output=True).returncode == 0


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


class Machine:
    """One of them."""

    def __init__(self, number: int, folder: Path) -> None:
        self.folder = folder / f"machine{number}"
        """What it sees as /tmp."""
        self.folder.mkdir()
        self.address = f"{_NET}.{10 + number}"
        self.name, self._cable = f"ru{_OWN}-{number}", f"ru{_OWN}c{number}"
        self._first: subprocess.Popen[bytes] | None = None
        ip("netns", "add", self.name)
        ip("link", "add", self._cable, "type", "veth", "peer", "name", "eth0", "netns", self.name)
        ip("link", "set", self._cable, "master", f"ru{_OWN}b", "up")
        ip("-n", self.name, "addr", "add", f"{self.address}/24", "dev", "eth0")
        for device in ("lo", "eth0"):
            ip("-n", self.name, "link", "set", device, "up")

    def log(self) -> str:
        """Return what its first process has printed."""
        return (self.folder / "log").read_text()

    def start(self, *command: str, **environment: str) -> None:
        """Start its first process, which keeps its /tmp alive."""
        prepare = f'mount --bind {self.folder} /tmp && mount -t tmpfs tmpfs /dev/shm && exec "$@"'
        enter = ["ip", "netns", "exec", self.name, "unshare", "-m", "bash", "-c", prepare, "bash"]
        with (self.folder / "log").open("wb") as log:
            env = os.environ | environment
            self._first = subprocess.Popen([*enter, *command], env=env, cwd="/", stdout=log, stderr=log)

    def run(self, *command: str, **environment: str) -> subprocess.Popen[str]:
        """Start another process next to the first."""
        assert self._first is not None
        enter = ["nsenter", "-t", str(self._first.pid), "-m", "-n"]
        pipe = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        return subprocess.Popen([*enter, *command], env=os.environ | environment, cwd="/", text=True, **pipe)

    def unplug(self) -> None:
        """Take its network away without a word to anybody."""
        ip("link", "set", self._cable, "down")

    def end(self) -> None:
        """Kill what runs there, and remove its network."""
        there = subprocess.run(["ip", "netns", "pids", self.name], capture_output=True, text=True, check=False)
        for pid in there.stdout.split():
            with suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        if self._first is not None:
            self._first.wait()
        for what in (("link", "del", self._cable), ("netns", "del", self.name)):
            subprocess.run(["ip", *what], check=False, capture_output=True)


@contextmanager
def machines(count: int, folder: Path) -> Iterator[list[Machine]]:
    """Make machines and a switch between them; this process has the address `gateway()` there."""
    made: list[Machine] = []
    with network():
        try:
            for number in range(count):
                made.append(Machine(number, folder))
            yield made
        finally:
            for machine in made:
                machine.end()


@contextmanager
def network() -> Iterator[None]:
    """Make the switch that connects machines."""
    ip("link", "add", f"ru{_OWN}b", "type", "bridge")
    try:
        ip("addr", "add", f"{gateway()}/24", "dev", f"ru{_OWN}b")
        ip("link", "set", f"ru{_OWN}b", "up")
        yield
    finally:
        subprocess.run(["ip", "link", "del", f"ru{_OWN}b"], check=False)


def gateway() -> str:
    """Return the address of this process in the machines' network."""
    return f"{_NET}.1"
