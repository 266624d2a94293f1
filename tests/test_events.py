"""Events: what is written is read, what cannot be written fails nothing, and what they add up to by hand."""

from __future__ import annotations

import errno
import itertools
import json
import math
import os
import threading
import time
import types
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from mounts import remount, tmpfs
from plans import finetune, plan_of
from pyarrow import fs
from test_scheduler import INFO, FakePool, schedule

from ray_unlearn.generation import driver, generate
from ray_unlearn.monitor.event_log import Recorder, without_places
from ray_unlearn.monitor.utilisation import utilisation, utilisation_line
from ray_unlearn.run.outcome import Outcome
from ray_unlearn.schedule.events import Failed, Made
from ray_unlearn.schedule.pool import Leaving, Lost, Ready
from ray_unlearn.store import Storage, StudyStore, disk, open_storage
from ray_unlearn.store import events as events_module
from ray_unlearn.store.events import EventLog, EventReader, decode_events, event_log
from ray_unlearn.study import Run, Study

Event = dict[str, object]


def store_in(folder: Path) -> StudyStore:
    return StudyStore(open_storage(str(folder)), "faces")


def elsewhere(folder: Path) -> StudyStore:
    """Return a store of a file system that is not the local one, as object stores are none."""
    folder.mkdir()
    return StudyStore(Storage("mock://", fs.SubTreeFileSystem(str(folder), fs.LocalFileSystem()), "root"), "faces")


def kinds(found: list[Event]) -> list[object]:
    return [event["event"] for event in found]


@pytest.mark.parametrize("make", [store_in, elsewhere])
def test_what_is_written_is_read_in_order(make: Callable[[Path], StudyStore], tmp_path: Path):
    """Law: every event once, in order, with UTC to the millisecond and seconds that never fall; one log per writer."""
    store = make(tmp_path / "a")
    with event_log(store) as log:
        for index in range(5):
            log.write("made", run=f"finetune/{index:05d}")
    with event_log(store) as log:
        log.write("begun")
    first, second = EventReader(store).logs().values()
    assert [event["run"] for event in first] == [f"finetune/{index:05d}" for index in range(5)]
    assert first[0]["at"].endswith("Z")
    assert len(first[0]["at"]) == len("2026-11-24T15:03:12.123Z")
    assert sorted(event["s"] for event in first) == [event["s"] for event in first]
    assert kinds(second) == kinds(EventReader(store).newest()) == ["begun"]


@pytest.mark.parametrize("make", [store_in, elsewhere])
def test_a_large_log_goes_on_in_parts(make: Callable[[Path], StudyStore], tmp_path: Path, monkeypatch):
    """Law: with parts of 100 bytes, events of some 60 are in several files and are read as one log, in order."""
    monkeypatch.setattr(events_module, "_PART_BYTES", 100)
    store = make(tmp_path / "a")
    with event_log(store) as log:
        for index in range(6):
            log.write("x", i=index)
            log._flush()
    assert len(store.storage.sizes("faces/events")) == 3
    (found,) = EventReader(store).logs().values()
    assert [event["i"] for event in found] == list(range(6))


def test_lines_are_there_while_the_work_goes_on(tmp_path: Path, monkeypatch):
    """Law: who watches need not wait for the end; a driver with nothing to report states that it is alive."""
    monkeypatch.setattr(events_module, "_EVERY_S", 0.02)
    monkeypatch.setattr(events_module, "ALIVE_EVERY_S", 0.05)
    store = store_in(tmp_path)
    with event_log(store) as log:
        log.write("begun")
        end = time.monotonic() + 5
        while kinds(EventReader(store).newest())[:2] != ["begun", "alive"] and time.monotonic() < end:
            time.sleep(0.01)
        assert kinds(EventReader(store).newest())[:2] == ["begun", "alive"]


