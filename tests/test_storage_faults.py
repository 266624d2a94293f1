"""Storage that fills up, turns read-only, fails now and then, or is slow: nothing half made, nothing in silence."""

from __future__ import annotations

import errno
import os
import random
import re
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import TINY, merged, payload_bytes
from evaluated import evaluated_store
from mounts import remount, tmpfs

from ray_unlearn.cli import main
from ray_unlearn.errors import StoreError, StoreUnwritable
from ray_unlearn.evaluation.evaluate import evaluate
from ray_unlearn.generation import generate
from ray_unlearn.run.worker import Worker
from ray_unlearn.store import StudyStore, disk, open_storage, retries
from ray_unlearn.store.verify import verify
from ray_unlearn.study import Run, Study, parse_study

COUNT = 6
MODEL = {"options": {"width": 32}}  # a checkpoint of some 100 kB
FULL = "No space left on device; free some space there, then run the same command again"


def study_in(storage: Path, **changes: object) -> Study:
    populations = {"populations": {"finetune": {"count": COUNT}}, "model": MODEL, "storage": str(storage)}
    return parse_study(merged(merged(TINY, populations), dict(changes)), where="a test")


def store_in(storage: Path) -> StudyStore:
    return StudyStore(open_storage(str(storage)), "tiny")


def left_over(storage: Path) -> list[Path]:
    """Return what is half written; a driver's marker, directly in the study's folder, is whole."""
    return [path for path in storage.rglob(".tmp-*") if path.parent.name != "tiny"]


