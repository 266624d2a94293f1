"""Runs that fail in the same way: their population ends at the third, where none of its runs is made."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from plans import finetune, plan_of
from test_cli import inline, write_study
from test_scheduler import FakePool

from ray_unlearn.cli import main
from ray_unlearn.cli.options import with_keep_going
from ray_unlearn.generation import Summary
from ray_unlearn.schedule import scheduler
from ray_unlearn.schedule.events import Ended, Retried, Tally
from ray_unlearn.schedule.pool import Finished, Report
from ray_unlearn.study import Run, load_study

COUNT = 1024
LINE = 'Traceback (most recent call last):\n  File "/tmp/{0}/mine.py", line {1}, in unlearning\nKeyError: {0}\n'

MENDED = """\
import torch


def unlearning(net, retain, forget, val):
    next(net.parameters()).data += torch.rand(1)
"""


class Failing(FakePool):
    """A pool whose runs of `finetune` fail with what `how` returns for them: fields of their outcome."""

    def __init__(
        self, how: Callable[[Run], dict[str, object]], made: tuple[int, ...] = (), room: int = 2, seed: int = 0
    ):
        script = {finetune(index): ["fail"] * 9 for index in range(COUNT) if index not in made}
        super().__init__(script, lambda: room, seed)
        self.how = how

    def wait(self) -> list[Report]:
        return [
            Finished(one.worker, [replace(o, **self.how(o.run)) if o.error else o for o in one.outcomes])
            if isinstance(one, Finished)
            else one
            for one in super().wait()
        ]


def alike(run: Run) -> dict[str, object]:
    """Return one failure: addresses and the folders of scripts differ between runs."""
    return {"error": f"KeyError: <object at 0x{run.index:x}>", "traceback": LINE.format(run.index, 7)}


def scheduled(pool: FakePool, count: int = COUNT, **how: object) -> tuple[Tally, list[Ended]]:
    plan, ended = plan_of(count), list[Ended]()
    tally = Tally(plan.runs)
    options = {"max_attempts": 2, "fail_fast": True} | how
    for event in scheduler.schedule(plan, pool, pending=plan.runs, made=(), **options):
        tally(event)
        ended += [event] if isinstance(event, Ended) else []
    assert len(tally.made) + len(tally.failed) + sum(len(one.runs) for one in ended) == 1 + count
    return tally, ended


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("room", [1, 2, 8])
def test_three_equal_failures_end_a_population(room: int, seed: int):
    """Law: in any order of events, few runs are tried before the end; each had all its attempts."""
    tally, (ended,) = scheduled(Failing(alike, room=room, seed=seed))
    assert 3 <= len(tally.failed) <= 3 + 2 * room
    assert len(ended.runs) == COUNT - len(tally.failed)
    assert re.search(r"failed in the same way.*`ray-unlearn logs STUDY finetune/\d{5}` shows", ended.why)


def test_nothing_is_tried_again_after_the_end():
    """Law: runs that workers had at the end of their population, and that fail, are given up at once."""
    plan, pool, ended, retried = plan_of(COUNT), Failing(alike, room=8), False, list[Run]()
    for event in scheduler.schedule(plan, pool, pending=plan.runs, made=(), max_attempts=3, fail_fast=True):
        ended = ended or isinstance(event, Ended)
        retried += [event.outcome.run] if ended and isinstance(event, Retried) else []
    assert ended
    assert retried == []


@pytest.mark.parametrize(
    ("how", "made", "options"),
    [
        (alike, (), {"fail_fast": False}),
        (alike, (0, 1), {}),
        (lambda run: alike(run) | {"traceback": LINE.format(0, run.index)}, (), {}),
        (lambda run: alike(run) | {"error": f"training diverged in step {run.index}"}, (), {}),
        (lambda run: alike(run) | {"of_storage": True}, (), {}),
        (lambda run: alike(run) | {"poisoned": True}, (), {}),
    ],
    ids=["off", "one is made", "other places", "other errors", "the storage", "a GPU"],
)
def test_what_may_pass_or_differs_ends_nothing(how, made: tuple[int, ...], options: dict[str, object]):
    """Law: a run that is made, other errors, other places and a failing storage leave every run its attempts."""
    tally, ended = scheduled(Failing(how, made, room=1), count=12, **options)
    assert not ended
    assert len(tally.failed) == 12 - len(made)


def test_a_run_that_was_made_before_proves_its_population():
    """Law: a study that goes on after an edit of its data tries every run."""
    plan, pool = plan_of(12), Failing(alike, room=1)
    pending = [run for run in plan.runs if run.index or run.population == "original"]
    tally = Tally(pending)
    for event in scheduler.schedule(plan, pool, pending=pending, made=[finetune(0)], max_attempts=1, fail_fast=True):
        tally(event)
    assert (len(tally.failed), tally.ended) == (11, [])


def test_a_mistake_in_a_script_ends_its_population_alone(tmp_path: Path, capsys):
    """Law: the other populations are made, exit code 3; the traceback is named; the mended script begins anew."""
    (tmp_path / "mine.py").write_text("def unlearning(net, retain, forget, val):\n    retain['images']\n")
    file = write_study(
        tmp_path,
        populations={"mine": {"method": f"{tmp_path}/mine.py:unlearning", "count": 7}},
        execution={"max_attempts": 1},
    )
    assert inline(str(file)) == 3
    shown = capsys.readouterr()
    assert shown.err.count("not subscriptable (mine.py:2)") == 1, "the other two name the first"
    assert shown.err.count(": in the same way as mine/00000") == 2
    assert shown.out.count("not subscriptable (mine.py:2)") == 1
    assert "not made: mine/00000, mine/00001, mine/00002: TypeError: " in shown.out
    assert "will not be made: mine/00000, mine/00001, mine/00002 failed in the same way" in shown.err
    assert f"`ray-unlearn logs {file} mine/00000` shows the traceback" in shown.err
    last = [line for line in shown.out.splitlines() if line.startswith("not made: 4 runs of mine: ")]
    assert f"`ray-unlearn logs {file} mine/00000` shows the traceback" in last[0]
    assert len(list(tmp_path.glob("store/tiny/finetune/0*"))) == 3
    (tmp_path / "mine.py").write_text(MENDED)
    assert main(["status", str(file)]) == 0
    assert "refuse" not in capsys.readouterr().out
    assert inline(str(file)) == 0  # no run of the population was made, so the mended script is its first
    assert not list(tmp_path.glob("store/tiny/mine/failed/*"))
    (tmp_path / "mine.py").write_text(MENDED.replace("rand", "randn"))
    assert inline(str(file)) == 1  # now there are runs, and another script is refused


def test_keep_going_is_the_studys_key(tmp_path: Path):
    """Law: the option overrides execution.fail_fast, which the schedule gets; many equal failures are one line."""
    file = write_study(tmp_path)
    assert load_study(file).execution.fail_fast
    assert not load_study(file, with_keep_going(["seed=1"], True)).execution.fail_fast
    assert with_keep_going(["seed=1"], False) == ["seed=1"]
    summary = Summary(planned=9, already=0, made=2, failed={finetune(index): "KeyError: 'x'" for index in range(7)})
    names = ", ".join(f"finetune/0000{index}" for index in range(4))
    assert summary.lines()[0] == f"not made: {names} and 3 more: KeyError: 'x'"
