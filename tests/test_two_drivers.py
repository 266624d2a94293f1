"""Two drivers on an object store: at the same run with other bytes, and with other plans at the same moment."""

from __future__ import annotations

import datetime
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from conftest import TINY, merged
from evaluated import draw_logits, evaluated_store, publish
from interleaved import interleaved, orders
from plans import PAYLOADS, finetune, plan_of, record_of
from pyarrow import fs
from s3 import moto_server

from ray_unlearn.cli import main
from ray_unlearn.errors import PopulationChanged, StoreError
from ray_unlearn.evaluation.evaluate import evaluate
from ray_unlearn.export import export_competition
from ray_unlearn.store import Storage, StudyStore, claims, disk, open_storage, study_store
from ray_unlearn.store.filesystem import Stamp
from ray_unlearn.store.leftovers import remove_old
from ray_unlearn.store.records import payload_of
from ray_unlearn.store.verify import repair, verify
from ray_unlearn.study import Plan, Run

ORIGINAL = Run(population="original", index=0)
THEIRS = {"model.safetensors": b"WEIGHTS", "outputs.arrow": b"LOGITS"}
RUN = finetune(0)


def bucket() -> Storage:
    """Return a storage without renames, as object stores are, in memory."""
    return Storage("s3://bucket", fs._MockFileSystem(datetime.datetime.now(datetime.UTC)), "bucket")


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    """A bucket of moto's."""
    patch = pytest.MonkeyPatch()
    patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with moto_server() as server:
        server.make_bucket("bucket")
        yield server.uri("bucket")
    patch.undo()


def held_by(store: StudyStore, run: Run) -> dict[str, bytes] | None:
    """Return the payloads of a run as its record names them, read as a reader does; None where it is not made."""
    record = store.record(run)
    return {file: store.payload(run, file, record) for file in record.payloads} if record else None


def whole(store: StudyStore) -> None:
    """Fail unless the run is not made, or is one driver's alone."""
    assert held_by(store, RUN) in (None, PAYLOADS, THEIRS)


def test_a_record_names_its_own_drivers_payloads_in_every_order(monkeypatch):
    """Law: however the requests of two drivers alternate, a reader finds no run or one driver's run, at any moment;
    both end well; nothing is wrong afterwards."""
    plan, made = plan_of(1), set()
    drivers = (PAYLOADS, THEIRS)
    for order in orders(8):
        store = StudyStore(bucket(), "tiny")
        store.admit(plan)

        def driver(payloads: dict[str, bytes], store: StudyStore = store) -> None:
            store.publish(RUN, payloads, record_of(plan, RUN, payloads))

        ended, requests = interleaved(
            monkeypatch,
            *(lambda p=payloads: driver(p) for payloads in drivers),
            order=order,
            look=lambda store=store: whole(store),
        )
        assert ended == [None, None]
        assert requests <= 2 * 8
        held = held_by(store, RUN)
        assert held is not None
        made.add(held["outputs.arrow"])
        checked = verify(store, store.populations())
        assert (checked.runs, checked.problems) == (1, ())
        assert sorted(store.made("finetune")) == [0]
    assert made == {PAYLOADS["outputs.arrow"], THEIRS["outputs.arrow"]}  # either may come first


def both_publish(
    store: StudyStore, plan: Plan, monkeypatch: pytest.MonkeyPatch, look: Callable[[], None] = lambda: None
) -> list[BaseException | None]:
    """Publish a run twice: both find no record, twice; then one writes its record, and the other writes over it."""
    ended, _ = interleaved(
        monkeypatch,
        lambda: store.publish(RUN, PAYLOADS, record_of(plan, RUN)),
        lambda: store.publish(RUN, THEIRS, record_of(plan, RUN, THEIRS)),
        order=[0] * 4 + [1] * 4 + [0, 1],
        look=look,
    )
    return ended


def test_a_reader_that_has_one_drivers_record_still_finds_its_payloads(monkeypatch):
    """Law: a record that is written over names payloads that stay: what was read before is not mixed with what is."""
    plan, store, seen = plan_of(1), StudyStore(bucket(), "tiny"), []
    store.admit(plan)

    def look() -> None:
        record = store.record(RUN)
        if record and record not in seen:
            seen.append(record)

    both_publish(store, plan, monkeypatch, look)
    assert [{file: store.payload(RUN, file, record) for file in PAYLOADS} for record in seen] == [PAYLOADS, THEIRS]
    assert held_by(store, RUN) == THEIRS