def test_a_torn_last_line_and_foreign_ones_are_skipped(tmp_path: Path):
    """Law: of what a kill tore, and of what is no event, nothing is believed; the next log's lines are whole."""
    good = {"event": "made", "at": "2026-11-24T15:00:00.000Z", "s": 1.5}
    lines = [json.dumps(good), "[1]", '{"event": 1, "at": "x", "s": 1}', '{"event": "x", "at": "y", "s": true}', "\xff"]
    lines += [f'{{"event": "x", "at": "y", "s": {s}}}' for s in ("NaN", "Infinity", "-1", "1" * 400)]
    assert decode_events("\n".join([*lines, "[" * 100_000, json.dumps(good)[:20]]).encode()) == [good]


def test_a_store_that_takes_no_events_fails_nothing(tmp_path: Path):
    """Law: what could not be written waits, and is there once the store takes it; closing never raises."""
    store = store_in(tmp_path)
    (tmp_path / "faces").mkdir()
    (tmp_path / "faces/events").write_text("in the way")
    log = EventLog(store)
    log.write("begun")
    log._flush()
    log.write("made")
    (tmp_path / "faces/events").unlink()
    log.close()
    assert kinds(EventReader(store).newest()) == ["begun", "made"]
    (tmp_path / "faces/events").rename(tmp_path / "old")
    (tmp_path / "faces/events").write_text("in the way")
    with event_log(store) as log:
        log.write("begun")


def surrounded(**changes: object) -> types.SimpleNamespace:
    """Return the module `os` with some of it changed, for one module alone."""
    return types.SimpleNamespace(**{**vars(os), **changes})


def full_after(left: int, error: str) -> types.SimpleNamespace:
    """Return an `os` whose first write takes so many bytes: it reports it, or the closing of the file does."""
    once, fails = [left], list[int]()

    def write(descriptor: int, data: bytes) -> int:
        if not once:
            return os.write(descriptor, data)
        taken = once.pop()
        written = os.write(descriptor, data[:taken]) if taken else 0
        if error == "close":
            fails.append(descriptor)
        elif not taken:
            raise OSError(errno.ENOSPC, "full")
        return written

    def close(descriptor: int) -> None:
        os.close(descriptor)
        if descriptor in fails:
            raise OSError(errno.EDQUOT, fails.remove(descriptor) or "over quota")

    return surrounded(write=write, close=close)


@pytest.mark.parametrize("error", ["write", "close"])
def test_no_matter_what_part_a_full_disk_takes_every_event_is_there_once(error: str, tmp_path: Path, monkeypatch):
    """Law: wherever in three lines the disk is full, no event is lost, doubled, or glued to the half of another."""
    for left in range(3 * len(json.dumps({"event": "a", "at": "2026-11-24T15:00:00.000Z", "s": 0.0})) + 4):
        store = store_in(tmp_path / str(left))
        monkeypatch.setattr(disk, "os", full_after(left, error))
        log = EventLog(store)
        for kind in "abc":
            log.write(kind)
        log._flush()
        log.write("d")
        log.close()
        assert kinds(EventReader(store).newest()) == ["a", "b", "c", "d"], left


def test_a_disk_that_is_full_for_a_while(tmp_path: Path):
    """Law: of 400 events, some 24 kB, two pages of 4 kB are taken, the rest once there is room: each once, in order."""
    with tmpfs(tmp_path / "small", "8k") as folder:
        store = store_in(folder)
        log = EventLog(store)
        for index in range(400):
            log.write("made", i=index)
        log._flush()
        there = EventReader(store).newest()
        assert 100 < len(there) < 200
        remount(folder, "size=64k")
        log.close()
        assert [event["i"] for event in EventReader(store).newest()] == list(range(400))


