"""Print a study's populations as a Markdown table: accuracies, forgetting quality, cost, and the method's revision.

    python tests/bench/methods_table.py jobs/studies/methods-digits.yaml [--set storage=FOLDER]
    python tests/bench/methods_table.py jobs/studies/methods-digits.yaml --readme ray_unlearn/methods/README.md
    python tests/bench/methods_table.py jobs/studies/methods-digits.yaml --before FOLDER     # what changed since

For each population: N; mean ± standard deviation of retain, forget and test accuracy over its N checkpoints in %; F of
its N runs against as many of `evaluation.reference` (parity mode), and for the reference the null at the largest N
that has one: F between disjoint parts of the reference, mean and range over ten divisions; its median training time
divided by the reference's median: CPU time where all runs were made on CPUs and state it, because other work hardly
changes that, else wall time; the revision of its method.

Below the table is the CPU time of all runs that the study plans, where every population has a run that states it: the
median for training and outputs by the number of runs. The tables are to be made again within an hour on two cores;
one run of each population gave 8.1 CPU minutes for digits and 16.5 for CIFAR-10, together 12 minutes on two cores.

--readme replaces the table between the file's markers `<!-- NAME: begin -->` and `<!-- NAME: end -->`, NAME being the
study's, and adds what each row was made with: a digest of the method, its revision and its options.
`tests/test_methods_table.py` fails where that is no longer what the study would make.

--before names the storage of an earlier version's runs of the study. Populations whose runs have the same outputs are
counted, the others are printed side by side: over the runs that both have, F against the reference's runs that both
have.

Before it prints, it checks what the table rests on, and ends with 1 where something does not hold: every loss is
finite; the checkpoints of a population differ from one another, unless its method is declared deterministic; and, with
--again, every run that STORAGE holds of the same study, too, has the same bytes there; the cost is then of those runs,
so that a few runs measure the time again. A run without a checkpoint
(`keep_checkpoints: false`) is identified by its outputs. A dash stands for a figure that does not exist, such as the
accuracy of a split without outputs.

Needs a study that is made, at least in part, and one CPU for a minute. Expected: the tables in methods/README.md.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

from ray_unlearn.errors import StoreError
from ray_unlearn.evaluation.measures.forgetting_quality import LEAST_TO_SCORE, forgetting_quality
from ray_unlearn.evaluation.outputs import read_outputs
from ray_unlearn.evaluation.populations import FloatArray
from ray_unlearn.methods import METHODS
from ray_unlearn.methods.resolve import resolve
from ray_unlearn.seeds import Seeds
from ray_unlearn.store import Record, StudyStore, open_storage
from ray_unlearn.store.metrics import metrics_table
from ray_unlearn.store.records import CHECKPOINT, OUTPUTS
from ray_unlearn.study import Study, load_study
from ray_unlearn.study.identity import digest
from ray_unlearn.study.plan import ORIGINAL
from ray_unlearn.terminal import run_script

_DIVISIONS = 10  # of the reference into two halves


def main() -> int:
    """Check, print, and return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("study", type=Path)
    parser.add_argument("--set", action="append", default=[], metavar="KEY.KEY=VALUE", help="Override the study.")
    parser.add_argument("--again", metavar="STORAGE", help="Storage of some of the runs, made a second time.")
    parser.add_argument("--before", metavar="STORAGE", help="Storage of an earlier version's runs.")
    parser.add_argument("--readme", type=Path, help="Write the table between this file's markers.")
    arguments = parser.parse_args()
    study = load_study(arguments.study, arguments.set)
    store = StudyStore(open_storage(study.storage), study.name)
    again = StudyStore(open_storage(arguments.again), study.name) if arguments.again else None
    if not any(store.made(name) for name in study.populations):
        raise StoreError(f"{store.uri}: no run of the study is made there; `ray-unlearn generate` makes them")
    problems = [line for name in study.populations for line in _problems(study, name, store, again)]
    if arguments.before:
        before = StudyStore(open_storage(arguments.before), study.name)
        table = "\n".join(_side_by_side(study, store, before)) + "\n"
    else:
        table = "\n".join([*_table(study, store, again or store), *_whole_cost(study, again or store)]) + "\n"
    sys.stdout.write(table + "".join(f"\nproblem: {line}" for line in problems) + "\n" * bool(problems))
    if arguments.readme:
        _write_into(arguments.readme, study.name, table + made_with(study))
    return 1 if problems else 0


