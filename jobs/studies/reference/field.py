"""Compare the reference studies with the orders that the field published; write tables into README.md of this folder.

    python jobs/studies/reference/field.py studies/reference-digits studies/reference-cifar10 studies/reference-faces

Published orders, with their sources, are below. Agreement with an order is Kendall's tau-b of our scores with it; of
pairs, the share in which the better one has the higher score. The interval is of 2,000 bootstrap samples of the
methods, each with scores drawn anew within their standard errors; p is the share of 20,000 random orders that agree
as well or better. With so few methods, both are wide, and that is the message.

Does not cover: making and scoring the studies (`ray-unlearn all`).
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ray_unlearn.errors import StoreError
from ray_unlearn.evaluation.evaluate import read_scores
from ray_unlearn.evaluation.scores import Scores
from ray_unlearn.report.leaderboard import Entry, board_table, studies_table
from ray_unlearn.report.markdown import markdown_table
from ray_unlearn.store import StudyStore, open_storage
from ray_unlearn.terminal import run_script
from ray_unlearn.wording import MISSING, plural

README = Path(__file__).resolve().parent / "README.md"
PLACES = ("fanchuan", "kookmin", "seif", "sebastian", "toshi_marvel", "amnesiacs", "sun", "forget", "finetune")
"""The challenge's final places (its site and the teams' write-ups), then the official fine-tuning notebook."""
PRIVATE = {
    "seif": 0.0885,
    "sebastian": 0.0863052371,
    "toshi_marvel": 0.0785184178,
    "amnesiacs": 0.07831,
    "finetune": 0.0583642010,
}
"""Private scores as far as teams state them (Kaggle discussions 459334, 459148, 458531, 458740), and MLRC-Bench's
figure for the official notebook."""
_OTHERS = ("finetune", "gradient_ascent", "negative_gradient_plus", "random_label", "salun", "scrub", "bad_teacher")
_WINNERS = ("fanchuan", "seif", "sebastian", "amnesiacs", "sun")
PAIRS = (
    *((best, other) for best in ("kookmin", "toshi_marvel") for other in (*_OTHERS, *_WINNERS)),
    ("negative_gradient_plus", "gradient_ascent"),
    ("negative_gradient_plus", "random_label"),
)
"""(better, worse) as Deep Unlearn's abstract states it (arXiv 2410.01276): MSG and CT consistently first among its 18
methods; NG+ a better baseline than GA and SRL. Its tables were not read."""
_BOOTSTRAPS, _PERMUTATIONS = 2_000, 20_000
_FEWEST = 4


@dataclass(frozen=True, slots=True)
class Agreement:
    """How far our scores agree with a published order."""

    methods: int
    value: float
    low: float
    high: float
    p: float


Statistic = Callable[[np.ndarray, Sequence[str]], float]
"""Scores [methods] and the methods' names -> a number that is larger where they agree better; NaN for none."""


def tau_with(order: Mapping[str, float]) -> Statistic:
    """Return Kendall's tau-b with published values, larger ones being better."""

    def tau(scores_M: np.ndarray, names: Sequence[str]) -> float:
        published_M = np.array([order[name] for name in names])
        ours, theirs = (np.sign(one[:, None] - one[None, :]) for one in (scores_M, published_M))
        size = np.sqrt((ours**2).sum() * (theirs**2).sum())
        return float((ours * theirs).sum() / size) if size else np.nan

    return tau


def share_of(pairs: Sequence[tuple[str, str]]) -> Statistic:
    """Return the share of published pairs in which the better method has the higher score."""

    def share(scores_M: np.ndarray, names: Sequence[str]) -> float:
        rows: dict[str, list[int]] = {}
        for row, name in enumerate(names):
            rows.setdefault(name, []).append(row)
        agreed = [
            scores_M[first] > scores_M[last]
            for better, worse in pairs
            for first in rows.get(better, ())
            for last in rows.get(worse, ())
        ]
        return float(np.mean(agreed)) if agreed else np.nan

    return share


