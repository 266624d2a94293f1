"""The scheduler, driven by a pool that fits on a screen: no Ray, no clock, no storage."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import pytest
from plans import finetune, plan_of

from ray_unlearn.errors import ClusterError, StoreUnwritable
from ray_unlearn.run.outcome import Outcome, WorkerInfo
from ray_unlearn.schedule import scheduler
from ray_unlearn.schedule.events import Failed, Made, Retried, Sink, Started, Stopped, Tally
from ray_unlearn.schedule.pool import Finished, Leaving, Lost, Ready, Report
from ray_unlearn.study import Plan, Run

INFO = WorkerInfo(host="here", pid=1, device="cpu")


class FakePool:
    """Workers that do what `script` holds for a run's first, second, ... execution; a run is published next to the
    next.

    Steps: ok (the default), fail, final, die, gone (its node goes), slow (ended: too long), poison; unpublished fails
    and killer dies while the next one is made; untold is published, and its worker dies before it reports.
    `starts` holds for the first, second, ... start whether it fails (x) or dies first (d).
    One event per `wait`, picked by `seed`: any order in which a cluster could report is some seed's order.
    """

    def __init__(
        self,
        script: dict[Run, list[str]],
        room: Callable[[], int],
        seed: int = 0,
        starts: str = "",
        seconds: float = 1.0,
    ):
        self.script = {run: list(steps) for run, steps in script.items()}
        self.room, self.starts, self.seconds = room, starts, seconds
        self.random = random.Random(seed)  # noqa: S311 - an order, not a secret
        self.numbers = itertools.count(1)
        self.starting: set[int] = set()
        self.calls: dict[int, list[tuple[list[tuple[Run, int]], bool]]] = {}
        self.publishing: dict[int, tuple[Run, str]] = {}
        self.log: list[tuple[Run, int, str]] = []
        self.published: list[Run] = []
        self.sizes: list[int] = []
        self.most = 0

    @property
    def alive(self) -> int:
        return len(self.starting) + len(self.calls)

    @property
    def busy(self) -> list[int]:
        return sorted(worker for worker, calls in self.calls.items() if calls)

    def capacity(self) -> int:
        return self.room()

    def start(self) -> int:
        worker = next(self.numbers)
        self.starting.add(worker)
        self.most = max(self.most, self.alive)
        return worker

    def submit(self, worker: int, attempts: Sequence[tuple[Run, int]], *, flush: bool) -> None:
        self.calls[worker].append((list(attempts), flush))  # a KeyError where the worker is not ready
        assert len(self.calls[worker]) <= 2
        self.sizes.append(len(attempts))

    def wait(self) -> list[Report]:
        worker = self.pick(sorted({*self.starting, *self.busy}))
        if worker in self.starting:
            self.starting.discard(worker)
            starts, self.starts = self.starts[:1], self.starts[1:]
            if starts in ("x", "d"):
                return [Lost(worker, "no such device", died=starts == "d")]
            self.calls[worker] = []
            return [Ready(worker, INFO)]
        attempts, flush = self.calls[worker].pop(0)
        outcomes: list[Outcome] = []
        for run, attempt in attempts:
            step = (self.script.get(run) or ["ok"]).pop(0)
            self.log.append((run, attempt, step))
            if step == "die" or self.publishing.get(worker, (run, ""))[1] == "killer":
                return [self.lost(worker)]
            if step in {"gone", "slow", "untold"}:
                self.published += [run] if step == "untold" else []
                return [replace(self.lost(worker), preempted=step == "gone", overdue_s=6.0 * (step == "slow"))]
            if step in {"fail", "final", "poison"}:
                failed = Outcome(run=run, seconds=0, error=step, final=step == "final", poisoned=step == "poison")
                outcomes += [*(self.told(worker) if failed.poisoned else []), failed]
                if failed.poisoned:
                    break
            else:
                outcomes += self.told(worker)
                self.publishing[worker] = (run, step)
        if flush and self.publishing.get(worker, ("", ""))[1] == "killer":
            return [self.lost(worker)]
        return [Finished(worker, [*outcomes, *(self.told(worker) if flush else [])])]

    def pick(self, workers: list[int]) -> int:
        return self.random.choice(workers)

    def told(self, worker: int) -> list[Outcome]:
        if worker not in self.publishing:
            return []
        run, step = self.publishing.pop(worker)
        if step == "unpublished":
            return [Outcome(run=run, seconds=0, error=step)]
        self.published.append(run)
        return [Outcome(run=run, seconds=self.seconds)]

    def lost(self, worker: int) -> Lost:
        self.publishing.pop(worker, None)
        del self.calls[worker]
        return Lost(worker, "killed")

    def stop(self, worker: int) -> None:
        assert worker not in self.publishing
        if worker in self.starting:
            self.starting.remove(worker)
        else:
            del self.calls[worker]


def schedule(plan: Plan, pool: FakePool, *sinks: Sink, made: Iterable[Run] = (), max_attempts: int = 2) -> Tally:
    """Schedule what is not made; return the tally."""
    made = set(made)
    pending = [run for run in plan.runs if run not in made]

    def published(run: Run) -> Outcome | None:
        return Outcome(run=run, seconds=1.0) if run in pool.published else None

    tally = Tally(pending)
    for event in scheduler.schedule(
        plan, pool, pending=pending, made=made, max_attempts=max_attempts, published=published
    ):
        for sink in (*sinks, tally):
            sink(event)
    return tally


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
    "a publication fails": {finetune(0): ["unpublished"], finetune(1): ["unpublished", "unpublished"]},
    "one kills while it is published": {finetune(1): ["killer"] * 9},
    "a poisoned worker": {finetune(0): ["poison"], finetune(2): ["poison", "poison"]},
    "nodes go away": {finetune(0): ["gone"] * 5, finetune(2): ["gone", "ok"], ORIGINAL: ["gone"]},
    "published and not told": {finetune(1): ["untold"], ORIGINAL: ["untold"]},
    "one is slow": {finetune(1): ["slow"] * 9, finetune(3): ["slow"]},
    "everything": {finetune(0): ["fail", "die", "ok"], finetune(1): ["final"], finetune(2): ["die", "fail", "fail"]},
}


@pytest.mark.parametrize("name", SCRIPTS)
def test_every_run_is_made_once_or_reported(name: str):
    """Law: pending = made + failed + blocked, each run in exactly one; and no order or worker count changes which."""
    plan = plan_of(5)
    alone = schedule(plan, FakePool(SCRIPTS[name], lambda: 1))
    for workers, seconds, seed in itertools.product((1, 2, 3, 9), (1.0, 0.1), range(4)):
        case = f"{workers} workers, {seconds} s, seed {seed}"
        pool = FakePool(SCRIPTS[name], lambda workers=workers: workers, seed, seconds=seconds)
        tally = schedule(plan, pool)
        assert sorted([*tally.made, *tally.failed, *tally.blocked]) == sorted(plan.runs), case
        assert set(pool.published) == set(tally.made), case
        assert "kill" in name or "death" in name or "everything" in name or len(pool.published) == len(tally.made), case
        assert (set(tally.made), tally.failed, tally.blocked) == (set(alone.made), alone.failed, alone.blocked), case


@pytest.mark.parametrize("seed", range(6))
def test_no_run_starts_before_its_original_is_made(seed: int):
    """Law: a run is handed out only after the very original that it starts from, no matter what the others do."""
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
    events: list[object] = []
    pool = FakePool({finetune(0): ["fail"] * 99}, lambda: 2)
    tally = schedule(plan_of(2), pool, events.append, max_attempts=max_attempts)
    assert [attempt for run, attempt, _ in pool.log if run == finetune(0)] == list(range(1, max_attempts + 1))
    assert [(e.outcome.run, e.attempt) for e in events if isinstance(e, Failed)] == [(finetune(0), max_attempts)]
    again = [(e.attempt, e.next_attempt) for e in events if isinstance(e, Retried)]
    assert again == [(attempt, attempt + 1) for attempt in range(1, max_attempts)]
    assert tally.failed == {finetune(0): "fail"}


def test_a_final_failure_is_not_tried_again():
    """Law: a run that would fail the same way again is executed once, no matter what max_attempts states."""
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
    events: list[object] = []
    pool = FakePool({finetune(0): ["die"]}, lambda: 1)
    schedule(plan_of(2), pool, events.append)
    assert [(run, attempt) for run, attempt, _ in pool.log] == [
        (ORIGINAL, 1),
        (finetune(0), 1),
        (finetune(0), 1),
        (finetune(1), 1),
    ]
    (retried,) = [event for event in events if isinstance(event, Retried)]
    assert (retried.outcome.run, retried.outcome.error) == (finetune(0), "killed")
    assert (retried.attempt, retried.next_attempt, retried.worker) == (1, 1, None)


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

    def count_down(event: object) -> None:
        nonlocal left
        left -= isinstance(event, Made)

    pool = Watched({}, lambda: workers, seed)
    schedule(plan_of(count), pool, count_down)
    assert (left, pool.alive) == (0, 0)
    assert pool.most == min(workers, count + 1)


def test_the_pool_grows_and_shrinks_with_the_cluster():
    """Law: capacity is asked again and again; 1, then 4, then 2 workers, as nodes join and leave."""
    in_flight: dict[int, int] = {}

    def done() -> int:
        return len(pool.log)

    class Watched(FakePool):
        def wait(self) -> list[Report]:
            training = sum(any(attempts for attempts, _ in calls) for calls in self.calls.values())
            in_flight[done()] = max(in_flight.get(done(), 0), training)
            return super().wait()

        def pick(self, workers: list[int]) -> int:
            turns.append(
                min(workers, key=lambda worker: max((i for i, w in enumerate(turns) if w == worker), default=-1))
            )
            return turns[-1]

    turns: list[int] = []
    pool = Watched({}, lambda: 1 if done() < 5 else 4 if done() < 12 else 2)
    schedule(plan_of(20), pool)
    assert {in_flight[i] for i in range(5)} == {1}
    assert max(in_flight[i] for i in range(5, 12)) == 4
    assert {in_flight[i] for i in range(15, 20)} == {2}


def test_surplus_workers_go_before_the_end():
    """Law: with one run left, one worker is left: the others' resources are free for other people."""
    alive_at_last = []

    class Watched(FakePool):
        def wait(self) -> list[Report]:
            if len(self.log) == 4:
                alive_at_last.append(self.alive)
            return super().wait()

    schedule(plan_of(4), Watched({}, lambda: 4, seed=3))
    assert alive_at_last[-1] == 1


