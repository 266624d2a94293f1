"""Killed in the middle: what is left is whole, and the same command makes exactly what is missing."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import pytest
import yaml
from conftest import payload_bytes
from forks import start
from slow import hurry, records_in, slow_study, unhurt

from ray_unlearn.cli import main
from ray_unlearn.generation import generate
from ray_unlearn.store import StudyStore, open_storage
from ray_unlearn.store.verify import verify
from ray_unlearn.study import load_study

COUNT = 12
SIGNALS = (signal.SIGKILL, signal.SIGTERM)


class Driver:
    """A driver process on a study of its own, and what became of it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.study = folder / "study.yaml"
        self.study.parent.mkdir()
        self.study.write_text(yaml.safe_dump(slow_study(folder, COUNT)))
        self.stderr = folder / "stderr"
        command = ["generate", str(self.study), "--backend", "inline"]
        self.process = start(command, Path(os.devnull), self.stderr)

    def end(self, number: signal.Signals) -> None:
        os.kill(self.process.pid, number)
        self.process.join(60)


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> dict[signal.Signals, Driver]:
    """Two drivers at once; each ended by its signal after three records."""
    drivers = {number: Driver(tmp_path_factory.mktemp("fault") / number.name) for number in SIGNALS}
    waiting, deadline = set(SIGNALS), time.monotonic() + 200
    while waiting:
        assert time.monotonic() < deadline, "the drivers made nothing"
        for number in sorted(waiting):
            assert drivers[number].process.is_alive(), drivers[number].stderr.read_text()
            if records_in(drivers[number].folder) >= 3:
                drivers[number].end(number)
                waiting.discard(number)
        time.sleep(0.02)
    return drivers


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    return unhurt(tmp_path_factory.mktemp("uninterrupted"), COUNT)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_driver_that_ends_in_the_middle_is_resumed(ended, uninterrupted, number: signal.Signals):
    """Law: what is recorded is whole; generate again makes exactly the rest; the bytes are an uninterrupted study's."""
    folder = ended[number].folder
    made = records_in(folder)
    assert 3 <= made < COUNT + 1
    files = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.glob("store/tiny/*/0*/*")}
    assert len(files) == 3 * made
    store = StudyStore(open_storage(str(folder / "store")), "tiny")
    assert verify(store, store.populations()).problems == ()

    hurry(folder)
    summary = generate(load_study(folder / "study.yaml"), backend="inline")
    assert (summary.already, summary.made, summary.exit_code) == (made, COUNT + 1 - made, 0)
    assert {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in files} == files
    assert payload_bytes(folder / "store/tiny") == uninterrupted
    assert not list((folder / "store").rglob(".tmp-*"))


ONE_LINE = "interrupted by {}; nothing is lost: the same command makes what is missing"


def test_sigterm_ends_with_143_and_one_line(ended):
    """Law: 128 + 15; one line states that nothing is lost; no traceback."""
    driver = ended[signal.SIGTERM]
    assert driver.process.exitcode == 143
    text = driver.stderr.read_text()
    assert text.splitlines()[-1] == ONE_LINE.format("SIGTERM")
    assert "Traceback" not in text


def test_sigint_ends_with_130_and_one_line(tmp_path, capfd):
    """Law: 128 + 2, at once, with a resumable store; afterwards the process has its own handlers again."""
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(slow_study(tmp_path, COUNT)))
    before = signal.getsignal(signal.SIGINT)

    def press_when_three_are_made() -> None:
        while records_in(tmp_path) < 3:
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=press_when_three_are_made).start()
    code = main(["generate", str(tmp_path / "study.yaml"), "--backend", "inline"])
    assert code == 130
    assert capfd.readouterr().err.splitlines()[-1] == ONE_LINE.format("SIGINT")
    assert signal.getsignal(signal.SIGINT) is before
    made = records_in(tmp_path)
    assert 3 <= made < COUNT + 1
    assert not list((tmp_path / "store").rglob(".tmp-*"))
    hurry(tmp_path)
    summary = generate(load_study(tmp_path / "study.yaml"), backend="inline")
    assert (summary.already, summary.made) == (made, COUNT + 1 - made)


def test_a_kill_is_a_kill(ended):
    """Law: SIGKILL gave the driver no chance to tidy up, so the resumption above has shown something."""
    assert ended[signal.SIGKILL].process.exitcode == -signal.SIGKILL
    assert "interrupted" not in ended[signal.SIGKILL].stderr.read_text()
