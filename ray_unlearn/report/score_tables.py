"""Scores -> the tables of the report, as `Grid` values.

    ranking_grid(scores)                         # score and F with intervals, at the null's N, and the null
    cost_grid(scores)

Every number stands with its N: the row's, or its own where that differs.

Does not cover: attacks and distances (`measure_tables`), accuracies (`accuracy_tables`), pictures.
"""

from __future__ import annotations

from ray_unlearn.evaluation.measures import MEASURES
from ray_unlearn.evaluation.scores import Estimate, PopulationScores, Scores
from ray_unlearn.report.measure_tables import estimate_cell, nowhere, said_once
from ray_unlearn.report.ranking import comparable, estimate, in_order, null_of, ranked, reference_of, why_no_null
from ray_unlearn.report.table import Bar, Cell, Column, Grid, name, number
from ray_unlearn.wording import MISSING, TIMES, decimals, interval, joined, span

HEADLINE = ("score", "forgetting_quality")
_RANKED = (*HEADLINE, "retain_ratio", "test_ratio")


def _at_null_cell(found: Estimate, shared_n: int) -> Cell:
    """Return the value that may be compared with the null, and the null; N where the heading does not say it."""
    if found.at_null_n is None:
        return Cell(MISSING)
    own_n = f"N {found.null_n}" if found.null_n != shared_n else ""
    return number(found.at_null_n, decimals(found.at_null_n), f"null {decimals(found.null)}", own_n)


def _shared_null_n(scores: Scores) -> int:
    """Return the N that all nulls have, or 0."""
    sizes = {estimate(one, key).null_n for one in ranked(scores) for key in HEADLINE} - {0}
    return sizes.pop() if len(sizes) == 1 else 0


def ranking_grid(scores: Scores) -> Grid:
    """Return one row per unlearned population, best score first, and one of retraining against itself."""
    top, shared_n = _top(scores), _shared_null_n(scores)
    placed, found, absent = comparable(scores), ranked(scores), nowhere(scores, _RANKED)
    places = [place if one.population in placed else None for place, one in enumerate(found, 1)]
    rows = [_ranking_row(place, one, top, shared_n, absent) for place, one in zip(places, found, strict=True)]
    reference = _reference_row(scores, top)
    none = [f"No null: {why_no_null(scores)}."] if found and reference is None else []
    at_null = f"at N = {shared_n}" if shared_n else "at the null's N"
    return Grid(
        name="ranking",
        caption="Ranking by score",
        columns=(
            Column("#", meaning="place by score, at equal N"),
            Column("population", "method"),
            Column("N", meaning="runs of the population that were evaluated"),
            *(
                column
                for key in HEADLINE
                for column in (
                    Column(MEASURES[key].label, "95 % interval", MEASURES[key].meaning),
                    Column(MEASURES[key].label, at_null, "at the null's N; null: between halves of the reference"),
                )
            ),
            Column("RA ratio", meaning=MEASURES["retain_ratio"].meaning),
            Column("TA ratio", meaning=MEASURES["test_ratio"].meaning),
            Column("cost", f"{TIMES} retraining", "median seconds of a run over those of a retrained run"),
        ),
        rows=(*rows, *([reference] if reference else [])),
        reference=scores.reference,
        explained=(
            f"score = F {TIMES} RA ratio {TIMES} TA ratio. The null is {scores.reference} against itself, in disjoint "
            f"halves: what retraining gets, with its range over the halvings. Compare with it at its own N only. "
            + " ".join([*none, *said_once(absent)])
        ).strip(),
    )


def _top(scores: Scores) -> float:
    found = [estimate(one, "score") for one in ranked(scores)]
    ends = [end for one in found for end in (one.value, one.high, one.null, one.null_high) if end is not None]
    return 1.05 * max(ends, default=1.0) or 1.0


