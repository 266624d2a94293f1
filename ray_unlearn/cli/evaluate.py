"""Subcommand `evaluate`: scores of a study's populations.

    ray-unlearn evaluate faces.yaml --mode exact

Does not cover: how a score is computed (`ray_unlearn.evaluation`). It needs no torch; Ray is imported only where parts
are computed on it.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from ray_unlearn.cli.options import Address, AsJson, Every, Overrides, StudyFile, names_in, store_of, typed
from ray_unlearn.errors import StudyError
from ray_unlearn.terminal import print_error, print_line
from ray_unlearn.wording import listed

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ray_unlearn.evaluation.cache import Execute, Task

LARGE_S = 300.0
"""Expected seconds on one core above which an evaluation goes to Ray, unless --jobs is given."""

THREADED_S = 5.0
"""Expected seconds above which it takes all cores of this machine: to count them imports half a second of modules."""


class Mode(StrEnum):
    """Attacks that the forgetting quality tries."""

    parity = "parity"
    exact = "exact"


def evaluate(
    study: StudyFile,
    only: Annotated[
        list[str],
        typer.Option(
            "--only",
            "--populations",
            metavar="A,B",
            help="Score only these populations, with the reference and the original. The score files then hold no "
            "other population.",
        ),
    ] = [],  # noqa: B006
    mode: Annotated[
        Mode | None,
        typer.Option(
            help="Where attacks may draw the line between populations. parity: on the official evaluator's grid; "
            "exact: anywhere. Default: the study's."
        ),
    ] = None,
    jobs: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Number of cores. 1: in this process; more: on Ray. Default: all cores, in this process or, where it "
            "would take minutes, on Ray.",
        ),
    ] = None,
    address: Address = None,
    as_json: AsJson = False,
    watch: Annotated[
        bool,
        typer.Option(
            "--watch",
            help="Score again as N grows, from 6 runs on (or the planned number, if it is smaller), until all runs "
            "are made, or no driver has been active for 15 s.",
        ),
    ] = False,
    every_s: Every = 5.0,
    plan: Annotated[
        bool,
        typer.Option(
            "--plan",
            help="Also print what more runs would give: the widths of intervals, and the number of runs that would "
            "separate neighbours in the ranking.",
        ),
    ] = False,
    overrides: Overrides = [],  # noqa: B006
) -> None:
    """Score the study's populations against the retrained one."""
    from functools import partial

    from ray_unlearn.evaluation.evaluate import evaluate
    from ray_unlearn.evaluation.held import reference_of
    from ray_unlearn.report.text import plan_lines, score_lines
    from ray_unlearn.study import load_study
    from ray_unlearn.study.plan import ORIGINAL

    loaded = load_study(study, overrides)
    store = store_of(loaded)
    score = partial(
        evaluate,
        loaded,
        store,
        populations=names_in(only),
        mode=mode.value if mode else None,
        execute=execution(jobs, address),
    )
    if watch:
        from ray_unlearn.cli.watching import Compared, decision, watch_scores
        from ray_unlearn.monitor.watch import Watch

        if as_json or plan:
            raise StudyError(
                "evaluate: --watch repeats until all runs are made; --json and --plan print once, so leave one out"
            )
        if loaded.others:
            raise StudyError("evaluate: --watch follows runs that are being made; leave evaluation.populations out")
        specs = loaded.populations
        chosen = [name for name in names_in(only) or specs if name != ORIGINAL and not specs[name].on_halves]
        compared = Compared(reference_of(loaded), chosen, loaded.data.forget.sets)
        watched = Watch(loaded, store)
        raise typer.Exit(
            watch_scores(watched, every_s, compared, lambda first: score(first=first), decision(loaded, store))
        )
    scores = score(log=print_error)
    alone = f", which now hold {listed(names_in(only))} alone" if only else ""
    wrote = f"wrote {store.uri}/scores.json and scores.parquet{alone}"
    if as_json:
        print_line(scores.model_dump_json(indent=1))
        if scores.saved:
            print_error(wrote)
        return
    print_line("\n".join([*score_lines(scores), *(plan_lines(scores) if plan else ())]))
    if scores.saved:  # else a warning has been printed
        print_line(f"\n{wrote}; `{typed('report', study, overrides)}` makes a page of them")


def threads_of(expected_s: float) -> int:
    """Return how many threads an evaluation takes in this process: one for each core, where that pays."""
    if expected_s < THREADED_S:
        return 1
    from ray_unlearn.generation.cores import cores

    return cores()


def execution(jobs: int | None, address: str | None) -> Execute:
    """Return the function that computes parts, here or on Ray; Ray starts only once there is a part to compute."""
    from ray_unlearn.evaluation.cache import in_this_process

    def execute(tasks: Sequence[Task]) -> Iterable[tuple[Task, str]]:
        expected_s = sum(task.expected_s for task in tasks)
        if jobs == 1 or (jobs is None and address is None and expected_s < LARGE_S):
            yield from in_this_process(tasks, jobs or threads_of(expected_s))
            return
        from ray_unlearn.cluster.scoring import on_ray

        print_error(f"about {expected_s / 60:.0f} minutes on one core; spread over Ray")
        yield from on_ray(tasks, jobs=jobs, address=address)

    return execute
