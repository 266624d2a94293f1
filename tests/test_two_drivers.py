"""Two drivers at one run on an object store, whose bytes differ: what they left is found, never used in silence."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from pathlib import Path

import pytest
from evaluated import draw_logits, evaluated_store, publish
from plans import PAYLOADS, finetune, plan_of, record_of
from pyarrow import fs

from ray_unlearn.errors import StoreError
from ray_unlearn.evaluation.evaluate import evaluate
from ray_unlearn.export import export_competition
from ray_unlearn.store import Storage, StudyStore
from ray_unlearn.store.records import RECORD, payload_of
from ray_unlearn.store.verify import repair, verify
from ray_unlearn.study import Run

ORIGINAL = Run(population="original", index=0)
THEIRS = {"model.safetensors": b"WEIGHTS", "outputs.arrow": b"LOGITS"}


def bucket() -> Storage:
    """Return a storage without renames, as object stores are, in memory."""
    return Storage("s3://bucket", fs._MockFileSystem(datetime.datetime.now(datetime.UTC)), "bucket")


def meanwhile(monkeypatch: pytest.MonkeyPatch, other: Callable[[], object]) -> None:
    """Let another driver do all of this when the first one has put its payloads, and no record yet."""
    real, waiting = Storage._put, [other]

    def put(self: Storage, name: str, data: bytes) -> None:
        if name.endswith(RECORD) and waiting:
            waiting.pop()()
        real(self, name, data)

    monkeypatch.setattr(Storage, "_put", put)


def test_no_score_is_made_of_one_drivers_outputs_under_the_others_record(tmp_path: Path, monkeypatch):
    """Law: `evaluate` refuses, naming the run; `verify` finds that file alone; made anew, it is scored."""
    study, disk = evaluated_store(tmp_path, {"retrained": 6, "again": 6})
    store = StudyStore(bucket(), study.name)
    for name in disk.storage.sizes("", recursive=True):
        store.storage.publish_file(name, disk.storage.read(name))
    expected = evaluate(study, store).populations["again"]
    store.discard(Run(population="again", index=2))
    meanwhile(monkeypatch, lambda: publish(store, "again", 2, draw_logits(7)))
    publish(store, "again", 2, draw_logits(8))
    with pytest.raises(StoreError, match=r"again/00002: outputs\.arrow is not what its record says; run .*--repair"):
        evaluate(study, store)
    problems = verify(store, store.populations()).problems
    assert [(str(problem.run), problem.file) for problem in problems] == [("again/00002", "outputs.arrow")]
    repair(store, problems)
    publish(store, "again", 2, draw_logits(2002))  # the logits that the run had
    assert evaluate(study, store).populations["again"].measures == expected.measures


def test_no_checkpoint_of_one_driver_is_used_under_the_others_record(tmp_path: Path, monkeypatch):
    """Law: neither export nor a run that would start from it takes it; after the repair the run is pending."""
    plan, store = plan_of(1), StudyStore(bucket(), "tiny")
    store.admit(plan)
    for run in (ORIGINAL, finetune(0)):
        with monkeypatch.context() as patch:
            meanwhile(patch, lambda run=run: store.publish(run, THEIRS, record_of(plan, run, THEIRS)))
            store.publish(run, PAYLOADS, record_of(plan, run))
        with pytest.raises(StoreError, match=f"run {run}: model.safetensors is not what its record says"):
            store.payload(run, "model.safetensors")
    with pytest.raises(StoreError, match=r"run finetune/00000: model\.safetensors is not what its record says"):
        export_competition(store, "finetune", 1, tmp_path / "x.zip")
    assert list(tmp_path.iterdir()) == []
    found = verify(store, store.populations()).problems
    assert {(problem.run, problem.file) for problem in found} == {
        (run, file) for run in (ORIGINAL, finetune(0)) for file in PAYLOADS
    }
    repair(store, found)
    assert (store.made("original"), store.made("finetune")) == ({}, {})


def started(plan, index: int, original: bytes):
    return record_of(plan, finetune(index)).model_copy(update={"original_sha256": payload_of(original).sha256})


def test_runs_that_started_from_another_original_are_not_mixed_in(tmp_path: Path):
    """Law: an original that was written over is whole, and so are the runs that started from the one before; together
    they are no population: `evaluate` and `export` say which runs, `verify --repair` makes those pending alone."""
    plan, store = plan_of(4), StudyStore(bucket(), "tiny")
    store.admit(plan)
    store.publish(ORIGINAL, PAYLOADS, record_of(plan, ORIGINAL))
    for index in range(4):
        store.publish(finetune(index), PAYLOADS, started(plan, index, b"weights" if index % 2 else b"WEIGHTS"))
    with pytest.raises(
        StoreError, match=r"2 of 4 runs of finetune \(runs 0, 2\) started from another original .* `.*verify --repair`"
    ):
        export_competition(store, "finetune", 4, tmp_path / "x.zip")
    problems = verify(store, store.populations()).problems
    assert [str(problem).partition(" when")[0] for problem in problems] == [
        f"finetune/0000{index}/record.json: started from original/00000" for index in (0, 2)
    ]
    assert repair(store, problems) == [finetune(0), finetune(2)]
    assert sorted(store.made("finetune")) == [1, 3]
    assert verify(store, store.populations()).problems == ()


def test_scores_are_not_made_of_runs_that_started_from_another_original(tmp_path: Path):
    """Law: the same for `evaluate`; an original without a checkpoint refuses nothing."""
    study, store = evaluated_store(tmp_path, {"retrained": 6, "again": 6})
    evaluate(study, store)
    original = store.record(ORIGINAL)
    assert original is not None
    store.discard(ORIGINAL)
    checkpoint = {"model.safetensors": payload_of(b"w"), **original.payloads}
    store.publish(ORIGINAL, {"model.safetensors": b"w"}, original.model_copy(update={"payloads": checkpoint}))
    with pytest.raises(StoreError, match=r"6 of 6 runs of again \(runs 0, 1, 2, 3, 4, 5\) started from another"):
        evaluate(study, store)
