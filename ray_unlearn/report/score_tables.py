"""Scores -> the tables of the report.

    ranking_table(scores)                        # score and F with intervals, at the null's N, and the null
    ranking_lines_table(scores)                  # the same, narrow enough for a terminal
    measure_tables(scores), left_out(scores)     # attacks and distances; why some are in no table
    cost_table(scores)
    glossary()                                   # what every measure means

Every number is shown with its N: the row's, or its own if that differs. A measure that no population
has is a sentence, not a column of dashes. No other module of the report reads the texts of evaluation's measures.

Does not cover: accuracies (`accuracy_tables`), the order of populations and the verdict (`ranking`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from ray_unlearn.evaluation.measures import MEASURES
from ray_unlearn.evaluation.scores import Estimate, PopulationScores, Scores
from ray_unlearn.report.ranking import (
    TOLERATED,
    at_once,
    comparable,
    estimate,
    in_order,
    lost_accuracy,
    null_of,
    place,
    quoted,
    ranked,
    reference_of,
    why_no_null,
)
from ray_unlearn.report.table import DASH, POPULATION, Bar, Cell, Column, Table, name, number, own_n
from ray_unlearn.wording import MISSING, TIMES, decimals, interval, joined, listed, short, span

HEADLINE = ("score", "forgetting_quality")
RANKED = (*HEADLINE, "retain_ratio", "test_ratio")
_OTHER_IMAGES = tuple(f"klom_{way}_to_{to}_" for way, to in (("retrained", "unlearned"), ("unlearned", "retrained")))
TABLES = {
    "attacks": ("Membership attacks that know retrained models", ("u_lira", "rmia")),
    "attacks-lira": ("LiRA: attacks that know shadow models", ("lira",)),
    "attacks-shadow-rmia": ("RMIA with shadow models", ("shadow_rmia",)),
    "attacks-alone": ("Membership attacks on one model at a time", ("logistic_attack", "svc_efficacy")),
    "distances": ("Distances from retraining", ("klom", "mean_shift", "spread_ratio", "tug_of_war")),
    "distances-elsewhere": ("Distances from retraining on other images", _OTHER_IMAGES),
}
"""Name of a table -> its caption, and the beginnings of its measures' names; the last table that fits has a measure."""
_DIRECTIONS = {"high": "high is good", "low": "low is good", "null": "near the null is good"}


def glossary() -> dict[str, str]:
    """Return label -> meaning and source of every measure, and what is different from the source on purpose."""
    return {
        one.label: f"{one.meaning}. {one.source}." + f" On purpose different: {one.deviation}." * bool(one.deviation)
        for one in MEASURES.values()
    }


def estimate_cell(found: Estimate, runs: int, *, null: bool = False, reason: bool = True) -> Cell:
    """Return value, interval, N if it is not the row's `runs`, and, with `null`, the null with its N.

    Without a value, return a dash and, with `reason`, the reason.
    """
    if found.value is None:
        return Cell(text=MISSING, notes=(short(found.missing, 90),) if found.missing and reason else ())
    cell = number(found.value, decimals(found.value), interval=interval(found.low, found.high), n=own_n(found.n, runs))
    return replace(cell, null=_null_lines(found)) if null and found.null is not None else cell


def _null_lines(found: Estimate) -> tuple[str, ...]:
    """Return the null, with its N, and the value at that N where it is another than the value's own."""
    if found.null_n == found.n or found.at_null_n is None:
        return (f"null {decimals(found.null)}, N {found.null_n}",)
    return f"at N {found.null_n}: {decimals(found.at_null_n)}", f"null {decimals(found.null)}"


def _at_null_cell(found: Estimate, shared_n: int) -> Cell:
    """Return the value at the null's N, and the null; with N if the heading does not have it."""
    if found.at_null_n is None:
        return DASH
    n = own_n(found.null_n, shared_n)
    return number(found.at_null_n, decimals(found.at_null_n), n=n, null=(f"null {decimals(found.null)}",))


def nowhere(scores: Scores, keys: Iterable[str]) -> dict[str, str]:
    """Return the measures that no unlearned population has, all for one reason, and that reason."""
    missing = {}
    for key in keys:
        found = [estimate(one, key) for one in ranked(scores)]
        reasons = {one.missing for one in found}
        if len(reasons) == 1 and all(one.value is None for one in found):
            missing[key] = reasons.pop()
    return missing


