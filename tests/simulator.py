"""A cluster on a virtual clock for the real scheduler: GPUs that train for a minute or two, fail, and are preempted.

    cluster = Cluster(nodes=125, gpus=8, seed=0)
    figures = simulate(plan_of_methods(9, 1000), cluster, order=interleaved)
    print("\n".join(figures.lines()))

Nothing is trained and nothing waits: `wait` moves the clock to the next event. What is real is the scheduler,
through the `Pool` protocol.

Does not cover: Ray's own time for a call, and what the storage takes.
"""

from __future__ import annotations

import heapq
import itertools
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from conftest import TINY, merged

from ray_unlearn.run.outcome import Attempt, Outcome, WorkerInfo
from ray_unlearn.schedule.events import Tally
from ray_unlearn.schedule.pool import Finished, Leaving, Lost, Ready, Report
from ray_unlearn.schedule.scheduler import schedule
from ray_unlearn.study import Ingredients, Plan, Run, make_plan, parse_study
from ray_unlearn.study.plan import MethodUse
from ray_unlearn.study.schema import Model

HOUR_S = 3600.0


def plan_of_methods(methods: int, count: int) -> Plan:
    """Return a plan of one original, `count` retrained models, and `count` runs of each of the methods."""
    names = ["retrained", *(f"method{i}" for i in range(methods))]
    populations: dict[str, Any] = {
        "original": {"method": "train", "on": "train", "count": 1},
        "retrained": {"method": "train", "on": "retain", "count": count},
    }
    populations |= {name: {"method": "finetune", "count": count} for name in names[1:]}
    uses = {
        name: MethodUse(
            name=name,
            starts_from="original" if name.startswith("method") else "scratch",
            options=Model(),
            identity={"method": name, "options": {}},
        )
        for name in populations
    }
    study = parse_study(merged(TINY, {"populations": None}) | {"populations": populations}, where="a simulation")
    return make_plan(study, Ingredients(data={"images": "abc"}, model={"arch": "small_cnn"}, methods=uses))


def interleaved(runs: Iterable[Run]) -> list[Run]:
    """Return the runs in turn, one of each population: the first score comes early."""
    by_population: dict[str, list[Run]] = {}
    for run in runs:
        by_population.setdefault(run.population, []).append(run)
    turns = itertools.zip_longest(*by_population.values())
    return [run for turn in turns for run in turn if run is not None]


@dataclass(slots=True)
class _Node:
    free: int
    alive: bool = True
    leaving: bool = False
    workers: set[int] = field(default_factory=set)


@dataclass(slots=True)
class _Worker:
    node: int
    placed_at: float
    ready_at: float = np.inf
    idle_since: float = np.inf
    """When it was ready or answered last."""
    calls: deque[tuple[Sequence[Attempt], bool]] = field(default_factory=deque)
    publishing: list[Outcome] = field(default_factory=list)
    ends: int = 0
    """Which end of a call counts: a later one where it was stopped."""
    began_at: float = 0.0
    until: float = 0.0


