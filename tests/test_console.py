"""What progress states of the time left."""

from __future__ import annotations

import io

import pytest
from plans import finetune
from rich.console import Console

from ray_unlearn.generation import generate
from ray_unlearn.monitor import TimeLeft
from ray_unlearn.monitor.console import ConsoleSink
from ray_unlearn.run.outcome import Outcome, WorkerInfo
from ray_unlearn.schedule.events import Ended, Event, Failed, Made, Retried, Started
from ray_unlearn.schedule.pool import Lost, Ready
from ray_unlearn.study import Run

HERE = WorkerInfo(host="node-3", pid=7, device="cpu")


def retrained(index: int) -> Run:
    """Return a run of the population `retrained`."""
    return Run(population="retrained", index=index)


def test_time_left_is_that_of_each_population(monkeypatch):
    """Law: 3 fine-tunes of 2 s and 2 retrainings of 20 s are left: 46 s for one worker, 23 for two; then it moves."""
    now = 0.0
    monkeypatch.setattr("ray_unlearn.monitor.console.time.monotonic", lambda: now)
    file = io.StringIO()
    tracker = ConsoleSink(Console(file=file), 8, 1, TimeLeft({"finetune": 4, "retrained": 3}))
    now = 100.0
    assert tracker.describe() == "starting"
    for worker, run, seconds in ((1, finetune(0), 2.0), (2, retrained(0), 20.0)):
        tracker(Ready(worker, HERE))
        tracker(Started(worker, [(run, 1)]))
        assert tracker.describe() == "starting" if worker == 1 else True
        tracker(Made(Outcome(run=run, seconds=seconds), 1, worker))
    assert tracker.describe() == "about 23 s left"
    now = 130.0
    assert tracker.describe() == "4.0 runs/min, about 23 s left"
    for worker, run in ((1, finetune(1)), (2, retrained(1))):
        tracker(Started(worker, [(run, 1)]))
    now = 140.0  # the fine-tuning is overdue at 2 of its 2 s; the retraining is at 10 of 20
    assert tracker.describe().endswith(" about 17 s left")
    tracker(Failed(Outcome(run=finetune(1), seconds=9.0, error="NaN"), 1, 1))
    assert tracker.describe().endswith(" 1 failed, about 17 s left")
    printed = file.getvalue().count("left")
    tracker.tick()
    assert file.getvalue().count("left") == printed
    now = 300.0
    tracker.tick()
    assert file.getvalue().count("left") == printed + 1


def test_runs_made_earlier_are_a_first_estimate():
    """Law: until a run is made now; a population without any counts with the mean of the others; a lost worker counts
    no more."""
    left = TimeLeft({"finetune": 10, "other": 10}, {"finetune": 3.0})
    assert left.seconds(0.0) == 60.0
    left.note(Ready(1, HERE), 0.0)
    left.note(Ready(2, HERE), 0.0)
    assert left.seconds(0.0) == 30.0
    left.note(Made(Outcome(run=finetune(0), seconds=1.0), 1, 1), 1.0)
    assert left.seconds(1.0) == 9.5
    left.note(Lost(1, "killed"), 1.0)
    assert left.seconds(1.0) == 19.0
    left.note(Ended("other", [Run(population="other", index=index) for index in range(10)], "all fail alike"), 1.0)
    assert left.seconds(1.0) == 9.0
    assert TimeLeft({"finetune": 1}).seconds(0.0) is None


def test_a_pack_is_at_work_as_a_whole_and_no_worker_takes_anothers_runs():
    """Law: 8 runs of 1 s in packs of 4 take two workers 4 s: a whole pack is trained before its first run is reported.

    What one worker holds takes as long as it takes, however many others are idle.
    """
    left = TimeLeft({"finetune": 8}, {"finetune": 1.0}, lambda run: run.index // 4)
    for worker in (1, 2):
        left.note(Ready(worker, HERE), 0.0)
    left.note(Started(1, [(finetune(i), 1) for i in range(4)]), 0.0)
    assert left.seconds(1.0) == 3.5
    left.note(Started(2, [(finetune(i), 1) for i in range(4, 8)]), 1.0)
    assert left.seconds(3.0) == 2.0
    left.note(Made(Outcome(run=finetune(0), seconds=1.0), 1, 1), 4.0)
    assert left.seconds(4.0) == 1.0  # worker 1 reports three more runs; worker 2 has one second left
    alone = TimeLeft({"finetune": 1}, {"finetune": 10.0})
    for worker in (1, 2):
        alone.note(Ready(worker, HERE), 0.0)
    alone.note(Started(1, [(finetune(0), 1)]), 0.0)
    assert alone.seconds(4.0) == 6.0


def test_each_event_that_concerns_people_is_a_line():
    """Law: retries state which attempt comes, failures how many there were; a cause that keeps workers from starting is
    reported once, and not where a node went away or a ready worker is lost."""
    told = Outcome(run=finetune(7), seconds=1.0, error="NaN", log=b"epoch 1\x1b[2J\n")
    events: list[Event] = [
        Lost(1, "no such device"),
        Lost(2, "no such device"),
        Lost(3, "node went", preempted=True),
        Ready(4, HERE),
        Retried(told, 1, 4, 2),
        Failed(told, 2, 4),
        Lost(4, "killed"),
    ]
    for verbose in (False, True):
        file = io.StringIO()
        sink = ConsoleSink(Console(file=file, width=200), 10, 1, TimeLeft({}), max_attempts=2, verbose=verbose)
        for event in events:
            sink(event)
        printed = ["finetune/00007: epoch 1\x1b[2J"] * verbose  # a real console writes controls out (`terminal`)
        assert file.getvalue().splitlines() == [
            "a worker could not start: no such device",
            "worker ready: node-3, pid 7, cpu",
            *printed,
            "retrying finetune/00007 (attempt 2 of 2): NaN",
            *printed,
            "failed: finetune/00007 after 2 attempts: NaN",
        ]


def test_an_error_is_printed_once_and_its_commands_name_the_study():
    """Law: other runs that meet the same error name the first one that did; a population's end has a whole command."""
    file = io.StringIO()
    sink = ConsoleSink(Console(file=file, width=200), 10, 0, TimeLeft({}), max_attempts=2, file="my study.yaml")
    outcomes = [Outcome(run=finetune(index), seconds=1.0, error=text) for index, text in enumerate(["a", "a", "b"])]
    events: list[Event] = [Retried(outcomes[0], 1, 4, 2), *(Failed(one, 2, 4) for one in outcomes)]
    for event in (*events, Ended("finetune", [finetune(3)], "`ray-unlearn logs STUDY finetune/00000` shows it")):
        sink(event)
    assert file.getvalue().splitlines() == [
        "retrying finetune/00000 (attempt 2 of 2): a",
        "failed: finetune/00000 after 2 attempts: a",
        "failed: finetune/00001 after 2 attempts: in the same way as finetune/00000",
        "failed: finetune/00002 after 2 attempts: b",
        "population finetune: 1 run will not be made: `ray-unlearn logs 'my study.yaml' finetune/00000` shows it",
    ]


def test_the_first_line_is_printed_before_anything_slow(tiny, capfd, monkeypatch):
    """Law: it comes before the backend is imported, where torch and Ray cost seconds."""
    monkeypatch.setattr("ray_unlearn.generation.driver.open_backend", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        generate(tiny(), backend="ray")
    assert capfd.readouterr().err == "opening study tiny\n"
