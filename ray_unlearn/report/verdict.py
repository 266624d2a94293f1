"""Conclusions from the numbers of an evaluation, in a few sentences.

    plain(scores)                                # the conclusion without jargon
    verdict(scores)                              # which population is closest to retraining, or which may be
    test_line(scores)                            # which populations the tests distinguish from retraining
    caveat(scores)                               # limits of the verdict

Populations tie unless their difference is sure (`evaluation.ranks`). The best of several is quoted with the interval
that holds for all of them. Whether a population is distinguishable from retraining is the answer of a test, not of F
and its null. A population that lost more accuracy than halves of the reference differ is never called the closest.

Does not cover: tables (`score_tables`, `evidence_tables`).
"""

from __future__ import annotations

from ray_unlearn.evaluation.scores import Estimate, ForgetSets, PopulationScores, Scores
from ray_unlearn.report.ranking import (
    closest,
    comparable,
    contenders,
    estimate,
    firsts,
    lost_accuracy,
    ranked,
    why_no_null,
)
from ray_unlearn.wording import decimals, interval, joined, listed, percent, plural, points, span

ERROR = 0.05
"""Largest p, after Holm's correction, that counts as a difference."""
_STATISTICS = {"energy": "the energy distance", "log_variance": "the spread"}
_MANY = 4


def plain(scores: Scores) -> str:
    """Return the conclusion in a sentence or two that need no other word of the page."""
    best, by_f = closest(scores), comparable(scores, "forgetting_quality")
    if not by_f:
        return "These runs cannot say which method comes closest to retraining."
    if best is None:
        which = "The method" if len(by_f) == 1 else "Every method that could be compared"
        return f"{which} lost accuracy, so none is called close to models that never saw the forgotten images."
    if tied := _tied(scores):
        first = f"Which of {tied} comes closest to retraining is not settled; {best.population} is ahead"
    else:
        how = "comes closest to retraining" if len(by_f) > 1 else "was compared with retraining"
        first = f"{best.population} {how}"
    return f"{first}{_scale(best)}. {_answer(best)} {_kept(best)}".strip()


def _tied(scores: Scores) -> str:
    """Return the populations that may be the closest by F, of those that kept their accuracy; "" where one alone is."""
    may = [name for name in firsts(scores, "forgetting_quality") if not _lost(scores, name)]
    if len(may) < 2:
        return ""
    return listed(may if len(may) <= _MANY else [*may[: _MANY - 1], f"{len(may) - _MANY + 1} more"])


def _lost(scores: Scores, name: str) -> bool:
    return bool(lost_accuracy(scores.populations[name]))


def _scale(found: PopulationScores) -> str:
    """Return how far the population comes on a scale that ends at what retraining gets against itself."""
    quality = estimate(found, "forgetting_quality")
    if not quality.null or quality.at_null_n is None:
        return ""
    return f": {round(100 * quality.at_null_n / quality.null)} on a scale where retraining itself gets 100"


def _answer(found: PopulationScores) -> str:
    """Return the answer of the tests."""
    test, p = _p(found)
    if not test:
        return ""
    if p <= ERROR:
        return "Its models can still be distinguished from models that never saw the forgotten images."
    if is_spent(found):
        return (
            "Whether its models differ from models that never saw the forgotten images was tested before, with "
            "other runs, and no second test counts; a study with another seed could tell."
        )
    if enough := runs_needed(found):
        return (
            f"Its {plural(found.runs, 'run')} are too few to tell whether its models differ from models that never saw "
            f"the forgotten images; {enough} a side could."
        )
    return "In these runs its models cannot be distinguished from models that never saw the forgotten images."


def _kept(found: PopulationScores) -> str:
    """Return the change of test accuracy."""
    ratio = estimate(found, "test_ratio")
    if ratio.value is None:
        return ""
    change = points(ratio.value - 1)
    return (
        f"Its accuracy on new images is {percent(ratio.value)} % of theirs."
        if change != "±0.0"
        else ("It is as accurate as they are on new images.")
    )


