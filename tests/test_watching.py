"""Watching a study: what a look states, when it ends, and what is printed, with a clock that the test moves."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import write_study
from evaluated import evaluated_store, evaluated_study
from plans import finetune, plan_of, record_of

from ray_unlearn.cli import main, watching
from ray_unlearn.cli.watching import Compared, watch_scores, watch_status
from ray_unlearn.errors import Interrupted, StoreError
from ray_unlearn.monitor.watch import PATIENCE_S, SILENT_S, Driver, Look, Made, Watch, rate_of
from ray_unlearn.store import FailedRecord, Storage, StudyStore, open_storage
from ray_unlearn.study import Run
from ray_unlearn.study.adaptive import UpTo

ORIGINAL = Run(population="original", index=0)


class Clock:
    """Does not move unless it is moved."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Making:
    """A study of an original and ten runs, made by hand; its driver's log too."""

    def __init__(self, folder: Path) -> None:
        self.plan = plan_of(10)
        self.store = StudyStore(open_storage(str(folder)), "tiny")
        self.store.admit(self.plan)
        self.clock = Clock()
        self.watch = Watch(self.plan.study, self.store, self.clock)
        self.lines: list[str] = []

    def made(self, *runs: Run) -> None:
        for run in runs:
            payloads = {"model.safetensors": b"weights", "outputs.arrow": b"logits"}
            self.store.publish(run, payloads, record_of(self.plan, run, payloads))

    def failed(self, run: Run) -> None:
        digest = self.plan.populations[run.population].digest
        known = {"population": run.population, "index": run.index, "digest": digest, "host": "here"}
        failure = FailedRecord(**known, error="no", traceback="", attempts=2, failed_at="now")
        self.store.publish_failure(run, failure)

    def event(self, kind: str, s: float, **more: object) -> None:
        self.lines.append(json.dumps({"event": kind, "at": "2026-11-24T15:00:00.000Z", "s": s, **more}))
        self.store.storage.publish_file(self.store.layout.events("log", 0), "\n".join(self.lines).encode())

    def another(self, *kinds: str, host: str = "elsewhere", pid: int = 7) -> None:
        """Write the log of a driver that came later."""
        lines = [
            json.dumps({"event": kind, "at": "2026-11-24T16:00:00.000Z", "s": 0, "host": host, "pid": pid})
            for kind in kinds
        ]
        self.store.storage.publish_file(self.store.layout.events("log2", 0), "\n".join(lines).encode())

    def look(self, after_s: float = 0.0) -> Look:
        self.clock.now += after_s
        return self.watch.look()


@pytest.fixture
def making(tmp_path: Path) -> Making:
    return Making(tmp_path / "store")


def counts(look: Look) -> list[tuple[int, int]]:
    return [(one.made, one.failed) for one in look.populations]


def test_a_look_counts_records_and_failures_not_made_since(making: Making):
    """Law: a folder without a record, and another run's record, are no run; a failure that was made since is none; a
    run that is taken away is missed again."""
    assert counts(making.look()) == [(0, 0), (0, 0)]
    making.made(ORIGINAL, finetune(0), finetune(1))
    making.failed(finetune(1))
    making.failed(finetune(2))
    making.store.storage.publish_file("tiny/finetune/00005/model.safetensors", b"x")
    foreign = making.store.storage.read("tiny/finetune/00000/record.json")
    making.store.storage.publish_file("tiny/finetune/00006/record.json", foreign)
    assert counts(making.look()) == [(1, 0), (2, 1)]
    making.made(finetune(2))
    making.store.discard(finetune(0))
    assert counts(making.look()) == [(1, 0), (2, 0)]