class Cluster:
    """Nodes, workers, and what happens to them; a `Pool`."""

    device = "cuda"

    def __init__(
        self,
        *,
        nodes: int,
        gpus: int,
        seed: int = 0,
        start_s: float = 60.0,
        run_s: tuple[float, float] = (60.0, 120.0),
        publish_s: float = 1.0,
        fail_share: float = 0.01,
        preempted_per_hour: float = 0.05,
        notice_s: float = 120.0,
        noticed_share: float = 0.5,
        heard_after_s: float = 18.0,
        away_s: tuple[float, float] = (120.0, 600.0),
    ) -> None:
        """Take the cluster's numbers.

        Args:
            nodes: how many.
            gpus: of each, a worker on every one.
            seed: of everything random.
            start_s: from a place to a ready worker.
            run_s: 5 % and 95 % point of a run's time, lognormal.
            publish_s: how long an answer takes that waits for a publication.
            fail_share: of attempts that fail by themselves, somewhere on the way.
            preempted_per_hour: share of nodes.
            notice_s: from the notice to the end, where there is one.
            noticed_share: of the preemptions.
            heard_after_s: until the driver learns of a node that went without notice; Ray's default took 18 s here.
            away_s: shortest and longest time until another node has taken its place.

        """
        self.now = 0.0
        self._rng = np.random.default_rng(seed)
        self._start_s, self._publish_s, self._fail_share = start_s, publish_s, fail_share
        low, high = np.log(run_s)
        self._mean, self._sigma = (low + high) / 2, (high - low) / 2 / 1.645
        self._gone_s = HOUR_S / preempted_per_hour if preempted_per_hour else np.inf
        self._notice_s, self._noticed_share, self._away_s = notice_s, noticed_share, away_s
        self._heard_after_s = heard_after_s
        self._nodes = [_Node(gpus) for _ in range(nodes)]
        self._gpus = gpus
        self._workers: dict[int, _Worker] = {}
        self._waiting: deque[int] = deque()
        self._numbers = itertools.count(1)
        self._order = itertools.count()
        self._happens: list[tuple[float, int, Callable[[], list[Report]]]] = []
        self._alive_s = 0.0
        self.calls: Counter[str] = Counter()
        self.spent_s = 0.0
        """Real seconds in here, which are none of the scheduler's."""
        self.spans: list[tuple[float, float, bool]] = []
        """Begin and end of every execution, s, and whether it was kept."""
        self.held_s = 0.0
        """Seconds of GPUs from a worker's place to its end: released, or known to be lost."""
        self.starting_s = 0.0
        """Of these, those before it was ready."""
        self.releasing_s = 0.0
        """Of these, those from its last answer to its end, where it had nothing to do then."""
        self.made: list[tuple[float, str]] = []
        """When, and of which population."""
        self.ready_at = self.surplus_at = np.inf
        """When the first worker was ready, and when the first was let go because no run was left for it."""
        self.preemptions = 0
        for node in range(nodes):
            self._will_go(node)

    # The protocol

    def describe(self) -> str:
        return "simulated"

    def capacity(self) -> int:
        known = sum(self._gpus for node in self._nodes if not node.leaving and (node.alive or node.workers))
        return max(1, known)

    def start(self) -> int:
        self.calls["start"] += 1
        worker = next(self._numbers)
        self._waiting.append(worker)
        self._place()
        return worker

    def submit(self, worker: int, attempts: Sequence[Attempt], *, flush: bool) -> None:
        began = time.perf_counter()
        self.calls["submit"] += 1
        held = self._workers[worker]
        held.calls.append((attempts, flush))
        if len(held.calls) == 1:
            self._begin(worker)
        self.spent_s += time.perf_counter() - began

    def wait(self) -> list[Report]:
        """Return what happens next, or nothing after a second."""
        began = time.perf_counter()
        self.calls["wait"] += 1
        events: list[Report] = []
        if self._happens and self._happens[0][0] <= self.now + 1:
            self._to(self._happens[0][0])
            while self._happens and self._happens[0][0] <= self.now and not events:
                events += heapq.heappop(self._happens)[2]()
        else:
            self._to(self.now + 1)
        self.spent_s += time.perf_counter() - began
        return events

    def stop(self, worker: int) -> None:
        began = time.perf_counter()
        self.calls["stop"] += 1
        if worker in self._workers:
            leaves = self._nodes[self._workers[worker].node].leaving
            self.surplus_at = self.surplus_at if leaves else min(self.surplus_at, self.now)
            self._end(worker)
        else:
            self._waiting.remove(worker)
        self.spent_s += time.perf_counter() - began

    # What happens

    def _at(self, when: float, then: Callable[[], list[Report]]) -> None:
        heapq.heappush(self._happens, (when, next(self._order), then))

    def _to(self, when: float) -> None:
        self._alive_s += (when - self.now) * self._gpus * sum(node.alive for node in self._nodes)
        self.now = when

    def _place(self) -> None:
        for number, node in enumerate(self._nodes):
            while self._waiting and node.free and node.alive and not node.leaving:
                worker = self._waiting.popleft()
                node.free -= 1
                node.workers.add(worker)
                self._workers[worker] = _Worker(number, self.now)
                self._at(self.now + self._start_s, lambda worker=worker: self._ready(worker))

    def _ready(self, worker: int) -> list[Report]:
        if worker not in self._workers:
            return []
        self._workers[worker].ready_at = self._workers[worker].idle_since = self.now
        self.ready_at = min(self.ready_at, self.now)
        return [Ready(worker, WorkerInfo(host="there", pid=worker, device="cuda"))]

    def _begin(self, worker: int) -> None:
        """Begin the oldest call: decide now how it ends."""
        held = self._workers[worker]
        attempts, flush = held.calls[0]
        held.began_at, ended, took_s = self.now, list[Outcome](), 0.0
        for run, _ in attempts:
            seconds = float(self._rng.lognormal(self._mean, self._sigma))
            ended += held.publishing
            held.publishing = []
            if self._rng.random() < self._fail_share:
                seconds *= float(self._rng.random())
                ended.append(Outcome(run=run, seconds=seconds, error="a failure"))
            else:
                held.publishing = [Outcome(run=run, seconds=seconds)]
            took_s += seconds
        if flush:
            ended, held.publishing, took_s = [*ended, *held.publishing], [], took_s + self._publish_s
        held.until, held.ends = self.now + took_s, next(self._order)
        self._at(held.until, lambda: self._answer(worker, held.ends, ended, took_s))

    def _answer(self, worker: int, end: int, ended: list[Outcome], took_s: float) -> list[Report]:
        held = self._workers.get(worker)
        if held is None or held.ends != end:
            return []
        attempts, _ = held.calls.popleft()
        if attempts:
            self.spans.append((held.began_at, self.now, not any(o.error and o.run == attempts[-1][0] for o in ended)))
        self.made += [(self.now, outcome.run.population) for outcome in ended if not outcome.error]
        held.idle_since = self.now
        if held.calls:
            self._begin(worker)
        return [Finished(worker, ended)]

    def _end(self, worker: int) -> None:
        """Free a worker's GPU; what it was at is lost."""
        held = self._workers.pop(worker)
        if held.calls and held.calls[0][0]:
            self.spans.append((held.began_at, min(self.now, held.until), False))
        if held.publishing:  # trained, and not reported: made again, so that its span is lost, too
            self._lose_last(held)
        self.held_s += self.now - held.placed_at
        self.starting_s += min(self.now, held.ready_at) - held.placed_at
        if not held.calls and held.idle_since < np.inf:
            self.releasing_s += self.now - held.idle_since
        node = self._nodes[held.node]
        node.workers.discard(worker)
        node.free += 1
        self._place()

    def _lose_last(self, held: _Worker) -> None:
        seconds = held.publishing[0].seconds
        for i in range(len(self.spans) - 1, -1, -1):
            begin, end, kept = self.spans[i]
            if kept and abs(end - begin - seconds) < 1e-6:
                self.spans[i] = (begin, end, False)
                return

    def _will_go(self, number: int) -> None:
        if np.isfinite(self._gone_s):
            self._at(self.now + float(self._rng.exponential(self._gone_s)), lambda: self._preempt(number))

    def _preempt(self, number: int) -> list[Report]:
        self.preemptions += 1
        node = self._nodes[number]
        if self._rng.random() >= self._noticed_share:
            node.alive = False
            self._at(self.now + self._heard_after_s, lambda: self._gone(number))
            return []
        node.leaving = True
        self._at(self.now + self._notice_s, lambda: self._gone(number))
        return [Leaving(worker) for worker in sorted(node.workers)]

    def _gone(self, number: int) -> list[Report]:
        node = self._nodes[number]
        node.alive, node.leaving = False, False
        lost = sorted(node.workers)
        for worker in lost:
            self._end(worker)
        self._at(self.now + float(self._rng.uniform(*self._away_s)), lambda: self._back(number))
        return [Lost(worker, "preempted", preempted=True) for worker in lost]

    def _back(self, number: int) -> list[Report]:
        self._nodes[number] = _Node(self._gpus)
        self._will_go(number)
        self._place()
        return []