def verdict(scores: Scores) -> str:
    """Return which population is closest to retraining by F, whether tests find a difference, and the best by score."""
    unlearned, by_f = ranked(scores), comparable(scores, "forgetting_quality")
    if not by_f:
        return _no_closest(scores)
    best = closest(scores)
    if best is None:
        return f"No population is called the closest to retraining: {_losers(scores, list(by_f))}."
    quality = estimate(best, "forgetting_quality")
    sentences = [_headline(scores, best, quality), *_against_the_null(quality, scores), *_tested(best)]
    ahead = [name for name in by_f if _lost(scores, name) and by_f[name] > by_f[best.population]]
    if ahead:
        sentences.append(f"A higher F does not count here: {_losers(scores, ahead)}.")
    if len({estimate(one, "forgetting_quality").n for one in unlearned if one.population in by_f}) > 1:
        sentences.append("Runs differ in number, so the intervals do not compare: the order is that at the null's N.")
    return " ".join([*sentences, *_by_score(scores, best)])


def _losers(scores: Scores, names: list[str]) -> str:
    """Return which populations lost which accuracy, with the range that retraining itself has."""
    found = []
    for name in names[:_MANY]:
        one = scores.populations[name]
        key = lost_accuracy(one)[0]
        ratio = estimate(one, key)
        value = ratio.value if ratio.at_null_n is None else ratio.at_null_n
        split = key.removesuffix("_ratio")
        least = ratio.null if ratio.null_low is None else ratio.null_low
        found.append(f"{name} has {decimals(value)} of the {split} accuracy, retraining {decimals(least)} or more")
    return "; ".join([*found, *([f"and {len(names) - _MANY} more"] if len(names) > _MANY else [])])


def _headline(scores: Scores, best: PopulationScores, quality: Estimate) -> str:
    """Return the first sentence: the name of the closest population, or all names that may be the closest."""
    apart = ", though distinguishable from it" if _p(best)[1] <= ERROR else ""
    number = f"F {_number(scores, 'forgetting_quality', best.population, quality)} at N = {quality.n}"
    if tied := _tied(scores):
        return f"Which of {tied} is closest to retraining is not settled; the highest is {best.population}, {number}."
    return f"Closest to retraining{apart}: {best.population}, {number}."


def _number(scores: Scores, measure: str, population: str, found: Estimate) -> str:
    """Return the value with its interval; if there are several populations, with the interval that holds for all."""
    places, several = scores.ranks.get(measure, {}), contenders(scores, measure)
    if several < 2 or population not in places:
        return joined(decimals(found.value), interval(found.low, found.high))
    one = places[population]
    return f"{decimals(found.value)} {interval(one.low, one.high)} (as the best of {several})"


def _against_the_null(quality: Estimate, scores: Scores) -> list[str]:
    if quality.null is None:
        unknown = "How close retraining comes to itself is not known here, so the number has no yardstick"
        return [f"{unknown}: {why_no_null(scores)}."]
    ends = span(quality.null_low, quality.null_high)
    null = decimals(quality.null) + f" ({ends} over halvings)" * bool(ends)
    reached = f"Retraining against itself reaches {null} at N = {quality.null_n}"
    if quality.at_null_n is None:
        return [f"{reached}; this method was not scored at that N."]
    return [f"{reached}, where this method gets {decimals(quality.at_null_n)}."]


def _p(found: PopulationScores) -> tuple[str, float]:
    """Return the test with the smallest p after correction, and that p; 2 without tests."""
    test = min(found.tests, key=lambda name: found.tests[name].corrected, default="")
    return test, found.tests[test].corrected if test else 2.0


def runs_needed(found: PopulationScores) -> int:
    """Return at how many runs a side a test could find a difference; 0 where one could with these."""
    needed = [one.least_runs or 0 for one in found.tests.values()]
    return min(needed, default=0)


def is_spent(found: PopulationScores) -> bool:
    """Return whether earlier looks have spent the 5 % of all tests, so that no number of runs can find a difference."""
    return found.look is not None and found.look.claims_nothing


def _tested(found: PopulationScores) -> list[str]:
    """Return the answer of the permutation tests, and of the equivalence test if they find no difference."""
    test, p = _p(found)
    if not test:
        return []
    if p <= ERROR:
        return [f"Its models differ from retrained ones: {_STATISTICS[test]} distinguishes them (p = {p_words(p)})."]
    if is_spent(found):
        return ["Earlier looks have spent the 5 % of all tests, so those of these runs claim nothing."]
    if enough := runs_needed(found):
        return [
            f"So few runs cannot distinguish its models from retrained ones, however they differ; {enough} a side can."
        ]
    answer = f"These runs do not distinguish its models from retrained ones (p = {p_words(p)})"
    one = found.equivalence
    if one is None:
        return [f"{answer}."]
    within = f"within {decimals(one.margin)} of the null, or above"
    return [f"{answer}, and F is surely {within}." if one.equivalent else f"{answer}, nor show that F is {within}."]