def made_with(study: Study) -> str:
    """Return a comment with a digest of what each row is made with: method, revision, options."""
    digests = {name: digest(resolve(study, name).identity)[:8] for name in study.populations}
    lines = textwrap.wrap(", ".join(f"{name} {found}" for name, found in digests.items()), 110)
    return "\n".join(["<!-- made with", *lines, "-->"]) + "\n"


def _write_into(file: Path, name: str, text: str) -> None:
    begin, end = f"<!-- {name}: begin -->\n", f"<!-- {name}: end -->"
    before, found, rest = file.read_text().partition(begin)
    _, found_too, after = rest.partition(end)
    if not found or not found_too:
        raise StoreError(f"{file}: expected the lines {begin.strip()} and {end}, between which the table goes")
    file.write_text(before + begin + text + end + after)


def _problems(study: Study, name: str, store: StudyStore, again: StudyStore | None) -> list[str]:
    records, planned = store.made(name), study.populations[name].planned
    found = [f"{name}: {len(records)} of {planned} runs are made"] if len(records) < planned else []
    for index, record in records.items():
        losses = [*record.epoch_loss, *(value for key, value in record.metrics.items() if key.endswith("_loss"))]
        if not all(map(math.isfinite, losses)):
            found.append(f"{name}/{index:05d}: a loss is not finite: {losses}")
    different = {_content(record) for record in records.values()}
    expected = min(len(records), 1) if resolve(study, name).deterministic else len(records)
    if len(different) != expected:
        method = study.populations[name].method_name
        found.append(f"{name}: {len(different)} different checkpoints; {method} should have {expected}")
    for index, other in (again.made(name) if again else {}).items():
        if index not in records or other.payloads != records[index].payloads:
            found.append(f"{name}/{index:05d}: other bytes in {again.uri if again else ''}")
    if again and not again.made(name):
        found.append(f"{name}: {again.uri} has none of its runs to compare")
    return found


def _content(record: Record) -> tuple[tuple[str, str], ...]:
    """Return what identifies a run: its checkpoint's sha256, or where none was kept its outputs'."""
    kept = [CHECKPOINT] if CHECKPOINT in record.payloads else sorted(record.payloads)
    return tuple((name, record.payloads[name].sha256) for name in kept)


def _table(study: Study, store: StudyStore, timed: StudyStore) -> list[str]:
    """Return a row for each population; `timed` holds the runs whose time is its cost."""
    lines = ["| population | N | retain | forget | test | F | cost | revision |", "|---|---|---|---|---|---|---|---|"]
    costs, reference = _costs(study, timed), _reference(study, store)
    for name, spec in study.populations.items():
        made = store.made(name)
        records = [made[run] for run in sorted(made) if run < spec.planned]
        revision = str(METHODS[spec.method_name].revision) if spec.method_name in METHODS else "-"
        quality = _quality(study, store, reference, name, [record.index for record in records])
        cells = [*_accuracies([record.metrics for record in records]), quality, costs.get(name, "-"), revision]
        lines.append(f"| `{name}` | {len(records)} | {' | '.join(cells)} |")
    return lines


def _side_by_side(study: Study, store: StudyStore, before: StudyStore) -> list[str]:
    """Return a row for each population whose runs have other outputs than before, over the runs that both have."""
    same: list[str] = []
    common = _common(store, before, study.evaluation.reference) if study.evaluation else []
    reference = {"before": _reference(study, before, common), "after": _reference(study, store, common)}
    lines = ["| population | N | when | retain | forget | test | F |", "|---|---|---|---|---|---|---|"]
    for name in study.populations:
        ours, theirs = store.made(name), before.made(name)
        both = _common(store, before, name)
        if not both:
            continue
        if all(ours[run].payloads[OUTPUTS].sha256 == theirs[run].payloads[OUTPUTS].sha256 for run in both):
            same.append(name)
            continue
        for when, one, records in (("before", before, theirs), ("after", store, ours)):
            quality = _quality(study, one, reference[when], name, both)
            cells = [*_accuracies([records[run].metrics for run in both]), quality]
            lines.append(f"| `{name}` | {len(both)} | {when} | {' | '.join(cells)} |")
    return [*lines, "", f"The same outputs, byte for byte: {', '.join(same) or 'none'}."]