def test_nothing_pending_starts_nothing():
    """Law: an empty queue asks the pool for no worker."""
    plan = plan_of(2)
    pool = FakePool({}, lambda: 4)
    events: list[object] = []
    tally = schedule(plan, pool, events.append, made=plan.runs)
    assert (tally.made, tally.failed, tally.blocked, events, pool.most) == ([], {}, [], [], 0)


def test_long_runs_go_one_by_one_and_short_ones_share_a_call():
    """Law: of 1 s runs a call holds one, and none waits behind it; of 0.02 s runs one holds 0.25 / 0.02 = 12."""
    long, short = FakePool({}, lambda: 2), FakePool({}, lambda: 2, seconds=0.02)
    for pool in (long, short):
        assert len(schedule(plan_of(200), pool).made) == 201
    assert max(long.sizes) == 1
    assert max(short.sizes) == 12
    assert len(short.sizes) < 50


@pytest.mark.parametrize(("seconds", "depth"), [(1.0, 1), (0.3, 2), (0.02, 2)])
def test_a_worker_that_is_soon_done_has_a_second_call(seconds: float, depth: int):
    """Law: with less than half a second before it, the next call waits at the worker; never a third."""
    depths = []

    class Watched(FakePool):
        def wait(self) -> list[Report]:
            depths.append(max((len(calls) for calls in self.calls.values()), default=0))
            return super().wait()

    schedule(plan_of(30), Watched({}, lambda: 2, seconds=seconds))
    assert max(depths) == depth


