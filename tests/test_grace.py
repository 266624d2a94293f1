"""A signal at any moment of `generate`: over within the grace, one line, no one left, and a resume to the same bytes.

`test_faults.py` has the middle of a run; here are the moments before and after, seen from outside.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from conftest import payload_bytes
from slow import hurry, records_in, slow_study, unhurt

from ray_unlearn.generation import generate
from ray_unlearn.interrupts import GRACE_S, RESUMABLE
from ray_unlearn.study import load_study

COUNT = 6
INLINE, RAY = ("--backend", "inline"), ("--backend", "ray", "--workers", "2")
FORKED = ("--backend", "inline", "--workers", "2")


class Command:
    """`ray-unlearn generate` in a process whose descendants can all be found: they inherit a mark."""

    def __init__(self, folder: Path, how: tuple[str, ...]) -> None:
        self.folder, self._mark = folder, f"GRACE_TEST={uuid.uuid4().hex}"
        study = folder / "study.yaml"
        study.write_text(yaml.safe_dump(slow_study(folder, COUNT)))
        name, _, value = self._mark.partition("=")
        command = [sys.executable, "-m", "ray_unlearn.cli", "generate", str(study), *how]
        with (folder / "said").open("wb") as said:
            self.process = subprocess.Popen(
                command, stdout=said, stderr=said, env={**os.environ, name: value}, start_new_session=True
            )

    def said(self) -> str:
        return (self.folder / "said").read_text()

    def alive(self) -> dict[int, str]:
        """Return the command lines of it and all its descendants, no matter which process is their parent now."""
        found = {}
        for path in Path("/proc").glob("[0-9]*"):
            try:
                if self._mark.encode() in (path / "environ").read_bytes():
                    found[int(path.name)] = (path / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except OSError:
                continue  # it has ended meanwhile, or is not ours to look at
        return found

    def runs(self, name: str) -> bool:
        return any(name in command for command in self.alive().values())

    def maps(self, library: str) -> bool:
        try:
            return library in Path(f"/proc/{self.process.pid}/maps").read_text()
        except OSError:
            return False

    def stored(self, pattern: str) -> bool:
        return next((self.folder / "store").glob(pattern), None) is not None


MOMENTS: dict[str, Callable[[Command], bool]] = {
    "torch is imported": lambda command: command.maps("libtorch"),
    "Ray starts": lambda command: command.runs("gcs_server"),
    "Ray has started": lambda command: command.runs("agent.py"),
    "data are decoded": lambda command: command.stored("data-cache/*"),
    "workers start": lambda command: "runs to make" in command.said(),
    "workers open": lambda command: command.runs("ray::Worker") or "worker ready" in command.said(),
    "runs are made": lambda command: records_in(command.folder) >= 2,
    "a run is published": lambda command: command.stored("tiny/*/.tmp-*") or records_in(command.folder) >= 3,
    "all runs are made": lambda command: records_in(command.folder) == COUNT + 1,
}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    return unhurt(tmp_path_factory.mktemp("undisturbed"), COUNT)


def strike(command: Command, moment: str, number: signal.Signals) -> float:
    """Send the signal when the moment has come, SIGINT to the group as terminals do; return the seconds it took."""
    deadline = time.monotonic() + 120
    while not MOMENTS[moment](command):
        assert command.process.poll() is None, command.said()
        assert time.monotonic() < deadline, f"never came to {moment!r}: {command.said()}"
        time.sleep(0.005)
    begun = time.monotonic()
    os.killpg(command.process.pid, number) if number == signal.SIGINT else command.process.send_signal(number)
    command.process.wait(60)
    return time.monotonic() - begun


def assert_ended_well(command: Command, seconds: float, number: signal.Signals) -> None:
    """Within the grace, 128 + the signal, one line, and no one is left.

    Ray's agents, killed while they start themselves, look for their node for a minute more; they hold nothing.
    """
    assert seconds < GRACE_S + 1
    assert command.process.returncode == 128 + number, command.said()
    assert "Traceback" not in command.said(), command.said()
    assert command.said().splitlines()[-1].startswith(f"interrupted by {number.name}; ")
    assert command.said().rstrip().endswith(RESUMABLE)
    assert gone(command, lambda left: "agent" not in left.lower(), within_s=5), command.alive()
    assert gone(command, lambda left: True, within_s=120), command.alive()


def gone(command: Command, which: Callable[[str], bool], within_s: float) -> bool:
    """Return whether none of these is left of it, waiting for that."""
    deadline = time.monotonic() + within_s
    while any(map(which, command.alive().values())):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def assert_resumes(command: Command, undisturbed: dict[str, bytes]) -> None:
    """The same study makes exactly what is missing, to the bytes of one that no one disturbed."""
    made = records_in(command.folder)
    hurry(command.folder)
    summary = generate(load_study(command.folder / "study.yaml"), backend="inline")
    assert (summary.already, summary.made) == (made, COUNT + 1 - made)
    assert payload_bytes(command.folder / "store/tiny") == undisturbed
    assert not list((command.folder / "store").rglob(".tmp-*"))


EVERYDAY = [("torch is imported", INLINE, signal.SIGINT), ("data are decoded", INLINE, signal.SIGTERM)]
LONG = [
    (moment, how, number)
    for how in (INLINE, FORKED, RAY)
    for moment in MOMENTS
    for number in (signal.SIGINT, signal.SIGTERM)
    if (how == RAY or "Ray" not in moment) and (moment, how, number) not in EVERYDAY
]


@pytest.mark.parametrize(
    ("moment", "how", "number"), [*EVERYDAY, *(pytest.param(*case, marks=pytest.mark.long) for case in LONG)]
)
def test_a_signal_at_any_moment_ends_it_within_the_grace(moment, how, number, tmp_path: Path, undisturbed):
    """Law: no matter what it is at, it ends in `GRACE_S`, as reported; nothing of it goes on; the same command does the
    rest.
    """
    if how == RAY:
        pytest.importorskip("ray")
    command = Command(tmp_path, how)
    seconds = strike(command, moment, number)
    assert_ended_well(command, seconds, number)
    assert_resumes(command, undisturbed)
    sys.stderr.write(f"{moment}, {how[1:]}, {number.name}: {seconds:.1f} s\n")