def test_only_new_records_are_read(making: Making, monkeypatch: pytest.MonkeyPatch):
    """Law: what was seen is not read again: with 3 runs there and 2 more, the second look reads 2 records."""
    making.made(*(finetune(i) for i in range(3)))
    making.look()
    making.made(finetune(3), finetune(4))
    read, plain = list[Run](), StudyStore.record
    monkeypatch.setattr(StudyStore, "record", lambda self, run: read.append(run) or plain(self, run))
    assert counts(making.look()) == [(0, 0), (5, 0)]
    assert sorted(run.index for run in read) == [3, 4]


def test_rate_and_time_left_without_a_log_by_hand(making: Making):
    """Law: what was there, and what passed before the first change, count for nothing; then 2 runs in 10 s are 0.2 a
    second, also 40 s later; 8 left of 11 are 40 s. What is taken away is no rate."""
    making.look()
    assert making.look(after_s=100).runs_per_s is None
    making.made(ORIGINAL)
    assert making.look(after_s=5).runs_per_s is None
    making.made(finetune(0), finetune(1))
    assert making.look(after_s=10).runs_per_s == pytest.approx(0.2)
    look = making.look(after_s=40)
    assert (look.runs_per_s, look.left_s) == (pytest.approx(0.2), pytest.approx(40))
    making.store.discard(finetune(0))
    assert making.look(after_s=5).runs_per_s is None


def test_failures_of_earlier_commands_are_left_to_do(making: Making):
    """Law: of 11 runs 3 are made, at 0.5 a second; two failed before, which this driver tries again, and one that it
    has given up itself: 7 left, not 5; given up, and made since, counts once."""
    making.made(ORIGINAL, finetune(0), finetune(1))
    for index in (2, 3, 4):
        making.failed(finetune(index))
    making.event("begun", 0, host="elsewhere", pid=1)
    making.event("ready", 4)
    for second in (6, 8, 10):
        making.event("made", second)
    making.event("given up", 11, run=str(finetune(4)))
    making.event("given up", 11, run=str(finetune(1)))
    look = making.look()
    assert (look.populations[1].failed, look.left_s) == (3, 14.0)


def test_runs_of_a_population_that_ended_early_are_not_left(making: Making):
    """Law: of 11 runs 3 are made at 0.5 a second, 3 failed, and the 5 others of their population are not tried."""
    making.made(ORIGINAL, finetune(0), finetune(1))
    making.event("begun", 0, host="elsewhere", pid=1)
    making.event("ready", 4)
    for second in (6, 8, 10):
        making.event("made", second)
    for index in (2, 3, 4):
        making.event("given up", 11, run=str(finetune(index)))
    assert making.look().left_s == 10.0
    making.event("ended early", 11, population="finetune", runs=5, why="all fail alike")
    assert making.look().left_s == 0.0


@pytest.mark.parametrize(("run_s", "workers"), [(60, 1), (60, 2), (5, 40)])
def test_a_rate_is_that_of_the_workers_at_every_look(run_s: int, workers: int):
    """Law: workers that work in step for an hour make `workers / run_s` runs a second; at no time from the fifth
    round on does the log report a rate that is 2 % off, while the next round is not done."""
    events = [{"event": "ready", "at": "", "s": 7.0}]
    rounds = range(7 + run_s, 3600, run_s)
    checked = {*rounds[4:20], *rounds[20::17]}
    for round_s in rounds:
        events += [{"event": "made", "at": "", "s": round_s + 0.001 * one} for one in range(workers)]
        events += [{"event": "alive", "at": "", "s": round_s + 0.9 * run_s}]
        if round_s in checked:
            assert rate_of(events) == pytest.approx(workers / run_s, rel=0.02)


def test_the_last_half_hour_counts():
    """Law: 1 run a minute for ten hours, then 1 a second: after half an hour the rate is the new one; of slow runs the
    last sixty count, however long they took; without a ready worker, or a run, there is none."""
    slow = [{"event": "ready", "s": 0.0}, *({"event": "made", "s": 60.0 * i} for i in range(1, 601))]
    assert rate_of(slow) == pytest.approx(1 / 60)
    fast = [{"event": "made", "s": 36000.0 + i} for i in range(1, 1802)]
    assert rate_of([*slow, *fast]) == pytest.approx(1, rel=0.01)
    hours = [{"event": "ready", "s": 0.0}, *({"event": "made", "s": 3600.0 * i} for i in range(1, 101))]
    assert rate_of(hours) == pytest.approx(1 / 3600)
    assert rate_of(slow[1:]) is rate_of(slow[:1]) is None