def test_what_is_no_json_costs_its_own_event_alone(tmp_path: Path):
    """Law: a path, a NaN, a key that is no text, a ring: that event states what could not be written; the others, and
    the log, are whole."""
    ring: list[object] = []
    ring.append(ring)
    store = store_in(tmp_path)
    with event_log(store) as log:
        for value in (1, tmp_path, float("nan"), {(1, 2): 3}, ring, 2):
            log.write("made", value=value)
        log._flush()
        log.write("after")
    found = EventReader(store).newest()
    assert kinds(found) == ["made"] * 6 + ["after"]
    assert [event.get("value") for event in found] == [1, None, None, None, None, 2, None]
    assert [event.get("unwritten") for event in found[1:5]] == ["TypeError", "ValueError", "TypeError", "ValueError"]
    text = next((tmp_path / "faces/events").iterdir()).read_text()
    assert "NaN" not in text
    assert str(tmp_path) not in text


def test_what_breaks_off_is_the_last_event(tmp_path: Path):
    """Law: an error passes on, and its kind is reported; no thread is left."""
    store, threads = store_in(tmp_path), threading.active_count()
    with pytest.raises(ValueError, match="secret"), event_log(store) as log:
        raise ValueError(log.write("begun") or "secret")
    assert [event.get("why") for event in EventReader(store).newest()] == [None, "ValueError"]
    assert threading.active_count() == threads


def test_a_driver_that_prepares_reports_it_only_after_another(tmp_path: Path):
    """Law: the first of a study leaves nothing before it is admitted, and nothing where it is refused; the next one
    announces itself; `newest` of a kind passes over what was refused."""
    store = store_in(tmp_path)
    with pytest.raises(ValueError, match="refused"), event_log(store, announce=True):
        raise ValueError("refused")
    assert not (tmp_path / "faces").exists()
    with event_log(store, announce=True) as log:
        log.write("begun")
    with pytest.raises(ValueError, match="refused"), event_log(store, announce=True):
        raise ValueError("refused")
    reader = EventReader(store)
    assert kinds(reader.newest()) == ["preparing", "broken off"]
    assert (reader.newest()[0]["pid"], kinds(reader.newest("begun"))) == (os.getpid(), ["begun"])
    assert reader.newest("ready") == []


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("finetune/00007: loss is NaN after 1/2 epochs", "finetune/00007: loss is NaN after 1/2 epochs"),
        ("s3://key:secret@bucket/x: cannot write '/home/ada/y': full", "... cannot write '...': full"),
        ("HTTP 503 on https://u:p@h/x?token=1&y=2", "HTTP 503 on ..."),
        ("a/b.py and C:\\x\\y\nfile:///etc/x (/tmp/x)", "... and ... ... (...)"),
        ("x" * 400, "x" * 300),
    ],
)
def test_no_place_is_reported(text: str, told: str):
    """Law: of an error, no path and no URI: they may hold names and credentials."""
    assert without_places(text) == told


def test_every_run_and_worker_has_its_events(tmp_path: Path):
    """Law: each attempt is given and then made or failed; a death is a lost worker and runs given again; all are let go
    at the end."""
    plan, store = plan_of(3), store_in(tmp_path)
    pool = FakePool({finetune(0): ["fail"], finetune(1): ["die"], finetune(2): ["final"]}, lambda: 1)
    with event_log(store) as log:
        recorder = Recorder(log)
        recorder.ended(schedule(plan, pool, recorder), {"runs": 1.0})
    found = EventReader(store).newest()
    made = [event["run"] for event in found if event["event"] == "made"]
    assert sorted(made) == ["finetune/00000", "finetune/00001", "original/00000"]
    failed = [(event["run"], event["attempt"]) for event in found if event["event"] == "failed"]
    assert failed == [("finetune/00000", 1), ("finetune/00002", 1)]
    again = [run for event in found if event["event"] == "given" for run in event.get("again", ())]
    assert sorted(set(again)) == ["finetune/00000", "finetune/00001"]
    assert [event["worker"] for event in found if event["event"] == "ready"] == [1, 2]
    assert [event["worker"] for event in found if event["event"] in ("lost", "stopped")] == [1, 2]
    given_up = [(event["run"], event["attempts"], event["error"]) for event in found if event["event"] == "given up"]
    assert given_up == [("finetune/00002", 1, "final")]
    assert {key: found[-1][key] for key in ("event", "made", "failed", "blocked")} == {
        "event": "ended", "made": 3, "failed": 1, "blocked": 0,
    }  # fmt: skip


