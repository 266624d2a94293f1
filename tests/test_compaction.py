"""The compacted copy of records: it saves reads, and never states more than the records themselves."""

from __future__ import annotations

import hashlib
import json
import os
import re
from pathlib import Path

import pytest
from plans import finetune, plan_of, record_of

from ray_unlearn.errors import DamagedFile, StoreError
from ray_unlearn.store import Record, Storage, StudyStore, open_storage
from ray_unlearn.store import study_store as module

COPY = "tiny/finetune/records.jsonl"
PLAN = plan_of(6)
DIGEST = PLAN.populations["finetune"].digest


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StudyStore:
    """Five runs of six, compacted."""
    monkeypatch.setattr(module, "_WORTH_COMPACTING", 0)
    store = StudyStore(open_storage(str(tmp_path)), "tiny")
    store.admit(PLAN)
    for index in range(5):
        store.publish(
            finetune(index), {"outputs.arrow": b"x"}, record_of(PLAN, finetune(index), {"outputs.arrow": b"x"})
        )
    store.compact("finetune", DIGEST)
    return store


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that are read."""
    names, real = list[str](), Storage.read

    def read(self: Storage, name: str) -> bytes:
        names.append(name)
        return real(self, name)

    monkeypatch.setattr(Storage, "read", read)
    return names


def records_one_by_one(store: StudyStore) -> dict[int, Record]:
    """What `records` must state: every record.json read, none believed."""
    found = {index: store.record(finetune(index)) for index in store.indexes("finetune")}
    return {index: record for index, record in found.items() if record and record.is_of(finetune(index), DIGEST)}


def path_of(store: StudyStore, name: str) -> Path:
    return Path(store.storage.root) / name


def change(store: StudyStore, index: int, record: Record, keep_size: bool = False) -> None:
    """Write another record in a run's place, with another time of change."""
    path = path_of(store, f"tiny/finetune/{index:05d}/record.json")
    data, before = record.sealed().model_dump_json(indent=1).encode(), path.stat()
    assert (len(data) == before.st_size) == keep_size
    path.write_bytes(data)
    os.utime(path, ns=(before.st_mtime_ns + 1, before.st_mtime_ns + 1))


def test_a_compacted_population_is_read_with_one_read(store: StudyStore, reads: list[str]):
    """Law: the records are those that reading each gives, from one file."""
    expected = records_one_by_one(store)
    reads.clear()
    assert store.records("finetune", DIGEST) == expected
    assert sorted(expected) == [0, 1, 2, 3, 4]
    assert reads == [COPY]


def test_a_run_made_since_is_read_by_itself(store: StudyStore, reads: list[str]):
    """Law: what the copy lacks is read; `compact` then takes it in."""
    store.publish(finetune(5), {}, record_of(PLAN, finetune(5), {}))
    reads.clear()
    assert sorted(store.records("finetune", DIGEST)) == [0, 1, 2, 3, 4, 5]
    assert reads == [COPY, "tiny/finetune/00005/record.json"]
    store.compact("finetune", DIGEST)
    reads.clear()
    store.records("finetune", DIGEST)
    assert reads == [COPY]


@pytest.mark.parametrize("keep_size", [False, True])
def test_a_changed_record_is_read_again(store: StudyStore, keep_size: bool):
    """Law: another stamp, of another size or of the same, and the line counts no more."""
    other = record_of(PLAN, finetune(2), {"outputs.arrow": b"x"})
    other = other.model_copy(update={"metrics": {"test_accuracy": 0.9 if keep_size else 0.987}})
    change(store, 2, other, keep_size)
    assert store.records("finetune", DIGEST)[2].metrics == other.metrics
    assert store.records("finetune", DIGEST) == records_one_by_one(store)


def test_a_record_that_was_damaged_since_is_an_error(store: StudyStore):
    """Law: the copy does not keep a run alive whose own record is torn; that is damage, not a run to be made."""
    path_of(store, "tiny/finetune/00002/record.json").write_bytes(b'{"population": "fine')
    with pytest.raises(DamagedFile, match=r"finetune/00002/record\.json: not JSON .*verify STUDY --repair"):
        store.records("finetune", DIGEST)


