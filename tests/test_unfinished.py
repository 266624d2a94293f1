"""Unfinished runs: a run that is killed after any epoch, or while its state is written, ends with the same bytes."""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
from conftest import TINY, merged, payload_bytes
from plans import PAYLOADS, finetune, plan_of, record_of
from pyarrow import fs
from test_filesystem import Killed

from ray_unlearn.errors import DamagedFile, NewerFormat, StoreError, StoreUnwritable
from ray_unlearn.generation import generate, open_job
from ray_unlearn.generation.job import not_resumed
from ray_unlearn.methods import METHODS
from ray_unlearn.report.text import status_lines
from ray_unlearn.run import unfinished as module
from ray_unlearn.run import worker as worker_module
from ray_unlearn.run.outcome import Outcome
from ray_unlearn.run.worker import Job, Worker
from ray_unlearn.store import Storage, StudyStore, disk
from ray_unlearn.store.formats import stamped
from ray_unlearn.store.metrics import study_status
from ray_unlearn.store.unfinished import publish_state, read_state, remove_made, unfinished
from ray_unlearn.store.verify import repair, verify
from ray_unlearn.study import Run, Study, parse_study
from ray_unlearn.training.resuming import NotResumable, Resuming, Snapshot

RUNS = [Run(population=name, index=0) for name in ("original", "scrub", "finetune")]
STATE = "00000.state"


def study_in(folder: Path, **changes: Any) -> Study:
    """Return a study whose runs have several epochs, two phases, augmentation, batch normalisation and stage files."""
    recipe = {"epochs": 3, "batch_size": 32, "augment": {"crop": 1, "flip": True}}
    populations = {
        "original": {"method": "train", "on": "train"},
        "scrub": {"method": "scrub", "count": 1, "epochs": 2, "msteps": 1},
        "finetune": {"method": "finetune", "count": 2, "epochs": 2},
    }
    own = {"storage": str(folder), "training": recipe, "populations": populations, "stages": {"checkpoints": [1]}}
    base = {**TINY, "populations": {}, "execution": {"device": "cpu", "resume_every_minutes": 0}}
    return parse_study(merged(merged(base, own), changes), where="tiny")


def opened(study: Study, clock: Callable[[], float] | None = None) -> tuple[Job, Worker]:
    job = open_job(study)
    job.store.admit(job.plan)
    worker = Worker(job, "cpu", **({"clock": clock} if clock else {}))
    worker.open()
    return job, worker


@dataclass
class Made:
    """A study that was made without interruption and without the option."""

    folder: Path
    payloads: dict[str, bytes]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("whole")
    study = study_in(folder, execution={"resume_every_minutes": None})
    assert generate(study, backend="inline").exit_code == 0
    return Made(folder, payload_bytes(folder / "tiny"))


