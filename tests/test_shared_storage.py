"""A storage is not ours alone: workers that do not see it, second drivers, foreign files, other hosts, odd clocks."""

from __future__ import annotations

import datetime
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from conftest import merged, payload_bytes
from slow import slow_study

from ray_unlearn.errors import PopulationChanged, StorageNotShared
from ray_unlearn.generation import generate, inline
from ray_unlearn.generation.job import open_job
from ray_unlearn.run import worker as worker_module
from ray_unlearn.run.worker import Job, Worker
from ray_unlearn.store import StudyStore, open_storage, sharing
from ray_unlearn.store.metrics import study_status
from ray_unlearn.store.verify import repair, verify
from ray_unlearn.study import Run, Study, parse_study

DAY_S = 24 * 3600


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharing, "_LOOK_AGAIN_S", (0.0,))


def elsewhere(job: Job, folder: Path) -> Job:
    """Return the job as a machine sees it whose storage is another folder."""
    return replace(job, store=StudyStore(open_storage(str(folder)), job.store.name))


def test_a_worker_without_the_marker_is_refused(tiny: Callable[..., Study], tmp_path: Path):
    """Law: a worker whose storage is another folder, be it with the same study in it, does not open."""
    study, copy = tiny(), tiny(storage=str(tmp_path / "copy"))
    for one in (study, copy):
        assert generate(one, backend="inline").exit_code == 0
    job = open_job(study)
    with sharing.marked(job.store) as marker:
        marked = replace(job, marker=marker)
        assert Worker(marked, "cpu").open().host == socket.gethostname()
        with pytest.raises(StorageNotShared) as caught:
            Worker(elsewhere(marked, tmp_path / "copy"), "cpu").open()
    assert str(caught.value) == (
        f"worker on {socket.gethostname()} does not see {tmp_path}/copy/tiny, where the driver has just written: "
        "storage must be shared by all nodes (NFS at the same path, s3://bucket/prefix, gs://bucket/prefix)"
    )
    assert not job.store.storage.exists(marker)


class _Elsewhere(inline.InlinePool):
    """A pool whose worker sees another folder."""

    def __init__(self, job: Job, device: str, limited: str) -> None:
        super().__init__(elsewhere(job, Path(job.store.storage.root).parent / "head-only"), device, limited)


def test_generate_refuses_a_storage_that_its_workers_do_not_see(tiny: Callable[..., Study], monkeypatch):
    """Law: the command ends with the worker's reason, before any run, and leaves no marker behind."""
    monkeypatch.setattr(inline, "InlinePool", _Elsewhere)
    study = tiny()
    with pytest.raises(StorageNotShared, match="does not see"):
        generate(study, backend="inline")
    assert not list(Path(study.storage).parent.rglob("record.json"))
    assert not list(Path(study.storage).rglob(".tmp-*"))


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_an_actor_that_does_not_see_the_storage_is_refused(tiny: Callable[..., Study], tmp_path: Path):
    """Law: through Ray, too: the actor's refusal crosses the process border as itself, and no run begins."""
    from ray_unlearn.cluster import pool as ray_pool

    study = tiny()
    job = open_job(study)
    job.store.admit(job.plan)
    pool = ray_pool.RayPool(replace(job, marker="tiny/.tmp-elsewhere-1-abc"), 1, lambda line: None)
    pool.start()
    events = []
    while not events:
        events = pool.wait()
    pool.close()
    assert events[0].unshared
    assert events[0].cause.startswith(f"worker on {socket.gethostname()} does not see {tmp_path}/store/tiny")


def test_a_marker_is_swept_once_its_driver_is_dead(tiny: Callable[..., Study]):
    """Law: a killed driver's marker goes with the next generate; that of a driver at work stays."""
    study = tiny()
    folder = Path(study.storage) / "tiny"
    folder.mkdir(parents=True)
    ended = subprocess.Popen([sys.executable, "-S", "-c", ""])
    ended.wait()
    dead, alive = (f".tmp-{socket.gethostname()}-{pid}-aaaa" for pid in (ended.pid, os.getpid()))
    for name in (dead, alive):
        (folder / name).write_bytes(b"x")
    assert generate(study, backend="inline").exit_code == 0
    assert [path.name for path in folder.glob(".tmp-*")] == [alive]


