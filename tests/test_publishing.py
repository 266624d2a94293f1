"""Publishing next to training: as quick as the slower of the two, one at a time, and nothing half-published."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import TINY, payload_bytes
from slow import records_in, slow_study

from ray_unlearn.errors import StoreError
from ray_unlearn.generation import generate
from ray_unlearn.run.publisher import Publisher
from ray_unlearn.store.filesystem import Storage
from ray_unlearn.study import Study, parse_study

PAUSE_S = 0.3  # slow.py trains for as long


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


def study_of(folder: Path, count: int) -> Study:
    return parse_study(slow_study(folder, count), where="slow")


def test_runs_take_the_longer_of_training_and_publishing_not_the_sum(tmp_path: Path, disk: SlowDisk):
    """Law: 8 runs that train and publish for 0.3 s each take 8 x 0.3, the last 0.3 and the original's."""
    summary = generate(study_of(tmp_path, 8), backend="inline")
    assert summary.made == 9
    apart = 8 * (PAUSE_S + PAUSE_S) + PAUSE_S
    assert 10 * PAUSE_S < summary.phases["runs"] < 0.85 * apart
    assert disk.most == 1  # never two publications at a time
    beside = [name for name, thread in zip(disk.names, disk.threads, strict=True) if thread.startswith("publisher")]
    assert beside[-8:] == disk.names[-8:]  # an imported original may be so quick that it is published at once
    assert disk.names == ["tiny/original/00000", *(f"tiny/mine/{i:05d}" for i in range(8))]


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
    study = study_of(tmp_path, 3)
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
        generate(study_of(tmp_path, 6), backend="inline")
    made = records_in(tmp_path)
    assert 2 <= made < 7
    assert not list((tmp_path / "store").rglob(".tmp-*"))
    assert len(payload_bytes(tmp_path / "store/tiny")) == 2 * made + 1
    again = generate(study_of(tmp_path, 6), backend="inline")
    assert (again.already, again.made) == (made, 7 - made)


def test_bytes_do_not_depend_on_when_they_were_published(tiny, tmp_path: Path, disk: SlowDisk):
    """Law: the slowest disk and the quickest hold the same bytes: the next run never touches what is being written."""
    originals = {"original": {"count": 3}, "finetune": TINY["populations"]["finetune"]}
    for name, pause_s in (("slow", 0.2), ("quick", 0.0)):
        disk.pause_s = pause_s
        study = tiny(storage=str(tmp_path / name), populations=originals, checkpoint_dtype="bf16")
        assert generate(study, backend="inline").made == 6
    assert payload_bytes(tmp_path / "slow/tiny") == payload_bytes(tmp_path / "quick/tiny")