def test_the_copy_keeps_keys_of_a_later_version(store: StudyStore, reads: list[str]):
    """Law: a record with keys that this version does not know goes into the copy and out of it as it is stored."""
    before = path_of(store, "tiny/finetune/00002/record.json").read_text()
    body = re.sub(r"\s+", "", before).replace('"attempt":1', '"attempt":1,"later":0.10')
    body = body[: body.index(',"checksum"')] + "}"
    text = f'{body[:-1]},"checksum":"{hashlib.sha256(body.encode()).hexdigest()}"}}'
    path_of(store, "tiny/finetune/00002/record.json").write_text(text)
    store.compact("finetune", DIGEST)
    reads.clear()
    assert store.records("finetune", DIGEST)[2].text == text
    assert reads == [COPY]


def test_a_copy_of_a_later_format_is_not_read(store: StudyStore):
    """Law: the copy is a cache: what a later version put there is no error, and reports nothing."""
    path = path_of(store, COPY)
    expected = store.records("finetune", DIGEST)
    path.write_text(path.read_text().replace('"format": 2, "run"', '"format": 3, "run"').replace("0.5", "0.7"))
    assert store.records("finetune", DIGEST) == expected


def test_a_removed_run_is_gone(store: StudyStore):
    """Law: what the listing lacks is not made, no matter what the copy states."""
    store.discard(finetune(3))
    assert sorted(store.records("finetune", DIGEST)) == [0, 1, 2, 4]
    path_of(store, "tiny/finetune/00001/record.json").unlink()
    assert sorted(store.records("finetune", DIGEST)) == [0, 2, 4]


def test_lines_of_something_else_do_not_count(store: StudyStore, reads: list[str]):
    """Law: a line whose record is another run's, another digest's or changed is nothing; the run's own file decides."""
    lines = [json.loads(line) for line in path_of(store, COPY).read_text().splitlines()]
    lines[0]["record"] = lines[1]["record"]
    lines[2]["record"] = json.loads(record_of(plan_of(6, lr=1e-2), finetune(2)).sealed().model_dump_json())
    lines[3]["record"]["metrics"]["test_accuracy"] = 0.99
    lines[4]["run"] = "00005"
    path_of(store, COPY).write_text("".join(json.dumps(line) + "\n" for line in lines))
    expected = records_one_by_one(store)
    reads.clear()
    assert store.records("finetune", DIGEST) == expected
    assert sorted(reads) == [*(f"tiny/finetune/0000{i}/record.json" for i in (0, 2, 3, 4)), COPY]


@pytest.mark.parametrize("damage", ["torn", "empty", "binary", "not objects", "gone"])
def test_a_lost_or_damaged_copy_costs_time_only(store: StudyStore, damage: str):
    """Law: no matter what is in the file, the records are what they are."""
    copy, expected = path_of(store, COPY), records_one_by_one(store)
    whole = copy.read_bytes()
    found = {
        "torn": whole[: len(whole) // 2],
        "empty": b"",
        "binary": b"\xff\x00\n" * 9,
        "not objects": b"[]\n7\nnull\n",
    }
    copy.unlink()
    if damage != "gone":
        copy.write_bytes(found[damage])
    assert store.records("finetune", DIGEST) == expected


def test_another_digest_takes_nothing_from_the_copy(store: StudyStore):
    """Law: records belong to the digest that they were made under."""
    assert store.records("finetune", "0" * 64) == {}


def test_a_store_that_does_not_take_the_copy_is_read_all_the_same(store: StudyStore, monkeypatch: pytest.MonkeyPatch):
    """Law: compacting saves time; that it cannot be written is no error."""

    def refuse(self: Storage, name: str, data: bytes) -> None:
        raise StoreError("cannot write")

    path_of(store, COPY).unlink()
    monkeypatch.setattr(Storage, "publish_file", refuse)
    assert sorted(store.compact("finetune", DIGEST)) == [0, 1, 2, 3, 4]


def test_small_populations_are_not_compacted(tmp_path: Path):
    """Law: up to 256 records are read faster than it is worth to keep them twice."""
    store = StudyStore(open_storage(str(tmp_path)), "tiny")
    for index in range(256):
        name = store.layout.record(finetune(index))
        store.storage.publish_file(name, record_of(PLAN, finetune(index), {}).sealed().model_dump_json().encode())
    assert len(store.compact("finetune", DIGEST)) == 256
    assert not store.storage.exists(COPY)
    name = store.layout.record(finetune(256))
    store.storage.publish_file(name, record_of(PLAN, finetune(256), {}).sealed().model_dump_json().encode())
    assert len(store.compact("finetune", DIGEST)) == 257
    assert store.storage.exists(COPY)