def test_near_the_end_no_worker_hoards():
    """Law: a call takes at most a half of a worker's share of what is left: of 8 runs and 2 workers, 2."""
    pool = FakePool({}, lambda: 2, seconds=0.001)
    schedule(plan_of(400), pool)
    left, sizes = 401, [size for size in pool.sizes if size]
    for size in sizes:
        assert size <= max(1, -(-left // 4))
        left -= size
    assert left == 0
    assert sizes[-4:] == [1, 1, 1, 1]


def test_an_original_is_reported_as_soon_as_it_is_published():
    """Law: who waits for a run does not wait for the worker's next one: its call asks for the publication."""
    flushed = {}

    class Watched(FakePool):
        def submit(self, worker: int, attempts: Sequence[tuple[Run, int]], *, flush: bool) -> None:
            flushed.update({run: flush for run, _ in attempts})
            super().submit(worker, attempts, flush=flush)

    schedule(plan_of(6, originals=3), Watched({}, lambda: 1))
    originals = [run for run in flushed if run.population == "original"]
    assert [flushed[run] for run in originals] == [True, True, True]
    assert [flushed[finetune(i, original=i % 3)] for i in range(6)] == [False] * 5 + [True]


def test_a_death_takes_back_all_that_the_worker_held_and_tries_each_alone():
    """Law: one run published, one trained when the worker dies: both are made again, each alone, and not blamed."""
    pool = FakePool({finetune(1): ["die", "die"]}, lambda: 1)
    tally = schedule(plan_of(4), pool, max_attempts=1)
    executed = [run.index for run, _, _ in pool.log if run.population == "finetune"]
    assert executed == [0, 1, 0, 1, 1, 2, 3]  # 0 was in publication at the first death; the second is 1's own
    assert (tally.failed, len(tally.made)) == ({}, 5)


def test_who_kills_while_it_is_published_is_found():
    """Law: the run that is trained next to it is not given up in its place, nor tried for ever."""
    pool = FakePool({finetune(1): ["killer"] * 99}, lambda: 1)
    tally = schedule(plan_of(6), pool, max_attempts=2)
    assert tally.failed == {finetune(1): "its worker died 3 times: killed"}
    assert len(tally.made) == 6


def test_a_poisoned_worker_goes_and_its_other_runs_come_back():
    """Law: what was given to it and not reported yet is made by its successor; that is no attempt and no death."""
    pool = FakePool({finetune(3): ["poison"]}, lambda: 1, seconds=0.02)
    tally = schedule(plan_of(30), pool, max_attempts=2)
    assert sorted(tally.made) == sorted(plan_of(30).runs)
    assert {attempt for run, attempt, _ in pool.log if run != finetune(3)} == {1}
    assert next(pool.numbers) - 1 == 2


@pytest.mark.parametrize("seed", range(3))
def test_a_node_that_goes_away_is_no_runs_fault(seed: int):
    """Law: twenty deaths by preemption each give nothing up and count as no attempt; two by the run itself still do."""
    events: list[object] = []
    pool = FakePool({finetune(0): ["gone"] * 20, finetune(1): ["gone"] * 20 + ["die"] * 2}, lambda: 2, seed)
    tally = schedule(plan_of(3), pool, events.append, max_attempts=1)
    assert tally.failed == {finetune(1): "its worker died 2 times: killed"}
    assert tally.made.count(finetune(0)) == 1
    assert {attempt for _, attempt, _ in pool.log} == {1}
    assert sum(isinstance(event, Retried) for event in events) >= 41


def test_a_run_that_takes_its_nodes_along_is_given_up():
    """Law: nodes go away, but not twenty-one in a row with the same run alone on them."""
    tally = schedule(plan_of(3), FakePool({finetune(1): ["gone"] * 99}, lambda: 1), max_attempts=9)
    assert tally.failed == {finetune(1): "its node was lost 21 times: killed"}
    assert tally.made == [ORIGINAL, finetune(0), finetune(2)]


def test_one_bad_machine_among_many_ends_nothing():
    """Law: failed starts end a study only where no other worker works or starts."""
    pool = FakePool({}, lambda: 40, starts="x" * 12 + "d" * 12)
    assert len(schedule(plan_of(60), pool).made) == 61


def test_the_pool_grows_again_after_failed_starts():
    """Law: a worker that could not start is tried again, one at a time, until all the room is used."""
    ready: list[int] = []

    class Counting(FakePool):
        def wait(self) -> list[Report]:
            ready.append(len(self.calls))
            return super().wait()

    assert len(schedule(plan_of(200), Counting({}, lambda: 8, starts="....xxxx")).made) == 201
    assert max(ready) == 8


def test_starts_on_nodes_that_go_away_are_no_failed_starts():
    """Law: three starts in a row that end with their nodes are tried a fourth time."""

    class Vanishing(FakePool):
        def wait(self) -> list[Report]:
            return [replace(e, preempted=True) if isinstance(e, Lost) else e for e in super().wait()]

    pool = Vanishing({}, lambda: 1, starts="xxx.")
    assert len(schedule(plan_of(2), pool).made) == 3
    assert next(pool.numbers) - 1 == 4


def test_workers_that_die_as_they_start_are_tried_longer():
    """Law: nine deaths in a row before a worker is ready are borne, because nodes may be going; ten end it."""
    pool = FakePool({}, lambda: 1, starts="ddddddddd.")
    assert len(schedule(plan_of(2), pool).made) == 3
    with pytest.raises(ClusterError, match="10 workers in a row could not start: no such device"):
        schedule(plan_of(2), FakePool({}, lambda: 1, starts="d" * 10))


class Draining(FakePool):
    """Workers 1 and 2 are asked to leave once `after` runs are made: their nodes drain, and others have room."""

    def __init__(self, room: int, seed: int = 0, seconds: float = 1.0, after: int = 4) -> None:
        super().__init__({}, lambda: room, seed, seconds=seconds)
        self.after = after
        self.leaving: list[int] = []
        self.stopped: list[int] = []

    def wait(self) -> list[Report]:
        if len(self.published) >= self.after and not self.leaving:
            self.leaving = [worker for worker in (1, 2) if worker in self.calls or worker in self.starting]
            return [Leaving(worker) for worker in self.leaving]
        return super().wait()

    def submit(self, worker: int, attempts: Sequence[tuple[Run, int]], *, flush: bool) -> None:
        assert worker not in self.leaving or not attempts, "a worker that leaves was given a run"
        super().submit(worker, attempts, flush=flush)

    def stop(self, worker: int) -> None:
        self.stopped.append(worker)
        super().stop(worker)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("seconds", [1.0, 0.02])
def test_workers_that_leave_finish_what_they_have_and_are_replaced(seed: int, seconds: float):
    """Law: no run more for them, nothing is made twice; each is stopped long before the end, and has a successor."""
    pool = Draining(2, seed, seconds)
    tally = schedule(plan_of(60), pool)
    assert sorted(tally.made) == sorted(pool.published) == sorted(plan_of(60).runs)
    assert pool.leaving == [1, 2]
    assert sorted(pool.stopped) == [1, 2, 3, 4]
    assert pool.alive == 0


def test_a_start_on_a_node_that_drains_is_given_up():
    """Law: a worker that is asked to leave before it is ready is stopped, and another one started."""
    pool = Draining(1, after=0)
    assert len(schedule(plan_of(2), pool).made) == 3
    assert pool.stopped == [1, 2]


def test_starts_that_nothing_is_left_for_are_given_up():
    """Law: eight are asked for, one has a place; when two runs are left, one start waits: no more demand than work."""

    class Full(FakePool):
        def pick(self, workers: list[int]) -> int:
            return workers[0]

        def wait(self) -> list[Report]:
            starts.append((len(self.published), len(self.starting)))
            if 1 in self.calls:
                assert self.calls[1], "nothing can happen any more"
                waiting, self.starting = self.starting, set()
                events = super().wait()
                self.starting = waiting
                return events
            return super().wait()

    starts: list[tuple[int, int]] = []
    pool = Full({}, lambda: 8)
    assert len(schedule(plan_of(10), pool).made) == 11
    assert (max(n for _, n in starts), pool.alive) == (8, 0)
    assert [n for made, n in starts if made == 9][-1] == 1


def test_what_was_published_and_not_reported_is_not_made_again():
    """Law: its record counts; who waits for it goes on, and what was trained next to it is made again and not
    blamed.
    """
    pool = FakePool({ORIGINAL: ["untold"], finetune(1): ["untold"]}, lambda: 1)
    tally = schedule(plan_of(4), pool, max_attempts=1)
    executed = [run for run, _, _ in pool.log]
    assert executed.count(ORIGINAL) == executed.count(finetune(1)) == 1
    assert executed.count(finetune(0)) == 2  # it was in publication when its worker died
    assert sorted(tally.made) == sorted(plan_of(4).runs)
    assert pool.published.count(finetune(1)) == 1


def test_a_call_that_takes_too_long_is_charged_to_its_run_alone():
    """Law: with another run in publication, either may hang: each is tried alone, and only then has it failed."""
    events: list[object] = []
    pool = FakePool({finetune(1): ["slow", "slow"]}, lambda: 1)
    tally = schedule(plan_of(3), pool, events.append, max_attempts=1)
    assert [run.index for run, _, _ in pool.log if run.population == "finetune"] == [0, 1, 0, 1, 2]
    assert [(e.outcome.run, e.attempt) for e in events if isinstance(e, Failed)] == [(finetune(1), 1)]
    assert tally.failed == {finetune(1): "killed"}


def test_runs_that_waited_take_their_places_in_the_queue():
    """Law: the order of the pending runs holds for those, too, that became ready later: every second one here."""
    plan = plan_of(6, originals=2)
    first, second = (Run(population="original", index=i) for i in range(2))
    order = [first, second, *(finetune(i, original=i % 2) for i in range(6))]
    pool = FakePool({}, lambda: 1)
    assert [*scheduler.schedule(plan, pool, pending=order, made=(), max_attempts=1)]
    assert [run for run, _, _ in pool.log] == order


@pytest.mark.parametrize("name", SCRIPTS)
@pytest.mark.parametrize("workers", [1, 3])
def test_the_events_report_the_whole_story(name: str, workers: int):
    """Law: every attempt that was executed has a Started; every pending run ends in one Made or Failed, or waits for an
    original that failed; every worker that was ready has one Lost or Stopped, and no Started after it."""
    events: list[object] = []
    pool = FakePool(SCRIPTS[name], lambda: workers)
    tally = schedule(plan_of(5), pool, events.append)
    started = [attempt for event in events if isinstance(event, Started) for attempt in event.attempts]
    assert {(run, attempt) for run, attempt, _ in pool.log} <= {*started}
    ends = [event.outcome.run for event in events if isinstance(event, Made | Failed)]
    assert sorted([*ends, *tally.blocked]) == sorted(plan_of(5).runs)
    for worker in {event.worker for event in events if isinstance(event, Ready)}:
        kinds = [type(e) for e in events if isinstance(e, Ready | Started | Lost | Stopped) and e.worker == worker]
        assert kinds[0] is Ready
        assert kinds[-1] in (Lost, Stopped)
        assert {*kinds[1:-1]} <= {Started}


@pytest.mark.parametrize("workers", [1, 4])
def test_a_storage_that_takes_nothing_ends_the_schedule_at_once(workers: int):
    """Law: of an answer with such an outcome, what was made counts; then one error, and no run is tried again."""

    class Full(FakePool):
        def wait(self) -> list[Report]:
            reports = super().wait()
            if len(self.published) < 4:
                return reports
            return [
                replace(report, outcomes=[*map(refused, report.outcomes[:1]), *report.outcomes[1:]])
                if isinstance(report, Finished)
                else report
                for report in reports
            ]

    def refused(outcome: Outcome) -> Outcome:
        return replace(outcome, error="cannot write: full", unwritable=True)

    events: list[object] = []
    pool = Full({}, lambda: workers, seconds=0.02)
    with pytest.raises(StoreUnwritable, match=r"^cannot write: full; what was made is kept$"):
        schedule(plan_of(40), pool, events.append)
    made = [event.outcome.run for event in events if isinstance(event, Made)]
    assert len(made) + 1 == len(pool.published)  # all that came with it, too
    assert not [event for event in events if isinstance(event, Failed | Retried)]


def test_what_happened_before_an_error_is_reported_before_it():
    """Law: each start that failed is an event, the last of them, too, which ends the schedule."""
    events: list[object] = []
    with pytest.raises(ClusterError):
        schedule(plan_of(2), FakePool({}, lambda: 1, starts="xxx"), events.append)
    assert [type(event) for event in events] == [Lost] * 3
