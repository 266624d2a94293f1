"""Several studies' scores -> one table of methods x studies, in which a place is a claim.

    board = [Entry(scores, added=frozenset({"mine"})), ...]
    Path("board.html").write_text(leaderboard_page(board), encoding="utf-8")
    text = leaderboard_markdown(board)

A row is a population's name, and a study has two columns: the score, with N, 95 % interval and null, and the places
that the runs allow, with the cost. Places hold for all populations of a study together (`evaluation.ranks`); two whose
places overlap are a tie. Rows stand by the middle of their places, averaged over studies: that order claims nothing.

Does not cover: computing scores (`ray_unlearn.evaluation`), and whose rows may be added (`interchange.packed`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from ray_unlearn.evaluation.scores import PopulationScores, Scores
from ray_unlearn.report.markdown import escaped, markdown_table
from ray_unlearn.report.page import asset, policy, template
from ray_unlearn.report.ranking import (
    at_once,
    estimate,
    lost_accuracy,
    null_of,
    originals_of,
    place,
    quoted,
    reference_of,
    slice_of,
)
from ray_unlearn.report.score_tables import cost_cell, estimate_cell, null_bar, score_bar, top_of
from ray_unlearn.report.table import DASH, Cell, Column, Table, name, number
from ray_unlearn.wording import MISSING, decimals, joined, percent, plural, span

ITSELF = "retraining itself"
"""Name of the row of nulls."""
_FEW = 2
"""As many studies fit a screen with a bar on the left of each score; with more, the bars stand above the scores."""
LEAD = (
    "How close unlearning methods come to retraining, by the score of the NeurIPS 2023 challenge. 1 is out of reach: a "
    "perfect method would get what retraining gets against itself, and less where all runs start from few originals."
)
EXPLAINED = (
    "Score: forgetting quality times the ratios of retain and test accuracy to those of retrained models, with N runs "
    "a side and a 95 % interval over seeds, for all methods of a study at once where they have places. Null: the same "
    "number between halves of the retrained models. Places: all that the runs allow, at 95 % for all methods of a "
    "study together; methods whose places overlap are tied. Rows stand by the middle of their places, averaged over "
    "studies, which claims nothing. From fewer than 4 originals, intervals and places hold for these originals alone, "
    "and a perfect method stays below the null. Scores of different studies do not compare. Cost: a run's training "
    "over that of retraining, medians. A cross: accuracy was lost."
)


@dataclass(frozen=True, slots=True)
class Entry:
    """One study on the board."""

    scores: Scores
    added: frozenset[str] = frozenset()
    """Populations that were added from packed folders."""


def leaderboard_page(board: Sequence[Entry]) -> str:
    """Return the board as one HTML page that needs no network; the same scores give the same bytes."""
    versions = sorted({f"{key} {value}" for one in board for key, value in one.scores.versions.items()})
    return template("leaderboard.html").render(
        policy=policy(),
        style=asset("page.css"),
        script=asset("page.js"),
        lead=LEAD,
        facts=f"{len(board)} {'study' if len(board) == 1 else 'studies'}, {plural(len(_names(board)), 'method')}",
        board=board_table(board),
        many=len(board) > _FEW,
        studies=studies_table(board),
        warnings=_warnings(board),
        versions=", ".join(versions),
    )


def leaderboard_markdown(board: Sequence[Entry]) -> str:
    """Return the board as GitHub's Markdown."""
    tables = [part for table in (board_table(board), studies_table(board)) for part in markdown_table(table)]
    warnings = "\n".join(f"- Warning: {escaped(line)}" for line in _warnings(board))
    return "\n\n".join(["# Leaderboard", escaped(LEAD), *([warnings] if warnings else []), *tables]) + "\n"


def _warnings(board: Sequence[Entry]) -> list[str]:
    """Return the warnings of whole evaluations, after the study that they are about."""
    return [f"{one.scores.study}: {line}" for one in board for line in one.scores.warnings]


def board_table(board: Sequence[Entry]) -> Table:
    """Return methods x studies, and the row of retraining against itself."""
    board = [replace(one, scores=quoted(one.scores)) for one in board]
    columns = [Column("method", align="left")]
    for one in board:
        unit = f"{one.scores.mode} mode{_starts(one.scores)}"
        columns += [
            Column(one.scores.study, f"score, {unit}", f"score, 95 % interval{at_once(one.scores)}, N and null"),
            Column("place", one.scores.study, "all places that the runs allow; cost"),
        ]
    rows = [_row(board, population) for population in _in_order(board)]
    return Table(
        name="board",
        caption="Methods by study",
        columns=tuple(columns),
        rows=(_null_row(board), *rows),
        reference=ITSELF,
        explained=EXPLAINED,
    )


def _starts(scores: Scores) -> str:
    """Return how many originals runs start from, such as `, 2 originals`; empty where all are from scratch."""
    found = [one.originals for one in scores.populations.values() if one.role == "unlearned" and one.originals]
    if not found:
        return ""
    few = f"{min(found)} to " if min(found) < max(found) else ""
    return f", {few}{plural(max(found), 'original')}"


