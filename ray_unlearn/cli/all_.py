"""The subcommand that runs all stages: generate (which prepares the images), evaluate, report.

    ray-unlearn all faces.yaml --workers 8

Where runs failed, the finished ones are scored all the same, and exit code 3 reports the missing ones.

Does not cover: the stages themselves; each has a room and a subcommand of its own.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import typer

from ray_unlearn.cli.options import (
    Address,
    Backend,
    GpusPerWorker,
    KeepGoing,
    Overrides,
    StudyFile,
    WhereWithWorkers,
    Workers,
    named,
    store_of,
    with_keep_going,
)
from ray_unlearn.errors import RayUnlearnError, ReferenceNotMade
from ray_unlearn.terminal import print_line
from ray_unlearn.wording import plural

if TYPE_CHECKING:
    from collections.abc import Callable

    from ray_unlearn.generation import Summary
    from ray_unlearn.study import Study


def everything(
    study: StudyFile,
    backend: WhereWithWorkers = Backend.auto,
    address: Address = None,
    workers: Workers = None,
    gpus_per_worker: GpusPerWorker = None,
    keep_going: KeepGoing = False,
    overrides: Overrides = [],  # noqa: B006
) -> None:
    """Run all stages that are not done yet.

    The stages are generate, which prepares the images first, evaluate and report. The exit code is 3 where runs
    failed, after scoring the others, and 1 where those cannot be scored. A study without a reference population is
    only generated.

    With `count: {up_to: N, until: decided}`, runs are made and scored at 16, 32, 64, ... of every population, until
    the order is settled.
    """
    from ray_unlearn.generation import generate
    from ray_unlearn.study import load_study

    loaded = load_study(study, with_keep_going(overrides, keep_going))
    make = partial(
        generate, loaded, backend=backend.value, address=address, workers=workers, gpus_per_worker=gpus_per_worker
    )
    print_line("stage: generate")
    summary = _decided(loaded, make, backend, address) if loaded.adaptive else make()
    for line in summary.lines():
        print_line(named(line, study, overrides))
    try:
        _judge(loaded, backend, address)
    except ReferenceNotMade as error:
        if not summary.exit_code:
            raise
        print_line(f"not scored, because runs failed: {named(str(error), study, overrides)}")
    except RayUnlearnError as error:  # of the store or the cluster: making the failed runs again does not help
        if not summary.exit_code:
            raise
        print_line(f"not scored: {named(str(error), study, overrides)}")
        raise typer.Exit(1) from error
    raise typer.Exit(summary.exit_code)


def _decided(study: Study, make: Callable[..., Summary], backend: Backend, address: str | None) -> Summary:
    """Make runs and look at their scores, until they decide or all are made; return the summary of the last runs."""
    from ray_unlearn.cli.evaluate import execution
    from ray_unlearn.evaluation.decided import decided
    from ray_unlearn.evaluation.evaluate import evaluate
    from ray_unlearn.monitor.event_log import scoring

    wanted, jobs = study.adaptive, 1 if backend is Backend.inline else None
    looks, said = wanted.looks if wanted else (), set[str]()
    for number, runs in enumerate(looks, start=1):
        summary = make(first=runs, said=said)
        if summary.exit_code or wanted is None:
            break
        with scoring(store := store_of(study)):
            scores = evaluate(study, store, first=runs, execute=execution(jobs, address), log=print_line)
        why = decided(scores, wanted.width)
        planned = [spec.planned for name, spec in study.populations.items() if name != "original"]
        saved = f"{sum(planned) - runs * len(planned)} of {plural(sum(planned), 'run')} need not be made"
        end = f"{why}; {saved}" if why else "not decided"
        print_line(f"look {number} of {len(looks)}, at {plural(runs, 'run')} of every population: {end}")
        if why:
            break
    return summary


def _judge(study: Study, backend: Backend, address: str | None) -> None:
    """Score the populations and publish the page, unless the study has no reference."""
    from ray_unlearn.cli.evaluate import execution
    from ray_unlearn.evaluation.evaluate import evaluate
    from ray_unlearn.report.publish import publish
    from ray_unlearn.report.text import score_lines
    from ray_unlearn.study.schema import Evaluation

    reference = (study.evaluation or Evaluation()).reference
    if reference not in {**study.populations, **study.others}:
        print_line(f"stages evaluate and report left out: the study has no population {reference} to compare with")
        return
    print_line("stage: evaluate")
    store, jobs = store_of(study), 1 if backend is Backend.inline else None
    scores = evaluate(study, store, execute=execution(jobs, address), log=print_line)
    print_line("\n".join(score_lines(scores)))
    print_line(f"stage: report\nwrote {publish(store, 'html')}")
