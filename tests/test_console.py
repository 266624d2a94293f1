"""What progress states of the time left."""

from __future__ import annotations

import io

from plans import finetune
from rich.console import Console

from ray_unlearn.monitor.console import ConsoleSink
from ray_unlearn.run.outcome import Outcome, WorkerInfo
from ray_unlearn.schedule.events import Event, Failed, Made, Retried
from ray_unlearn.schedule.pool import Lost, Ready

HERE = WorkerInfo(host="node-3", pid=7, device="cpu")


def test_time_left_counts_from_the_first_worker(monkeypatch):
    """Law: started at 0, worker ready at 100, 3 runs by 106: 2 s each, 30 a minute; 6 left take 12 s. One was there."""
    now = 0.0
    monkeypatch.setattr("ray_unlearn.monitor.console.time.monotonic", lambda: now)
    tracker = ConsoleSink(Console(file=io.StringIO()), total=10, already=1)
    now = 50.0
    assert tracker.describe() == "starting"
    now = 100.0
    tracker(Ready(1, HERE))
    assert tracker.describe() == "starting"
    now = 101.0
    tracker(Ready(2, HERE))
    for index in range(3):
        tracker(Made(Outcome(run=finetune(index), seconds=1.0), 1, 1))
    now = 106.0
    assert tracker.describe() == "30.0 runs/min, about 12 s left"


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
        sink = ConsoleSink(Console(file=file, width=200), total=10, already=1, max_attempts=2, verbose=verbose)
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
