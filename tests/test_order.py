"""The order of pending runs, worked by hand; and that the scheduler keeps it when runs become ready later."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from conftest import TINY, merged, payload_bytes
from test_scheduler import FakePool, schedule

from ray_unlearn.generation import generate
from ray_unlearn.schedule import scheduler
from ray_unlearn.schedule.order import in_order
from ray_unlearn.store import StudyStore, open_storage
from ray_unlearn.store.events import EventReader
from ray_unlearn.study import Ingredients, Plan, Run, Study, make_plan, parse_study
from ray_unlearn.study.plan import MethodUse
from ray_unlearn.study.schema import Model


def plan_of(originals: int = 1, **counts: int) -> Plan:
    """Return a plan of originals, of `retrained` if counted, which waits for none, and of populations that wait."""
    populations = {
        name: {"method": "train", "count": count} | ({} if name == "retrained" else {"originals": originals})
        for name, count in counts.items()
    }
    tree = merged(TINY, {"populations": {"finetune": None, **populations, "original": {"count": max(2, originals)}}})
    names = tree["populations"]
    uses = {
        name: MethodUse(
            name=name,
            starts_from="scratch" if name in ("original", "retrained") else "original",
            options=Model(),
            identity={"method": name, "options": {}},
        )
        for name in names
    }
    study = parse_study(tree, where="a test")
    return make_plan(study, Ingredients(data={}, model={}, methods=uses))


def names(runs: list[Run]) -> list[str]:
    return [f"{run.population}/{run.index}" for run in runs]


def test_interleaved_every_population_has_its_first_runs_first():
    """Law: the original that five wait for, then run 0 of all in the study's order, run 1 of all; one that is done with
    its count drops out. original/1, for which no one waits, is a run like others."""
    plan = plan_of(retrained=3, a=3, b=2)
    assert names(in_order(plan, plan.runs, interleave=True)) == [
        "original/0", "retrained/0", "a/0", "b/0",
        "original/1", "retrained/1", "a/1", "b/1",
        "retrained/2", "a/2",
    ]  # fmt: skip


def test_not_interleaved_population_follows_population():
    """Law: the original that others wait for first all the same, then one population after another."""
    plan = plan_of(retrained=2, a=2, b=2)
    assert names(in_order(plan, plan.runs, interleave=False)) == [
        "original/0", "original/1", "retrained/0", "retrained/1", "a/0", "a/1", "b/0", "b/1",
    ]  # fmt: skip


def test_of_originals_the_one_that_most_wait_for_comes_first():
    """Law: with run a/0 made, a/1, a/3 wait for original 1 and only a/2 for original 0: 1 comes before 0."""
    plan = plan_of(originals=2, a=4)
    pending = [run for run in plan.runs if run != Run(population="a", index=0)]
    assert names(in_order(plan, pending, interleave=True)) == ["original/1", "original/0", "a/1", "a/2", "a/3"]


def test_the_order_loses_and_repeats_nothing():
    """Law: a permutation of what was pending, no matter what the switch."""
    plan = plan_of(originals=3, retrained=5, a=4, b=7)
    for interleave in (True, False):
        found = in_order(plan, plan.runs, interleave=interleave)
        assert sorted(found) == sorted(plan.runs)


def test_runs_that_waited_take_their_place_and_not_the_queues_end():
    """Law: one worker makes exactly the order, though all of `a` waited for the original at the start."""
    plan = plan_of(retrained=4, a=3, b=3)
    pool = FakePool({}, lambda: 1)
    schedule_in_order(plan, pool)
    assert [run for run, _, _ in pool.log] == in_order(plan, plan.runs, interleave=True)


def test_with_two_workers_the_second_makes_retrained_runs_until_the_original_is_there():
    """Law: no one waits for the original who need not, and none that must starts before it is published."""
    plan = plan_of(retrained=6, a=6)
    pool = FakePool({}, lambda: 2, seed=1)
    schedule_in_order(plan, pool)
    made = names([run for run, _, _ in pool.log])
    assert sorted(made) == sorted(names(list(plan.runs)))
    place = {name: place for place, name in enumerate(made)}
    assert place["original/0"] < min(place[f"a/{i}"] for i in range(6))
    assert place["a/5"] < place["retrained/5"] + 3


def schedule_in_order(plan: Plan, pool: FakePool) -> None:
    pending = in_order(plan, plan.runs, interleave=True)
    assert [*scheduler.schedule(plan, pool, pending=pending, made=set(), max_attempts=2)]


def test_a_plan_in_its_own_order_is_made_in_it():
    """Law: the order of `pending` is the order of work, with one worker: population after population where asked."""
    plan = plan_of(retrained=3, a=3)
    pool = FakePool({}, lambda: 1)
    schedule(plan, pool)
    order = [run.population for run, _, _ in pool.log]
    assert order == ["original"] * 2 + ["retrained"] * 3 + ["a"] * 3


def test_the_order_changes_no_byte(tiny: Callable[..., Study], tmp_path: Path):
    """Law: interleaved or not, every checkpoint, output and split is the same; what differs is when it was made."""
    counts = {"populations": {"retrained": {"method": "train", "on": "retain", "count": 2}, "finetune": {"count": 2}}}
    payloads, orders = [], []
    for interleave in (True, False):
        folder = tmp_path / str(interleave)
        study = tiny(storage=str(folder), execution={"interleave": interleave}, **counts)
        generate(study, backend="inline")
        payloads.append(payload_bytes(folder / "tiny"))
        events = EventReader(StudyStore(open_storage(str(folder)), "tiny")).newest()
        orders.append([event["run"] for event in events if event["event"] == "made"])
    assert payloads[0] == payloads[1]
    assert len(payloads[0]) == 5 * 2 + 1
    assert orders[0] == ["original/00000", "finetune/00000", "retrained/00000", "finetune/00001", "retrained/00001"]
    assert orders[1] == ["original/00000", "finetune/00000", "finetune/00001", "retrained/00000", "retrained/00001"]
