"""The subcommand that shows what `generate` would do: plan.

    ray-unlearn plan faces.yaml --workers 8

Does not cover: how it is found out (`ray_unlearn.generation`: `checks`, `estimates`).
"""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from ray_unlearn.cli.options import AsJson, GpusPerWorker, Overrides, StudyFile, Workers, typed
from ray_unlearn.terminal import print_error, print_line
from ray_unlearn.wording import MISSING, aligned, decimals, duration, percent, plural

if TYPE_CHECKING:
    from ray_unlearn.generation.estimates import Estimate
    from ray_unlearn.generation.forecast import Forecast


def plan(
    study: StudyFile,
    workers: Workers = None,
    gpus_per_worker: GpusPerWorker = None,
    quick: Annotated[
        bool,
        typer.Option("--quick", help="Check only what needs no torch; methods and the architecture are not checked."),
    ] = False,
    as_json: AsJson = False,
    overrides: Overrides = [],  # noqa: B006
) -> None:
    """Show problems, runs, time and disk; make nothing.

    All problems are named, each with its line of the file. Times come from runs that were made, else from a step that
    is measured on this machine. The exit code is that of the first problem; 0 without one.
    """
    from ray_unlearn.generation.checks import Checks
    from ray_unlearn.generation.forecast import look_ahead
    from ray_unlearn.study.loading import examine

    found, wrong = examine(study, overrides)
    problems, forecast = dict.fromkeys(wrong, 2), None
    if found is not None:
        checks = Checks(found)
        checks.before_torch()
        if not quick:
            checks.with_torch()
        problems |= checks.problems
        if not problems:
            forecast = look_ahead(checks, workers=workers, gpus_per_worker=gpus_per_worker)
    if as_json:
        print_line(json.dumps({"problems": list(problems), **(_values(forecast) if forecast else {})}, indent=1))
    else:
        for problem in sorted(problems, key=_line):
            print_error(f"error: {problem}")
        next_step = typed("generate", study, overrides)
        for line in _lines(forecast, next_step, quick) if forecast else [f"{plural(len(problems), 'problem')} found"]:
            print_line(line)
        if forecast and found and found.adaptive:
            print_line(found.adaptive.all_made(typed("all", study, overrides)))
    raise typer.Exit(next(iter(problems.values()), 0))


def _line(problem: str) -> int:
    """Return the line of the file that a problem names; problems without a line come last."""
    place = problem.partition(": ")[0].rpartition(":")[2]
    return int(place) if place.isdecimal() else 10**9


def _lines(forecast: Forecast, next_step: str, quick: bool) -> list[str]:
    estimates = list(forecast.estimates.values())
    rows = [["population", "runs", "made", "to make", "s/run", "of retraining", "MB/run", "estimated from"]]
    rows += [_row(one) for one in estimates]
    lines = aligned(rows)
    lines += [
        f"{one.population}: {percent(one.relative)} % of retraining's time, above the challenge's limit of 20 %"
        for one in estimates
        if one.too_slow
    ]
    if forecast.lacks_space:
        lines.append(f"warning: the runs need {_size(forecast.size_bytes)}, and {_size(forecast.free_bytes)} are free")
    pending = sum(one.pending for one in estimates)
    if not pending:
        return [*lines, f"nothing to do: all {plural(sum(one.planned for one in estimates), 'run')} are made"]
    where = f"{plural(forecast.workers, 'worker')} on {forecast.device}"
    gpu = f", {decimals(forecast.gpu_hours)} GPU hours" if forecast.gpus_per_worker else ""
    lines += [f"warning: {forecast.busy}"] if forecast.busy else []
    left = "an unknown time" if forecast.seconds is None else f"about {duration(forecast.seconds)}"
    lines.append(f"{plural(pending, 'run')} to make: {left} with {where}{gpu}; {_size(forecast.size_bytes)} to write")
    unchecked = ", but methods, their options and the architecture were not checked" * quick
    return [*lines, f"no problem found{unchecked}; `{next_step}` makes the runs"]


def _row(one: Estimate) -> list[str]:
    relative = MISSING if one.relative is None else f"{percent(one.relative)} %"
    size = MISSING if one.size_bytes is None else decimals(one.size_bytes / 1e6)
    return [
        one.population,
        *map(str, (one.planned, one.made, one.pending)),
        decimals(one.seconds),
        relative,
        size,
        one.basis,
    ]


def _size(size_bytes: int | None) -> str:
    return "an unknown size" if size_bytes is None else f"{decimals(size_bytes / 1e9)} GB"


def _values(forecast: Forecast) -> dict[str, object]:
    rows = [asdict(one) | {"pending": one.pending, "too_slow": one.too_slow} for one in forecast.estimates.values()]
    return {
        "populations": rows,
        "workers": forecast.workers,
        "device": forecast.device,
        "seconds": forecast.seconds,
        "gpu_hours": forecast.gpu_hours,
        "size_bytes": forecast.size_bytes,
        "free_bytes": forecast.free_bytes,
        "busy": forecast.busy,
    }