def test_the_first_look_knows_the_rate_from_the_log(making: Making):
    """Law: ready at 4 s, 3 made until 10 s: 0.5 a second; `--only` another population leaves this one's runs out."""
    making.event("begun", 0, host="elsewhere", pid=1, pending={"finetune": 10})
    making.event("ready", 4)
    for second in (6, 8, 10):
        making.event("made", second)
    making.made(finetune(0), finetune(1), finetune(2))
    look = making.look()
    assert (look.driver, look.runs_per_s, look.left_s) == (Driver.working, 0.5, 14.0)  # the original is not asked for


def test_what_the_driver_does(making: Making):
    """Law: none; at work; silent when nothing is new for two minutes; at work again with a new run; then ended."""
    assert making.look().driver is Driver.none
    making.event("begun", 0, host="elsewhere", pid=1)
    assert making.look(after_s=5).driver is Driver.working
    assert making.look(after_s=SILENT_S + 1).driver is Driver.silent
    making.made(finetune(0))
    assert making.look().driver is Driver.working
    assert making.look(after_s=SILENT_S - 1).driver is Driver.working
    making.event("broken off", 9)
    assert making.look().driver is Driver.none
    assert making.look(after_s=PATIENCE_S + 1).driver is Driver.ended


def test_a_driver_of_this_machine_whose_process_is_gone_is_known_at_once(making: Making):
    """Law: a pid that no process has is a dead driver; this process's is a live one."""
    gone = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True)
    host = os.uname().nodename
    making.event("begun", 0, host=host, pid=int(gone.stdout))
    assert making.look().driver is Driver.silent
    making.lines.clear()
    making.event("begun", 0, host=host, pid=os.getpid())
    assert making.look().driver is Driver.working


def test_between_two_logs_of_runs_an_adaptive_studys_command_is_at_its_scores(making: Making):
    """Law: `all` scores for as long as it takes, and says so in a log; a process that lives on, as a notebook's, does
    not keep a watch from its end."""
    study, here = making.plan.study, {"host": os.uname().nodename, "pid": os.getpid()}
    grows = study.populations["finetune"].model_copy(update={"count": UpTo(up_to=100)})
    adaptive = study.model_copy(update={"populations": {**study.populations, "finetune": grows}})
    making.watch = Watch(adaptive, making.store, making.clock)
    making.event("begun", 0, **here)
    making.event("ended", 1)
    assert making.look().driver is Driver.none
    assert making.look(after_s=PATIENCE_S + 1).driver is Driver.ended
    making.another("scoring", **here)
    assert making.look().driver is Driver.scoring
    making.another("scoring", "alive", **here)
    assert making.look(after_s=SILENT_S - 1).driver is Driver.scoring
    assert making.look(after_s=SILENT_S + 1).driver is Driver.silent
    making.another("scoring", "alive", "ended", **here)
    assert making.look().driver is Driver.none
    assert making.look(after_s=PATIENCE_S + 1).driver is Driver.ended


def in_the_way(making: Making, patch: pytest.MonkeyPatch) -> None:
    making.store.storage.publish_file("tiny/events", b"a file where the folder should be")


def refused(making: Making, patch: pytest.MonkeyPatch) -> None:
    making.event("begun", 0, host="elsewhere", pid=1)
    plain = Storage.read

    def read(self: Storage, name: str) -> bytes:
        if name.endswith(".jsonl"):
            raise StoreError("permission denied")  # not a mode: root may read everything
        return plain(self, name)

    patch.setattr(Storage, "read", read)


