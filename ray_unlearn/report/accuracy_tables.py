"""Accuracies -> tables, as `Grid` values.

    change_grid(scores)                          # per split, against the original and the reference
    part_grids(scores, "class")                  # classes x populations, one grid per split

Accuracies are in percent, differences in percentage points.

Does not cover: scores and attacks (`score_tables`).
"""

from __future__ import annotations

from typing import Literal

from ray_unlearn.evaluation.scores import PopulationScores, Scores, Slice
from ray_unlearn.report.ranking import SPLITS, in_order, originals_of, reference_of, slice_of
from ray_unlearn.report.table import Cell, Column, Grid, name, number
from ray_unlearn.wording import MISSING, percent, percent_interval, points

_FULL_TINT = 0.10
"""A difference of ten points from the reference has the darkest shade."""


def change_grid(scores: Scores) -> Grid | None:
    """Return accuracy per split and how it differs from the original and from the reference; None without any."""
    splits = [split for split in SPLITS if any(slice_of(one, split) for one in scores.populations.values())]
    original = next(iter(originals_of(scores)), None)
    rows = [
        (
            name(one.population, {"reference": "reference", "original": "before"}.get(one.role, "")),
            number(one.runs, str(one.runs)),
            *(_change_cell(one, split, original, reference_of(scores)) for split in splits),
        )
        for one in in_order(scores)
    ]
    if not splits or not rows:
        return None
    images = {split: f"{scores.images[split]:,} images" if split in scores.images else "" for split in splits}
    return Grid(
        name="changes",
        caption="Accuracy before and after, %",
        columns=(Column("population"), Column("N"), *(Column(split, images[split]) for split in splits)),
        rows=tuple(rows),
        reference=scores.reference,
        explained="Mean over N runs, in brackets its 95 % t-interval; then the difference from the original · from "
        f"{scores.reference}, in percentage points. Shaded by the latter.",
    )


def _change_cell(
    found: PopulationScores, split: str, original: PopulationScores | None, reference: PopulationScores | None
) -> Cell:
    here = slice_of(found, split)
    if here is None:
        return Cell(MISSING)
    own_n = f"N {here.accuracy.n}" if here.accuracy.n != found.runs else ""
    changes = [_difference(here, slice_of(other, split)) for other in (original, reference)]
    changes = [None if other is found else change for other, change in zip((original, reference), changes, strict=True)]
    said = " · ".join(MISSING if change is None else points(change) for change in changes)
    within = percent_interval(here.accuracy.low, here.accuracy.high)
    return number(here.accuracy.mean, percent(here.accuracy.mean), within, said, own_n, tint=_tint(changes[1]))


def _difference(here: Slice, there: Slice | None) -> float | None:
    return None if there is None else here.accuracy.mean - there.accuracy.mean


def _tint(difference: float | None) -> float:
    return 0.0 if difference is None else max(-1.0, min(1.0, difference / _FULL_TINT))


def part_grids(scores: Scores, by: Literal["class", "group"]) -> list[Grid]:
    """Return one grid per split with such parts: rows are classes or groups, columns populations."""
    grids = []
    for split in SPLITS:
        parts = _parts(scores, split, by)
        found = [one for one in in_order(scores) if any(slice_of(one, split, by, key) for key in parts)]
        if parts and found:
            grids.append(_part_grid(scores, split, by, parts, found))
    return grids


def _parts(scores: Scores, split: str, by: str) -> dict[str, int]:
    """Return images by part, classes in their own order."""
    found = {
        part.key: part.images
        for one in scores.populations.values()
        for part in one.slices
        if (part.split, part.by) == (split, by)
    }
    place = {key: number for number, key in enumerate(scores.class_names)}
    return {key: found[key] for key in sorted(found, key=lambda key: (place.get(key, len(place)), key))}


def _part_grid(scores: Scores, split: str, by: str, parts: dict[str, int], found: list[PopulationScores]) -> Grid:
    reference = reference_of(scores)
    rows = []
    for key, images in parts.items():
        there = slice_of(reference, split, by, key)
        cells = [_part_cell(slice_of(one, split, by, key), there, one) for one in found]
        rows.append((name(key), number(images, f"{images:,}"), *cells))
    return Grid(
        name=f"{split}-by-{by}",
        caption=f"Accuracy on {split} images by {by}, %",
        columns=(Column(by), Column("images"), *(Column(one.population, f"N {one.runs}") for one in found)),
        rows=tuple(rows),
        reference=scores.reference,
        explained=f"Mean over N runs; small: the difference from {scores.reference} in percentage points.",
    )


def _part_cell(here: Slice | None, reference: Slice | None, found: PopulationScores) -> Cell:
    if here is None:
        return Cell(MISSING)
    own_n = f"N {here.accuracy.n}" if here.accuracy.n != found.runs else ""
    if reference is None or found.role == "reference":
        spread = f"sd {percent(here.accuracy.sd)}" if here.accuracy.sd is not None else ""
        return number(here.accuracy.mean, percent(here.accuracy.mean), spread, own_n)
    difference = here.accuracy.mean - reference.accuracy.mean
    return number(here.accuracy.mean, percent(here.accuracy.mean), points(difference), own_n, tint=_tint(difference))
