"""One study's folder: what is admitted, what counts as made, what is remembered of failures."""

from __future__ import annotations

import datetime
import json
from pathlib import Path

import pytest
from plans import PAYLOADS, finetune, plan_of, record_of
from pyarrow import fs

from ray_unlearn.errors import DamagedFile, PopulationChanged, StoreError
from ray_unlearn.store import FailedRecord, Storage, StudyStore, open_storage
from ray_unlearn.store.records import payload_of
from ray_unlearn.study import Plan, Run

FAILURE = FailedRecord(
    population="finetune",
    index=1,
    digest="d",
    error="it broke",
    traceback="Traceback ...",
    attempts=2,
    host="here",
    failed_at="2026-01-01T00:00:00+00:00",
)


@pytest.fixture(params=["disk", "bucket"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> StudyStore:
    """The same laws on a disk and on an object store."""
    if request.param == "disk":
        return StudyStore(open_storage(str(tmp_path / "store")), "tiny")
    memory = fs._MockFileSystem(datetime.datetime.now(datetime.UTC))
    return StudyStore(Storage("s3://bucket/prefix", memory, "bucket/prefix"), "tiny")


def contents(store: StudyStore) -> dict[str, bytes]:
    return {name: store.storage.read(f"tiny/{name}") for name in store.storage.sizes("tiny", recursive=True)}


def publish(store: StudyStore, plan: Plan, run: Run, payloads: dict[str, bytes] = PAYLOADS) -> None:
    store.publish(run, payloads, record_of(plan, run, payloads))


def made(store: StudyStore, plan: Plan) -> list[int]:
    return sorted(store.records("finetune", plan.populations["finetune"].digest))


def test_publishing_takes_hashes_from_the_record(store: StudyStore, monkeypatch: pytest.MonkeyPatch):
    """Law: what the record says of a payload names it in the store; a checkpoint of megabytes is not hashed again."""
    plan = plan_of(1)
    store.admit(plan)
    record = record_of(plan, finetune(0))
    with monkeypatch.context() as unhashed:
        unhashed.setattr("ray_unlearn.store.study_store.payload_of", None)
        store.publish(finetune(0), PAYLOADS, record)
    assert {name: store.payload(finetune(0), name) for name in PAYLOADS} == PAYLOADS


def test_admit_twice_changes_nothing(store: StudyStore):
    """Law: the same plan, or one with a larger count, is welcome; population.json stays byte for byte."""
    store.admit(plan_of(3))
    before = contents(store)
    assert store.populations() == ["finetune", "original"]
    store.admit(plan_of(8))
    after = contents(store)
    assert {name for name in after if before[name] != after[name]} == {"study.json"}
    assert json.loads(after["study.json"])["populations"]["finetune"]["count"] == 8


def test_a_changed_population_is_refused_with_the_difference(store: StudyStore):
    """Law: the refusal names population and folder, shows `options.lr: old -> new`, and touches nothing."""
    store.admit(plan_of(3))
    publish(store, plan_of(3), finetune(0))
    before = contents(store)
    with pytest.raises(PopulationChanged) as caught:
        store.admit(plan_of(3, lr=1e-2))
    lines = str(caught.value).splitlines()
    assert lines[0] == f"population finetune in {store.uri} was made differently and will not be overwritten:"
    assert lines[1] == "  options.lr: 0.001 -> 0.01"
    assert lines[2].startswith("It was made by ray-unlearn ")
    assert len(lines) == 4
    assert contents(store) == before


def test_a_definition_without_a_made_run_gives_way_and_its_driver_replaces_nothing(store: StudyStore):
    """Law: another definition begins anew where runs failed alone; late runs of the first replace none of its runs."""
    first, second = plan_of(3), plan_of(3, lr=1e-2)
    store.admit(first)
    store.publish_failure(finetune(1), FAILURE, b"log")
    store.admit(second)
    assert not store.failures("finetune")
    publish(store, first, finetune(2))  # where no run of the second is: it counts for neither
    assert made(store, second) == []
    for index in (0, 2):
        publish(store, second, finetune(index))
    before = contents(store)
    with pytest.raises(PopulationChanged, match=r"finetune in .* was begun anew from another definition while this"):
        publish(store, first, finetune(0))
    assert contents(store) == before
    assert made(store, second) == [0, 2]


def test_the_second_of_two_drivers_that_begin_anew_keeps_what_the_first_left(store: StudyStore, monkeypatch):
    """Law: tasks of one job array start with the same mended study; a failure of the first task's runs stays."""
    first, second = plan_of(3), plan_of(3, lr=1e-2)
    store.admit(first)
    store.publish_failure(finetune(1), FAILURE)
    seen = store.check(second)
    store.admit(second)
    store.publish_failure(finetune(2), FAILURE)
    monkeypatch.setattr(StudyStore, "check", lambda *_: seen)
    store.admit(second)
    assert store.failed_indexes("finetune") == [2]


def test_admission_is_all_or_none(store: StudyStore):
    """Law: one refused population keeps every new one of the same plan out, too."""
    plan = plan_of(3)
    store.admit(Plan(study=plan.study, populations={"finetune": plan.populations["finetune"]}))
    assert store.populations() == ["finetune"]
    with pytest.raises(PopulationChanged):
        store.admit(plan_of(3, lr=1e-2))  # original, which is new, comes first
    assert store.populations() == ["finetune"]


def test_a_plan_that_comes_second_leaves_study_json_alone(tmp_path: Path, monkeypatch):
    """Law: of two drivers that admit at the same moment, study.json is of the one that was admitted."""
    store, create = StudyStore(open_storage(str(tmp_path / "store")), "tiny"), Storage.create_file

    def slow_create(storage: Storage, name: str, data: bytes) -> None:
        monkeypatch.setattr(Storage, "create_file", create)
        store.admit(plan_of(3))
        create(storage, name, data)

    monkeypatch.setattr(Storage, "create_file", slow_create)
    with pytest.raises(PopulationChanged):
        store.admit(plan_of(8, lr=1e-2))
    assert json.loads(contents(store)["study.json"])["populations"]["finetune"]["count"] == 3


def test_population_json_is_readable_and_explains_the_digest(store: StudyStore):
    """Law: the folder states in plain JSON what its digest covers."""
    plan = plan_of(3)
    store.admit(plan)
    held = store.held("finetune")
    assert held is not None
    assert held["digest"] == plan.populations["finetune"].digest
    assert held["identity"]["options"] == {"lr": 0.001}
    assert store.held("retrained") is None


def test_a_damaged_population_json_is_an_error(store: StudyStore):
    """Law: what cannot be compared is neither taken over nor overwritten."""
    store.admit(plan_of(3))
    store.storage.publish_file("tiny/finetune/population.json", b"{half")
    with pytest.raises(StoreError, match=r"tiny/finetune/population\.json: not JSON"):
        store.admit(plan_of(3))
    for content in (b"[]", b"7"):
        store.storage.publish_file("tiny/finetune/population.json", content)
        with pytest.raises(StoreError, match=r"tiny/finetune/population\.json: expected a JSON object"):
            store.admit(plan_of(3))
    for content in (b"{}", b'{"digest": "a", "identity": []}', b'{"digest": 1, "identity": {}}'):
        store.storage.publish_file("tiny/finetune/population.json", content)
        with pytest.raises(StoreError, match=r"tiny/finetune/population\.json: lacks the digest"):
            store.admit(plan_of(3))
    store.storage.publish_file("tiny/finetune/population.json", b"[" * 100_000)
    with pytest.raises(StoreError, match=r"tiny/finetune/population\.json: not JSON"):
        store.admit(plan_of(3))
    store.storage.publish_file("tiny/finetune/population.json", store.storage.read("tiny/original/population.json"))
    for reads in (store.held, store.made):  # or no run would seem to be made
        with pytest.raises(DamagedFile, match=r"tiny/finetune/population\.json: is that of population original"):
            reads("finetune")
    store.storage.publish_file("tiny/finetune/population.json", b'{"digest": "edited", "identity": {}}')
    with pytest.raises(PopulationChanged):
        store.admit(plan_of(3))


def test_a_population_json_of_a_digest_that_no_run_has_is_an_error(store: StudyStore):
    """Law: one changed letter of the digest does not make all runs "not made", which scores left out in silence."""
    plan = plan_of(3)
    store.admit(plan)
    publish(store, plan, finetune(1))
    digest = plan.populations["finetune"].digest
    held = store.storage.read("tiny/finetune/population.json")
    store.storage.publish_file("tiny/finetune/population.json", held.replace(digest.encode(), b"0" * 64))
    with pytest.raises(DamagedFile, match=rf"states the digest 0{{12}}, which no run has: .*/1 is of {digest[:12]}"):
        store.made("finetune")
    publish(store, plan_of(3, lr=1e-2), finetune(2))  # of another digest, too
    store.storage.publish_file("tiny/finetune/population.json", held)
    assert list(store.made("finetune")) == [1]


def test_runs_without_a_population_json_are_not_taken_over(store: StudyStore):
    """Law: no one knows how they were made, so they are neither counted nor made over."""
    plan = plan_of(3)
    store.admit(plan)
    publish(store, plan, finetune(0))
    store.storage.remove("tiny/finetune/population.json")
    before = contents(store)
    with pytest.raises(StoreError, match=r"tiny/finetune/population\.json: missing, but there are runs"):
        store.admit(plan_of(3, lr=1e-2))
    assert contents(store) == before


def test_a_run_exists_iff_its_record_does(store: StudyStore):
    """Law: payloads without record are nothing; with it they are a run; discard makes them nothing again."""
    plan = plan_of(3)
    store.admit(plan)
    store.storage.publish_file("tiny/finetune/00001/model.safetensors", PAYLOADS["model.safetensors"])
    assert (made(store, plan), store.record(finetune(1))) == ([], None)
    publish(store, plan, finetune(1))
    assert made(store, plan) == [1]
    assert store.record(finetune(1)) == record_of(plan, finetune(1)).sealed()
    assert store.payload(finetune(1), "model.safetensors") == b"weights"
    store.discard(finetune(1))
    assert made(store, plan) == []
    assert store.indexes("finetune") == []


def test_foreign_records_do_not_count(store: StudyStore):
    """Law: only a record of this run and this digest makes a run exist."""
    plan, other = plan_of(6), plan_of(6, lr=1e-2)
    store.admit(plan)
    for index in range(5):
        publish(store, plan, finetune(index))
    store.storage.publish_file(
        "tiny/finetune/00003/record.json", record_of(other, finetune(3)).sealed().model_dump_json().encode()
    )
    store.storage.publish_file("tiny/finetune/00004/record.json", store.storage.read("tiny/finetune/00000/record.json"))
    store.storage.publish_file("tiny/finetune/notes/record.json", store.storage.read("tiny/finetune/00000/record.json"))
    assert made(store, plan) == [0, 1, 2]


@pytest.mark.parametrize("content", [b'{"population": "fine', b"{}", b"", b"null"])
def test_a_record_that_cannot_be_read_is_an_error(store: StudyStore, content: bytes):
    """Law: a damaged record is never "not made": it is named, with the command that makes its run pending."""
    plan = plan_of(2)
    store.admit(plan)
    publish(store, plan, finetune(1))
    store.storage.publish_file("tiny/finetune/00001/record.json", content)
    before = contents(store)
    damaged = pytest.raises(DamagedFile, match=r"tiny/finetune/00001/record\.json: .*verify STUDY --repair")
    with damaged:
        made(store, plan)
    with damaged:
        publish(store, plan, finetune(1))
    assert contents(store) == before


@pytest.mark.parametrize("how", ["of another digest", "of another run"])
def test_publishing_over_a_record_that_does_not_count_makes_the_run(store: StudyStore, how: str):
    """Law: after publish the run exists, no matter what lay in its folder; else it would be made anew for ever."""
    plan, other = plan_of(2), plan_of(2, lr=1e-2)
    store.admit(plan)
    publish(store, plan, finetune(1), {"model.safetensors": b"old", "stage-0001.arrow": b"old"})
    found = {
        "of another digest": record_of(other, finetune(1)).sealed().model_dump_json().encode(),
        "of another run": record_of(plan, finetune(0)).sealed().model_dump_json().encode(),
    }
    store.storage.publish_file("tiny/finetune/00001/record.json", found[how])
    publish(store, plan, finetune(1))
    assert made(store, plan) == [1]
    record = store.record(finetune(1))
    assert record is not None
    assert record.payloads.keys() == PAYLOADS.keys()
    assert {file: store.payload(finetune(1), file) for file in PAYLOADS} == PAYLOADS
    if store.storage.local is not None:
        assert store.storage.sizes("tiny/finetune/00001").keys() == {*PAYLOADS, "record.json"}


def test_a_finished_run_is_never_made_over(tmp_path: Path):
    """Law: two drivers that make the same run leave the first one's files alone."""
    store, plan = StudyStore(open_storage(str(tmp_path)), "tiny"), plan_of(2)
    publish(store, plan, finetune(0))
    before = contents(store)
    publish(store, plan, finetune(0), {"model.safetensors": b"another machine's"})
    assert contents(store) == before


def test_failures_are_kept_until_the_run_is_made(store: StudyStore):
    """Law: a failure never makes a run exist, is read back as written, and goes when the run succeeds."""
    plan = plan_of(3)
    store.admit(plan)
    store.publish_failure(finetune(1), FAILURE)
    assert store.failures("finetune") == {1: FAILURE}
    assert made(store, plan) == []
    publish(store, plan, finetune(1))
    assert store.failures("finetune") == {}
    store.storage.publish_file("tiny/finetune/failed/00002.json", b"{half")
    with pytest.raises(DamagedFile, match=r"tiny/finetune/failed/00002\.json: not JSON .*verify STUDY --repair"):
        store.failures("finetune")


def test_the_checkpoint_of_a_run_without_one_is_an_error(store: StudyStore):
    """Law: the message states what may be the reason; a damaged checkpoint is never handed out."""
    plan = plan_of(1)
    publish(store, plan, finetune(0), {"outputs.arrow": b"logits"})
    with pytest.raises(
        StoreError, match=r"run finetune/00000 has no model\.safetensors \(not made, or keep_checkpoints: false\)"
    ):
        store.payload(finetune(0), "model.safetensors")
    store.discard(finetune(0))
    publish(store, plan, finetune(0))
    name = store.stored_as("model.safetensors", payload_of(PAYLOADS["model.safetensors"]))
    store.storage.publish_file(f"tiny/finetune/00000/{name}", b"weighty")
    with pytest.raises(StoreError, match=r"model\.safetensors differs from its record"):
        store.payload(finetune(0), "model.safetensors")


def test_a_changed_record_is_an_error(store: StudyStore):
    """Law: a record carries its own checksum; a metric changed by hand or by a bad disk is damage."""
    plan = plan_of(1)
    store.admit(plan)
    publish(store, plan, finetune(0))
    text = store.storage.read("tiny/finetune/00000/record.json").decode()
    store.storage.publish_file("tiny/finetune/00000/record.json", text.replace("0.5", "0.9").encode())
    with pytest.raises(DamagedFile, match="changed since it was written"):
        made(store, plan)


def test_payloads_that_wait_for_their_record_are_left_alone(store: StudyStore):
    """Law: two drivers on one run: what one has put without a record yet, the other does not remove."""
    plan = plan_of(1)
    store.admit(plan)
    store.storage.publish_file("tiny/finetune/00000/outputs.arrow", b"another driver's")
    publish(store, plan, finetune(0), {"model.safetensors": b"weights"})
    if store.storage.local is None:
        assert store.storage.read("tiny/finetune/00000/outputs.arrow") == b"another driver's"
    assert made(store, plan) == [0]