@pytest.mark.parametrize("spoil", [in_the_way, refused])
def test_events_that_cannot_be_read_do_not_end_watching(spoil, making: Making, capsys, monkeypatch):
    """Law: runs are counted and their rate is reported without events; what the driver does is unknown, and it is
    noticed again once they can be read."""
    spoil(making, monkeypatch)
    assert making.look().driver is Driver.unknown
    making.made(ORIGINAL)
    assert making.look(after_s=10).made == 1
    making.made(finetune(0))
    look = making.look(after_s=10)
    assert (look.driver, look.made, look.runs_per_s) == (Driver.unknown, 2, 0.1)
    assert making.look(after_s=SILENT_S + 1).driver is Driver.unknown
    monkeypatch.undo()
    making.store.storage.remove("tiny/events")
    making.event("begun", 0, host="elsewhere", pid=1)
    assert making.look().driver is Driver.working
    making.made(*(finetune(i) for i in range(1, 10)))
    assert watch_status(making.watch, every_s=0.0) == 0
    assert "driver at work" in capsys.readouterr().out


@pytest.mark.parametrize(
    "data",
    [
        b'{"event": "begun", "at": "2026-11-24T15:00:00.000Z", "s": 0',
        '{"event": "begun", "at": "x", "s": 0}'.encode("utf-16"),
        b"\x00\xff\xfe" * 100,
        b'{"event": "ready", "at": "x", "s": ' + b"9" * 400 + b"}",
        json.dumps({"event": "begun", "at": "x", "s": 0, "host": os.uname().nodename, "pid": 10**30}).encode(),
        json.dumps({"event": "begun", "at": "x", "s": 0, "host": os.uname().nodename, "pid": "9" * 5000}).encode(),
        b'{"event": "begun", "at": "x", "s": 0, "pending": 7, "host": ["x"], "pid": {}}',
    ],
)
def test_damaged_events_do_not_end_watching(data: bytes, making: Making):
    """Law: no matter which bytes are where events should, a look is a look, and so is the next."""
    (making.store.storage.local / "tiny/events/older-000.jsonl").mkdir(parents=True)  # type: ignore[operator]
    making.store.storage.publish_file(making.store.layout.events("log", 0), data)
    making.made(ORIGINAL)
    assert making.look().made == 1
    assert making.look(after_s=5).driver is not Driver.unknown


def test_status_does_without_events_too(tmp_path: Path, capsys: pytest.CaptureFixture):
    """Law: where they cannot be read, plain `status` reports it in a line, and --watch goes on; both end with 0."""
    file = evaluated_study(tmp_path, {"retrained": 2, "again": 2})
    (tmp_path / "store/tiny/events").write_bytes(b"a file where the folder should be")
    assert main(["status", str(file)]) == 0
    assert "events cannot be read: " in capsys.readouterr().out
    assert main(["status", str(file), "--watch"]) == 0
    assert "driver unknown: its events cannot be read" in capsys.readouterr().out


def test_the_next_driver_prepares_for_as_long_as_it_takes(making: Making):
    """Law: after an end, a driver that announces itself in time is preparing, and then at work; watching goes on."""
    making.event("begun", 0, host="elsewhere", pid=1)
    assert making.look().driver is Driver.working
    making.event("ended", 9)
    assert making.look(after_s=PATIENCE_S - 1).driver is Driver.none
    making.lines.clear()
    making.event("preparing", 0, host="elsewhere", pid=2)
    assert making.look(after_s=5).driver is Driver.preparing
    for beat in range(3):
        making.event("alive", 30 * beat)
        assert making.look(after_s=SILENT_S - 1).driver is Driver.preparing
    making.event("begun", 300, pending={"finetune": 10})
    assert making.look(after_s=5).driver is Driver.working