def _common(store: StudyStore, before: StudyStore, name: str | None) -> list[int]:
    return sorted(store.made(name).keys() & before.made(name).keys()) if name else []


def _accuracies(metrics: Sequence[Mapping[str, float]]) -> list[str]:
    cells = []
    for key in ("retain_accuracy", "forget_accuracy", "test_accuracy"):
        values = [each[key] for each in metrics if key in each]
        mean = statistics.fmean(values) if values else math.nan
        cells.append(_cell(mean, statistics.stdev(values) if len(values) > 1 else math.nan))
    return cells


def _costs(study: Study, store: StudyStore) -> dict[str, str]:
    table = metrics_table(store)
    on_cpu = (
        "cpu_seconds_train" in table and table["cpu_seconds_train"].notna().all() and (table["device"] == "cpu").all()
    )
    seconds = table.groupby("population")["cpu_seconds_train" if on_cpu else "seconds_train"].median()
    reference = seconds.get(study.evaluation.reference if study.evaluation else "", math.nan)
    return {} if math.isnan(reference) else {str(name): f"{each / reference:.2f}" for name, each in seconds.items()}


def _whole_cost(study: Study, store: StudyStore) -> list[str]:
    """Return a line about the CPU time of all planned runs; none where a population has no run that states it."""
    seconds = 0.0
    for name, spec in study.populations.items():
        found = [sum(one.cpu_seconds.values()) for one in store.made(name).values() if one.cpu_seconds]
        if not found:
            return []
        seconds += spec.planned * statistics.median(found)
    runs = sum(spec.planned for spec in study.populations.values())
    return ["", f"All {runs} runs: {seconds / 60:.1f} CPU minutes, on two cores {seconds / 120:.1f} minutes."]


def _reference(study: Study, store: StudyStore, only: Sequence[int] | None = None) -> FloatArray | None:
    """Return phi of the reference's runs, or of some of them."""
    name = study.evaluation.reference if study.evaluation else None
    return _phi(store, name, list(store.made(name)) if only is None else only) if name else None


def _quality(study: Study, store: StudyStore, reference: FloatArray | None, name: str, runs: Sequence[int]) -> str:
    """Return F of these runs, or of the reference its null; a dash where there are too few or no outputs."""
    if reference is None or name == ORIGINAL:
        return "-"
    if study.evaluation and name == study.evaluation.reference:
        return _null(study, reference)
    phi = _phi(store, name, runs[: len(reference)])
    return "-" if phi is None else f"{forgetting_quality(phi, reference[: len(phi)]).score:.3f}"


def _null(study: Study, reference: FloatArray) -> str:
    half = len(reference) // 2
    if half < LEAST_TO_SCORE:
        return "-"
    rng, scores = Seeds(study=study.seed).numpy("null-of-the-table"), []
    for _ in range(_DIVISIONS):
        order = rng.permutation(len(reference))
        scores.append(forgetting_quality(reference[order[:half]], reference[order[half : 2 * half]]).score)
    return f"null {sum(scores) / len(scores):.3f} ({min(scores):.3f} to {max(scores):.3f}), N {half}"


def _phi(store: StudyStore, name: str, runs: Sequence[int]) -> FloatArray | None:
    """Return phi of the forget images, [runs, images]; None where no F can be computed of it."""
    records = {run: record for run, record in store.made(name).items() if run in runs}
    splits = read_outputs(store, name, records).splits if len(records) >= LEAST_TO_SCORE else {}
    return splits["forget"].phi_RN if "forget" in splits else None


def _cell(mean: float, spread: float) -> str:
    if math.isnan(mean):
        return "-"
    return f"{100 * mean:.1f}" if math.isnan(spread) else f"{100 * mean:.1f} ± {100 * spread:.1f}"


if __name__ == "__main__":
    run_script(main)
