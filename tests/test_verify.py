"""verify() finds all that is not what its record states; repair() makes exactly those runs pending again."""

from __future__ import annotations

import datetime
import re
from pathlib import Path

import pytest
from plans import PAYLOADS, finetune, plan_of, record_of
from pyarrow import fs

from ray_unlearn.errors import DamagedFile, NewerFormat, StoreError
from ray_unlearn.store import Storage, StudyStore, open_storage
from ray_unlearn.store.records import payload_of
from ray_unlearn.store.verify import repair, verify

PLAN = plan_of(4)
RUNS = [finetune(i) for i in range(4)]


@pytest.fixture(params=["disk", "bucket"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> StudyStore:
    """Four finished runs, on a disk and on an object store."""
    memory = fs._MockFileSystem(datetime.datetime.now(datetime.UTC))
    disk, bucket = open_storage(str(tmp_path / "store")), Storage("s3://bucket", memory, "bucket")
    store = StudyStore(disk if request.param == "disk" else bucket, "tiny")
    store.admit(PLAN)
    for run in RUNS:
        store.publish(run, PAYLOADS, record_of(PLAN, run))
    return store


def flip(data: bytes) -> bytes:
    return bytes([data[0] ^ 1]) + data[1:]


def model_of(store: StudyStore, index: int) -> str:
    """Return where a run's model is."""
    file = "model.safetensors"
    return f"tiny/finetune/{index:05d}/{store.stored_as(file, payload_of(PAYLOADS[file]))}"


def damage(store: StudyStore, how: str) -> None:
    """Damage run 2."""
    model, record = model_of(store, 2), "tiny/finetune/00002/record.json"
    data = store.storage.read(model)
    if how == "flipped byte":
        store.storage.publish_file(model, flip(data))
    elif how == "truncated":
        store.storage.publish_file(model, data[:-1])
    elif how == "empty":
        store.storage.publish_file(model, b"")
    elif how == "missing":
        store.storage.remove(model)
    elif how == "unreadable record":
        store.storage.publish_file(record, store.storage.read(record)[:-20])
    elif how == "another run's record":
        store.storage.publish_file(record, store.storage.read("tiny/finetune/00001/record.json"))
    elif how == "another study's record":
        other = record_of(plan_of(4, lr=1e-2), finetune(2))
        store.storage.publish_file(record, other.sealed().model_dump_json().encode())


# `weights` has 7 bytes.
EXPECTED = {
    "flipped byte": ("model.safetensors", r"expected sha256 [0-9a-f]{12}\.\.\., found [0-9a-f]{12}\.\.\."),
    "truncated": ("model.safetensors", "expected 7 bytes, found 6"),
    "empty": ("model.safetensors", "expected 7 bytes, found 0"),
    "missing": ("model.safetensors", "missing; expected 7 bytes"),
    "unreadable record": ("record.json", "cannot be read as a record, or was changed"),
    "another run's record": ("record.json", r"is of finetune/00001, digest [0-9a-f]{12}, not of this run"),
    "another study's record": ("record.json", r"is of finetune/00002, digest [0-9a-f]{12}, not of this run"),
}


def test_a_whole_store_has_no_problem(store: StudyStore):
    """Law: verify counts every recorded run, file and byte: 4 runs of 7 + 6 bytes."""
    result = verify(store, store.populations())
    assert (result.runs, result.files, result.size_bytes, result.problems) == (4, 8, 52, ())


@pytest.mark.parametrize("how", EXPECTED)
def test_damage_is_found_and_mended(store: StudyStore, how: str):
    """Law: exactly the damaged file is named; repair makes exactly its run pending; published again, all is whole."""
    damage(store, how)
    problems = verify(store, store.populations()).problems
    file, message = EXPECTED[how]
    assert [(problem.run, problem.file) for problem in problems] == [(finetune(2), file)]
    assert re.fullmatch(f"finetune/00002/{file}: {message}", str(problems[0]))

    digest = PLAN.populations["finetune"].digest
    assert repair(store, problems) == [finetune(2)]
    assert sorted(store.records("finetune", digest)) == [0, 1, 3]
    store.publish(finetune(2), PAYLOADS, record_of(PLAN, finetune(2)))
    assert sorted(store.records("finetune", digest)) == [0, 1, 2, 3]
    assert verify(store, store.populations()).problems == ()


def test_every_bad_file_is_named(store: StudyStore):
    """Law: one problem per bad file; a run with two is repaired once."""
    for name, data in PAYLOADS.items():
        store.storage.publish_file(f"tiny/finetune/00003/{store.stored_as(name, payload_of(data))}", b"x")
    damage(store, "missing")
    problems = verify(store, ["finetune"]).problems
    assert [str(problem).split(":")[0] for problem in problems] == [
        "finetune/00002/model.safetensors",
        "finetune/00003/model.safetensors",
        "finetune/00003/outputs.arrow",
    ]
    assert repair(store, problems) == [finetune(2), finetune(3)]


def test_a_damaged_failure_is_found_and_removed(store: StudyStore):
    """Law: the record of a failure that cannot be read is named, and `--repair` removes it alone."""
    store.storage.publish_file("tiny/finetune/failed/00003.json", b"{half")
    problems = verify(store, ["finetune"]).problems
    assert list(map(str, problems)) == ["finetune/failed/00003.json: cannot be read as the record of a failure"]
    assert repair(store, problems) == [finetune(3)]
    assert store.failures("finetune") == {}
    assert verify(store, ["finetune"]).runs == 4


def test_a_newer_record_is_no_damage(store: StudyStore):
    """Law: a record of a later format is refused by name, and `--repair` does not get to remove it."""
    newer = record_of(PLAN, finetune(2)).sealed().model_dump_json().replace('"format":2', '"format":3')
    store.storage.publish_file("tiny/finetune/00002/record.json", newer.encode())
    with pytest.raises(NewerFormat, match=r"finetune/00002/record\.json: format 3 of a record file"):
        verify(store, ["finetune"])


def test_an_unfinished_run_is_no_problem(store: StudyStore):
    """Law: payloads without a record are not made yet, which is not damage."""
    store.storage.remove("tiny/finetune/00002/record.json")
    result = verify(store, ["finetune"])
    assert (result.runs, result.problems) == (3, ())


def test_an_empty_store_is_whole(tmp_path: Path):
    """Law: nothing recorded, nothing wrong."""
    result = verify(StudyStore(open_storage(str(tmp_path)), "nothing"), ["finetune"])
    assert (result.runs, result.problems) == (0, ())


@pytest.mark.parametrize("what", ["run", "population"])
def test_repair_stays_in_the_storage(tmp_path: Path, what: str):
    """Law: a run that is a symbolic link goes, what it points to stays; behind a linked folder nothing is removed."""
    store = StudyStore(open_storage(str(tmp_path / "store")), "tiny")
    store.admit(PLAN)
    for run in RUNS:
        store.publish(run, PAYLOADS, record_of(PLAN, run))
    inside = tmp_path / "store/tiny/finetune" / ("00002" if what == "run" else "")
    outside = tmp_path / "elsewhere"
    inside.rename(outside)
    inside.symlink_to(outside)
    held = sorted(path.relative_to(outside) for path in outside.rglob("*"))
    damage(store, "flipped byte")
    problems = verify(store, ["finetune"]).problems
    assert [problem.run for problem in problems] == [finetune(2)]
    if what == "population":
        with pytest.raises(StoreError, match=f"cannot remove .*behind a symbolic link, in {outside}.*by hand"):
            repair(store, problems)
    else:
        with pytest.raises(StoreError, match="behind a symbolic link"):
            repair(store, problems)
    assert sorted(path.relative_to(outside) for path in outside.rglob("*")) == held


def test_a_linked_folder_is_removed_as_a_link(tmp_path: Path):
    """Law: of a link in the storage, the link goes and not what it points to."""
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/precious").write_bytes(b"x")
    storage = open_storage(str(tmp_path / "store"))
    storage.publish_file("a/b", b"")
    (tmp_path / "store/a/link").symlink_to(tmp_path / "elsewhere")
    storage.remove("a/link")
    storage.remove("a/nothing")
    assert (tmp_path / "elsewhere/precious").read_bytes() == b"x"
    assert [path.name for path in (tmp_path / "store/a").iterdir()] == ["b"]
    storage.remove("a")
    assert not (tmp_path / "store/a").exists()


def test_a_population_json_of_another_digest_is_no_damage_of_its_runs(store: StudyStore):
    """Law: one changed letter there does not end with "repaired", and with all runs pending."""
    name = store.layout.population_json("finetune")
    digest = PLAN.populations["finetune"].digest
    store.storage.publish_file(name, store.storage.read(name).replace(digest.encode(), b"0" * 64))
    with pytest.raises(DamagedFile, match=rf"states the digest 0{{12}}, which no run has: .* is of {digest[:12]}"):
        verify(store, ["finetune"])