def test_a_run_whose_worker_died_before_it_reported_is_made_once(tmp_path: Path):
    """Law: what the store alone states is made has its event, without a worker; one event, and no more."""
    with event_log(store_in(tmp_path)) as log:
        schedule(plan_of(2), FakePool({finetune(0): ["untold"]}, lambda: 1), Recorder(log))
    found = EventReader(store_in(tmp_path)).newest()
    made = [(event["run"], event["worker"]) for event in found if event["event"] == "made"]
    assert sorted(made) == [("finetune/00000", None), ("finetune/00001", 2), ("original/00000", 1)]


def at(seconds: float) -> str:
    """Return the time so many seconds after the epoch."""
    return f"1970-01-01T00:00:{seconds:06.3f}Z"


def event(kind: str, seconds: float, worker: int, *busy: tuple[float, float]) -> Event:
    return {"event": kind, "at": at(seconds), "s": seconds, "worker": worker, "busy": busy}


def test_the_share_of_busy_time_by_hand():
    """Law: from 10 to 20 s. Worker 1 trains 10..14 and 15..20 and publishes 14..14.5: 9.5 s of 10. Worker 2, ready at
    12, works 12..16, was let go then and counts as idle until 20: 4 of 8. Together 13.5 of 18. What overlaps counts
    once."""
    found = [
        event("ready", 1, 1),
        event("ready", 12, 2),
        event("made", 14.6, 1, (10, 14), (14, 14.5)),
        event("failed", 16, 2, (12, 16)),
        event("stopped", 16, 2),
        event("made", 20.5, 1, (15, 19), (18, 20)),
    ]
    use = utilisation(found)
    assert (use.busy_s, use.there_s, use.window_s, use.workers, use.runs) == (13.5, 18.0, 10.0, 2, 3)
    assert utilisation(found).share == 0.75
    assert utilisation_line(use) == "2 workers busy 75.0 % of 10.0 s between the first and the last of 3 runs"
    assert utilisation_line(replace(use, runs=1)) == "2 workers busy 75.0 % of 10.0 s with 1 run"
    lost = [event("lost", 16, 2) if one["event"] == "stopped" else one for one in found]
    assert utilisation(lost).there_s == 14.0  # 10, and 4 of worker 2


def test_a_worker_that_has_to_go_is_there_until_it_has_finished():
    """Law: from 10 to 30 s. Worker 1 is busy all along. Of the others, each ready at 10 and busy until 14, one is
    recycled at 14, one poisoned; one is warned at 12 that its node leaves and let go at 15, and its node dies at 20;
    one is warned at 12 and lost at 20 with a run that it never reported of: 4, 4, 5 and 10 s there, 4 busy."""
    found = [
        event("made", 30, 1, (10, 30)),
        *(event("made", 14, worker, (10, 14)) for worker in (2, 3, 4, 5)),
        event("recycled", 14, 2),
        event("stopped", 14, 2),
        event("poisoned", 14, 3),
        event("stopped", 14, 3),
        event("leaving", 12, 4),
        event("stopped", 15, 4),
        event("lost", 20, 4),
        event("leaving", 12, 5),
        event("lost", 20, 5),
    ]
    use = utilisation(found)
    assert (use.busy_s, use.there_s, use.workers) == (20 + 4 * 4, 20 + 4 + 4 + 5 + 10, 5)


