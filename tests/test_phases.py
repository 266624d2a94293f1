"""Phases of a generate: they add up, and only what happened has one."""

from __future__ import annotations

import pytest

from ray_unlearn.generation import generate
from ray_unlearn.monitor.phases import Phases, phases_line


def test_every_second_counts_for_exactly_one_phase():
    """Law: the clock's 0, 1, 3, 6, 10, 15 give 1 + 4 s prepare, 2 s connect, 3 + 5 s runs, in whichever order they
    come.
    """
    phases = Phases(iter([0.0, 1.0, 3.0, 6.0, 10.0, 15.0]).__next__)
    for phase in ("connect", "runs", "prepare", "runs"):
        phases.enter(phase)
    seconds = phases.end()
    assert list(seconds.items()) == [("prepare", 5.0), ("connect", 2.0), ("runs", 8.0)]


def test_the_line_states_what_starting_took_and_then_the_rest():
    """Law: one line; what comes before the first run is together."""
    everything = {"prepare": 1.23, "connect": 3.1, "workers": 6.0, "runs": 40.04, "finish": 0.5}
    line = "start: 1.2 s data, 3.1 s Ray, 6.0 s workers; runs: 40.0 s; finish: 0.5 s"
    assert phases_line(everything) == line


def test_phases_of_a_generate_add_up_to_its_seconds(tiny):
    """Law: sum = seconds; inline connects to nothing; with nothing to do there are no workers and no line."""
    summary = generate(tiny(), backend="inline")
    assert list(summary.phases) == ["prepare", "workers", "runs", "finish"]
    assert sum(summary.phases.values()) == pytest.approx(summary.seconds, abs=0.01)
    assert min(summary.phases.values()) > 0
    assert summary.lines()[-2].startswith("start: ")
    again = generate(tiny(), backend="inline")
    assert list(again.phases) == ["prepare", "finish"]
    assert len(again.lines()) == 1
