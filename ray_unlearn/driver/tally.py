"""What became of a study's pending runs.

    tally = Scheduler(...).run()
    tally.made, tally.failed, tally.blocked      # every pending run is in exactly one

Does not cover: how a run was made (its record says).
"""

from __future__ import annotations

from dataclasses import dataclass, field

from ray_unlearn.study.plan import Run


@dataclass(slots=True)
class Tally:
    """What became of the pending runs."""

    made: list[Run] = field(default_factory=list)
    failed: dict[Run, str] = field(default_factory=dict)
    blocked: list[Run] = field(default_factory=list)
    """Runs whose original could not be made."""