def p_words(p: float) -> str:
    """Return a p as sentences and tables show it."""
    return f"{p:.2g}" if p < 0.1 else f"{p:.2f}"


def _by_score(scores: Scores, best: PopulationScores) -> list[str]:
    """Return which population leads, or may lead, by score; empty if it is the closest one."""
    first = ranked(scores)[0]
    if first is best or first.population not in comparable(scores) or lost_accuracy(first):
        return []
    score, may = estimate(first, "score"), firsts(scores, "score")
    number = f"{_number(scores, 'score', first.population, score)} at N = {score.n}"
    which = "By score, which also counts retain and test accuracy,"
    if len(may) < 2:
        return [f"{which} {first.population} leads with {number}."]
    return [f"{which} {first.population} has the most, {number}, and that it leads is not settled."]


def _no_closest(scores: Scores) -> str:
    """Return why no population is called the closest."""
    found = [estimate(one, "forgetting_quality") for one in ranked(scores)]
    if any(one.value is not None for one in found):
        refusal = "No population is called the closest to retraining: runs differ in number, and there is no null"
        return f"{refusal} at whose N they can be compared ({why_no_null(scores)})."
    reasons = {one.missing for one in found}
    why = f": F {reasons.pop()}" if len(reasons) == 1 else "; the table has the reasons" * bool(reasons)
    return f"No population could be compared with retraining{why}."


def caveat(scores: Scores) -> str:
    """Return the limits of the verdict."""
    starts = max((one.originals for one in ranked(scores)), default=0)
    from_where = f" from {plural(starts, 'original')}" if starts else ""
    images = scores.images.get("forget")
    forget = f"these {images:,} forget images" if images else "these forget images"
    sets = sets_of(scores)
    if sets is not None:
        forget = f"{sets.sets} forget sets of {images:,} images"
    return (
        f"F measures how hard it is to distinguish unlearned from retrained models by their outputs on {forget}, for "
        f"this data, model and recipe{from_where}. It is not a guarantee for a single image, and another original or "
        f"forget set may order the methods differently."
    ) + (f" {line[0].upper()}{line[1:]}." if (line := sets_line(scores)) else "")


def sets_of(scores: Scores) -> ForgetSets | None:
    """Return the forget sets that the unlearned populations are scored on; None where the study has one."""
    return next((one.forget_sets for one in ranked(scores) if one.forget_sets), None)


def sets_line(scores: Scores) -> str:
    """Return what numbers of several forget sets are, and how much sets differ; "" for a study with one."""
    sets = sets_of(scores)
    if sets is None:
        return ""
    which = "hold for other sets too" if sets.sampled else "hold for these sets alone"
    shares = [(one.population, one.forget_sets.set_share) for one in ranked(scores) if one.forget_sets]
    found = [f"{percent(share['forgetting_quality'])} % for {who}" for who, share in shares if share]
    between = f"; of the variance of F between sets, the sets themselves make up {', '.join(found)}" * bool(found)
    each = plural(sets.runs_each, "run")
    return f"numbers are means over {sets.sets} forget sets with {each} a side of each, and intervals {which}{between}"


def test_line(scores: Scores) -> str:
    """Return one line with the populations that the permutation tests distinguish from retraining; "" without tests."""
    tested = [one for one in ranked(scores) if one.tests]
    apart = [one.population for one in tested if _p(one)[1] <= ERROR]
    rest = [one for one in tested if _p(one)[1] > ERROR]
    late = [one.population for one in rest if is_spent(one)]
    few = [one for one in rest if runs_needed(one) and not is_spent(one)]
    alike = [one.population for one in rest if not (runs_needed(one) or is_spent(one))]
    parts = [f"distinguished from retraining: {', '.join(apart)}"] if apart else []
    parts += [f"not distinguished from retraining: {', '.join(alike)}"] if alike else []
    parts += [f"5 % spent by earlier looks: {', '.join(late)}"] if late else []
    enough = max((runs_needed(one) for one in few), default=0)
    parts += [f"too few runs to distinguish: {', '.join(one.population for one in few)} ({enough} a side can)"] * bool(
        few
    )
    many = plural(sum(len(one.tests) for one in tested), "test")
    return f"{'; '.join(parts)} (permutation tests, p <= {ERROR} corrected for {many})" if tested else ""
