"""Runs that fail in the same way: a population ends at the third one, if none of its runs is made.

    failures = EqualFailures(enabled=True, made=made)
    failures.is_tried_at_once(outcome)           # whether a failed run goes before the runs that were not tried yet
    failures.noted(outcome)                      # why the population ends, once three runs are given up; else ""

A mistake in a script fails every run at the same line. Two failures are equal where error and place are: the text of
the error, without addresses in memory, and the lines of the traceback. Failures of the storage and of a GPU do not
count, because they may pass; neither does the death of a worker.

Does not cover: what becomes of the population's other runs (`scheduler`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from ray_unlearn.run.outcome import Outcome
from ray_unlearn.study.plan import Run

ENOUGH = 3
"""Runs that failed in the same way, after which their population ends."""
_ADDRESS = re.compile(r"0x[0-9a-fA-F]+")
_PLACE = re.compile(r'^ *File ".*?([^/\\"]*)", line (\d+)', re.MULTILINE)

Failure = tuple[str, str, tuple[tuple[str, str], ...]]
"""Population, error, and the file and line of every frame."""


class EqualFailures:
    """The runs that were given up, by the way in which they failed."""

    def __init__(self, *, enabled: bool, made: Iterable[Run]) -> None:
        self._enabled = enabled
        self._proven = {run.population for run in made}
        """Populations with a run that is made: a failure of theirs says nothing of their other runs."""
        self._given_up: dict[Failure, list[Run]] = {}

    def is_tried_at_once(self, outcome: Outcome) -> bool:
        """Return whether a run that failed is tried again before others: whether a population fails is found early."""
        passing = outcome.poisoned or outcome.of_storage
        return self._enabled and not passing and outcome.run.population not in self._proven

    def made(self, run: Run) -> None:
        """Note a run that was made: its population does not end any more."""
        self._proven.add(run.population)

    def noted(self, outcome: Outcome) -> str:
        """Note a run that was given up; return why its population ends, or "" where it does not end now."""
        if not self.is_tried_at_once(outcome):
            return ""
        failed = self._given_up.setdefault(_failure(outcome), [])
        failed.append(outcome.run)
        return _why(failed) if len(failed) == ENOUGH else ""


def _failure(outcome: Outcome) -> Failure:
    return outcome.run.population, _ADDRESS.sub("0x", outcome.error), tuple(_PLACE.findall(outcome.traceback))


def _why(failed: list[Run]) -> str:
    return (
        f"{', '.join(map(str, failed))} failed in the same way, and no run of the population is made; "
        f"`ray-unlearn logs STUDY {failed[0]}` shows the traceback; --keep-going, or execution.fail_fast: false, tries "
        "every run"
    )
