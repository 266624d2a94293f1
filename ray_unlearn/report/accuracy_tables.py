"""Accuracies -> tables.

    change_table(scores)                         # per split, against the original and the reference
    part_tables(scores, "class")                 # classes x populations, one table per split

Accuracies are in percent, differences in percentage points.

Does not cover: scores, attacks and cost (`score_tables`).
"""

from __future__ import annotations

from typing import Literal

from ray_unlearn.evaluation.scores import PopulationScores, Scores, Slice
from ray_unlearn.report.ranking import SPLITS, in_order, originals_of, reference_of, slice_of
from ray_unlearn.report.table import DASH, POPULATION, Cell, Column, Table, name, number, own_n
from ray_unlearn.wording import MISSING, percent, percent_interval, points

_FULL_TINT = 0.10
"""Difference from the reference, as a fraction of 1, that has the darkest shade: ten points."""


def change_table(scores: Scores) -> Table | None:
    """Return accuracy per split with its differences from the original and the reference; None without accuracies."""
    splits = [split for split in SPLITS if any(slice_of(one, split) for one in scores.populations.values())]
    if not splits:
        return None
    original = next(iter(originals_of(scores)), None)
    images = {split: f"{scores.images[split]:,} images" if split in scores.images else "" for split in splits}
    return Table(
        name="changes",
        caption="Accuracy before and after, %",
        columns=(POPULATION, Column("N"), *(Column(split, images[split]) for split in splits)),
        rows=tuple(
            (
                name(one.population, {"reference": "reference", "original": "before"}.get(one.role, "")),
                number(one.runs, str(one.runs)),
                *(_change_cell(one, split, original, reference_of(scores)) for split in splits),
            )
            for one in in_order(scores)
        ),
        reference=scores.reference,
        explained="Mean over N runs, in brackets its 95 % t-interval (over originals from 4 on); then the "
        f"difference from the original · from {scores.reference}, in percentage points. Shaded by the latter.",
    )


def _change_cell(
    found: PopulationScores, split: str, original: PopulationScores | None, reference: PopulationScores | None
) -> Cell:
    here = slice_of(found, split)
    if here is None:
        return DASH
    others = [slice_of(other, split) if other is not found else None for other in (original, reference)]
    changes = [here.accuracy.mean - there.accuracy.mean if there else None for there in others]
    differences = " · ".join(MISSING if change is None else points(change) for change in changes)
    return _accuracy_cell(here, found, differences, changes[1], percent_interval(here.accuracy.low, here.accuracy.high))


def _accuracy_cell(
    here: Slice, found: PopulationScores, note: str, difference: float | None = None, within: str = ""
) -> Cell:
    mean, n = here.accuracy.mean, here.accuracy.n
    tint = max(-1.0, min(1.0, (difference or 0.0) / _FULL_TINT))
    return number(mean, percent(mean), note, interval=within, n=own_n(n, found.runs), tint=tint)


def part_tables(scores: Scores, by: Literal["class", "group"]) -> list[Table]:
    """Return one table per split with such parts: rows are classes or groups, columns populations."""
    tables = []
    for split in SPLITS:
        parts = _parts(scores, split, by)
        found = [one for one in in_order(scores) if any(slice_of(one, split, by, key) for key in parts)]
        if parts and found:
            tables.append(_part_table(scores, split, by, parts, found))
    return tables


def _parts(scores: Scores, split: str, by: str) -> dict[str, int]:
    """Return part -> number of images; classes in the study's order."""
    slices = [part for one in scores.populations.values() for part in one.slices]
    found = {part.key: part.images for part in slices if (part.split, part.by) == (split, by)}
    place = {key: number for number, key in enumerate(scores.class_names)}
    return {key: found[key] for key in sorted(found, key=lambda key: (place.get(key, len(place)), key))}


def _part_table(scores: Scores, split: str, by: str, parts: dict[str, int], found: list[PopulationScores]) -> Table:
    reference = reference_of(scores)
    rows = []
    for key, images in parts.items():
        there = slice_of(reference, split, by, key)
        cells = [_part_cell(slice_of(one, split, by, key), there, one) for one in found]
        rows.append((name(key), number(images, f"{images:,}"), *cells))
    return Table(
        name=f"{split}-by-{by}",
        caption=f"Accuracy on {split} images by {by}, %",
        columns=(
            Column(by, align="left"),
            Column("images"),
            *(Column(one.population, f"N {one.runs}") for one in found),
        ),
        rows=tuple(rows),
        reference=scores.reference,
        explained=f"Mean over N runs; small: the difference from {scores.reference} in percentage points.",
    )


def _part_cell(here: Slice | None, reference: Slice | None, found: PopulationScores) -> Cell:
    if here is None:
        return DASH
    if reference is None or found.role == "reference":
        return _accuracy_cell(here, found, f"sd {percent(here.accuracy.sd)}" if here.accuracy.sd is not None else "")
    difference = here.accuracy.mean - reference.accuracy.mean
    return _accuracy_cell(here, found, points(difference), difference)
