"""Runs that are equal, bit for bit: noticed at the second one, and a script's population ends at the third.

    sameness = Sameness(plan, held)
    found = sameness.noted(outcome)              # None, or a Same: two runs, or a run and its original, are equal
    found.ends, found.why

A population exists for its spread: equal runs are one run, many times. Runs are compared by the sha256 of their
outputs, which all have, also where checkpoints are not kept. Methods that say that they are deterministic are named in
the plan's warnings already, and imported weights are what they are: neither is looked at.

Does not cover: what becomes of the population's other runs (`scheduler`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from ray_unlearn.run.outcome import Outcome
from ray_unlearn.study.plan import MethodUse, Plan, Run

ENOUGH = 3
"""Equal runs of a script after which its population ends."""
_SEEDS = re.compile(
    r"\b(manual_seed(_all)?|seed_everything|seed_all|set_seed|fix_seed|set_random_seed|random\.seed)\s*\("
)


@dataclass(frozen=True, slots=True)
class Same:
    """Runs of a population that are equal, or a run that is equal to its original."""

    run: Run
    """The run that was made last."""
    others: tuple[Run, ...]
    """Runs that were made before it, in order: of its population, or its original alone."""
    sha256: str
    why: str
    """The likely cause, and what to do."""
    ends: bool = False
    """Whether the runs of the population that are not given out yet are not made."""

    def __str__(self) -> str:
        names = ", ".join(map(str, self.others[:ENOUGH])) + (", ..." if len(self.others) > ENOUGH else "")
        ends = "; the population ends here" if self.ends else ""
        return f"{self.run} is the same as {names}, bit for bit (sha256 {self.sha256[:12]}): {self.why}{ends}"


class Sameness:
    """The runs that were made, by population and the sha256 of their outputs."""

    def __init__(self, plan: Plan, held: Mapping[Run, str]) -> None:
        """Begin with the runs that are made already, and the sha256 of each."""
        self._plan = plan
        self._known: dict[str, dict[str, list[Run]]] = {}
        self._sha256 = dict(held)
        for run in sorted(held):
            self._known.setdefault(run.population, {}).setdefault(held[run], []).append(run)
        uses = {name: population.method for name, population in plan.populations.items()}
        self.ended = {
            name: f"its runs {', '.join(map(str, runs[:ENOUGH]))} are the same, bit for bit (sha256 {sha256[:12]}): "
            + _unseeded(uses[name])
            for name, equal in self._known.items()
            for sha256, runs in equal.items()
            if uses[name].source and sha256 and len(runs) >= ENOUGH
        }
        """Populations of scripts that had enough equal runs before: why no further run of them is made."""

    def is_open(self, run: Run) -> bool:
        """Return whether a script's runs may all be the same still: then they are given out one by one."""
        scripted = bool(self._plan.populations[run.population].method.source)
        return scripted and len(self._known.get(run.population, ())) < 2

    def noted(self, outcome: Outcome) -> Same | None:
        """Note a run that was made; return what it is equal to, where that is worth a line."""
        run, sha256 = outcome.run, outcome.sha256
        use = self._plan.populations[run.population].method
        before = self._known.setdefault(run.population, {}).setdefault(sha256, [])
        others = tuple(before)
        self._sha256[run] = sha256
        before.append(run)
        start = self._plan.start_of(run)
        if not sha256 or use.deterministic or use.name == "weights":
            return None
        is_original = start is not None and self._sha256.get(start) == sha256
        if is_original and start is not None and not others:
            return Same(run, (start,), sha256, _unchanged(use))
        ends = bool(use.source) and len(others) + 1 == ENOUGH
        if len(others) == 1 or ends:
            return Same(run, others, sha256, _unchanged(use) if is_original else _unseeded(use), ends)
        return None


def _unchanged(use: MethodUse) -> str:
    if not use.source:
        return f"{use.name} changed nothing with these options"
    return (
        "the script changed nothing of the net that it got: it may train a copy, without returning it, or an optimiser "
        "over other parameters"
    )


def _unseeded(use: MethodUse) -> str:
    if not use.source:
        return f"{use.name} draws no random numbers with these options, so its runs have no spread"
    return _seed_in(use.source) or (
        "the script draws no random numbers, a module that it imports sets a seed, or it reads a file that another run "
        "wrote outside its own working folder"
    )


def _seed_in(source: str) -> str:
    """Return which line of a script sets a seed; empty where none does."""
    for number, line in enumerate(source.splitlines(), 1):
        code = line.partition("#")[0]
        if (found := _SEEDS.search(code)) and not code.lstrip().startswith("def "):
            return (
                f"line {number} of the script sets a seed ({code.strip()[:60]}), so every run draws the same numbers; "
                f"leave {found[1]} out: each run is seeded before the function is called"
            )
    return ""
