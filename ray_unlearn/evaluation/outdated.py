"""Whether runs were made since the scores: a leaderboard reads scores, and computes none.

    outdated(scores, store)                      # ["finetune: 12 runs can be scored, and these scores are of 6; ..."]

Does not cover: runs that were made again, which have the same bytes, and populations of other stores.
"""

from __future__ import annotations

from ray_unlearn.evaluation.scores import PopulationScores, Scores
from ray_unlearn.store import StudyStore
from ray_unlearn.store.forget_sets import splits_held
from ray_unlearn.study.forget_sets import runs_by_set
from ray_unlearn.wording import plural


def outdated(scores: Scores, store: StudyStore) -> list[str]:
    """Return a line per population that has more runs to score than its scores are of; none without a study.json."""
    study = store.study()
    if study is None:
        return []
    lines = []
    planned = {name: spec.planned for name, spec in study.populations.items()}
    theirs = _of_each_set(store, scores.reference, planned.get(scores.reference, 0))
    for name, found in scores.populations.items():
        each = _of_each_set(store, name, planned.get(name, 0))
        if (there := _scored(found, each, theirs)) > found.runs:
            lines.append(
                f"{name}: {plural(there, 'run')} can be scored, and these scores are of {found.runs}; "
                "`ray-unlearn evaluate` computes them anew"
            )
    return lines


def _of_each_set(store: StudyStore, name: str, planned: int) -> list[int]:
    """Return how many planned runs are made, by forget set; none of a population that the study does not have."""
    indexes = [index for index in store.made(name) if index < planned] if planned else []
    return [len(runs) for runs in runs_by_set(indexes, max(1, len(splits_held(store.held(name) or {}))))]


def _scored(found: PopulationScores, each: list[int], theirs: list[int]) -> int:
    """Return how many runs an evaluation reads: of unlearned ones, as many of each set, and no more than theirs."""
    return min(*each, *theirs) * len(each) if found.role == "unlearned" else sum(each)