@pytest.fixture
def killed(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Return a function: end the process, as far as a test can, after this many states were written."""
    real = module.publish_state

    def after(count: int) -> None:
        written = iter(range(1, count))

        def publish(*arguments: Any) -> None:
            real(*arguments)
            if next(written, None) is None:
                raise Killed

        monkeypatch.setattr(module, "publish_state", publish)

    return after


def attempted(worker: Worker, run: Run) -> Outcome | None:
    """Make a run and return its outcome; None if the process was killed."""
    try:
        (outcome,) = worker.work([(run, 1)], flush=True)
    except Killed:
        return None
    assert outcome.error == ""
    return outcome


def bytes_of(payloads: dict[str, bytes], run: Run) -> dict[str, bytes]:
    return {name: data for name, data in payloads.items() if name.startswith(str(run))}


def test_a_run_killed_after_any_epoch_goes_on_to_the_same_bytes(
    made: Made, tmp_path: Path, killed: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Law: weights, outputs and stage files are those of a run without the option, whatever the epoch of the kill.

    Each process is killed after the first state that it writes, so every epoch is trained by a process of its own. The
    record counts the images and the losses of all of them, and the state goes with the run.
    """
    for run, epochs in zip(RUNS, (3, 3, 2), strict=True):
        for epoch in range(1, epochs + 1):
            job, worker = opened(study_in(tmp_path))
            killed(1)
            assert attempted(worker, run) is None
            assert unfinished(job.store, run.population) == [0]
            content, _ = read_state(job.store, run) or ({}, b"")
            assert content["epoch"] == epoch
            worker.close()
        monkeypatch.undo()
        job, worker = opened(study_in(tmp_path))
        outcome = attempted(worker, run)
        assert outcome is not None
        assert outcome.note == f"went on after epoch {epochs}"
        worker.close()
        assert bytes_of(payload_bytes(tmp_path / "tiny"), run) == bytes_of(made.payloads, run)
        assert unfinished(job.store, run.population) == []
        ours, whole = (json.loads((f / "tiny" / str(run) / "record.json").read_text()) for f in (tmp_path, made.folder))
        assert [ours[key] for key in ("epoch_loss", "metrics")] == [whole[key] for key in ("epoch_loss", "metrics")]
        assert ours["seconds"]["train"] > content["seconds"] > 0


MOMENTS = ("before", "open", "write", "fsync", "rename", "after")
"""Moments of writing a state on a disk: nothing, an empty file, half of it, all of it, not yet renamed, published."""


def cut_at(moment: str, patch: pytest.MonkeyPatch) -> None:
    """End the process at a moment of the second state that it writes."""
    real, write, calls = disk.replace_file, disk._write_synced, []

    def halved(path: Path, data: bytes) -> None:
        write(path, {"open": b"", "write": data[: len(data) // 2]}.get(moment, data))
        if moment in ("open", "write", "fsync"):
            raise Killed

    def renamed(self: Path, target: Path) -> None:
        raise Killed

    def replace(final: Path, data: bytes) -> None:
        calls.append(final)
        if final.name != STATE or len([each for each in calls if each.name == STATE]) != 2:
            real(final, data)
            return
        if moment == "before":
            raise Killed
        with pytest.MonkeyPatch.context() as inner:
            inner.setattr(disk, "_write_synced", halved)
            inner.setattr(Path, "unlink", lambda *_, **__: None)  # a kill tidies nothing up
            if moment == "rename":
                inner.setattr(Path, "replace", renamed)
            real(final, data)
        raise Killed

    patch.setattr(disk, "replace_file", replace)


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_kill_while_a_state_is_written_leaves_a_whole_one(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """Law: what is under the final name is the first state or the second; either leads to the same bytes."""
    run = RUNS[0]
    job, worker = opened(study_in(tmp_path))
    with monkeypatch.context() as patch:
        cut_at(moment, patch)
        assert attempted(worker, run) is None
    worker.close()
    content, _ = read_state(job.store, run) or ({}, b"")
    assert content["epoch"] == (2 if moment == "after" else 1)
    left = [path.name for path in (tmp_path / "tiny/original/unfinished").iterdir() if path.name != STATE]
    assert len(left) == (moment in MOMENTS[1:5])
    job, worker = opened(study_in(tmp_path))  # admits the study again, which sweeps; but this process is not dead
    assert attempted(worker, run) is not None
    worker.close()
    assert bytes_of(payload_bytes(tmp_path / "tiny"), run) == bytes_of(made.payloads, run)


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a study whose original was killed after the second of three epochs."""
    folder, real, written = tmp_path_factory.mktemp("stopped"), module.publish_state, []

    def publish(*arguments: Any) -> None:
        real(*arguments)
        written.append(1)
        if len(written) == 2:
            raise Killed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "publish_state", publish)
        _, worker = opened(study_in(folder))
        assert attempted(worker, RUNS[0]) is None
        worker.close()
    return folder


def damage(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)


def newer(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b'"format": 1', b'"format": 9', 1))


DAMAGED: dict[str, tuple[Callable[[Path], object], str]] = {
    "a changed byte": (damage, "sha256 differs"),
    "cut off": (lambda path: path.write_bytes(path.read_bytes()[:300]), "sha256 differs"),
    "empty": (lambda path: path.write_bytes(b""), "not JSON"),
    "a later version's": (newer, "format 9"),
}


def test_a_damaged_state_is_an_error_that_names_the_file(stopped: Path, tmp_path: Path) -> None:
    """Law: cut anywhere, changed, or of a later version: never a state by halves."""
    store, run = open_job(study_in(tmp_path)).store, RUNS[0]
    assert read_state(store, run) is None
    path, whole = tmp_path / store.layout.unfinished(run), stopped / "tiny/original/unfinished" / STATE
    path.parent.mkdir(parents=True, exist_ok=True)
    for spoil, expected in DAMAGED.values():
        shutil.copy(whole, path)
        spoil(path)
        with pytest.raises((DamagedFile, NewerFormat), match=rf"00000\.state: .*{expected}"):
            read_state(store, run)


def test_states_on_an_object_store_are_neither_runs_nor_leftovers() -> None:
    """Law: a state comes back as it was written, the later one counts, and listings of runs and records miss it."""
    files = fs._MockFileSystem(datetime.datetime.now(datetime.UTC))  # not the local one, and nothing is renamed
    store, plan = StudyStore(Storage("s3://bucket/prefix", files, "bucket/prefix"), "tiny"), plan_of(2)
    store.admit(plan)
    run, other = finetune(0), finetune(1)
    for epoch in (1, 2):
        publish_state(store, run, {"epoch": epoch}, b"tensors")
    publish_state(store, other, {"epoch": 1}, b"")
    assert read_state(store, run) == ({"epoch": 2}, b"tensors")
    assert (unfinished(store, "finetune"), store.indexes("finetune"), store.made("finetune")) == ([0, 1], [], {})
    store.publish(run, PAYLOADS, record_of(plan, run))
    assert [*store.compact("finetune", plan.populations["finetune"].digest)] == [0]
    checked = verify(store, ["finetune"])
    assert (checked.runs, checked.problems, checked.leftovers) == (1, (), {})
    assert remove_made(store, "finetune", store.made("finetune")) == [0]
    assert unfinished(store, "finetune") == [1]


def rewrite(path: Path, change: Callable[[bytes, bytes], tuple[bytes, bytes]]) -> None:
    """Change a state's content and tensors, and its sha256 with them."""
    _, content, tensors = path.read_bytes().split(b"\n", 2)
    body = b"\n".join(change(content, tensors))
    first = stamped("unfinished run", {"sha256": hashlib.sha256(body).hexdigest()})
    path.write_bytes(json.dumps(first).encode() + b"\n" + body)


def without_numbers(content: bytes, tensors: bytes) -> tuple[bytes, bytes]:
    found = safetensors.torch.load(tensors)
    spoiled = {name: each * float("nan") if each.is_floating_point() else each for name, each in found.items()}
    return content, safetensors.torch.save(spoiled)


SPOILED: dict[str, tuple[Callable[[Path], object], dict[str, Any], str]] = {
    "damaged": (damage, {}, "sha256 differs"),
    "no content": (lambda path: rewrite(path, lambda *_: (b"{}", b"")), {}, "it lacks what a state has (KeyError"),
    "other types": (
        lambda path: rewrite(path, lambda _, tensors: (b'{"run": "original/00000", "conditions": 1}', tensors)),
        {},
        "it lacks what a state has (AttributeError",
    ),
    "other code": (lambda path: None, {"code_sha256": lambda: "0" * 64}, "source text of ray-unlearn (then"),
    "another torch": (lambda path: None, {"versions": lambda _: {"torch": "9.9"}}, "version of torch (then"),
    "another device": (lambda path: None, {"device_name": lambda _: "other"}, "device (then cpu, now other)"),
}


@pytest.mark.parametrize("how", SPOILED)
def test_a_state_that_does_not_fit_is_ignored_with_a_reason(
    made: Made, stopped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """Law: damaged, of other code, versions or devices: the run begins anew, says why, and gives the same bytes."""
    shutil.copytree(stopped, tmp_path, dirs_exist_ok=True)
    spoil, changes, expected = SPOILED[how]
    spoil(tmp_path / "tiny/original/unfinished" / STATE)
    for name, value in changes.items():
        where = module if hasattr(module, name) else worker_module
        monkeypatch.setattr(where, name, value)
    _, worker = opened(study_in(tmp_path))
    outcome = attempted(worker, RUNS[0])
    worker.close()
    assert outcome is not None
    assert outcome.note.startswith("began anew, because its state was ignored: ")
    assert expected in outcome.note
    assert bytes_of(payload_bytes(tmp_path / "tiny"), RUNS[0]) == bytes_of(made.payloads, RUNS[0])
    assert not (tmp_path / "tiny/original/unfinished" / STATE).exists()


def test_a_state_from_which_a_run_fails_is_not_used_again(
    stopped: Path, tmp_path: Path, killed: Callable[[int], None]
) -> None:
    """Law: weights of the last epoch that are no numbers fail that attempt alone: the next one begins anew."""
    shutil.copytree(stopped, tmp_path, dirs_exist_ok=True)
    state = tmp_path / "tiny/original/unfinished" / STATE
    _, worker = opened(study_in(tmp_path))
    killed(1)
    assert attempted(worker, RUNS[0]) is None
    rewrite(state, without_numbers)
    (outcome,) = worker.work([(RUNS[0], 1)], flush=True)
    worker.close()
    assert outcome.error.endswith("holds NaN or infinity after training")
    assert not state.exists()


def test_a_state_of_another_definition_is_ignored(stopped: Path, tmp_path: Path) -> None:
    """Law: a state is of one digest: the same run with another rate begins anew."""
    shutil.copytree(stopped, tmp_path, dirs_exist_ok=True)
    for path in (tmp_path / "tiny").glob("*/population.json"):
        path.unlink()
    _, worker = opened(study_in(tmp_path, training={"lr": 1e-4}))
    outcome = attempted(worker, RUNS[0])
    worker.close()
    assert outcome is not None
    assert "it was made with another digest (then" in outcome.note


def test_a_state_lacks_the_stage_files_that_the_study_asks_for_since(stopped: Path, tmp_path: Path) -> None:
    """Law: a digest does not cover `stages`: with others than the state's, a run begins anew and has all its files."""
    shutil.copytree(stopped, tmp_path, dirs_exist_ok=True)
    _, worker = opened(study_in(tmp_path, stages={"checkpoints": [1, 2]}))
    outcome = attempted(worker, RUNS[0])
    worker.close()
    assert outcome is not None
    assert "it was made with another stages (then" in outcome.note
    assert (tmp_path / "tiny/original/00000/stage-0002.safetensors").exists()


def test_a_state_that_cannot_be_restored_is_ignored(
    stopped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Law: trainings other than the state's are found at its own epoch; the run begins anew in the same attempt.

    A made run whose state cannot be removed is made all the same.
    """

    def refuse(self: Resuming, snapshot: Snapshot) -> None:
        raise NotResumable("the method has the trainings [0, 1], the snapshot [0]")

    def keep(store: StudyStore, run: Run) -> None:
        raise StoreError("cannot remove")

    monkeypatch.setattr(Resuming, "_restore", refuse)
    monkeypatch.setattr(module, "remove_state", keep)
    shutil.copytree(stopped, tmp_path, dirs_exist_ok=True)
    job, worker = opened(study_in(tmp_path))
    outcome = attempted(worker, RUNS[0])
    worker.close()
    assert outcome is not None
    assert "ignored: NotResumable: the method has the trainings [0, 1]" in outcome.note
    assert job.store.indexes("original") == [0]
    assert unfinished(job.store, "original") == [0]


def test_states_are_as_far_apart_as_the_study_says(tmp_path: Path) -> None:
    """Law: a state is saved at the first end of an epoch after so many minutes, by the worker's clock."""
    now, saved = iter(range(0, 10_000, 40)), []  # seconds: 40 pass between two looks at the clock
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "publish_state", lambda store, run, content, tensors: saved.append(content["epoch"]))
        study = study_in(tmp_path, training={"epochs": 9}, execution={"resume_every_minutes": 2})
        _, worker = opened(study, clock=lambda: float(next(now)))
        attempted(worker, RUNS[0])
        worker.close()
    assert saved == [3, 6, 9]  # looks: at the start, after each epoch, and after each state


def test_a_storage_that_refuses_a_state_does_not_end_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Law: a state saves time only; the run is made, and its note says that it could not be saved."""

    def full(*_: object) -> None:
        raise StoreUnwritable("no space left on device")

    monkeypatch.setattr(module, "publish_state", full)
    _, worker = opened(study_in(tmp_path))
    outcome = attempted(worker, RUNS[0])
    worker.close()
    assert outcome is not None
    assert outcome.note == "its state after epoch 3 could not be saved: no space left on device"


def test_commands_know_the_states(stopped: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Law: status lists them, verify checks them, repair removes damaged ones; generate goes on, and leaves none.

    A state of a run that is made, which a kill between record and removal leaves, goes with the next generate.
    """
    shutil.copytree(stopped, tmp_path, dirs_exist_ok=True)
    study = study_in(tmp_path)
    state = tmp_path / "tiny/original/unfinished" / STATE
    whole = state.read_bytes()
    store = open_job(study).store
    lines = status_lines(study_status(study, store), store.uri)
    assert "original: 1 run will go on inside: 00000 after epoch 2" in lines
    assert verify(store, store.populations()).problems == ()
    damage(state)
    (problem,) = verify(store, store.populations()).problems
    assert str(problem) == f"original/unfinished/{STATE}: is damaged; the run would begin anew"
    newer(state)
    lines = status_lines(study_status(study, store), store.uri)
    assert "original: 1 run will go on inside: 00000" in lines  # whose epoch this version cannot read
    (problem,) = verify(store, store.populations()).problems
    assert "was saved by a later version; with this one, the run would begin anew" in str(problem)
    assert repair(store, [problem]) == [RUNS[0]]
    assert not state.exists()
    state.write_bytes(whole)
    assert generate(study, backend="inline").exit_code == 0
    assert "original/00000: went on after epoch 2" in capsys.readouterr().err
    assert any(event.get("note") == "went on after epoch 2" for event in events_of(tmp_path))
    assert not list(tmp_path.rglob("*.state"))
    state.write_bytes(whole)
    assert study_status(study, store)[0].unfinished == ()
    assert generate(study, backend="inline").made == 0
    assert not state.exists()
    state.write_bytes(whole)
    store.discard(RUNS[0])
    assert not state.exists()


def events_of(folder: Path) -> list[dict[str, Any]]:
    files = (folder / "tiny/events").glob("*.jsonl")
    return [json.loads(line) for file in files for line in file.read_text().splitlines()]


def test_the_driver_names_what_begins_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Law: one line for each reason: a script, and a method that cannot; the option changes no digest."""
    why = "its loss counts the steps of the run itself"
    monkeypatch.setitem(METHODS.own, "finetune", dataclasses.replace(METHODS["finetune"], no_resume=why))
    job = open_job(study_in(tmp_path))
    option = "execution.resume_every_minutes: interrupted runs of"
    assert [line for line in job.remarks if option in line] == [f"{option} finetune begin anew: {why}"]
    use = job.plan.populations["scrub"].method
    script = dataclasses.replace(use, name="mine.py:unlearning", source="def unlearning(): ...")
    populations = {**job.plan.populations, "scrub": dataclasses.replace(job.plan.populations["scrub"], method=script)}
    found = not_resumed(dataclasses.replace(job, plan=dataclasses.replace(job.plan, populations=populations)))
    expected = f"{option} scrub begin anew: mine.py:unlearning is a script, whose loop nothing can go on with"
    assert found == [expected, f"{option} finetune begin anew: {why}"]
    without = open_job(study_in(tmp_path, execution={"resume_every_minutes": None}))
    assert not [line for line in without.remarks if option in line]
    assert [p.digest for p in without.plan.populations.values()] == [p.digest for p in job.plan.populations.values()]
