"""Scores -> the tables of attacks and distances, as `Grid` values, and what is said once below a table.

    measure_grids(scores)                        # at most four, none wider than the page
    nowhere(scores, MEASURES)                    # {"klom_..._validation": "needs validation images, ..."}
    left_out(scores)                             # the same as sentences

A measure that no population has is a sentence, not a column of dashes.

Does not cover: the ranking and the cost (`score_tables`).
"""

from __future__ import annotations

from collections.abc import Iterable

from ray_unlearn.evaluation.measures import MEASURES
from ray_unlearn.evaluation.scores import Estimate, Scores
from ray_unlearn.report.ranking import estimate, ranked
from ray_unlearn.report.table import Cell, Column, Grid, name, number
from ray_unlearn.wording import MISSING, decimals, interval, listed, short

_OTHER_IMAGES = tuple(f"klom_{way}_to_{to}_" for way, to in (("retrained", "unlearned"), ("unlearned", "retrained")))
TABLES = {
    "attacks": ("Membership attacks that know retrained models", ("u_lira", "rmia")),
    "attacks-alone": ("Membership attacks on one model at a time", ("logistic_attack", "svc_efficacy")),
    "distances": ("Distances from retraining", ("klom", "mean_shift", "spread_ratio", "tug_of_war")),
    "distances-elsewhere": ("Distances from retraining on other images", _OTHER_IMAGES),
}
"""Name -> caption, and how its measures' names begin; a measure stands in the last table that it fits."""


def _table_of(key: str) -> str:
    return next((table for table in reversed(TABLES) if key.startswith(TABLES[table][1])), "")


def estimate_cell(found: Estimate, runs: int, *, null: bool = False, reason: bool = True) -> Cell:
    """Return value, interval, N where it is not the row's `runs`, and, where asked, the null with its N.

    Without a value, a dash and, unless it is said elsewhere, the reason.
    """
    if found.value is None:
        return Cell(MISSING, (short(found.missing, 90),) if found.missing and reason else ())
    yardstick = _null_notes(found) if null else ()
    own_n = f"N {found.n}" if found.n != runs else ""
    return number(found.value, decimals(found.value), interval(found.low, found.high), own_n, *yardstick)


def _null_notes(found: Estimate) -> tuple[str, ...]:
    """Return the null, with its N, and the value at that N where it is another than the value's own."""
    if found.null is None:
        return ()
    if found.null_n == found.n or found.at_null_n is None:
        return (f"null {decimals(found.null)}, N {found.null_n}",)
    return f"at N {found.null_n}: {decimals(found.at_null_n)}", f"null {decimals(found.null)}"


def nowhere(scores: Scores, keys: Iterable[str]) -> dict[str, str]:
    """Return the measures that no unlearned population has, all for one reason, and that reason."""
    missing = {}
    for key in keys:
        found = [estimate(one, key) for one in ranked(scores)]
        reasons = {one.missing for one in found if one.value is None}
        if len(reasons) == 1 and all(one.value is None for one in found):
            missing[key] = reasons.pop()
    return missing


def said_once(missing: dict[str, str]) -> list[str]:
    """Return one sentence per reason, after the labels of the measures that it is about."""
    about: dict[str, list[str]] = {}
    for key, reason in missing.items():
        about.setdefault(reason, []).append(MEASURES[key].label)
    return [f"No value of {listed(labels)}: {reason or 'not evaluated'}." for reason, labels in about.items()]


def left_out(scores: Scores) -> list[str]:
    """Return why attacks and distances are in no table."""
    return said_once(nowhere(scores, filter(_table_of, MEASURES)))


def measure_grids(scores: Scores) -> list[Grid]:
    """Return the attacks and the distances, one row per unlearned population; measures nobody has are left out."""
    absent = nowhere(scores, MEASURES)
    grids = []
    for table, (caption, _) in TABLES.items():
        keys = tuple(key for key in MEASURES if _table_of(key) == table and key not in absent)
        grids += [_measure_grid(scores, keys, table, caption)] if keys and ranked(scores) else []
    return grids


def _measure_grid(scores: Scores, keys: tuple[str, ...], table: str, caption: str) -> Grid:
    wanted = {"high": "high is good", "low": "low is good", "null": "near the null is good"}
    rows = [
        (
            name(one.population),
            number(one.runs, str(one.runs)),
            *(estimate_cell(estimate(one, key), one.runs, null=True) for key in keys),
        )
        for one in ranked(scores)
    ]
    described = [MEASURES[key] for key in keys]
    return Grid(
        name=table,
        caption=caption,
        columns=(
            Column("population"),
            Column("N"),
            *(Column(one.label, wanted[one.better], f"{one.meaning} ({one.source})") for one in described),
        ),
        rows=tuple(rows),
        explained="In brackets the 95 % interval; null: the same number between halves of the reference, at its own N.",
    )
