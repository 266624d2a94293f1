"""The order of populations.

    unlearned, reference = ranked(scores), reference_of(scores)
    place(scores, "kookmin")                     # "2-4": the places that the runs allow
    scores = quoted(scores)                      # intervals that hold for the best, too

Populations are ranked by score; where their N differ, by the score at the null's N, because F depends on N.

Does not cover: conclusions from the numbers (`verdict`), and the page.
"""

from __future__ import annotations

from ray_unlearn.evaluation.measures.forgetting_quality import LEAST_TO_SCORE
from ray_unlearn.evaluation.scores import Estimate, PopulationScores, Scores, Slice
from ray_unlearn.wording import listed, short

SPLITS = ("retain", "forget", "validation", "test")
TOLERATED = 0.02
"""Difference of a ratio from the least that retraining has, below which no accuracy counts as lost: where retrained
models make no mistake at all on the retained images, their range is a single number, which nothing else meets."""
_SHORT = 20
"""Characters of a population's name in a line about all of them."""


def estimate(found: PopulationScores, measure: str) -> Estimate:
    """Return a population's estimate of a measure; one without a value if it was not evaluated."""
    return found.measures.get(measure) or Estimate(value=None, n=found.runs, missing="not evaluated")


def comparable(scores: Scores, measure: str = "score") -> dict[str, float]:
    """Return each unlearned population's value at one N: its own where all are equal, else the null's."""
    found = {p.population: estimate(p, measure) for p in scores.populations.values() if p.role == "unlearned"}
    equal = len({one.n for one in found.values() if one.value is not None}) <= 1
    values = {name: one.value if equal else one.at_null_n for name, one in found.items()}
    return {name: value for name, value in values.items() if value is not None}


def contenders(scores: Scores, measure: str) -> int:
    """Return for how many populations at once the intervals of their ranks hold: all with a value (`ranks`)."""
    return sum(estimate(one, measure).value is not None for one in scores.populations.values())


def quoted(scores: Scores) -> Scores:
    """Return the scores with the intervals that several populations are shown beside each other with.

    Of a measure that two or more are ranked by, an interval holds for all of them at once, hence for the best: its own
    would miss too often, because the best of several is the luckiest of several.
    """
    populations = dict(scores.populations)
    for measure, places in scores.ranks.items():
        for name, one in places.items() if contenders(scores, measure) > 1 else ():
            measures = populations[name].measures
            shown = measures[measure].model_copy(update={"low": one.low, "high": one.high})
            populations[name] = populations[name].model_copy(update={"measures": {**measures, measure: shown}})
    return scores.model_copy(update={"populations": populations})


def at_once(scores: Scores) -> str:
    """Return for how many populations an interval of `quoted` holds, such as ` for all 3 at once`; "" for one."""
    several = max((contenders(scores, measure) for measure, places in scores.ranks.items() if places), default=0)
    return f" for all {several} at once" if several > 1 else ""


def ranked(scores: Scores) -> list[PopulationScores]:
    """Return the unlearned populations, best score first; those without one last, in the study's order."""
    values = comparable(scores)
    unlearned = [one for one in scores.populations.values() if one.role == "unlearned"]
    return sorted(unlearned, key=lambda one: -values.get(one.population, float("-inf")))


def reference_of(scores: Scores) -> PopulationScores | None:
    """Return the reference population."""
    return scores.populations.get(scores.reference)


def originals_of(scores: Scores) -> list[PopulationScores]:
    """Return the populations that unlearning starts from."""
    return [one for one in scores.populations.values() if one.role == "original"]


def shadows_of(scores: Scores) -> list[PopulationScores]:
    """Return the populations of shadows, and those that started from shadows."""
    return [one for one in scores.populations.values() if one.role in ("shadow", "unlearned shadow")]


def in_order(scores: Scores) -> list[PopulationScores]:
    """Return all populations: the reference, the originals, the unlearned ones as ranked, then those of shadows."""
    reference = reference_of(scores)
    first = [reference] if reference and reference.role == "reference" else []  # imported shadows have no other
    return [*first, *originals_of(scores), *ranked(scores), *shadows_of(scores)]


def picture_id(scores: Scores, found: PopulationScores) -> str:
    """Return the id of a population's pictures within a page: its number, because names may hold any character."""
    return str(list(scores.populations).index(found.population))