@pytest.mark.parametrize("kinds", [("preparing", "broken off"), ("preparing",), ("preparing", "ended")])
def test_a_driver_that_never_began_ends_no_other(kinds: tuple[str, ...], making: Making):
    """Law: a second command that was refused, killed, or had nothing to do, reports nothing of the one that works; when
    that one ends, it has ended."""
    making.event("begun", 0, host="elsewhere", pid=1)
    making.made(ORIGINAL)
    assert making.look().driver is Driver.working
    making.another(*kinds)
    for beat in range(3):
        making.event("alive", 30 * beat)
        assert making.look(after_s=SILENT_S - 1).driver is Driver.working
    making.another(*kinds, host=os.uname().nodename, pid=2**22 + 1)  # killed here, too
    assert making.look().driver is Driver.working
    making.event("ended", 100)
    making.look()
    assert making.look(after_s=SILENT_S + PATIENCE_S).driver in (Driver.ended, Driver.silent)


def test_an_old_log_is_not_taken_for_the_next_drivers_end(making: Making):
    """Law: a log that was over when watching began ends it after 15 s: the next driver may be starting."""
    making.event("ended", 9)
    assert making.look().driver is Driver.none
    assert making.look(after_s=PATIENCE_S - 1).driver is Driver.none
    assert making.look(after_s=2).driver is Driver.ended


class Looks:
    """Plays looks one after another in place of a watch."""

    def __init__(self, *looks: Look) -> None:
        self.looks = list(looks)

    def look(self) -> Look:
        return self.looks.pop(0)


def seen(driver: Driver = Driver.working, failed: int = 0, **made: int) -> Look:
    populations = tuple(Made(population=name, planned=16, made=n, failed=failed) for name, n in made.items())
    return Look(populations=populations, driver=driver, runs_per_s=0.5, left_s=90.0)


@pytest.mark.parametrize(
    ("last", "code", "said"),
    [
        (seen(a=16), 0, "all 16 runs are made"),
        (
            seen(Driver.ended, 1, a=9),
            3,
            "the driver has ended: 9 of 16 runs made, 1 failed; `ray-unlearn generate` makes",
        ),
        (seen(Driver.silent, a=9), 3, "the driver sends no more events: 9 of 16 runs made"),
    ],
)
def test_watching_ends_with_a_code_and_a_reason(last: Look, code: int, said: str, capsys: pytest.CaptureFixture):
    """Law: a line where counts changed and none where not; then 0 with everything made, 3 without a driver."""
    watch = Looks(seen(a=3), seen(a=3), seen(a=4, failed=1), last)
    assert watch_status(watch, every_s=0.0) == code  # type: ignore[arg-type]
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(" ")[2].partition(";")[0] for line in lines[:2]] == ["a 3/16", "a 4/16 (1 failed)"]
    assert lines[0].endswith("; driver at work, 30.0 runs/min, about 1 min 30 s left")
    assert len(lines) == 4
    assert lines[-1].startswith(said)


def test_scores_are_computed_as_populations_grow(capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch):
    """Law: not before the reference has a run, nor below 6; at 6, not at 8, at 9 (half more), and at the end all; the
    common N is the smallest, and no larger than the reference's."""
    monkeypatch.setattr("ray_unlearn.report.text.growth_lines", lambda scores: [f"first {scores}"])
    compared = Compared("ref", ["a", "b", "ref"])
    watch = Looks(
        seen(ref=0, a=9, b=9, original=1),
        seen(ref=5, a=9, b=9, original=1),
        seen(ref=6, a=9, b=7, original=1),
        seen(ref=9, a=9, b=8, original=1),
        seen(ref=9, a=11, b=12, original=1),
        seen(Driver.ended, ref=16, a=16, b=12, original=1),
    )
    asked: list[int | None] = []
    assert watch_scores(watch, 0.0, compared, lambda first: asked.append(first) or first) == 3  # type: ignore[arg-type]
    assert asked == [6, 9, None]
    said = capsys.readouterr()
    assert [line.partition(" ")[2] for line in said.err.splitlines()] == [
        "waiting: the reference ref has no finished run yet",
        "waiting: scores begin when ref and another population have 6 runs",
    ]
    assert [line.partition(" ")[2] for line in said.out.splitlines()[:3]] == ["first 6", "first 9", "first None"]