def test_what_ends_a_workers_time_is_reported(tmp_path: Path):
    """Law: a notice to its node, and a fault that stays with its process, are events; a death has a cause."""
    with event_log(store_in(tmp_path)) as log:
        recorder = Recorder(log)
        recorder(Ready(1, INFO))
        recorder(Leaving(1))
        recorder(Failed(Outcome(run=finetune(0), seconds=1.0, error="no", poisoned=True), 1, 2))
        recorder(Made(Outcome(run=finetune(1), seconds=1.0, recycle=True), 1, 3))
        recorder(Lost(1, "gone"))
    found = EventReader(store_in(tmp_path)).newest()
    told = [(one["event"], one["worker"]) for one in found if one["event"] not in ("made", "failed", "given up")]
    assert told == [("ready", 1), ("leaving", 1), ("poisoned", 2), ("recycled", 3), ("lost", 1)]


def test_damaged_events_count_for_nothing():
    """Law: no run, no share; spans that are none are left out."""
    assert utilisation([]).share is None
    assert utilisation_line(utilisation([event("ready", 1, 1)])) == "no run was made"
    bad = [
        {**event("made", 1, 1), "busy": busy}
        for busy in (None, [[2, 1]], ["x"], [[None, 1]], 7, [[0, 10**400]], [[0, math.inf]])
    ]
    assert (
        utilisation([*bad, {**event("made", 1, 1, (0, 1)), "at": "yesterday"}, event("made", 4, 1, (1, 2))]).share
        == 1.0
    )


def test_a_generate_reports_what_it_did(tiny: Callable[..., Study], monkeypatch: pytest.MonkeyPatch):
    """Law: begun, a ready worker, four runs made with figures that add up, ended; no log where nothing is to do; a
    later one states that it prepares, and that it has ended though nothing was to do."""
    study = tiny()
    generate(study, backend="inline")
    store = StudyStore(open_storage(study.storage), "tiny")
    reader = EventReader(store)
    found = reader.newest()
    assert kinds(found)[:2] == ["begun", "ready"]
    assert found[0]["pending"] == {"original": 1, "finetune": 3}
    assert (found[-1]["event"], found[-1]["made"]) == ("ended", 4)
    made = [one for one in found if one["event"] == "made"]
    assert [one["run"] for one in made] == ["original/00000", *(f"finetune/0000{i}" for i in range(3))]
    record = store.record(Run(population="original", index=0))
    assert record is not None
    assert made[0]["bytes"] == sum(payload.size_bytes for payload in record.payloads.values())
    assert made[0]["images"] == 90  # one epoch of the train images: 100, a tenth of them validation
    assert {name: made[0]["seconds"][name] for name in ("train", "predict")} == record.seconds
    for (start, end), (begun, published) in (one["busy"] for one in made):
        assert start <= end <= begun <= published
    share = utilisation(found).share
    assert share is not None
    assert 0.5 < share <= 1.0
    text = "".join(path.read_text() for path in Path(study.storage).glob("tiny/events/*"))
    assert study.storage not in text
    generate(study, backend="inline")
    assert len(reader.logs()) == 1
    store.discard(Run(population="finetune", index=0))
    assert generate(study, backend="inline").made == 1
    assert kinds(reader.newest())[:2] == ["preparing", "begun"]
    monkeypatch.setattr(driver, "probably_pending", lambda *_: store)  # a folder without a record is like that
    assert generate(study, backend="inline").made == 0
    assert kinds(reader.newest()) == ["preparing", "ended"]


def test_every_combination_of_parts_and_names_is_distinguished():
    """Law: only names of the form <log>-<part>.jsonl are parts; a log's own name may hold dashes."""
    from ray_unlearn.store.layout import Layout, event_log_of

    layout = Layout("faces")
    for log, part in itertools.product(["20261124T150312.123Z-a-b-4711", "x"], [0, 12, 1000]):
        assert event_log_of(layout.events(log, part).rpartition("/")[2]) == log
    assert [event_log_of(name) for name in ("x.jsonl", "-1.jsonl", "x-1.json", "x-a.jsonl")] == [None] * 4
