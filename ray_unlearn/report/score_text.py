"""Scores as lines of text: what `evaluate` prints.

    for line in score_lines(scores): ...
    for line in growth_lines(scores): ...        # shorter, while N grows

At most 100 columns, as long as no warning, or list of names, is longer.

Does not cover: tables for a page (`score_tables`).
"""

from __future__ import annotations

from ray_unlearn.evaluation.scores import Estimate, PopulationScores, Scores
from ray_unlearn.report.ranking import estimate, mode_words, null_of, ranked, warnings_of, why_no_null
from ray_unlearn.wording import MISSING, aligned, decimals, interval, joined, listed, short, span

WIDTH = 100
_GAP = 2


def score_lines(scores: Scores) -> list[str]:
    """Return the ranking as a table, what the null is, why values are missing, and all warnings."""
    found = ranked(scores)
    rows = [_row(one) for one in found]
    head = ["population", "N", "score", "F", _at(scores), "null F", "RA", "TA", "cost"]
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    room = max(WIDTH - sum(widths[1:]) - _GAP * (len(widths) - 1), 12)
    table = aligned([[short(first, room), *rest] for first, *rest in [head, *rows]])
    return [
        f"{scores.study}: {scores.mode} mode, {mode_words(scores)}",
        *table,
        "[ ]: 95 % interval over runs; RA, TA: ratios to the reference; cost: times retraining",
        *_null_lines(scores),
        *_missing_lines(found),
        *(f"warning: {said}" for said in warnings_of(scores)),
    ]


def growth_lines(scores: Scores) -> list[str]:
    """Return one line per scored population: N, score and F with their intervals, and the null's F."""
    lines = []
    for one in ranked(scores):
        score, quality = estimate(one, "score"), estimate(one, "forgetting_quality")
        if quality.value is None:
            lines.append(f"N={one.runs} {one.population}: no score: {quality.missing}")
            continue
        said = [f"score {_with_interval(score, one.runs)}", f"F {_with_interval(quality, one.runs)}"]
        said += [f"null F {decimals(quality.null)} at {quality.null_n}"] if quality.null is not None else []
        lines.append(f"N={one.runs} {one.population}: {', '.join(said)}")
    return lines


def _at(scores: Scores) -> str:
    sizes = {estimate(one, "forgetting_quality").null_n for one in ranked(scores)} - {0}
    return f"F at {sizes.pop()}" if len(sizes) == 1 else "F at null's N"


def _row(found: PopulationScores) -> list[str]:
    score, quality = estimate(found, "score"), estimate(found, "forgetting_quality")
    relative = found.cost.relative
    return [
        found.population,
        str(found.runs),
        _with_interval(score, found.runs),
        _with_interval(quality, found.runs),
        decimals(quality.at_null_n),
        decimals(quality.null),
        *(_ratio(estimate(found, key)) for key in ("retain_ratio", "test_ratio")),
        MISSING if relative is None else f"{relative:.2f}",
    ]


def _with_interval(found: Estimate, runs: int) -> str:
    own_n = f"N={found.n}" if found.value is not None and found.n != runs else ""
    return joined(decimals(found.value), interval(found.low, found.high), own_n)


def _ratio(found: Estimate) -> str:
    return MISSING if found.value is None else f"{found.value:.2f}"


def _null_lines(scores: Scores) -> list[str]:
    null = null_of(scores, "forgetting_quality")
    if null is None:
        return [f"no null, which is how close retraining comes to itself: {why_no_null(scores)}"]
    ends = span(null.null_low, null.null_high)
    said = decimals(null.null) + f" ({ends} over halvings)" * bool(ends)
    return [f"null F: {scores.reference} against itself, {said}; compare F at {null.null_n} with it"]


def _missing_lines(found: list[PopulationScores]) -> list[str]:
    """Return each reason once, after the names of the populations that it keeps from a score."""
    about: dict[str, list[str]] = {}
    for one in found:
        if (score := estimate(one, "score")).value is None:
            about.setdefault(score.missing, []).append(one.population)
    return [f"{listed(names)}: no score: {missing}" for missing, names in about.items()]
