"""The order of populations, and what the numbers allow to say in one sentence.

    unlearned, reference = ranked(scores), reference_of(scores)
    verdict(scores)                              # one or two sentences; caveat(scores): what they do not say

Populations are ranked by score; where their N differ, by the score at the null's N, because F depends on N.

Does not cover: how it is set on a page.
"""

from __future__ import annotations

from ray_unlearn.evaluation.measures.forgetting_quality import LEAST_TO_SCORE
from ray_unlearn.evaluation.scores import Estimate, PopulationScores, Scores, Slice
from ray_unlearn.wording import decimals, interval, joined, listed, plural, span

SPLITS = ("retain", "forget", "validation", "test")


def estimate(found: PopulationScores, measure: str) -> Estimate:
    """Return a measure of a population; one without a value where evaluation said nothing about it."""
    return found.measures.get(measure) or Estimate(value=None, n=found.runs, missing="not evaluated")


def comparable(scores: Scores, measure: str = "score") -> dict[str, float]:
    """Return each unlearned population's value at one N: its own where all are equal, else the null's."""
    found = {p.population: estimate(p, measure) for p in scores.populations.values() if p.role == "unlearned"}
    equal = len({one.n for one in found.values() if one.value is not None}) <= 1
    values = {name: one.value if equal else one.at_null_n for name, one in found.items()}
    return {name: value for name, value in values.items() if value is not None}


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


def in_order(scores: Scores) -> list[PopulationScores]:
    """Return all populations: the reference, the originals, then the unlearned ones as ranked."""
    reference = reference_of(scores)
    return [*([reference] if reference else []), *originals_of(scores), *ranked(scores)]


def picture_id(scores: Scores, found: PopulationScores) -> str:
    """Return what tells a population's pictures apart within a page: its place, because names may hold anything."""
    return str(list(scores.populations).index(found.population))


def null_of(scores: Scores, measure: str) -> Estimate | None:
    """Return the first estimate of the measure that has a null: the halves of the reference are the same for all."""
    found = (estimate(one, measure) for one in ranked(scores))
    return next((one for one in found if one.null is not None), None)


def why_no_null(scores: Scores) -> str:
    """Return why there is no null to compare with: the runs that it takes, and those there are."""
    reference = reference_of(scores)
    runs, least = reference.runs if reference else 0, 2 * LEAST_TO_SCORE
    if runs < least:
        there = f"there {'is' if runs == 1 else 'are'} {runs}"
        return f"it takes {least} runs of {scores.reference}, two halves of {LEAST_TO_SCORE}, and {there}"
    if all(one.runs < LEAST_TO_SCORE for one in ranked(scores)):
        return f"no population has the {LEAST_TO_SCORE} runs that it takes to stand beside halves of {scores.reference}"
    return "the evaluation has none"


def slice_of(found: PopulationScores | None, split: str, by: str = "all", key: str = "") -> Slice | None:
    """Return accuracy and loss of a part of a split, or None where the population has none."""
    slices = found.slices if found else ()
    return next((one for one in slices if (one.split, one.by, one.key) == (split, by, key)), None)


def verdict(scores: Scores) -> str:
    """Return who comes closest to retraining by F, how close retraining comes to itself, and who leads by score."""
    unlearned, by_f = ranked(scores), comparable(scores, "forgetting_quality")
    if not by_f:
        return _no_closest(scores)
    closest = max(unlearned, key=lambda one: by_f.get(one.population, float("-inf")))
    quality = estimate(closest, "forgetting_quality")
    said = joined(decimals(quality.value), interval(quality.low, quality.high))
    sentences = [f"{_opening(quality)}: {closest.population}, F {said} at N = {quality.n}."]
    sentences += _against_the_null(quality, scores) + _overlap(closest, unlearned)
    by_score = comparable(scores)
    if unlearned[0] is not closest and unlearned[0].population in by_score:
        best = estimate(unlearned[0], "score")
        number = joined(decimals(best.value), interval(best.low, best.high))
        sentences.append(
            f"By score, which also counts retain and test accuracy, "
            f"{unlearned[0].population} leads with {number} at N = {best.n}."
        )
    return " ".join(sentences)


def _no_closest(scores: Scores) -> str:
    """Return why no population is called the closest."""
    found = [estimate(one, "forgetting_quality") for one in ranked(scores)]
    if any(one.value is not None for one in found):
        said = "No population is called the closest to retraining: runs differ in number, and no null says at which N"
        return f"{said} to compare them ({why_no_null(scores)})."
    reasons = {one.missing for one in found}
    why = f": F {reasons.pop()}" if len(reasons) == 1 else "; the table says why" * bool(reasons)
    return f"No population could be compared with retraining{why}."


def _opening(quality: Estimate) -> str:
    """Return how a verdict begins: to be the closest is no praise for one that retraining itself would leave behind."""
    below = quality.at_null_n is not None and _place(quality, quality.at_null_n).startswith("below")
    return "Closest to retraining, though not close to it" if below else "Closest to retraining"


def _against_the_null(quality: Estimate, scores: Scores) -> list[str]:
    if quality.null is None:
        unknown = "How close retraining comes to itself is not known here, so the number has no yardstick"
        return [f"{unknown}: {why_no_null(scores)}."]
    ends = span(quality.null_low, quality.null_high)
    null = decimals(quality.null) + f" ({ends} over halvings)" * bool(ends)
    said = f"Retraining against itself reaches {null} at N = {quality.null_n}"
    if quality.at_null_n is None:
        return [f"{said}; this method was not scored at that N."]
    return [f"{said}, where this method gets {decimals(quality.at_null_n)}: {_place(quality, quality.at_null_n)}."]


def _place(quality: Estimate, value: float) -> str:
    low = quality.null if quality.null_low is None else quality.null_low
    high = quality.null if quality.null_high is None else quality.null_high
    if low is not None and value < low:
        return "below the range of retraining itself"
    if high is not None and value > high:
        return "above the range of retraining itself"
    return "within the range of retraining itself"


def _overlap(closest: PopulationScores, unlearned: list[PopulationScores]) -> list[str]:
    found = [estimate(one, "forgetting_quality") for one in unlearned]
    if len({one.n for one in found if one.value is not None}) > 1:
        return ["Runs differ in number, so the intervals do not compare: the order is that at the null's N."]
    low = estimate(closest, "forgetting_quality").low
    others = {one.population: estimate(one, "forgetting_quality").high for one in unlearned if one is not closest}
    names = [name for name, high in others.items() if high is not None and low is not None and high >= low]
    if not names:
        return []
    named = listed(names if len(names) <= 3 else [*names[:2], f"{len(names) - 2} more"])
    verb = "The intervals of {} overlap" if len(names) > 1 else "The interval of {} overlaps"
    return [f"{verb.format(named)} with this one, so it is not settled which is closest."]


def caveat(scores: Scores) -> str:
    """Return what the verdict does not say."""
    starts = max((one.originals for one in ranked(scores)), default=0)
    from_where = f" from {plural(starts, 'original')}" if starts else ""
    images = scores.images.get("forget")
    forget = f"these {images:,} forget images" if images else "these forget images"
    return (
        f"F says how hard unlearned and retrained models are to tell apart by their outputs on {forget}, for this "
        f"data, model and recipe{from_where}. It is not a guarantee for a single image, and another original or "
        f"forget set may order the methods differently."
    )


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
        for said in found.warnings:
            about.setdefault(said, []).append(name)
    return [*scores.warnings, *(f"{listed(names)}: {said}" for said, names in about.items())]
