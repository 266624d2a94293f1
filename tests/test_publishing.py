"""Publishing next to training: a run is written while the next one trains, one at a time, and nothing by halves."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import TINY, payload_bytes
from slow import hurry, records_in, slow_study_in

from ray_unlearn.errors import StoreError
from ray_unlearn.generation import generate
from ray_unlearn.methods import finetune
from ray_unlearn.run.publisher import Publisher
from ray_unlearn.store.filesystem import Storage

PAUSE_S = 0.1


class SlowDisk:
    """Makes every publication of a run take a while, and watches."""

    def __init__(self, pause_s: float = PAUSE_S) -> None:
        self.pause_s, self.real = pause_s, Storage.publish_folder
        self.writing, self.most, self.names = 0, 0, list[str]()
        self.threads = list[str]()

    def publish_folder(self, storage: Storage, name: str, payloads: dict[str, bytes], last: tuple[str, bytes]) -> None:
        self.writing += 1
        self.most = max(self.most, self.writing)
        self.threads.append(threading.current_thread().name)
        time.sleep(self.pause_s)
        self.real(storage, name, payloads, last)
        self.names.append(name)
        self.writing -= 1


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[SlowDisk]:
    slow = SlowDisk()

    def publish_folder(storage: Storage, *args) -> None:
        slow.publish_folder(storage, *args)

    monkeypatch.setattr(Storage, "publish_folder", publish_folder)
    return slow


def test_a_run_is_published_while_the_next_one_trains(tmp_path: Path, disk: SlowDisk, monkeypatch: pytest.MonkeyPatch):
    """Law: publications last until the next run trains, and every one but the last ends for that; never two at a time.

    So runs take the longer of training and publishing, and not the sum.
    """
    fit, real, overlapped = finetune.fit, disk.real, list[bool]()
    begun = [threading.Event() for _ in range(4)]
    unseen = iter(begun)

    def fits(*arguments: Any, **named: Any) -> Any:
        next(unseen).set()
        return fit(*arguments, **named)

    def until_the_next_one_trains(storage: Storage, name: str, *rest: Any) -> None:
        if "/mine/" in name and not name.endswith("00003"):
            overlapped.append(begun[int(name[-5:]) + 1].wait(20))
        real(storage, name, *rest)

    monkeypatch.setattr(finetune, "fit", fits)
    disk.real, disk.pause_s = until_the_next_one_trains, 0.0
    assert generate(slow_study_in(tmp_path, 4), backend="inline").made == 5
    assert overlapped == [True] * 3
    assert disk.most == 1
    beside = [name for name, thread in zip(disk.names, disk.threads, strict=True) if thread.startswith("publisher")]
    assert beside[-4:] == disk.names[-4:]  # an imported original may be so quick that it is published at once
    assert disk.names == ["tiny/original/00000", *(f"tiny/mine/{i:05d}" for i in range(4))]


def test_a_worker_publishes_one_at_a_time():
    """Law: what is in flight is waited for before the next begins; a third model never exists."""
    publisher: Publisher[int] = Publisher()
    gate = threading.Event()
    publisher.begin(lambda: [gate.wait(10), 1][1])
    assert publisher.known() == []
    with pytest.raises(RuntimeError, match="in flight"):
        publisher.begin(lambda: 2)
    gate.set()
    assert publisher.flush() == [1]
    assert publisher.flush() == publisher.known() == []
    publisher.begin(lambda: 2)
    publisher.close()
    assert publisher.known() == [2]


def test_a_publication_that_fails_is_that_runs_failure(tmp_path: Path, disk: SlowDisk):
    """Law: one full disk, once: the run that was published then is tried again, no one else's attempt counts."""
    real, failed = disk.real, list[str]()

    def full_once(storage: Storage, name: str, *rest) -> None:
        if name.endswith("mine/00001") and not failed:
            failed.append(name)
            raise StoreError("No space left on device")
        real(storage, name, *rest)

    disk.real, disk.pause_s = full_once, 0.0
    study = slow_study_in(tmp_path, 3)
    hurry(tmp_path)
    assert generate(study, backend="inline").exit_code == 0
    assert failed == ["tiny/mine/00001"]
    attempts = [
        path.read_text().count('"attempt":2') + path.read_text().count('"attempt": 2')
        for path in sorted((tmp_path / "store/tiny/mine").glob("0*/record.json"))
    ]
    assert attempts == [0, 1, 0]


def test_an_interrupt_leaves_no_half_of_what_was_in_publication(tmp_path: Path, disk: SlowDisk):
    """Law: Ctrl-C while one run trains and one is written: the folder holds whole runs and no temporary file."""

    def press() -> None:
        while records_in(tmp_path) < 2 or not disk.writing:
            time.sleep(0.005)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=press).start()
    with pytest.raises(BaseException, match="SIGINT"):
        generate(slow_study_in(tmp_path, 6), backend="inline")
    made = records_in(tmp_path)
    assert 2 <= made < 7
    assert not list((tmp_path / "store").rglob(".tmp-*"))
    assert len(payload_bytes(tmp_path / "store/tiny")) == 2 * made + 1
    hurry(tmp_path)
    again = generate(slow_study_in(tmp_path, 6), backend="inline")
    assert (again.already, again.made) == (made, 7 - made)


def test_bytes_do_not_depend_on_when_they_were_published(tiny, tmp_path: Path, disk: SlowDisk):
    """Law: the slowest disk and the quickest hold the same bytes: the next run never touches what is being written."""
    originals = {"original": {"count": 3}, "finetune": TINY["populations"]["finetune"]}
    for name, pause_s in (("slow", 0.1), ("quick", 0.0)):
        disk.pause_s = pause_s
        study = tiny(storage=str(tmp_path / name), populations=originals, checkpoint_dtype="bf16")
        assert generate(study, backend="inline").made == 6
    assert payload_bytes(tmp_path / "slow/tiny") == payload_bytes(tmp_path / "quick/tiny")
