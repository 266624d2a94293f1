"""What the scheduler calls as things happen.

    Scheduler(plan, pool, ..., hooks=Hooks(made=lambda outcome: progress.made()))

Does not cover: what is told of a pool's own traffic (`recorder`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ray_unlearn.outcome import Outcome, WorkerInfo
from ray_unlearn.study.plan import Run


def _nothing(*_: object) -> None:
    """Ignore what happened."""


def unknown(_: Run) -> Outcome | None:
    """Know of no run that was published and not told."""
    return None


@dataclass(frozen=True, kw_only=True, slots=True)
class Hooks:
    """Called as things happen."""

    made: Callable[[Outcome], None] = _nothing
    failed: Callable[[Outcome, int], None] = _nothing
    """A run is given up after this many attempts."""
    retried: Callable[[Run, str], None] = _nothing
    ready: Callable[[WorkerInfo], None] = _nothing
    unready: Callable[[str], None] = _nothing
    """A worker could not open, and why."""
