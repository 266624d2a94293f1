"""Print a study's populations as a Markdown table: accuracies, and training time relative to the reference's.

    python tests/bench/methods_table.py jobs/studies/methods-digits.yaml [--set storage=FOLDER] [--as FILE]

For each population: N, mean ± standard deviation of retain, forget and test accuracy over its N checkpoints in %, and
its median training seconds divided by the median of `evaluation.reference`, because any run may meet a busy machine.
Before it prints, it checks what the
table rests on, and ends with 1 where something does not hold: every loss is finite; the checkpoints of a population
differ from one another, unless its method is declared deterministic; and, with --again, every run that STORAGE holds of
the same study, too, has the same bytes there. A run without a checkpoint (`keep_checkpoints: false`) is known by its
outputs; what has no figure, such as a split without outputs or a population without runs, is a dash.

Needs a study that is made, at least in part, and one CPU for a second. Expected: the tables in the README.
"""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path

from ray_unlearn.errors import RayUnlearnError, StoreError
from ray_unlearn.methods import METHODS
from ray_unlearn.store import Record, StudyStore, open_storage
from ray_unlearn.store.metrics import accuracy_table, metrics_table
from ray_unlearn.store.records import CHECKPOINT
from ray_unlearn.study import Study, load_study


def main() -> int:
    """Check, print, and return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("study", type=Path)
    parser.add_argument("--set", action="append", default=[], metavar="KEY.KEY=VALUE", help="Override the study.")
    parser.add_argument("--again", metavar="STORAGE", help="Where some of the runs were made a second time.")
    parser.add_argument("--as", dest="file", type=Path, help="Write the table here, too.")
    arguments = parser.parse_args()
    study = load_study(arguments.study, arguments.set)
    store = StudyStore(open_storage(study.storage), study.name)
    again = StudyStore(open_storage(arguments.again), study.name) if arguments.again else None
    if not any(store.made(name) for name in study.populations):
        raise StoreError(f"{store.uri}: no run of the study is made there; `ray-unlearn generate` makes them")
    problems = [line for name in study.populations for line in _problems(study, name, store, again)]
    table = "\n".join(_table(study, store)) + "\n"
    sys.stdout.write(table + "".join(f"\nproblem: {line}" for line in problems) + "\n" * bool(problems))
    if arguments.file:
        arguments.file.write_text(table)
    return 1 if problems else 0


def _problems(study: Study, name: str, store: StudyStore, again: StudyStore | None) -> list[str]:
    records, planned = store.made(name), study.populations[name].planned
    found = [f"{name}: {len(records)} of {planned} runs are made"] if len(records) < planned else []
    for index, record in records.items():
        losses = [*record.epoch_loss, *(value for key, value in record.metrics.items() if key.endswith("_loss"))]
        if not all(map(math.isfinite, losses)):
            found.append(f"{name}/{index:05d}: a loss is not finite: {losses}")
    different = {_content(record) for record in records.values()}
    method = study.populations[name].method_name
    expected = min(len(records), 1) if method in METHODS and METHODS[method].deterministic else len(records)
    if len(different) != expected:
        found.append(f"{name}: {len(different)} different checkpoints; {method} should have {expected}")
    for index, other in (again.made(name) if again else {}).items():
        if index not in records or other.payloads != records[index].payloads:
            found.append(f"{name}/{index:05d}: other bytes in {again.uri if again else ''}")
    if again and not again.made(name):
        found.append(f"{name}: {again.uri} has none of its runs to compare")
    return found


def _content(record: Record) -> tuple[tuple[str, str], ...]:
    """Return what distinguishes a run from others: its checkpoint's sha256, or where none was kept its outputs'."""
    kept = [CHECKPOINT] if CHECKPOINT in record.payloads else sorted(record.payloads)
    return tuple((name, record.payloads[name].sha256) for name in kept)


def _table(study: Study, store: StudyStore) -> list[str]:
    names = list(study.populations)
    splits = ("retain", "forget", "test")
    seconds = metrics_table(store).groupby("population")["seconds_train"].median()
    reference = seconds.get(study.evaluation.reference if study.evaluation else "", math.nan)
    lines = [f"| population | N | {' | '.join(splits)} | cost |", "|---|---|---|---|---|---|"]
    for row in accuracy_table(store, names).to_dict("records"):
        cells = [_cell(row.get(f"{split} mean", math.nan), row.get(f"{split} sd", math.nan)) for split in splits]
        cost = seconds.get(row["population"], math.nan) / reference
        cells.append("-" if math.isnan(cost) else f"{cost:.2f}")
        lines.append(f"| `{row['population']}` | {row['N']} | {' | '.join(cells)} |")
    return lines


def _cell(mean: float, spread: float) -> str:
    if math.isnan(mean):
        return "-"
    return f"{100 * mean:.1f}" if math.isnan(spread) else f"{100 * mean:.1f} ± {100 * spread:.1f}"


if __name__ == "__main__":
    try:
        sys.exit(main())
    except RayUnlearnError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(error.exit_code)