def test_what_the_other_driver_wrote_is_left_over_and_goes_after_a_day(monkeypatch):
    """Law: `verify` counts it and finds no problem; only what is older than a day, and has such a name, is removed."""
    plan, storage = plan_of(2), bucket()
    store = StudyStore(storage, "tiny")
    store.admit(plan)
    both_publish(store, plan, monkeypatch)
    storage.publish_file("tiny/finetune/00000/notes.txt", b"mine")
    half = store.stored_as("model.safetensors", payload_of(b"killed"))
    storage.publish_file(f"tiny/finetune/00001/{half}", b"killed")
    checked = verify(store, store.populations())
    assert checked.problems == ()
    lost = [f"tiny/finetune/00000/{store.stored_as(file, payload_of(data))}" for file, data in PAYLOADS.items()]
    assert sorted(checked.leftovers) == sorted([*lost, f"tiny/finetune/00001/{half}"])
    assert remove_old(store, checked.leftovers) == 0
    day = 24 * 3600 * 10**9
    aged = {name: Stamp(stamp.size_bytes, stamp.mtime_ns - day - 1) for name, stamp in checked.leftovers.items()}
    assert remove_old(store, aged) == 3
    assert held_by(store, RUN) == THEIRS
    assert verify(store, store.populations()).leftovers == {}
    assert storage.read("tiny/finetune/00000/notes.txt") == b"mine"


def test_scores_and_exports_are_one_drivers(tmp_path: Path, monkeypatch):
    """Law: of a run that two drivers made, `evaluate` and `export` take what the record names."""
    study, local = evaluated_store(tmp_path, {"retrained": 6, "again": 6})
    store = StudyStore(bucket(), study.name)
    for name in local.storage.sizes("", recursive=True):
        store.storage.publish_file(name, local.storage.read(name))
    expected = evaluate(study, store).populations["again"]  # under the plain names of earlier versions
    store.discard(Run(population="again", index=2))
    interleaved(
        monkeypatch,
        lambda: publish(store, "again", 2, draw_logits(7)),
        lambda: publish(store, "again", 2, draw_logits(2002)),  # the logits that the run had
        order=[0] * 3 + [1] * 3 + [0, 1],
    )
    assert evaluate(study, store).populations["again"].measures == expected.measures


def test_of_two_plans_at_the_same_moment_at_most_one_is_admitted(monkeypatch):
    """Law: however the requests alternate, never both; who is refused reports it; afterwards the store is one
    plan's.
    """
    monkeypatch.setattr(claims, "_PAUSES_S", (0.0,))
    plans, admitted_any = (plan_of(1), plan_of(1, lr=1e-2)), 0
    for order in orders(9):
        store = StudyStore(bucket(), "tiny")
        ended, _ = interleaved(
            monkeypatch, *(lambda plan=plan, store=store: store.admit(plan) for plan in plans), order=order
        )
        admitted = [plan for plan, error in zip(plans, ended, strict=True) if error is None]
        assert len(admitted) <= 1
        assert all(error is None or isinstance(error, PopulationChanged | StoreError) for error in ended)
        digests = {plan.populations["finetune"].digest for plan in admitted}
        held = store.held("finetune")
        assert not admitted or (held is not None and held["digest"] in digests)
        admitted_any += bool(admitted)
        if not admitted:  # each saw the other's claim, every time: later it is decided
            store.admit(
                plans[0]
                if held is None
                else next(p for p in plans if p.populations["finetune"].digest == held["digest"])
            )
        assert not [name for name in store.storage.sizes("tiny/finetune") if name.startswith(disk.TEMPORARY)]
    assert admitted_any


def test_two_drivers_of_the_same_plan_are_both_admitted(monkeypatch):
    """Law: claims for the same content do not block each other."""
    plan = plan_of(1)
    for order in orders(9):
        store = StudyStore(bucket(), "tiny")
        ended, _ = interleaved(monkeypatch, *(lambda store=store: store.admit(plan),) * 2, order=order)
        assert ended == [None, None]


def test_a_claim_that_was_left_behind(monkeypatch):
    """Law: one of a dead process of this machine, or older than a day, is in no one's way; another is named."""
    monkeypatch.setattr(claims, "_PAUSES_S", (0.0,))
    plan, store = plan_of(1), StudyStore(bucket(), "tiny")
    claim = "tiny/finetune/.tmp-another-host-12-0123456789ab.fedcba9876543210"
    store.storage.publish_file(claim, b"")
    with pytest.raises(
        StoreError, match=r"finetune/population\.json: another driver is creating it .*0123456789ab\.fedc"
    ):
        store.admit(plan)
    store.storage.remove(claim)
    store.admit(plan)
    other = StudyStore(bucket(), "tiny")
    monkeypatch.setattr(disk, "has_ended", lambda host, pid: (host, pid) == ("another-host", "12"))
    other.storage.publish_file(claim, b"")
    other.admit(plan)
    assert not other.storage.exists(claim)


