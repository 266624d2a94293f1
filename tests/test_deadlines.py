"""execution.run_timeout_s: which calls are overdue, and what becomes of a run that hangs on Ray."""

from __future__ import annotations

from pathlib import Path

import pytest

from ray_unlearn.driver import generate, open_job
from ray_unlearn.driver.deadlines import Deadlines
from ray_unlearn.study import Run

ONE, TWO = [(Run(population="a", index=0), 1)], [(Run(population="a", index=i), 1) for i in (1, 2)]


def test_a_call_may_take_as_long_as_one_run():
    """Law: 10 s a run: a call is overdue after 10 s, however many runs share it, counted from the answer before."""
    deadlines = Deadlines(10.0)
    deadlines.given(1, ONE, 100.0)
    deadlines.given(1, TWO, 101.0)
    assert deadlines.overdue(110.0) == []
    assert deadlines.overdue(110.1) == [(1, ONE)]
    deadlines.answered(1, 108.0)
    assert deadlines.overdue(118.0) == []
    assert deadlines.overdue(118.1) == [(1, TWO)]
    deadlines.forget(1)
    assert deadlines.overdue(1e9) == []


def test_an_idle_worker_is_never_overdue():
    """Law: time runs while a call is in flight only; a call without runs has one run's time to publish."""
    deadlines = Deadlines(10.0)
    deadlines.given(1, ONE, 0.0)
    deadlines.answered(1, 5.0)
    assert deadlines.overdue(1e9) == []
    deadlines.given(1, [], 1000.0)
    assert deadlines.overdue(1010.0) == []
    assert deadlines.overdue(1010.1) == [(1, [])]


def test_without_a_limit_nothing_is_overdue():
    """Law: None is no limit."""
    deadlines = Deadlines(None)
    deadlines.given(1, ONE, 0.0)
    assert deadlines.overdue(1e9) == []


@pytest.mark.long
@pytest.mark.ray
def test_a_run_that_hangs_is_ended_and_the_others_are_made(tiny, tmp_path: Path, ray_cluster):
    """Law: its worker is killed, the run fails with that reason after max_attempts, the rest of the study is made."""
    script = tmp_path / "script.py"
    script.write_text("import time\n\n\ndef unlearning(net, retain, forget, val):\n    time.sleep(600)\n")
    mine = {"method": f"{script}:unlearning", "count": 1}
    execution = {"run_timeout_s": 4.0, "max_attempts": 2, "workers": 1}
    study = tiny(populations={"mine": mine}, execution=execution)
    summary = generate(study, backend="ray")
    run = Run(population="mine", index=0)
    assert list(summary.failed) == [run]
    assert (summary.made, summary.exit_code) == (4, 3)
    failure = open_job(study).store.failures("mine")[0]
    assert (failure.error, failure.attempts) == ("took longer than execution.run_timeout_s: 4", 2)