def test_populations_that_follow_one_another_have_no_common_n():
    """Law: where the smallest has less than half of the largest, each is compared at its own N, and new ones count."""
    sizes, common = Compared("ref", ["a", "b"]).sizes(seen(ref=16, a=16, b=7))
    assert (sizes, common) == ({"a": 16, "b": 7}, None)
    assert Compared("ref", ["a", "b"]).sizes(seen(ref=16, a=16, b=5)) == ({"a": 16}, 16)
    assert Compared("ref", ["a"]).sizes(seen(ref=16, a=16, b=7)) == ({"a": 16}, 16)
    of_two = Compared("ref", ["a", "b"], 2)
    assert of_two.sizes(seen(ref=16, a=16, b=7)) == ({"a": 16}, 16), "6 runs of each forget set"
    assert of_two.sizes(seen(ref=11, a=11, b=7)) == ({}, 0)
    assert of_two.waiting(seen(ref=11, a=11, b=7)).endswith("have 12 runs")
    assert watching._grown({"a": 16, "b": 7}, {"a": 16})
    assert not watching._grown({"a": 16}, {"a": 12})


def test_evaluate_compares_the_first_runs_alone(tmp_path: Path):
    """Law: `first` runs of every population give the numbers that a store holding only those gives."""
    from ray_unlearn.evaluation.evaluate import evaluate

    study, store = evaluated_store(tmp_path / "all", {"retrained": 8, "again": 7})
    few, other = evaluated_store(tmp_path / "few", {"retrained": 6, "again": 6})
    scores = evaluate(study, store, first=6)
    assert scores.populations["again"].runs == 6
    assert scores.populations["again"].measures == evaluate(few, other).populations["again"].measures


def test_scores_of_the_first_runs_are_not_published(tmp_path: Path):
    """Law: a look in between leaves what was published of all runs as it is, and reports at how many it scored."""
    from ray_unlearn.evaluation.evaluate import evaluate

    study, store = evaluated_store(tmp_path, {"retrained": 8, "again": 8})
    evaluate(study, store)
    names = (store.layout.scores_json, store.layout.scores_parquet)
    published = [store.storage.read(name) for name in names]
    store.discard(Run(population="again", index=7))
    scores = evaluate(study, store, first=6)
    assert scores.warnings == ("population again: 7 of 8 runs are made, and the first 6 are scored",)
    assert [store.storage.read(name) for name in names] == published


def test_evaluate_watch_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture):
    """Law: with all made already, one line per population with N and interval, and 0."""
    file = evaluated_study(tmp_path, {"retrained": 8, "again": 8})
    assert main(["evaluate", str(file), "--watch", "--jobs", "1"]) == 0
    (scored, last) = capsys.readouterr().out.splitlines()
    assert "N=8 again: score " in scored
    assert "[" in scored
    assert last == "all 17 runs are made"
    assert main(["status", str(file), "--watch"]) == 0
    assert "again 8/8" in capsys.readouterr().out
    assert main(["evaluate", str(file), "--watch", "--json"]) == 2
    assert main(["evaluate", str(file), "--watch", "--plan"]) == 2
    assert main(["status", str(file), "--watch", "--json"]) == 2
    assert "leave one out" in capsys.readouterr().err


def test_an_interrupt_ends_watching(making: Making, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys):
    """Law: Ctrl-C is exit code 130 and one line, no traceback."""
    file = write_study(tmp_path)

    def interrupted(seconds: float) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(1)

    monkeypatch.setattr(watching, "time", type("Time", (), {"sleep": staticmethod(interrupted)}))
    assert main(["status", str(file), "--watch", "--every", "0.1"]) == Interrupted(signal.SIGINT).exit_code == 130
    assert "interrupted by SIGINT" in capsys.readouterr().err