def _ranking_row(
    place: int | None, found: PopulationScores, top: float, shared_n: int, absent: dict[str, str]
) -> tuple[Cell, ...]:
    score, quality = estimate(found, "score"), estimate(found, "forgetting_quality")
    said = {key: estimate_cell(estimate(found, key), found.runs, reason=key not in absent) for key in _RANKED}
    headline = said["score"]
    bar = _bar(score, top, f"{found.population}: score")
    return (
        number(place, str(place)) if place else Cell(MISSING),
        name(found.population, "" if found.method == found.population else found.method),
        number(found.runs, str(found.runs)),
        Cell(headline.text, headline.notes, headline.sort, bar=bar),
        _at_null_cell(score, shared_n),
        said["forgetting_quality"],
        _at_null_cell(quality, shared_n),
        said["retain_ratio"],
        said["test_ratio"],
        _relative_cell(found),
    )


def _bar(found: Estimate, top: float, what: str) -> Bar | None:
    if found.value is None:
        return None
    said = joined(what, decimals(found.value), interval(found.low, found.high), f"at N = {found.n}")
    if found.null is None or found.null_n != found.n:  # a null of another N is no yardstick for this bar
        return Bar(found.value, found.low, found.high, None, None, top, said)
    null = f"; null {span(found.null_low, found.null_high)} at N = {found.null_n}"
    low, high = (found.null, found.null) if found.null_low is None else (found.null_low, found.null_high)
    return Bar(found.value, found.low, found.high, low, high, top, said + null)


def _reference_row(scores: Scores, top: float) -> tuple[Cell, ...] | None:
    """Return retraining against itself, where it was measured: its values are the nulls, at the null's N."""
    reference, score, quality = reference_of(scores), null_of(scores, "score"), null_of(scores, "forgetting_quality")
    found = score or quality
    if reference is None or found is None:
        return None

    def cell(one: Estimate | None) -> Cell:
        return Cell(MISSING) if one is None else number(one.null, decimals(one.null), span(one.null_low, one.null_high))

    bar = None
    if score is not None and score.null is not None:
        words = f"retraining against itself: score {decimals(score.null)} at N = {score.null_n}"
        bar = Bar(score.null, score.null_low, score.null_high, score.null_low, score.null_high, top, words)
    headline = cell(score)
    return (
        Cell(MISSING),
        name(reference.population, "against itself"),
        number(found.null_n, str(found.null_n)),
        Cell(headline.text, headline.notes, headline.sort, bar=bar),
        cell(score),
        *[cell(quality)] * 2,
        *[Cell(MISSING)] * 2,
        number(1.0, "1", f"N {reference.cost.seconds.n}"),
    )


def cost_grid(scores: Scores) -> Grid:
    """Return seconds of a run, and whether the challenge's limit of a fifth of retraining is kept."""
    rows = []
    for one in in_order(scores):
        seconds = one.cost.seconds
        spread = f"± {decimals(seconds.sd)} sd" if seconds.sd is not None else ""
        rows.append(
            (
                name(one.population, "" if one.method == one.population else one.method),
                number(seconds.n, str(seconds.n)),
                number(seconds.mean, decimals(seconds.mean), spread),
                _relative_cell(one),
                _efficient_cell(one),
            )
        )
    return Grid(
        name="cost",
        caption="Cost of one run",
        columns=(
            Column("population", "method"),
            Column("N"),
            Column("seconds", "mean over runs", "wall time of a run's training"),
            Column("cost", f"{TIMES} retraining", "median seconds over the reference's"),
            Column("within 20 %", "the challenge's limit", "at most a fifth of retraining"),
        ),
        rows=tuple(rows),
        reference=scores.reference,
    )


def _relative_cell(found: PopulationScores) -> Cell:
    relative, runs = found.cost.relative, found.cost.seconds.n
    if relative is None:
        return Cell(MISSING)
    return number(
        relative, f"{relative:.2g}" if relative < 1 else f"{relative:.1f}", f"N {runs}" * (runs != found.runs)
    )


def _efficient_cell(found: PopulationScores) -> Cell:
    efficient = found.cost.efficient
    if found.role != "unlearned" or efficient is None:
        return Cell(MISSING)
    return Cell("yes" if efficient else "no", sort=float(efficient), good=efficient)
