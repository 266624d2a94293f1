"""execution.run_timeout_s: which calls are overdue, and what becomes of a run that hangs, or of its publication."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from plans import finetune, plan_of
from test_scheduler import ORIGINAL, FakePool, schedule

from ray_unlearn.generation import generate, open_job
from ray_unlearn.run.outcome import Attempt
from ray_unlearn.schedule.deadlines import Deadlines
from ray_unlearn.schedule.pool import Finished, Report
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


def test_a_pack_may_take_as_long_as_all_its_runs():
    """Law: a run of a pack of three has 30 s, alone in its call too, because the whole pack is computed for it."""
    deadlines = Deadlines(10.0, pack_size=lambda run: 3 if run.index else 1)
    for worker, attempts in ((1, ONE), (2, TWO), (3, TWO[:1])):
        deadlines.given(worker, attempts, 0.0)
    assert [worker for worker, _ in deadlines.overdue(30.0)] == [1]
    assert [worker for worker, _ in deadlines.overdue(30.1)] == [1, 2, 3]


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


class Stuck(FakePool):
    """Publishing these runs never ends; a second passes with every wait, and the pool ends what is overdue."""

    def __init__(self, stuck: Iterable[Run], room: int, seed: int, *, times: int) -> None:
        super().__init__({}, lambda: room, seed)
        self.stuck = dict.fromkeys(stuck, times)
        self.now, self.deadlines, self.ended = 0.0, Deadlines(60.0), list[tuple[float, list[Run]]]()

    @property
    def busy(self) -> list[int]:
        return [worker for worker in super().busy if not any(self.stuck.get(run) for run in self.awaited(worker))]

    def awaited(self, worker: int) -> list[Run]:
        """Return what must be published before the worker answers its oldest call."""
        attempts, flush = self.calls[worker][0]
        runs = [*([self.publishing[worker][0]] if worker in self.publishing else []), *(run for run, _ in attempts)]
        return runs if flush else runs[:-1]

    def submit(self, worker: int, attempts: Sequence[Attempt], *, flush: bool) -> None:
        super().submit(worker, attempts, flush=flush)
        self.deadlines.given(worker, attempts, self.now)

    def wait(self) -> list[Report]:
        self.now += 1
        assert self.now < 1000, "the study is kept"
        late = [self.end(worker) for worker, _ in self.deadlines.overdue(self.now)]
        if late or not (self.starting or self.busy):
            return late
        events = super().wait()
        for event in events:
            if isinstance(event, Finished):
                self.deadlines.answered(event.worker, self.now)
        return events

    def end(self, worker: int) -> Report:
        runs = [run for run in self.awaited(worker) if self.stuck.get(run)]
        self.stuck |= {run: self.stuck[run] - 1 for run in runs}
        self.ended.append((self.now, runs))
        self.deadlines.forget(worker)
        return replace(self.lost(worker), cause="took longer", overdue_s=60.0)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("room", [1, 2])
def test_a_worker_that_hangs_while_it_publishes_at_the_end_does_not_keep_the_study(room: int, seed: int):
    """Law: whichever run it is, after the limit its worker is ended, and another one makes the run: the last, for
    which nothing is left but to wait, and the original, for which all wait."""
    for stuck in (finetune(3), finetune(0), ORIGINAL):
        pool = Stuck([stuck], room, seed, times=1)
        tally = schedule(plan_of(4), pool)
        assert sorted(tally.made) == sorted(plan_of(4).runs)
        assert [runs for _, runs in pool.ended] == [[stuck]]
        assert pool.now < 60 + 30


@pytest.mark.parametrize("seed", range(8))
def test_a_run_whose_publication_always_hangs_is_given_up(seed: int):
    """Law: two attempts of a minute each; then the study ends with that run failed and all others made."""
    pool = Stuck([finetune(3)], 2, seed, times=99)
    tally = schedule(plan_of(4), pool)
    assert tally.failed == {finetune(3): "took longer"}
    assert len(tally.made) == 4
    assert pool.now < 3 * 60 + 30  # where another run was at hand, each is tried alone before it counts


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