@dataclass(frozen=True, kw_only=True, slots=True)
class Figures:
    """What a simulated study cost."""

    tally: Tally
    end_s: float
    until_queue_empty: float
    """Kept GPU time / that of all GPUs alive, from the first ready worker to the first that no run was left for."""
    of_held: float
    """Kept GPU time / that of the GPUs from their workers' start to their end: start, tail and losses included."""
    of_held_started: float
    """The same, the starts left out: from ready to released, or lost."""
    starting: float
    """Share of the time held in which workers started; where nodes come and go, theirs too."""
    losing: float
    """Share in which executions went on that failed, or were cut off."""
    releasing: float
    """Share from workers' last answers until they were released."""
    between: float
    """Share that is left: between two calls."""
    of_all: float
    """Kept GPU time / that of all GPUs alive from the first second to the last: what others could use counted, too."""
    lost: float
    """GPU time of executions that were not kept / of all executions."""
    first_score_s: float
    """When the retrained models and one method had 16 runs each."""
    preemptions: int
    calls_per_s: float
    """Calls of the scheduler to its pool per virtual second, polls included."""
    scheduler_s_per_run: float
    """Real seconds of the scheduler's own code."""

    def lines(self) -> list[str]:
        """Return the figures for people."""
        return [
            f"{len(self.tally.made)} made, {len(self.tally.failed)} failed in {self.end_s:.0f} s; "
            f"{self.preemptions} nodes preempted",
            f"utilisation: {self.until_queue_empty:.1%} until the queue is empty, {self.of_all:.1%} of all GPUs from "
            "start to end",
            f"of the GPU time held {self.of_held:.2%} is kept work, {self.starting:.2%} starting, {self.losing:.2%} "
            f"lost work, {self.releasing:.2%} waiting for the release, {self.between:.2%} between calls; without the "
            f"starts {self.of_held_started:.2%} is kept work",
            f"lost work {self.lost:.2%}; first score after {self.first_score_s:.0f} s",
            f"{self.calls_per_s:.1f} calls per virtual second; {self.scheduler_s_per_run * 1e3:.2f} ms of scheduler "
            "code per run",
        ]