def agreement(scores: Scores, methods: Sequence[str], statistic: Statistic) -> Agreement | None:
    """Return the agreement of a study's scores; None where it has fewer than four of the methods."""
    found = {name: scores.populations[name].measures["score"] for name in methods if name in scores.populations}
    found = {name: one for name, one in found.items() if one.value is not None and one.se is not None}
    if len(found) < _FEWEST:
        return None
    names, rng = list(found), np.random.default_rng(scores.seed)
    values_M = np.array([one.value for one in found.values()])
    errors_M = np.array([one.se for one in found.values()])
    drawn = []
    for _ in range(_BOOTSTRAPS):
        rows = rng.integers(len(names), size=len(names))
        noisy = values_M[rows] + errors_M[rows] * rng.standard_normal(len(names))
        drawn.append(statistic(noisy, [names[row] for row in rows]))
    value = statistic(values_M, names)
    random = [statistic(rng.permutation(values_M), names) for _ in range(_PERMUTATIONS)]
    low, high = np.nanquantile(drawn, [0.025, 0.975])
    p = (1 + sum(one >= value - 1e-12 for one in random)) / (1 + _PERMUTATIONS)
    return Agreement(len(names), value, float(low), float(high), p)


def field_lines(board: Sequence[Scores]) -> list[str]:
    """Return a table: published orders, and how far each study agrees."""
    by_place = {name: -float(place) for place, name in enumerate(PLACES)}
    rows: list[tuple[str, str, Sequence[str], Statistic]] = [
        ("the challenge's final places, then its fine-tuning notebook", "tau", PLACES, tau_with(by_place)),
        ("the private scores that teams state", "tau", list(PRIVATE), tau_with(PRIVATE)),
        (
            "Deep Unlearn's abstract: 26 pairs",
            "share",
            sorted({one for pair in PAIRS for one in pair}),
            share_of(PAIRS),
        ),
    ]
    lines = [
        "| published order | " + " | ".join(scores.study for scores in board) + " |",
        "|---|" + "---|" * len(board),
    ]
    for label, what, methods, statistic in rows:
        cells = [_cell(agreement(scores, methods, statistic), what) for scores in board]
        lines.append(f"| {label} | {' | '.join(cells)} |")
    return lines


def _cell(found: Agreement | None, what: str) -> str:
    if found is None:
        return MISSING
    interval = f"[{found.low:.2f}, {found.high:.2f}]"
    return f"{what} {found.value:.2f} {interval}, {found.methods} methods, p {found.p:.2f}"


def time_lines(stores: Sequence[StudyStore]) -> list[str]:
    """Return a table: runs, CPU minutes, and what made them."""
    lines = ["| study | runs | CPU minutes | a retrained run, CPU s | on |", "|---|---|---|---|---|"]
    for store in stores:
        records = [one for name in store.populations() for one in store.made(name).values()]
        minutes = sum(sum(one.cpu_seconds.values()) for one in records) / 60
        each = [sum(one.cpu_seconds.values()) for one in store.made("retrained").values()]
        kinds = sorted({f"{one.device}, {one.arithmetic.get('cpu_capability', '')}" for one in records})
        threads = sorted({plural(one.threads, "thread") for one in records})
        on = f"{'; '.join(kinds)}, {', '.join(threads)} a run"
        lines.append(f"| {store.name} | {len(records):,} | {minutes:.0f} | {np.median(each):.1f} | {on} |")
    return lines


def written(text: str, name: str, lines: Sequence[str]) -> str:
    """Return the text with the part between the marks `<!-- NAME: begin -->` and `<!-- NAME: end -->` replaced.

    Raises:
        StoreError: the text has no such marks.

    """
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    if begin not in text or end not in text:
        raise StoreError(f"{README}: expected the marks {begin} and {end}; found none")
    body = "\n".join(lines)
    return re.sub(f"{begin}.*?{end}", lambda _: f"{begin}\n{body}\n{end}", text, flags=re.DOTALL)


def main() -> None:
    """Write the tables of evaluated studies into the README."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("stores", nargs="+", help="Folders of evaluated studies, STORAGE/STUDY.")
    parser.add_argument("--readme", type=Path, default=README)
    arguments = parser.parse_args()
    places = [text.rstrip("/").rpartition("/") for text in arguments.stores]
    stores = [StudyStore(open_storage(storage or "."), name) for storage, _, name in places]
    board = [read_scores(store) for store in stores]
    entries = [Entry(scores) for scores in board]
    text = arguments.readme.read_text(encoding="utf-8")
    for name, lines in {
        "board": markdown_table(board_table(entries))[1:],
        "studies": markdown_table(studies_table(entries))[1:],
        "field": field_lines(board),
        "time": time_lines(stores),
    }.items():
        text = written(text, name, ["\n\n".join(lines)] if name in ("board", "studies") else lines)
    arguments.readme.write_text(text, encoding="utf-8")
    sys.stdout.write(f"wrote {arguments.readme}\n")


if __name__ == "__main__":
    run_script(main)