def null_of(scores: Scores, measure: str) -> Estimate | None:
    """Return the first estimate of the measure that has a null: the halves of the reference are the same for all."""
    found = (estimate(one, measure) for one in ranked(scores))
    return next((one for one in found if one.null is not None), None)


def why_no_null(scores: Scores) -> str:
    """Return why there is no null to compare with: the runs that it takes, and those there are."""
    reference = reference_of(scores)
    sets = max((one.forget_sets.sets for one in ranked(scores) if one.forget_sets), default=1)
    runs, least = (reference.runs if reference else 0) // sets, 2 * LEAST_TO_SCORE
    if runs < least:
        there = f"there {'is' if runs == 1 else 'are'} {runs}"
        each = " of each forget set" * (sets > 1)
        return f"it takes {least} runs of {scores.reference}{each}, two halves of {LEAST_TO_SCORE}, and {there}"
    if all(one.runs < LEAST_TO_SCORE for one in ranked(scores)):
        return f"no population has the {LEAST_TO_SCORE} runs that a comparison with halves of {scores.reference} takes"
    return "the evaluation has none"


def firsts(scores: Scores, measure: str) -> list[str]:
    """Return the populations that may be the best by a measure, the highest value first: one without places may be."""
    places, values = scores.ranks.get(measure, {}), comparable(scores, measure)
    return sorted((name for name in values if name not in places or places[name].best == 1), key=lambda n: -values[n])


def lost_accuracy(found: PopulationScores) -> list[str]:
    """Return the ratios, of retain and test accuracy, that are clearly below all that halves of the reference have.

    They are compared at the null's N, and may be `TOLERATED` below; a ratio without a null is not judged.
    """
    below = []
    for key in ("retain_ratio", "test_ratio"):
        one = estimate(found, key)
        value = one.value if one.at_null_n is None else one.at_null_n
        least = one.null if one.null_low is None else one.null_low
        if value is not None and least is not None and value < least - TOLERATED:
            below.append(key)
    return below


def closest(scores: Scores) -> PopulationScores | None:
    """Return the population with the highest F of those that kept their accuracy; None where there is none."""
    by_f = comparable(scores, "forgetting_quality")
    kept = [one for one in ranked(scores) if one.population in by_f and not lost_accuracy(one)]
    return max(kept, key=lambda one: by_f[one.population], default=None)


def place(scores: Scores, population: str, measure: str = "score") -> str:
    """Return the places that the runs allow, such as `2` or `2-4`: any, where nothing is known; "" without a value."""
    found, among = scores.ranks.get(measure, {}).get(population), comparable(scores, measure)
    best, worst = (found.best, found.worst) if found else (1, len(among))
    if population not in among:
        return ""
    return str(best) if best == worst else f"{best}-{worst}"


def places_line(scores: Scores) -> str:
    """Return one line with the places by score of several populations; "" for one."""
    found = [(one.population, place(scores, one.population)) for one in ranked(scores)]
    each = [f"{short(name, _SHORT)} {places}" for name, places in found if places]
    return f"places that these runs allow, by score: {', '.join(each)}" if len(each) > 1 else ""


def slice_of(found: PopulationScores | None, split: str, by: str = "all", key: str = "") -> Slice | None:
    """Return accuracy and loss of a part of a split, or None where the population has none."""
    slices = found.slices if found else ()
    return next((one for one in slices if (one.split, one.by, one.key) == (split, by, key)), None)


def mode_words(scores: Scores) -> str:
    """Return what the mode of the numbers is."""
    return {
        "parity": "attacks on the official evaluator's grid",
        "exact": "every interval an attack; not comparable with the challenge's published numbers",
    }[scores.mode]


def warnings_of(scores: Scores) -> list[str]:
    """Return every warning once, after the names of the populations that it is about."""
    about: dict[str, list[str]] = {}
    for name, found in scores.populations.items():
        for warning in found.warnings:
            about.setdefault(warning, []).append(name)
    every = [one.population for one in ranked(scores)]
    return [*scores.warnings, *(f"{_who(names, every)}: {warning}" for warning, names in about.items())]


def _who(names: list[str], every: list[str]) -> str:
    """Return the populations by name; by number, where they are all of more than three."""
    return f"all {len(every)} populations" if len(every) > 3 and sorted(names) == sorted(every) else listed(names)
