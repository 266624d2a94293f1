"""The subcommand that does all: prepare, generate, evaluate, report.

    ray-unlearn all faces.yaml --workers 8

Where runs failed, what was made is judged all the same, and the exit code says that some are missing.

Does not cover: any stage; each is the room's that does it, and has a subcommand of its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from ray_unlearn.cli.options import (
    Address,
    Backend,
    GpusPerWorker,
    Overrides,
    StudyFile,
    Where,
    Workers,
    store_of,
)
from ray_unlearn.errors import RayUnlearnError, ReferenceNotMade
from ray_unlearn.terminal import say

if TYPE_CHECKING:
    from ray_unlearn.study import Study


def everything(
    study: StudyFile,
    backend: Where = Backend.ray,
    address: Address = None,
    workers: Workers = None,
    gpus_per_worker: GpusPerWorker = None,
    overrides: Overrides = [],  # noqa: B006
) -> None:
    """Do what is not done yet, from prepare to report.

    Ends with 3 where runs failed, after judging the others, and with 1 where those cannot be judged. A study without
    a reference population is generated only.
    """
    from ray_unlearn.generation import generate
    from ray_unlearn.study import load_study

    loaded = load_study(study, overrides)
    say("stage: generate")
    summary = generate(loaded, backend=backend.value, address=address, workers=workers, gpus_per_worker=gpus_per_worker)
    for line in summary.lines():
        say(line)
    try:
        _judge(loaded, backend, address)
    except ReferenceNotMade as error:
        if not summary.exit_code:
            raise
        say(f"not judged, for want of the runs that failed: {error}")
    except RayUnlearnError as error:  # of the store or the cluster: trying the failed runs again mends nothing
        if not summary.exit_code:
            raise
        say(f"not judged: {error}")
        raise typer.Exit(1) from error
    raise typer.Exit(summary.exit_code)


def _judge(study: Study, backend: Backend, address: str | None) -> None:
    """Score and publish the page; nothing where the study has no reference."""
    from ray_unlearn.cli.judging import execution
    from ray_unlearn.evaluation.evaluate import evaluate
    from ray_unlearn.report.publish import publish
    from ray_unlearn.report.text import score_lines
    from ray_unlearn.study.schema import Evaluation

    reference = (study.evaluation or Evaluation()).reference
    if reference not in study.populations:
        say(f"stages evaluate and report left out: the study has no population {reference} to compare with")
        return
    say("stage: evaluate")
    store, jobs = store_of(study), 1 if backend is Backend.inline else None
    scores = evaluate(study, store, execute=execution(jobs, address), tell=say)
    say("\n".join(score_lines(scores)))
    say(f"stage: report\nwrote {publish(store, 'html')}")