def test_two_drivers_on_s3(s3: str, tmp_path: Path, monkeypatch, capsys):
    """Law: the same on a service: one plan of two is admitted, and a run that two made is one's."""
    store, plan = StudyStore(open_storage(s3), "drivers"), plan_of(1)
    ended, _ = interleaved(
        monkeypatch,
        lambda: store.admit(plan),
        lambda: store.admit(plan_of(1, lr=1e-2)),
        order=[0] * 3 + [1] * 3 + [0] * 40,
    )
    assert ended[0] is None
    assert isinstance(ended[1], PopulationChanged)
    ended = both_publish(store, plan, monkeypatch)
    assert ended == [None, None]
    assert held_by(store, RUN) == THEIRS
    checked = verify(store, store.populations())
    assert (checked.runs, checked.problems, len(checked.leftovers)) == (1, (), 2)
    file = tmp_path / "study.yaml"
    file.write_text(yaml.safe_dump(TINY | {"name": "drivers", "storage": s3}))
    for option, done in (([], "--repair removes them"), (["--repair"], "removed 0")):
        assert main(["verify", str(file), *option]) == 0
        assert (
            f"2 objects of 13 bytes that no record names, left by drivers that were killed or made the same run; {done}"
            in (capsys.readouterr().out)
        )


def test_a_bucket_of_an_earlier_version_is_read_and_goes_on():
    """Law: payloads under plain names are read, verified and exported; a new run next to them has the new names."""
    plan, store = plan_of(2), StudyStore(bucket(), "tiny")
    store.admit(plan)
    for file, data in PAYLOADS.items():
        store.storage.publish_file(f"tiny/finetune/00000/{file}", data)
    record = record_of(plan, RUN).sealed().model_dump_json().encode()
    store.storage.publish_file("tiny/finetune/00000/record.json", record)
    store.publish(finetune(1), PAYLOADS, record_of(plan, finetune(1)))
    assert [held_by(store, finetune(index)) for index in range(2)] == [PAYLOADS, PAYLOADS]
    assert verify(store, store.populations()).problems == ()
    assert verify(store, store.populations()).leftovers == {}
    store.storage.publish_file("tiny/finetune/00000/model.safetensors", b"damaged")
    assert [str(problem.run) for problem in verify(store, ["finetune"]).problems] == ["finetune/00000"]


def test_a_bucket_that_was_copied_to_a_disk_is_read(tmp_path: Path):
    """Law: the names of a bucket are read on a disk, too."""
    plan, store, local = plan_of(1), StudyStore(bucket(), "tiny"), StudyStore(open_storage(str(tmp_path)), "tiny")
    store.admit(plan)
    store.publish(RUN, PAYLOADS, record_of(plan, RUN))
    for name in store.storage.sizes("", recursive=True):
        local.storage.publish_file(name, store.storage.read(name))
    assert held_by(local, RUN) == PAYLOADS
    assert verify(local, ["finetune"]).problems == ()


def started(plan, index: int, original: bytes):
    return record_of(plan, finetune(index)).model_copy(update={"original_sha256": payload_of(original).sha256})


def test_runs_that_started_from_another_original_are_not_mixed_in(tmp_path: Path):
    """Law: an original that was written over is whole, and so are the runs that started from the one before; together
    they are no population: `evaluate` and `export` state which runs, `verify --repair` makes those pending alone."""
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


def test_the_compacted_copy_never_holds_a_record_that_was_written_over(monkeypatch):
    """Law: two records of one run, of the same size and within the same second of the storage's clock: the copy that
    was made between them is not believed for the second, nor is what a driver read before."""
    monkeypatch.setattr(study_store, "_WORTH_COMPACTING", 0)
    plan, store = plan_of(1), StudyStore(bucket(), "tiny")  # the clock of which does not move
    store.admit(plan)
    digest = plan.populations["finetune"].digest
    store.publish(RUN, PAYLOADS, record_of(plan, RUN))
    first = store.compact("finetune", digest)
    store.storage.remove(store.layout.record(RUN))
    store.publish(RUN, THEIRS, record_of(plan, RUN, THEIRS))
    second = store.record(RUN)
    assert second not in (None, first[0])
    assert store.records("finetune", digest) == {0: second}
    assert store.compact("finetune", digest, known=first) == {0: second}


@pytest.mark.long
def test_two_generates_at_once_of_runs_that_never_repeat_themselves(s3: str, tmp_path: Path):
    """Law: two commands at the same 12 runs on S3, each run with other bytes every time: both end well, every run is
    one driver's, and nothing is wrong."""
    script, file = tmp_path / "noisy.py", tmp_path / "study.yaml"
    body = "    print(os.urandom(8).hex())\n    net[-1].bias.data += torch.tensor(list(os.urandom(10))) / 1e6\n"
    script.write_text(f"import os, torch\n\n\ndef unlearning(net, retain, forget, val):\n{body}")
    populations = {"finetune": None, "noisy": {"method": f"{script}:unlearning", "count": 12}}
    study = merged(TINY, {"name": "noisy", "storage": s3, "populations": populations})
    file.write_text(yaml.safe_dump(study))
    command = [sys.executable, "-m", "ray_unlearn", "generate", str(file), "--backend", "inline"]
    drivers = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    said = [driver.communicate(timeout=120)[1] for driver in drivers]
    assert [driver.returncode for driver in drivers] == [0, 0], said
    store = StudyStore(open_storage(s3), "noisy")
    checked = verify(store, store.populations())
    assert (checked.runs, checked.problems) == (13, ())
    logs = {store.log(Run(population="noisy", index=index)) for index in range(12)}
    assert len(logs) == 12
