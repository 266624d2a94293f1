"""Runs that are equal, bit for bit: said at the second one, with the likely cause; a script ends at the third."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from plans import finetune, plan_of
from test_scheduler import FakePool, schedule

from ray_unlearn.generation import generate
from ray_unlearn.run.outcome import Outcome
from ray_unlearn.schedule import scheduler
from ray_unlearn.schedule.events import Ended, Equal, Tally
from ray_unlearn.schedule.sameness import Sameness
from ray_unlearn.study import Run, Study

NOISE = """\
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.01)
"""
SEEDED = f"import torch\n\n\ndef unlearning(net, retain, forget, val):\n    torch.manual_seed(42)\n{NOISE}"
ON_IMPORT = f"import torch\n\ntorch.manual_seed(42)\n\n\ndef unlearning(net, retain, forget, val):\n{NOISE}"
IDLE = "def unlearning(net, retain, forget, val):\n    pass\n"


@pytest.fixture
def scripted(tiny, tmp_path: Path) -> Callable[..., Study]:
    """Return a function: a script's text -> a study with six runs of it, and two of another method."""

    def make(source: str, count: int = 6) -> Study:
        (tmp_path / "mine.py").write_text(source)
        mine = {"method": f"{tmp_path}/mine.py:unlearning", "count": count}
        return tiny(populations={"finetune": {"count": 2}, "mine": mine}, execution={"interleave": False})

    return make


def mine(index: int) -> Run:
    return Run(population="mine", index=index)


def test_a_seed_in_the_function_is_said_at_the_second_run_and_ends_the_population_at_the_third(scripted, capsys):
    """Law: the line that sets the seed is named; other populations go on; the command says what is not made, code 3."""
    study = scripted(SEEDED, count=9)
    summary = generate(study, backend="inline")
    shown = capsys.readouterr().err
    cause = "line 5 of the script sets a seed (torch.manual_seed(42)), so every run draws the same numbers"
    assert "warning: mine/00001 is the same as mine/00000, bit for bit (sha256 " in shown
    assert shown.count(cause) == 3  # the second run, the third, and the end of the population
    (ended,) = summary.ended
    left = len(ended.runs)
    assert list(ended.runs) == [mine(index) for index in range(9 - left, 9)]
    assert 9 - 3 - 3 <= left <= 9 - 3  # those that the worker has already are made
    assert f"population mine: {left} runs will not be made: " in shown
    assert (summary.made, summary.failed, summary.exit_code) == (1 + 2 + 9 - left, {}, 3)
    assert cause in next(line for line in summary.lines() if line.startswith(f"not made: {left} runs of mine: "))
    again = generate(study, backend="inline")
    assert (again.made, len(again.ended[0].runs), again.exit_code) == (0, left, 3)
    assert cause in again.ended[0].why


def test_a_seed_on_import_does_not_decide(scripted, tmp_path, capsys):
    """Law: the generators are seeded after the import, so such runs differ, as in the competition's notebook."""
    summary = generate(scripted(ON_IMPORT), backend="inline")
    assert (summary.made, summary.exit_code) == (9, 0)
    assert "bit for bit" not in capsys.readouterr().err
    files = {path.read_bytes() for path in tmp_path.glob("store/tiny/mine/*/model.safetensors")}
    assert len(files) == 6


def test_a_run_that_is_its_original_is_said_at_once(scripted, capsys):
    """Law: a script that changes nothing is named at its first run."""
    summary = generate(scripted(IDLE, count=2), backend="inline")
    shown = capsys.readouterr().err
    assert "warning: mine/00000 is the same as original/00000, bit for bit" in shown
    assert "the script changed nothing of the net that it got" in shown
    assert (summary.made, summary.exit_code) == (5, 0)


def test_populations_that_differ_are_silent(tiny, capsys):
    """Law: no line for runs that differ, nor for a method that says itself that it is deterministic."""
    assert generate(tiny(populations={"null": {"method": "null", "count": 3}}), backend="inline").made == 7
    assert "bit for bit" not in capsys.readouterr().err


class Alike(FakePool):
    """A pool whose runs have these outputs."""

    def __init__(self, sha256: dict[Run, str], room: int, seed: int) -> None:
        super().__init__({}, lambda: room, seed)
        self.sha256 = sha256

    def told(self, worker: int) -> list[Outcome]:
        return [
            Outcome(run=one.run, seconds=1.0, sha256=self.sha256.get(one.run, str(one.run)))
            for one in super().told(worker)
        ]


@pytest.mark.parametrize("seed", range(5))
def test_runs_of_a_method_that_are_equal_are_said_and_all_made(seed: int):
    """Law: in any order of events, one warning per pair; only a script's population ends."""
    pool = Alike({finetune(index): "same" for index in (1, 2, 3)}, 2, seed)
    events: list[object] = []
    tally = schedule(plan_of(5), pool, events.append)
    assert len(tally.made) == 6
    (same,) = [event.same for event in events if isinstance(event, Equal)]
    assert {same.run, *same.others} < set(pool.sha256)
    assert "finetune draws no random numbers" in same.why
    assert not [event for event in events if isinstance(event, Ended)]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("room", [1, 2, 3])
def test_every_run_of_an_ended_population_is_counted_once(tiny, tmp_path, room: int, seed: int):
    """Law: made, failed, ended or blocked: each pending run is one of them, also those that workers had already."""
    from ray_unlearn.generation import open_job

    (tmp_path / "mine.py").write_text(IDLE)
    populations = {"finetune": {"count": 3}, "mine": {"method": f"{tmp_path}/mine.py:unlearning", "count": 12}}
    plan = open_job(tiny(populations=populations)).plan
    pool = Alike(dict.fromkeys(plan.populations["mine"].runs, "same"), room, seed)
    tally = Tally(plan.runs)
    for event in scheduler.schedule(plan, pool, pending=plan.runs, made=(), max_attempts=2):
        tally(event)
    (ended,) = tally.ended
    assert sorted([*tally.made, *ended.runs]) == sorted(plan.runs)
    assert not tally.blocked
    assert 3 <= sum(run.population == "mine" for run in tally.made) <= 8


def test_runs_that_were_made_before_count(tiny, tmp_path):
    """Law: a population that holds three equal runs makes no fourth; runs of other weights do not count."""
    from ray_unlearn.generation import open_job

    (tmp_path / "mine.py").write_text(SEEDED)
    plan = open_job(tiny(populations={"mine": {"method": f"{tmp_path}/mine.py:unlearning", "count": 9}})).plan
    held = {mine(index): "same" for index in (0, 2, 5)} | {mine(1): "other", finetune(0): "same"}
    assert list(Sameness(plan, held).ended) == ["mine"]
    del held[mine(0)]
    assert not Sameness(plan, held).ended
    same = Sameness(plan, held).noted(Outcome(run=mine(7), seconds=0.0, sha256="same"))
    assert same is not None
    assert (same.others, same.ends) == ((mine(2), mine(5)), True)