def _reasons(missing: dict[str, str]) -> list[str]:
    """Return one sentence per reason, after the labels of the measures that it is about."""
    about: dict[str, list[str]] = {}
    for key, reason in missing.items():
        about.setdefault(reason, []).append(MEASURES[key].label)
    return [f"No value of {listed(labels)}: {reason or 'not evaluated'}." for reason, labels in about.items()]


# The ranking


def ranking_table(scores: Scores) -> Table:
    """Return one row per unlearned population, best score first, and one of retraining against itself."""
    scores = quoted(scores)
    top, shared_n = top_of(scores), _shared_null_n(scores)
    found, absent = ranked(scores), nowhere(scores, RANKED)
    several = [f"Intervals of score and F hold{at_once(scores)}."] if at_once(scores) else []
    if len(comparable(scores)) > 1:
        several.append("Places such as 1-3 are a tie: other runs could turn them.")
    rows = [
        _ranking_row(nth, place(scores, one.population), one, top, shared_n, absent) for nth, one in enumerate(found, 1)
    ]
    reference = _reference_row(scores, top)
    lost = (
        [f"A ratio with a cross is more than {TOLERATED} below all that the halves have."]
        if any(map(lost_accuracy, found))
        else []
    )
    none = [f"No null: {why_no_null(scores)}."] if found and reference is None else []
    return Table(
        name="ranking",
        caption="Ranking by score",
        columns=(
            Column("#", meaning="places by score, at equal N, that the runs allow"),
            replace(POPULATION, unit="method"),
            Column("N", meaning="runs of the population that were evaluated"),
            *(column for key in HEADLINE for column in _headline_columns(key, shared_n)),
            *(Column(MEASURES[key].label, meaning=MEASURES[key].meaning) for key in ("retain_ratio", "test_ratio")),
            Column("cost", f"{TIMES} retraining", "median seconds of a run over those of a retrained run"),
        ),
        rows=(*rows, *([reference] if reference else [])),
        reference=scores.reference,
        explained=(
            f"score = F {TIMES} RA ratio {TIMES} TA ratio, where RA is the accuracy on retained and TA that on test "
            f"images, over the reference's. The null is {scores.reference} against itself, in disjoint "
            f"halves: what retraining gets, with its range over the halvings. Compare with it at its own N only. "
            + " ".join([*several, *lost, *none, *_reasons(absent)])
        ).strip(),
    )


def _headline_columns(key: str, shared_n: int) -> tuple[Column, Column]:
    one, at_null = MEASURES[key], f"at N = {shared_n}" if shared_n else "at the null's N"
    return (
        Column(one.label, "95 % interval", one.meaning),
        Column(one.label, at_null, "at the null's N; null: between halves of the reference"),
    )


def _shared_null_n(scores: Scores, keys: Iterable[str] = HEADLINE) -> int:
    """Return the N that all nulls have, or 0."""
    sizes = {estimate(one, key).null_n for one in ranked(scores) for key in keys} - {0}
    return sizes.pop() if len(sizes) == 1 else 0


def top_of(scores: Scores) -> float:
    """Return the end of the scale of a study's scores."""
    found = [estimate(one, "score") for one in ranked(scores)]
    ends = [end for one in found for end in (one.value, one.high, one.null, one.null_high) if end is not None]
    return 1.05 * max(ends, default=1.0) or 1.0


def _ranking_row(
    nth: int, places: str, found: PopulationScores, top: float, shared_n: int, absent: dict[str, str]
) -> tuple[Cell, ...]:
    score, quality = estimate(found, "score"), estimate(found, "forgetting_quality")
    cells = {key: estimate_cell(estimate(found, key), found.runs, reason=key not in absent) for key in RANKED}
    cells |= {key: replace(cells[key], good=False) for key in lost_accuracy(found)}
    return (
        number(nth, places) if places else DASH,
        _named(found),
        number(found.runs, str(found.runs)),
        replace(cells["score"], bar=score_bar(score, top, f"{found.population}: score")),
        _at_null_cell(score, shared_n),
        cells["forgetting_quality"],
        _at_null_cell(quality, shared_n),
        cells["retain_ratio"],
        cells["test_ratio"],
        cost_cell(found),
    )


