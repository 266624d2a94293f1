"""What progress says of the time left."""

from __future__ import annotations

import io

from rich.console import Console

from ray_unlearn.driver.progress import Tracker


def test_time_left_counts_from_the_first_worker(monkeypatch):
    """Law: started at 0, worker ready at 100, 3 runs by 106: 2 s each, 30 a minute; 6 left take 12 s. One was there."""
    now = 0.0
    monkeypatch.setattr("ray_unlearn.driver.progress.time.monotonic", lambda: now)
    tracker = Tracker(Console(file=io.StringIO()), total=10, already=1)
    now = 50.0
    assert tracker.describe() == "starting"
    now = 100.0
    tracker.begin()
    assert tracker.describe() == "starting"
    now = 101.0
    tracker.begin()  # the second worker
    for _ in range(3):
        tracker.made()
    now = 106.0
    assert tracker.describe() == "30.0 runs/min, about 12 s left"
