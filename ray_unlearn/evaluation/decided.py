"""When a study has enough runs: its order is settled, or its intervals are narrow.

    decided(scores, width=0.02)                  # "the order is settled", or "" as long as more runs are needed

The order is settled when every population has a single place. Places are those of `ranks`, at the level that the look
may spend (`looks`): all looks together name a wrong place in 5 % of studies at most. An early look may spend almost
nothing, so only large differences end a study there. Intervals hold each for its own look.

Does not cover: making the runs (`cli.all_` repeats the stages), nor how many more are needed (`planning`).
"""

from __future__ import annotations

from ray_unlearn.evaluation.scores import Scores

MEASURE = "score"


def decided(scores: Scores, width: float | None) -> str:
    """Return why no more runs are needed; empty if they are.

    Args:
        scores: those of a look, with equal numbers of runs.
        width: width of the 95 % intervals of the score that is narrow enough; None: only the order counts.

    """
    places = scores.ranks.get(MEASURE, {})
    if len(places) > 1 and all(one.best == one.worst for one in places.values()):
        return "the order is settled"
    found = [one.measures[MEASURE] for one in scores.populations.values() if MEASURE in one.measures]
    widths = [one.high - one.low for one in found if one.low is not None and one.high is not None]
    if width is not None and found and len(widths) == len(found) and max(widths) <= width:
        return f"every interval of the score is at most {width:g} wide"
    return ""
