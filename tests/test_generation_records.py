"""Runs that were published, but not reported: the store knows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from ray_unlearn.errors import StoreError
from ray_unlearn.generation import generate, open_job
from ray_unlearn.generation.records import published_run
from ray_unlearn.run.outcome import Attempt, Outcome
from ray_unlearn.run.worker import Worker
from ray_unlearn.store import StudyStore
from ray_unlearn.study import Run


def test_only_a_record_of_this_very_experiment_counts(tiny, monkeypatch: pytest.MonkeyPatch):
    """Law: made as planned: its seconds; not made, torn, of another rate, or not to be read now: made again."""
    assert generate(tiny(), backend="inline").made == 4
    job, run = open_job(tiny()), Run(population="finetune", index=1)
    record = job.store.record(run)
    outcome = published_run(job, run)
    assert record is not None
    assert outcome is not None
    assert (outcome.run, outcome.error, outcome.metrics) == (run, "", record.metrics)
    assert outcome.seconds == pytest.approx(record.seconds["train"] + record.seconds["predict"])

    assert (
        published_run(open_job(tiny(populations={"finetune": {"count": 9}})), Run(population="finetune", index=8))
        is None
    )
    assert published_run(open_job(tiny(populations={"finetune": {"lr": 1e-2}})), run) is None
    (Path(job.store.storage.root) / job.store.layout.record(run)).write_bytes(b"{torn")
    assert published_run(job, run) is None

    def unreadable(*_: object) -> None:
        raise StoreError("the storage does not answer")

    monkeypatch.setattr(StudyStore, "record", unreadable)
    assert published_run(job, Run(population="finetune", index=0)) is None


def test_a_folder_that_is_removed_while_runs_are_made_is_no_success(tiny, monkeypatch: pytest.MonkeyPatch):
    """Law: without the population.json that the command wrote, nothing that it made counts; it must not say 4 of 4."""
    work = Worker.work

    def removed(worker: Worker, attempts: Sequence[Attempt], flush: bool = False) -> list[Outcome]:
        found = work(worker, attempts, flush)
        (Path(open_job(tiny()).store.uri) / "finetune/population.json").unlink(missing_ok=True)
        return found

    monkeypatch.setattr(Worker, "work", removed)
    with pytest.raises(StoreError, match=r"finetune/population\.json is gone, .*the folder was removed or replaced"):
        generate(tiny(), backend="inline")