def test_what_other_hosts_left_goes_after_a_day(tiny: Callable[..., Study]):
    """Law: by the storage's own clock, so that no host's clock counts; what is younger may still be written."""
    study = tiny()
    folder = Path(study.storage) / "tiny/finetune"
    now = time.time()
    for name, age_s in (
        (".tmp-elsewhere-1-old", DAY_S + 60),
        (".tmp-elsewhere-1-new", DAY_S - 600),
        ("00009.tmp", 9e6),
    ):
        (folder / name).mkdir(parents=True)
        (folder / name / "model.safetensors").write_bytes(b"half")
        os.utime(folder / name, (now - age_s, now - age_s))
    assert generate(study, backend="inline").exit_code == 0
    assert sorted(path.name for path in folder.iterdir() if "tmp" in path.name) == [".tmp-elsewhere-1-new", "00009.tmp"]


@pytest.mark.long
def test_two_drivers_on_one_study_do_no_harm(tmp_path: Path):
    """Law: both end well; runs are those planned, whole, with the bytes of one driver; nothing temporary stays."""
    for folder in ("both", "one"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "study.yaml").write_text(yaml.safe_dump(slow_study(tmp_path / folder, 8)))
    command = [sys.executable, "-m", "ray_unlearn.cli", "generate", "study.yaml", "--backend", "inline"]
    drivers = [
        subprocess.Popen(command, cwd=tmp_path / "both", stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    said = [driver.communicate(timeout=200)[1] for driver in drivers]
    assert [driver.returncode for driver in drivers] == [0, 0], said
    assert not any("again:" in text or "failed" in text for text in said), said
    store = StudyStore(open_storage(str(tmp_path / "both/store")), "tiny")
    assert {name: sorted(store.made(name)) for name in store.populations()} == {"mine": [*range(8)], "original": [0]}
    assert verify(store, store.populations()).problems == ()
    assert not list((tmp_path / "both/store").rglob(".tmp-*"))
    tree = yaml.safe_load((tmp_path / "both/study.yaml").read_text())
    assert generate(parse_study(tree, where="both"), backend="inline").made == 0
    tree["storage"] = str(tmp_path / "one/store")
    assert generate(parse_study(tree, where="one"), backend="inline").made == 9
    assert payload_bytes(tmp_path / "both/store/tiny") == payload_bytes(tmp_path / "one/store/tiny")


def test_of_two_drivers_with_other_values_one_is_refused(tiny: Callable[..., Study], monkeypatch):
    """Law: a population that both find absent is admitted once: the second to write sees the first's, and refuses."""
    first, second = (open_job(tiny(populations={"finetune": {"lr": lr}})) for lr in (1e-3, 1e-2))
    real, checked = StudyStore._is_new, list[object]()

    def is_new(self: StudyStore, population: object, differences: object) -> bool:
        answer = real(self, population, differences)
        checked.append(population)
        if len(checked) == len(first.plan.populations):  # the first has found both absent, and written neither
            second.store.admit(second.plan)
        return answer

    monkeypatch.setattr(StudyStore, "_is_new", is_new)
    with pytest.raises(PopulationChanged, match=r"options\.lr: 0\.01 -> 0\.001"):
        first.store.admit(first.plan)
    held = second.store.held("finetune")
    assert held is not None
    assert held["digest"] == second.plan.populations["finetune"].digest


FOREIGN = ("00007.bak", "123456", ".DS_Store", "000A1", "notes.txt", "records.jsonl.old", "-1", "0")


def plant(folder: Path) -> dict[Path, bytes | None]:
    """Put foreign files, folders and links there; return them with their contents."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(FOREIGN):
        path = folder / name
        if number % 3 == 2:
            path.symlink_to(folder / FOREIGN[0])
        elif number % 3 == 1:
            (path / "inside").mkdir(parents=True)
            (path / "record.json").write_text("{}")
        else:
            path.write_bytes(b"foreign")
    planted = [path for name in FOREIGN for path in (folder / name, *(folder / name).rglob("*"))]
    return {path: path.read_bytes() if path.is_file() else None for path in planted}


def test_foreign_files_are_ignored_and_stay(tiny: Callable[..., Study]):
    """Law: in the storage, a study, a population, a run or its failures they change no answer; only a bad run's go."""
    study = tiny()
    root = Path(study.storage)
    generate(study, backend="inline")
    before = payload_bytes(root / "tiny")
    places = ("", "tiny", "tiny/finetune", "tiny/finetune/00001", "tiny/finetune/failed", "tiny/splits")
    planted = {path: data for place in places for path, data in plant(root / place).items()}
    store = StudyStore.of(study)

    assert store.populations() == ["finetune", "original"]
    assert [(one.done, one.failed, one.more) for one in study_status(study, store)] == [(1, {}, 0), (3, {}, 0)]
    checked = verify(store, store.populations())
    assert (checked.runs, checked.problems) == (4, ())
    assert generate(study, backend="inline").made == 0
    assert payload_bytes(root / "tiny") == before

    bad = Run(population="finetune", index=2)
    (root / "tiny/finetune/00002/outputs.arrow").write_bytes(b"damaged")
    assert repair(store, verify(store, store.populations()).problems) == [bad]
    assert generate(study, backend="inline").made == 1
    assert payload_bytes(root / "tiny") == before
    assert {path: path.read_bytes() if path.is_file() else None for path in planted} == planted


def test_a_file_in_a_runs_place_is_no_run(tiny: Callable[..., Study]):
    """Law: it is not counted; generate states what is in the way, and makes the rest."""
    study = tiny()
    (Path(study.storage) / "tiny/finetune").mkdir(parents=True)
    (Path(study.storage) / "tiny/finetune/00001").write_bytes(b"a file")
    summary = generate(study, backend="inline")
    assert (summary.made, [run.index for run in summary.failed], summary.exit_code) == (3, [1], 3)
    assert "tiny/finetune/00001" in next(iter(summary.failed.values()))
    assert (Path(study.storage) / "tiny/finetune/00001").read_bytes() == b"a file"


class Backwards:
    """A wall clock that falls back by a day with every look at it."""

    def __init__(self) -> None:
        self.now_s, self.looks = 1.9e9, 0

    def time(self) -> float:
        self.looks += 1
        self.now_s -= DAY_S
        return self.now_s


def test_a_clock_that_jumps_changes_nothing(tiny: Callable[..., Study], tmp_path: Path, monkeypatch, capfd):
    """Law: times in records are evidence only: runs, bytes and progress are those of a steady clock."""
    steady = tiny(storage=str(tmp_path / "steady"))
    generate(steady, backend="inline")
    clock = Backwards()

    class Jumping(datetime.datetime):
        @classmethod
        def now(cls, tz: datetime.tzinfo | None = None) -> datetime.datetime:
            return cls.fromtimestamp(clock.time(), tz)

    monkeypatch.setattr(time, "time", clock.time)
    monkeypatch.setattr(worker_module, "datetime", Jumping)
    capfd.readouterr()
    study = tiny()
    half = generate(
        parse_study(merged(study.model_dump(), {"populations": {"finetune": {"count": 1}}}), where="half"),
        backend="inline",
    )
    rest = generate(study, backend="inline")
    assert (half.made, rest.already, rest.made) == (2, 2, 2)
    assert clock.looks >= 4
    records = StudyStore.of(study).made("finetune")
    assert records[0].started_at > records[1].started_at > records[2].started_at
    assert all(seconds >= 0 for record in records.values() for seconds in record.seconds.values())
    assert half.seconds >= 0
    assert rest.seconds >= 0
    assert "-" not in "".join(line for line in capfd.readouterr().err.splitlines() if "runs/min" in line)
    assert payload_bytes(tmp_path / "store") == payload_bytes(tmp_path / "steady")


def test_files_dated_into_the_future_are_runs_all_the_same(tiny: Callable[..., Study]):
    """Law: no file's time decides whether a run exists, nor whether a living host's temporary folder goes."""
    study = tiny()
    generate(study, backend="inline")
    folder = Path(study.storage) / "tiny/finetune"
    (folder / ".tmp-elsewhere-1-abc").mkdir()
    for path in (*folder.rglob("*"), folder / ".tmp-elsewhere-1-abc"):
        os.utime(path, (4e9, 4e9))
    assert generate(study, backend="inline").made == 0
    assert (folder / ".tmp-elsewhere-1-abc").exists()
