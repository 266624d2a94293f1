"""Order of the pending runs: first the originals that others wait for; then all populations interleaved, or in turn.

    in_order(plan, pending, interleave=True)     # original/0, retrained/0, finetune/0, retrained/1, finetune/1, ...
    in_order(plan, pending, interleave=False)    # original/0, all of retrained, all of finetune

The order changes no result: a run depends on its original and on no other run. Interleaved, every population has N runs
at about the same time, so that a first score is available early.

Does not cover: when a run may start (`scheduler` waits for its original), nor how many runs share a call (`batching`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from ray_unlearn.study.plan import Plan, Run


def in_order(plan: Plan, pending: Iterable[Run], *, interleave: bool) -> list[Run]:
    """Return the pending runs, most urgent first.

    Args:
        plan: names the original that each run starts from; the order of its populations breaks ties.
        pending: runs of the plan.
        interleave: run 0 of every population, run 1 of every, ...; else one population after another.

    """
    runs = list(pending)
    waiting = Counter(start for run in runs if (start := plan.start_of(run)) is not None)
    position = {name: place for place, name in enumerate(plan.populations)}

    def urgency(run: Run) -> tuple[int, int, int, int]:
        if waiting[run]:
            return (-waiting[run], run.index, 0, 0)
        place = position[run.population]
        turn = run.index // plan.study.execution.pack  # runs of a pack follow each other
        return (0, turn, place, run.index) if interleave else (0, place, run.index, 0)

    return sorted(runs, key=urgency)
