"""The scheduler, driven by a pool that fits on a screen: no Ray, no clock, no storage."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Callable, Iterable

import pytest
from plans import finetune, plan_of

from ray_unlearn.driver.loop import Hooks, Scheduler, Tally
from ray_unlearn.driver.pool import Event, Finished, Lost, Ready
from ray_unlearn.errors import ClusterError
from ray_unlearn.study import Plan, Run
from ray_unlearn.worker import Outcome, WorkerInfo

INFO = WorkerInfo(host="here", pid=1, device="cpu")


class FakePool:
    """Workers that do what `script` says of a run's first, second, ... execution: ok (the default), fail, final or die.

    `starts` says of the first, second, ... start whether it fails (x).
    One event per `wait`, picked by `seed`: any order in which a cluster could report is some seed's order.
    """

    def __init__(self, script: dict[Run, list[str]], room: Callable[[], int], seed: int = 0, starts: str = ""):
        self.script = {run: list(steps) for run, steps in script.items()}
        self.room, self.starts = room, starts
        self.random = random.Random(seed)  # noqa: S311 - an order, not a secret
        self.numbers = itertools.count(1)
        self.starting: set[int] = set()
        self.idle: set[int] = set()
        self.busy: dict[int, tuple[Run, int]] = {}
        self.log: list[tuple[Run, int, str]] = []
        self.most = 0

    @property
    def alive(self) -> int:
        return len(self.starting) + len(self.idle) + len(self.busy)

    def capacity(self) -> int:
        return self.room()

    def start(self) -> int:
        worker = next(self.numbers)
        self.starting.add(worker)
        self.most = max(self.most, self.alive)
        return worker

    def submit(self, worker: int, run: Run, attempt: int) -> None:
        self.idle.remove(worker)  # a KeyError where the worker is not ready and free
        self.busy[worker] = (run, attempt)

    def wait(self) -> list[Event]:
        worker = self.random.choice(sorted({*self.starting, *self.busy}))
        if worker in self.starting:
            self.starting.discard(worker)
            starts, self.starts = self.starts[:1], self.starts[1:]
            if starts == "x":
                return [Lost(worker, "no such device")]
            self.idle.add(worker)
            return [Ready(worker, INFO)]
        run, attempt = self.busy.pop(worker)
        step = (self.script.get(run) or ["ok"]).pop(0)
        self.log.append((run, attempt, step))
        if step == "die":
            return [Lost(worker, "killed")]
        self.idle.add(worker)
        return [
            Finished(worker, Outcome(run=run, seconds=1, error="" if step == "ok" else step, final=step == "final"))
        ]

    def stop(self, worker: int) -> None:
        (self.idle if worker in self.idle else self.starting).remove(worker)


def schedule(
    plan: Plan, pool: FakePool, *, made: Iterable[Run] = (), max_attempts: int = 2, hooks: Hooks | None = None
) -> Tally:
    made = set(made)
    pending = [run for run in plan.runs if run not in made]
    return Scheduler(plan, pool, pending=pending, made=made, max_attempts=max_attempts, hooks=hooks).run()


ORIGINAL = Run(population="original", index=0)

SCRIPTS = {
    "all well": {},
    "one retry": {finetune(0): ["fail"]},
    "one gives up": {finetune(0): ["fail", "fail"]},
    "one final": {finetune(1): ["final"]},
    "deaths": {finetune(2): ["die"], finetune(0): ["die", "die"]},
    "a killer": {finetune(1): ["die"] * 9},
    "the original fails": {ORIGINAL: ["final"]},
    "the original dies once, then fails once": {ORIGINAL: ["die", "fail"]},
    "everything": {finetune(0): ["fail", "die", "ok"], finetune(1): ["final"], finetune(2): ["die", "fail", "fail"]},
}


@pytest.mark.parametrize("name", SCRIPTS)
@pytest.mark.parametrize("workers", [1, 2, 3, 9])
@pytest.mark.parametrize("seed", range(4))
def test_every_run_is_made_once_or_reported(name: str, workers: int, seed: int):
    """Law: pending = made + failed + blocked, each run in exactly one; and no order or worker count changes which."""
    plan = plan_of(5)
    pool = FakePool(SCRIPTS[name], lambda: workers, seed)
    tally = schedule(plan, pool)
    assert sorted([*tally.made, *tally.failed, *tally.blocked]) == sorted(plan.runs)
    assert Counter(run for run, _, step in pool.log if step == "ok") == Counter(tally.made)
    alone = schedule(plan, FakePool(SCRIPTS[name], lambda: 1))
    assert (set(tally.made), tally.failed, tally.blocked) == (set(alone.made), alone.failed, alone.blocked)


@pytest.mark.parametrize("seed", range(6))
def test_no_run_starts_before_its_original_is_made(seed: int):
    """Law: a run is handed out only after the very original that it starts from, whatever the others do."""
    plan = plan_of(6, originals=3)
    lost = Run(population="original", index=1)
    pool = FakePool({lost: ["fail", "fail"]}, lambda: 3, seed)
    tally = schedule(plan, pool)
    position = {run: i for i, (run, _, step) in enumerate(pool.log) if step == "ok"}
    for run in tally.made:
        start = plan.start_of(run)
        assert start is None or position[start] < position[run]
    assert list(tally.failed) == [lost]
    assert tally.blocked == [finetune(1, original=1), finetune(4, original=1)]


def test_originals_made_earlier_are_not_made_again():
    """Law: what is recorded already is neither repeated nor waited for."""
    pool = FakePool({}, lambda: 2)
    tally = schedule(plan_of(3), pool, made=[ORIGINAL, finetune(1)])
    assert sorted(run for run, _, _ in pool.log) == sorted(tally.made) == [finetune(0), finetune(2)]


@pytest.mark.parametrize("max_attempts", [1, 2, 4])
def test_a_failing_run_is_tried_max_attempts_times(max_attempts: int):
    """Law: attempts are numbered 1..max_attempts; then the run is given up once, with its last error."""
    given_up = []
    pool = FakePool({finetune(0): ["fail"] * 99}, lambda: 2)
    hooks = Hooks(failed=lambda outcome, attempts: given_up.append((outcome.run, attempts)))
    tally = schedule(plan_of(2), pool, max_attempts=max_attempts, hooks=hooks)
    assert [attempt for run, attempt, _ in pool.log if run == finetune(0)] == list(range(1, max_attempts + 1))
    assert given_up == [(finetune(0), max_attempts)]
    assert tally.failed == {finetune(0): "fail"}


def test_a_final_failure_is_not_tried_again():
    """Law: a run that would fail the same way again is executed once, whatever max_attempts says."""
    pool = FakePool({finetune(0): ["final", "ok"]}, lambda: 1)
    tally = schedule(plan_of(1), pool, max_attempts=5)
    assert [step for run, _, step in pool.log if run == finetune(0)] == ["final"]
    assert tally.failed == {finetune(0): "final"}


@pytest.mark.parametrize("max_attempts", [1, 2, 3])
def test_a_run_that_kills_its_workers_is_given_up(max_attempts: int):
    """Law: max_attempts + 1 deaths give a run up; the others are made, and each death costs one new worker."""
    pool = FakePool({finetune(0): ["die"] * 99}, lambda: 1)
    tally = schedule(plan_of(3), pool, max_attempts=max_attempts)
    assert [step for run, _, step in pool.log if run == finetune(0)] == ["die"] * (max_attempts + 1)
    assert tally.failed == {finetune(0): f"its worker died {max_attempts + 1} times: killed"}
    assert tally.made == [ORIGINAL, finetune(1), finetune(2)]
    assert next(pool.numbers) - 1 == 1 + max_attempts + 1


def test_a_death_goes_to_the_front_and_is_no_failed_attempt():
    """Law: a run whose worker died is next, with its attempt number unchanged."""
    retried = []
    pool = FakePool({finetune(0): ["die"]}, lambda: 1)
    schedule(plan_of(2), pool, hooks=Hooks(retried=lambda run, why: retried.append((run, why))))
    assert [(run, attempt) for run, attempt, _ in pool.log] == [
        (ORIGINAL, 1),
        (finetune(0), 1),
        (finetune(0), 1),
        (finetune(1), 1),
    ]
    assert retried == [(finetune(0), "killed")]


def test_workers_that_never_start_end_it():
    """Law: three failed starts in a row are a ClusterError with the cause; four with a good one between are not."""
    with pytest.raises(ClusterError, match="3 workers in a row could not start: no such device"):
        schedule(plan_of(2), FakePool({}, lambda: 1, starts="xxx"))
    pool = FakePool({finetune(0): ["die"]}, lambda: 1, starts="xx.xx.")
    assert len(schedule(plan_of(2), pool).made) == 3
    assert next(pool.numbers) - 1 == 6


@pytest.mark.parametrize(("workers", "count"), [(1, 5), (4, 5), (9, 5), (64, 1)])
@pytest.mark.parametrize("seed", range(3))
def test_the_pool_is_no_larger_than_room_or_work_and_is_let_go(workers: int, count: int, seed: int):
    """Law: never more workers than there is room for, nor than runs are left; none is left at the end."""
    left = count + 1

    class Watched(FakePool):
        def start(self) -> int:
            worker = super().start()
            assert self.alive <= min(workers, left)
            return worker

    def made(outcome: Outcome) -> None:
        nonlocal left
        left -= 1

    pool = Watched({}, lambda: workers, seed)
    schedule(plan_of(count), pool, hooks=Hooks(made=made))
    assert (left, pool.alive) == (0, 0)
    assert pool.most == min(workers, count + 1)


def test_the_pool_grows_and_shrinks_with_the_cluster():
    """Law: capacity is asked again and again; 1, then 4, then 2 workers, as nodes join and leave."""
    in_flight: dict[int, int] = {}

    def done() -> int:
        return len(pool.log)

    class Watched(FakePool):
        def wait(self) -> list[Event]:
            in_flight[done()] = max(in_flight.get(done(), 0), len(self.busy))
            return super().wait()

    pool = Watched({}, lambda: 1 if done() < 5 else 4 if done() < 12 else 2)
    schedule(plan_of(20), pool)
    assert {in_flight[i] for i in range(5)} == {1}
    assert max(in_flight[i] for i in range(5, 12)) == 4
    assert {in_flight[i] for i in range(14, 20)} == {2}


def test_surplus_workers_go_before_the_end():
    """Law: with one run left, one worker is left: the others' resources are free for other people."""
    alive_at_last = []

    class Watched(FakePool):
        def wait(self) -> list[Event]:
            if len(self.log) == 4:
                alive_at_last.append(self.alive)
            return super().wait()

    schedule(plan_of(4), Watched({}, lambda: 4, seed=3))
    assert alive_at_last[-1] == 1


def test_nothing_pending_starts_nothing():
    """Law: an empty queue asks the pool for no worker."""
    plan = plan_of(2)
    pool = FakePool({}, lambda: 4)
    assert schedule(plan, pool, made=plan.runs) == Tally()
    assert pool.most == 0