def _named(found: PopulationScores) -> Cell:
    return name(found.population, "" if found.method == found.population else found.method)


def score_bar(found: Estimate, top: float, what: str) -> Bar | None:
    """Return an estimate on a scale from 0 to `top`, with its null where that is of the same N; None without one."""
    if found.value is None:
        return None
    words = joined(what, decimals(found.value), interval(found.low, found.high), f"at N = {found.n}")
    if found.null is None or found.null_n != found.n:  # a null of another N is no yardstick for this bar
        return Bar(found.value, found.low, found.high, None, None, top, words)
    null = f"; null {span(found.null_low, found.null_high)} at N = {found.null_n}"
    low, high = (found.null, found.null) if found.null_low is None else (found.null_low, found.null_high)
    return Bar(found.value, found.low, found.high, low, high, top, words + null)


def null_bar(found: Estimate, top: float, where: str = "") -> Bar | None:
    """Return a score of retraining against itself on the scale of `score_bar`; None where it was not measured."""
    if found.null is None:
        return None
    words = f"retraining against itself{where}: score {decimals(found.null)} at N = {found.null_n}"
    return Bar(found.null, found.null_low, found.null_high, found.null_low, found.null_high, top, words)


def _reference_row(scores: Scores, top: float) -> tuple[Cell, ...] | None:
    """Return retraining against itself, where it was measured: its values are the nulls, at the null's N."""
    reference, score, quality = reference_of(scores), null_of(scores, "score"), null_of(scores, "forgetting_quality")
    found = score or quality
    if reference is None or found is None:
        return None

    def cell(one: Estimate | None) -> Cell:
        return DASH if one is None else number(one.null, decimals(one.null), interval=span(one.null_low, one.null_high))

    return (
        DASH,
        name(reference.population, "against itself"),
        number(found.null_n, str(found.null_n)),
        replace(cell(score), bar=null_bar(score, top) if score else None),
        cell(score),
        *[cell(quality)] * 2,
        *[DASH] * 2,
        number(1.0, "1", n=reference.cost.seconds.n) if reference.cost.seconds else DASH,
    )


def ranking_lines_table(scores: Scores) -> Table:
    """Return the ranking in nine columns; the null has a column instead of a row."""
    scores = quoted(scores)
    shared_n = _shared_null_n(scores, ["forgetting_quality"])
    at_null = f"F at {shared_n}" if shared_n else "F at null's N"
    labels = ("N", "score", "F", at_null, "null F", "RA", "TA", "cost")
    return Table(
        name="ranking",
        caption="Ranking by score",
        columns=(POPULATION, *map(Column, labels)),
        rows=tuple(_ranking_line(one) for one in ranked(scores)),
        explained=f"[ ]: 95 % interval over runs{at_once(scores)}; RA, TA: ratios to the reference; cost: times "
        "retraining",
    )


def _ranking_line(found: PopulationScores) -> tuple[Cell, ...]:
    def two_decimals(value: float | None) -> Cell:
        return DASH if value is None else number(value, f"{value:.2f}")

    quality = estimate(found, "forgetting_quality")
    return (
        name(found.population),
        number(found.runs, str(found.runs)),
        *(estimate_cell(estimate(found, key), found.runs) for key in HEADLINE),
        *(number(value, decimals(value)) for value in (quality.at_null_n, quality.null)),
        *(two_decimals(estimate(found, key).value) for key in ("retain_ratio", "test_ratio")),
        two_decimals(found.cost.relative),
    )


# Attacks and distances


def table_of(key: str) -> str:
    """Return the name of the table in which the page shows a measure; empty for what the ranking shows."""
    return next((table for table in reversed(TABLES) if key.startswith(TABLES[table][1])), "")


def left_out(scores: Scores) -> list[str]:
    """Return why attacks and distances are in no table."""
    shadows = any(MEASURES[key].of_shadows for one in ranked(scores) for key in one.measures)
    keys = [key for key, one in MEASURES.items() if table_of(key) and (shadows or not one.of_shadows)]
    return _reasons(nowhere(scores, keys))


