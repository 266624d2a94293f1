"""A study's scores with rows from other people's packed populations.

    scores, names = with_added(store, [Path("hub")])     # names: the populations that were added

A packed population is scored with as many runs as the study's own, against the study's reference; what is computed of
it is kept in the store's folder of scores; scores.json stays as it is, and so do the looks that the study has taken.

Does not cover: which folders may be added (`packed.check_same_study`), and the table (`report.leaderboard`).
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence

from ray_unlearn.errors import StoreError
from ray_unlearn.evaluation.evaluate import evaluate, read_scores
from ray_unlearn.evaluation.scores import PopulationScores, Scores
from ray_unlearn.interchange.packed import Pack, check_same_study, is_unlearned, unpack
from ray_unlearn.store import StudyStore
from ray_unlearn.store.forget_sets import splits_held
from ray_unlearn.study.forget_sets import runs_by_set
from ray_unlearn.study.schema import Evaluation
from ray_unlearn.wording import plural


def with_added(
    store: StudyStore, packs: Sequence[Pack], log: Callable[[str], None] = lambda line: None
) -> tuple[Scores, frozenset[str]]:
    """Return a study's scores, with the populations of packed folders that it does not have itself.

    More runs than the scores are of are a warning of theirs.

    Raises:
        StoreError: the study was not evaluated, a folder is of another study, has no new population, or too few runs.

    """
    scores = read_scores(store)
    if not packs:
        return _noted(scores, store), frozenset()
    study = store.study()
    if study is None:
        raise StoreError(f"{store.uri}: no study was generated here; `ray-unlearn generate` makes one")
    runs = min((one.runs for one in scores.populations.values() if one.role == "unlearned"), default=0)
    added: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as folder:
        for number, pack in enumerate(packs):
            new = _new_of(store, pack, [*scores.populations, *added])
            for name in new:
                check_same_study(store, pack, name)
                if (there := len(pack.records(name))) < runs:
                    raise StoreError(
                        f"{pack.folder}: population {name} has {there} runs; expected at least {runs}, as many as the "
                        f"populations of {store.uri} have: scores at different N do not compare"
                    )
            unpacked = unpack(pack, new, f"{folder}/{number}", runs)
            added |= {name: f"{folder}/{number}/{unpacked.name}/{name}" for name in new}
        wanted = study.evaluation or Evaluation()
        others = wanted.model_copy(update={"populations": {**wanted.populations, **added}})
        wider = study.model_copy(update={"evaluation": others})
        most = max(one.runs for one in scores.populations.values())
        found = evaluate(wider, store, mode=scores.mode, first=most, guests=added, log=log)
    return _noted(found, store), frozenset(added)


def _noted(scores: Scores, store: StudyStore) -> Scores:
    """Add a warning for each population that has more runs by now."""
    return scores.model_copy(update={"warnings": (*scores.warnings, *_outdated(scores, store))})


def _new_of(store: StudyStore, pack: Pack, known: Sequence[str]) -> list[str]:
    """Return the packed populations that are to be added: unlearned ones that the board does not have yet."""
    new = []
    for name, content in pack.populations.items():
        same = (store.held(name) or {}).get("digest") == content["digest"]
        if same or not is_unlearned(content["identity"]):
            continue
        if name in known:
            raise StoreError(
                f"{pack.folder}: population {name} is on the board already, made differently; give it another name in "
                "the study, and export it again"
            )
        new.append(name)
    if not new:
        raise StoreError(
            f"{pack.folder}: holds no unlearned population that {store.uri} does not have; found "
            f"{', '.join(pack.populations) or 'none'}"
        )
    return new


def _outdated(scores: Scores, store: StudyStore) -> list[str]:
    """Return a line per population that has more runs to score than its scores are of; none without a study.json."""
    study = store.study()
    if study is None:
        return []
    lines = []
    planned = {name: spec.planned for name, spec in study.populations.items()}
    theirs = _of_each_set(store, scores.reference, planned.get(scores.reference, 0))
    for name, found in scores.populations.items():
        each = _of_each_set(store, name, planned.get(name, 0))
        if (there := _scorable(found, each, theirs)) > found.runs:
            lines.append(
                f"{name}: {plural(there, 'run')} can be scored, and these scores are of {found.runs}; "
                "`ray-unlearn evaluate` computes them anew"
            )
    return lines


def _of_each_set(store: StudyStore, name: str, planned: int) -> list[int]:
    """Return how many planned runs are made, by forget set; none of a population that the study does not have."""
    indexes = [index for index in store.made(name) if index < planned] if planned else []
    return [len(runs) for runs in runs_by_set(indexes, max(1, len(splits_held(store.held(name) or {}))))]


def _scorable(found: PopulationScores, each: list[int], theirs: list[int]) -> int:
    """Return how many runs an evaluation reads: of unlearned ones, as many of each set, and no more than theirs."""
    return min(*each, *theirs) * len(each) if found.role == "unlearned" else sum(each)