@pytest.fixture(scope="module")
def faultless(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The study on a disk without faults."""
    folder = tmp_path_factory.mktemp("expected")
    assert generate(study_in(folder), backend="inline").exit_code == 0
    return folder


@pytest.fixture
def expected(faultless: Path) -> dict[str, bytes]:
    """The payloads of the study on a disk without faults."""
    return payload_bytes(faultless / "tiny")


def pages(folder: Path) -> int:
    """Return the bytes that the files below take up on a disk of pages of 4 KiB."""
    return sum(4096 * (1 + -(-path.stat().st_size // 4096)) for path in folder.rglob("*"))


@pytest.fixture
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retries, "_PAUSES_S", (0.0, 0.0, 0.0))


def is_whole_so_far(storage: Path, made: int) -> None:
    """Fail unless so many runs exist, each of them whole, and nothing half made is left."""
    store = store_in(storage)
    assert sum(len(store.made(name)) for name in store.populations()) == made
    assert verify(store, store.populations()).problems == ()
    assert left_over(storage) == []


class Full:
    """A disk without room for more than so many bytes."""

    def __init__(self, storage: Path, grow: Callable[[], None]) -> None:
        self.storage, self.grow = storage, grow


@pytest.fixture(params=["tmpfs", "counted"])
def full(
    faultless: Path, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Full]:
    """A storage that is full after about half of the runs: a real one, and one that pretends and needs no mount."""
    half = pages(faultless) - 3 * pages(faultless / "tiny/finetune/00000")
    if request.param == "tmpfs":
        with tmpfs(tmp_path / "small", str(half)) as folder:
            yield Full(folder, lambda: remount(folder, "size=64m"))
        return
    room, real = [half], disk._write_synced

    def write(path: Path, data: bytes) -> None:
        if len(data) > room[0]:
            path.write_bytes(data[: room[0]])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        room[0] -= len(data)
        real(path, data)

    monkeypatch.setattr(disk, "_write_synced", write)
    yield Full(tmp_path / "small", lambda: room.__setitem__(0, 10**9))


def generate_until_refused(study: Study, monkeypatch: pytest.MonkeyPatch) -> tuple[str, int, int]:
    """Return the error that ended `generate`, how many runs were made, and how many were trained."""
    trained: list[Run] = []
    real = Worker._make

    def make(self: Worker, run: Run, *how: Any) -> Any:
        trained.append(run)
        return real(self, run, *how)

    with monkeypatch.context() as patch:
        patch.setattr(Worker, "_make", make)
        with pytest.raises(StoreUnwritable) as refused:
            generate(study, backend="inline")
    store = store_in(Path(study.storage))
    return str(refused.value), sum(len(store.made(name)) for name in store.populations()), len(trained)


def test_a_full_disk_ends_generate_at_once(full: Full, expected: dict[str, bytes], monkeypatch, capfd):
    """Law: one line with cause and advice at the first run that is not taken; with room, the same command goes on."""
    error, made, trained = generate_until_refused(study_in(full.storage), monkeypatch)
    assert re.fullmatch(rf"{full.storage}: cannot write tiny/finetune/\d+: {FULL}; what was made is kept", error)
    assert 0 < made < COUNT
    assert trained <= made + 2  # the refused one, and the one that was trained next to its publication
    is_whole_so_far(full.storage, made)
    assert store_in(full.storage).failures("finetune") == {}

    full.grow()
    again = generate(study_in(full.storage), backend="inline")
    assert (again.already, again.made, again.exit_code) == (made, COUNT + 1 - made, 0)
    assert payload_bytes(full.storage / "tiny") == expected
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.usefixtures("ray_cluster")
def test_a_full_disk_ends_generate_at_once_on_ray(tmp_path: Path, faultless: Path, capfd):
    """Law: the same with workers in other processes; nothing is tried again, and no failure is recorded."""
    half = pages(faultless) - 3 * pages(faultless / "tiny/finetune/00000")
    with tmpfs(tmp_path / "small", str(half)) as folder:
        (tmp_path / "study.yaml").write_text(study_in(folder).model_dump_json())
        assert main(["generate", str(tmp_path / "study.yaml"), "--workers", "1"]) == 1
        said = capfd.readouterr().err.splitlines()
        assert re.fullmatch(
            rf"error: {folder}: cannot write tiny/finetune/\d+: {FULL}; what was made is kept", said[-1]
        )
        assert not [line for line in said if "again: " in line or "failed" in line]
        assert store_in(folder).failures("finetune") == {}
        remount(folder, "size=64m")
        assert main(["generate", str(tmp_path / "study.yaml"), "--backend", "inline"]) == 0
        assert payload_bytes(folder / "tiny") == payload_bytes(faultless / "tiny")


def test_a_disk_that_is_full_from_the_start_is_refused(tmp_path: Path):
    """Law: a storage that does not even take the images ends the command with one line, before any run."""
    with tmpfs(tmp_path / "tiny", "8k") as folder:
        with pytest.raises(StoreError, match=rf"{folder}: cannot write data-cache/.*: {FULL}"):
            generate(study_in(folder), backend="inline")
        assert left_over(folder) == []


def test_a_storage_that_turns_read_only_half_way(tmp_path: Path, expected: dict[str, bytes], monkeypatch):
    """Law: made runs stay made; the next ends the command with the cause; writable again, the same command goes on."""
    with tmpfs(tmp_path / "disk", "64m") as folder:
        real = disk._rename_folder

        def rename(beside: Path, final: Path, complete: str) -> None:
            real(beside, final, complete)
            if final.name == "00001":
                remount(folder, "ro")

        with monkeypatch.context() as patch:
            patch.setattr(disk, "_rename_folder", rename)
            error, made, trained = generate_until_refused(study_in(folder), monkeypatch)
        assert made == 3  # the original and two runs
        assert trained <= made + 2
        reason = "Read-only file system; it is mounted read-only: mount it writable, or choose another storage"
        assert error == f"{folder}: cannot write tiny/finetune/00002: {reason}; what was made is kept"
        remount(folder, "rw")
        assert generate(study_in(folder), backend="inline").made == COUNT - 2
        is_whole_so_far(folder, COUNT + 1)
        assert payload_bytes(folder / "tiny") == expected


@pytest.mark.parametrize("number", [errno.EACCES, errno.EDQUOT])
def test_a_permission_or_a_quota_that_is_lost_half_way(tmp_path: Path, expected, monkeypatch, number: int):
    """Law: a folder that takes no more files ends the command, states what to do, and leaves nothing behind."""
    real = Path.mkdir

    def mkdir(self: Path, *arguments: object, **options: object) -> None:
        if self.parent.name == "finetune" and self.name.startswith(disk.TEMPORARY):
            raise OSError(number, os.strerror(number), str(self))
        real(self, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "mkdir", mkdir)
        error, made, trained = generate_until_refused(study_in(tmp_path), monkeypatch)
    assert made == 1
    assert trained <= 3
    advice = {errno.EACCES: "give this user the right to do it", errno.EDQUOT: "free some space there"}[number]
    assert f"cannot write tiny/finetune/00000: {os.strerror(number)}; {advice}" in error
    is_whole_so_far(tmp_path, made)
    assert store_in(tmp_path).failures("finetune") == {}
    assert generate(study_in(tmp_path), backend="inline").made == COUNT
    assert payload_bytes(tmp_path / "tiny") == expected


@pytest.mark.usefixtures("no_pauses")
def test_an_error_that_may_pass_fails_its_run_alone(tmp_path: Path, monkeypatch):
    """Law: a storage that answers EIO to one run for ever costs that run its attempts; the others are made."""
    real = disk.publish_folder

    def publish(final: Path, *what: Any) -> None:
        if final.name == "00001":
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        real(final, *what)

    monkeypatch.setattr(disk, "publish_folder", publish)
    summary = generate(study_in(tmp_path), backend="inline")
    assert (summary.made, list(summary.failed)) == (COUNT, [Run(population="finetune", index=1)])
    assert store_in(tmp_path).failures("finetune")[1].attempts == 2


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.usefixtures("no_pauses")
def test_writes_that_fail_now_and_then_are_tried_again(tmp_path: Path, expected, monkeypatch, seed: int):
    """Law: a third of all writes fail with what may pass; not one run fails, and the bytes are those of a good disk."""
    rng, failed, real = random.Random(seed), list[Path](), disk._write_synced  # noqa: S311
    monkeypatch.setattr(retries, "_PAUSES_S", (0.0,) * 20)

    def write(path: Path, data: bytes) -> None:
        if rng.random() < 0.33:
            path.write_bytes(data[: len(data) // 2])
            failed.append(path)
            number = rng.choice([errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ENOENT])
            raise OSError(number, os.strerror(number))
        real(path, data)

    monkeypatch.setattr(disk, "_write_synced", write)
    summary = generate(study_in(tmp_path), backend="inline")
    assert (summary.made, summary.failed) == (COUNT + 1, {})
    assert len(failed) >= 4
    assert payload_bytes(tmp_path / "tiny") == expected
    is_whole_so_far(tmp_path, COUNT + 1)


def test_what_may_pass_is_tried_again_after_pauses_and_the_rest_at_once(monkeypatch):
    """Law: EIO four times in 0.5 + 2 + 5 s, ENOSPC once; an object store's 503 like EIO, its refusal like ENOSPC."""
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)

    def tries(error: OSError) -> int:
        calls = []

        def act() -> None:
            calls.append(1)
            raise error

        with pytest.raises(OSError, match=str(error.args[-1])):
            retries.attempt(act)
        return len(calls)

    assert tries(OSError(errno.EIO, "an error")) == 4
    assert slept == [0.5, 2.0, 5.0]
    assert tries(OSError("AWS Error SLOW_DOWN during PutObject operation")) == 4
    for final in (OSError(errno.ENOSPC, "full"), OSError("AWS Error ACCESS_DENIED during PutObject operation")):
        assert tries(final) == 1
    assert len(slept) == 6