def simulate(plan: Plan, cluster: Cluster, order: Callable[[Iterable[Run]], list[Run]] = list) -> Figures:
    """Run the real scheduler over the plan on the cluster."""
    tally = Tally(plan.runs)
    began = time.perf_counter()
    for event in schedule(plan, cluster, pending=order(plan.runs), made=(), max_attempts=2):
        tally(event)
    spent_s = time.perf_counter() - began - cluster.spent_s
    begins, ends, kept = (np.array(column) for column in zip(*cluster.spans, strict=True))
    kept = kept.astype(bool)
    low, high = cluster.ready_at, min(cluster.surplus_at, cluster.now)
    inside = np.clip(np.minimum(ends, high) - np.maximum(begins, low), 0, None)
    whole = ends - begins
    gpus = len(cluster._nodes) * cluster._gpus
    return Figures(
        tally=tally,
        end_s=cluster.now,
        until_queue_empty=float(inside[kept].sum() / (gpus * (high - low))),
        of_held=float(whole[kept].sum() / cluster.held_s),
        of_held_started=float(whole[kept].sum() / (cluster.held_s - cluster.starting_s)),
        starting=cluster.starting_s / cluster.held_s,
        losing=float(whole[~kept].sum() / cluster.held_s),
        releasing=cluster.releasing_s / cluster.held_s,
        between=float(1 - (whole.sum() + cluster.starting_s + cluster.releasing_s) / cluster.held_s),
        of_all=float(whole[kept].sum() / cluster._alive_s),
        lost=float(whole[~kept].sum() / whole.sum()),
        first_score_s=_first_score(cluster.made, 16),
        preemptions=cluster.preemptions,
        calls_per_s=sum(cluster.calls.values()) / cluster.now,
        scheduler_s_per_run=spent_s / len(plan.runs),
    )


def _first_score(made: list[tuple[float, str]], count: int) -> float:
    times: dict[str, list[float]] = {}
    for when, population in made:
        times.setdefault(population, []).append(when)
    at = {name: sorted(found)[count - 1] for name, found in times.items() if len(found) >= count}
    methods = [when for name, when in at.items() if name != "retrained"]
    return max(at["retrained"], min(methods)) if methods and "retrained" in at else np.inf