def _names(board: Sequence[Entry]) -> list[str]:
    """Return all unlearned populations, in the order in which the studies name them."""
    return list(
        dict.fromkeys(
            name for one in board for name, found in one.scores.populations.items() if found.role == "unlearned"
        )
    )


def _in_order(board: Sequence[Entry]) -> list[str]:
    """Return the rows: by the mean over studies of the middle of their places, those without places last."""
    names = _names(board)

    def middle(population: str) -> float:
        places = [one.scores.ranks.get("score", {}).get(population) for one in board]
        middles = [(one.best + one.worst) / 2 for one in places if one]
        return fmean(middles) if middles else float("inf")

    return sorted(names, key=middle)


def _row(board: Sequence[Entry], population: str) -> tuple[Cell, ...]:
    added = any(population in one.added for one in board)
    methods = {one.scores.populations[population].method for one in board if population in one.scores.populations}
    other = ", ".join(sorted(methods - {population}))
    return (
        name(population, other, "added from packed populations" if added else ""),
        *(cell for one in board for cell in _cells(one, population)),
    )


def _cells(entry: Entry, population: str) -> tuple[Cell, Cell]:
    """Return a population's score and places in one study; dashes where the study does not have it."""
    scores, found = entry.scores, entry.scores.populations.get(population)
    if found is None or found.role != "unlearned":
        return DASH, DASH
    score = estimate(found, "score")
    bar = score_bar(score, top_of(scores), f"{population} in {scores.study}: score")
    shared_n = score.n if score.null_n == score.n else 0  # which the null's line states already
    cell = replace(estimate_cell(score, shared_n, null=True), bar=bar, good=False if lost_accuracy(found) else None)
    places, rank = place(scores, population), scores.ranks.get("score", {}).get(population)
    why = "" if rank else "no place: too few runs"
    cost = cost_cell(found)
    costs = f"cost {cost.text}" if cost.text != MISSING else ""
    middle = (rank.best + rank.worst) / 2 if rank else None
    return cell, number(middle, places if rank else MISSING, costs, why)


def _null_row(board: Sequence[Entry]) -> tuple[Cell, ...]:
    cells: list[Cell] = []
    for one in board:
        found = null_of(one.scores, "score")
        if found is None or found.null is None:
            cells += [DASH, DASH]
            continue
        bar = null_bar(found, top_of(one.scores), f" in {one.scores.study}")
        ends = span(found.null_low, found.null_high)
        cells += [number(found.null, decimals(found.null), interval=ends, n=found.null_n, bar=bar), DASH]
    return name(ITSELF, "the null: range over halvings"), *cells


def studies_table(board: Sequence[Entry]) -> Table:
    """Return a row per study: its models' accuracies, and the gap that there is to close."""
    return Table(
        name="studies",
        caption="The studies",
        columns=(
            Column("study", align="left"),
            Column("forget images"),
            Column("originals", "N: retain, forget, test accuracy, %"),
            Column("retrained", "N: retain, forget, test accuracy, %"),
            Column("gap", "points of forget accuracy; loss", "what there is to forget: original minus retrained"),
            Column("seconds", "of one retrained run", "mean wall time of its training"),
        ),
        rows=tuple(_study_row(one.scores) for one in board),
        explained="Gap: how much surer the originals are of the forget images than retrained models: accuracy in "
        "percentage points, and how much lower their mean cross-entropy is.",
    )


def _study_row(scores: Scores) -> tuple[Cell, ...]:
    reference, original = reference_of(scores), next(iter(originals_of(scores)), None)
    seconds = reference.cost.seconds if reference else None
    images = scores.images.get("forget", 0)
    return (
        name(scores.study),
        number(images, f"{images:,}"),
        _accuracies(original),
        _accuracies(reference),
        _gap(original, reference),
        number(seconds.mean, decimals(seconds.mean), n=seconds.n) if seconds else DASH,
    )


def _accuracies(found: PopulationScores | None) -> Cell:
    if found is None:
        return DASH
    slices = [slice_of(found, split) for split in ("retain", "forget", "test")]
    values = [percent(one.accuracy.mean) if one else MISSING for one in slices]
    return number(slices[1].accuracy.mean if slices[1] else None, ", ".join(values), n=found.runs)


def _gap(original: PopulationScores | None, reference: PopulationScores | None) -> Cell:
    ours, theirs = slice_of(original, "forget"), slice_of(reference, "forget")
    if ours is None or theirs is None:
        return DASH
    points = 100 * (ours.accuracy.mean - theirs.accuracy.mean)
    loss = theirs.loss.mean - ours.loss.mean if ours.loss and theirs.loss else None
    return number(points, joined(f"{points:.1f}", f"loss {decimals(loss)}" if loss is not None else "", by="; "))