@pytest.mark.usefixtures("no_pauses")
def test_a_slow_disk_changes_nothing(tmp_path: Path, expected: dict[str, bytes], monkeypatch):
    """Law: writes that take long are waited for."""
    real = disk._write_synced

    def write(path: Path, data: bytes) -> None:
        time.sleep(0.05)
        real(path, data)

    monkeypatch.setattr(disk, "_write_synced", write)
    assert generate(study_in(tmp_path), backend="inline").exit_code == 0
    assert payload_bytes(tmp_path / "tiny") == expected


def test_a_read_only_study_can_be_looked_at(tmp_path: Path, capfd):
    """Law: status and verify need no write; evaluate gives its scores, and states that they were not saved."""
    with tmpfs(tmp_path / "disk", "64m") as folder:
        study, _ = evaluated_store(tmp_path / "source", {"retrained": 8, "good": 4})
        shutil.copytree(tmp_path / "source", folder, dirs_exist_ok=True)
        store = StudyStore(open_storage(str(folder)), study.name)
        expected = evaluate(study, StudyStore(open_storage(str(tmp_path / "source")), study.name))
        remount(folder, "ro")
        scores = evaluate(study, store)
        assert scores.populations == expected.populations
        assert (scores.saved, expected.saved) == (False, True)
        assert scores.warnings[-1].startswith(f"not saved: {folder}: cannot write ")
        assert "Read-only file system" in scores.warnings[-1]
        assert not store.storage.exists(store.layout.scores_json)
        path = tmp_path / "study.yaml"
        path.write_text(study.model_copy(update={"storage": str(folder)}).model_dump_json())
        assert main(["status", str(path)]) == 0
        assert main(["verify", str(path)]) == 0
        out = capfd.readouterr()
        assert "Traceback" not in out.err
        shutil.copy(tmp_path / "source" / study.name / "scores.json", tmp_path)  # as if evaluated before
        remount(folder, "rw")
        shutil.copy(tmp_path / "scores.json", folder / study.name)
        remount(folder, "ro")
        assert main(["report", str(path)]) == 1
        said = capfd.readouterr().err
        assert len(said.splitlines()) == 1
        assert said.endswith("; --output FILE writes the report elsewhere\n")
        assert main(["report", str(path), "--output", str(tmp_path / "page.html")]) == 0
        assert (tmp_path / "page.html").stat().st_size > 1000
        assert main(["generate", str(path), "--backend", "inline"]) == 1
        assert "Read-only file system; it is mounted read-only" in capfd.readouterr().err