def measure_tables(scores: Scores) -> list[Table]:
    """Return attacks and distances, one row per unlearned population, without measures that no population has."""
    absent = nowhere(scores, MEASURES)
    tables = []
    for table, (caption, _) in TABLES.items():
        keys = tuple(key for key in MEASURES if table_of(key) == table and key not in absent)
        tables += [_measure_table(scores, keys, table, caption)] if keys and ranked(scores) else []
    return tables


def _measure_table(scores: Scores, keys: tuple[str, ...], table: str, caption: str) -> Table:
    described = [MEASURES[key] for key in keys]
    found = ranked(scores)
    scales = {key: _scale([estimate(one, key) for one in found]) for key in keys}
    return Table(
        name=table,
        caption=caption,
        columns=(
            POPULATION,
            Column("N"),
            *(Column(one.label, _DIRECTIONS[one.better], f"{one.meaning} ({one.source})") for one in described),
        ),
        rows=tuple(
            (
                name(one.population),
                number(one.runs, str(one.runs)),
                *(_measure_cell(estimate(one, key), one, scales[key], MEASURES[key].label) for key in keys),
            )
            for one in found
        ),
        explained="In brackets the 95 % interval; null: the same number between halves of the reference, at its own N.",
    )


def _measure_cell(found: Estimate, of: PopulationScores, scale: tuple[float, float], label: str) -> Cell:
    cell = estimate_cell(found, of.runs, null=True)
    if found.value is None:
        return cell
    low, high = (found.null, found.null) if found.null_low is None else (found.null_low, found.null_high)
    words = joined(
        f"{of.population}: {label}", decimals(found.value), interval(found.low, found.high), f"at N = {found.n}"
    )
    other_n = found.at_null_n is not None and found.null_n != found.n
    if found.null is not None:
        at_null = f"; at N = {found.null_n} {decimals(found.at_null_n)}" if other_n else ""
        band = span(found.null_low, found.null_high) or decimals(found.null)
        words += f"{at_null}; retraining against itself {band} at N = {found.null_n}"
    bar = Bar(
        found.value,
        found.low,
        found.high,
        low,
        high,
        scale[1],
        words,
        bottom=scale[0],
        at_null=found.at_null_n if other_n else None,
    )
    return replace(cell, bar=bar)


def _scale(found: Iterable[Estimate]) -> tuple[float, float]:
    """Return the ends of one scale for a measure of all populations, with a margin."""
    ends = [
        end
        for one in found
        for end in (one.value, one.low, one.high, one.at_null_n, one.null_low, one.null_high, one.null)
        if end is not None
    ]
    low, high = min(ends, default=0.0), max(ends, default=1.0)
    margin = 0.06 * ((high - low) or abs(high) or 1.0)
    return low - margin, high + margin


# Cost


def cost_table(scores: Scores) -> Table:
    """Return seconds of a run, and whether the challenge's limit of a fifth of retraining is kept."""
    return Table(
        name="cost",
        caption="Cost of one run",
        columns=(
            replace(POPULATION, unit="method"),
            Column("N"),
            Column("seconds", "mean over runs", "wall time of a run's training"),
            Column("cost", f"{TIMES} retraining", "median seconds over the reference's"),
            Column("within 20 %", "the challenge's limit", "at most a fifth of retraining"),
        ),
        rows=tuple(_cost_row(one) for one in in_order(scores)),
        reference=scores.reference,
    )


def _cost_row(found: PopulationScores) -> tuple[Cell, ...]:
    seconds, efficient = found.cost.seconds, found.cost.efficient
    if seconds is None:
        return (_named(found), *[DASH] * 4)
    spread = f"± {decimals(seconds.sd)} sd" if seconds.sd is not None else ""
    judged = found.role == "unlearned" and efficient is not None
    return (
        _named(found),
        number(seconds.n, str(seconds.n)),
        number(seconds.mean, decimals(seconds.mean), spread),
        cost_cell(found),
        number(float(bool(efficient)), "yes" if efficient else "no", good=efficient) if judged else DASH,
    )


def cost_cell(found: PopulationScores) -> Cell:
    """Return the median time of a run over that of the reference's."""
    relative, seconds = found.cost.relative, found.cost.seconds
    if relative is None or seconds is None:
        return DASH
    text = f"{relative:.2g}" if relative < 1 else f"{relative:.1f}"
    return number(relative, text, n=own_n(seconds.n, found.runs))
