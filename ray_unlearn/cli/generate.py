"""Subcommands that make runs: prepare, generate.

    ray-unlearn generate faces.yaml --workers 2

Does not cover: how runs are made (`ray_unlearn.generation`).
"""

from __future__ import annotations

from typing import Annotated

import typer

from ray_unlearn.cli.options import (
    Address,
    Backend,
    GpusPerWorker,
    KeepGoing,
    Overrides,
    ShardOf,
    StudyFile,
    Where,
    WhereWithWorkers,
    Workers,
    named,
    names_in,
    shard_in,
    typed,
    with_keep_going,
)
from ray_unlearn.terminal import print_line


def prepare(
    study: StudyFile,
    backend: Where = Backend.auto,
    address: Address = None,
    overrides: Overrides = [],  # noqa: B006
) -> None:
    """Decode images and draw splits; make no checkpoint."""
    from ray_unlearn.generation.prepare import prepare
    from ray_unlearn.report.text import data_lines
    from ray_unlearn.study import load_study

    print_line("\n".join(data_lines(prepare(load_study(study, overrides), backend=backend.value, address=address))))


def generate(
    study: StudyFile,
    only: Annotated[
        list[str],
        typer.Option(
            "--only", "--populations", metavar="A,B", help="Make only these populations, and their originals."
        ),
    ] = [],  # noqa: B006
    backend: WhereWithWorkers = Backend.auto,
    address: Address = None,
    workers: Workers = None,
    gpus_per_worker: GpusPerWorker = None,
    shard: ShardOf = None,
    keep_going: KeepGoing = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", help="Print each run's output when it ends; `logs` shows it later.")
    ] = False,
    overrides: Overrides = [],  # noqa: B006
) -> None:
    """Make every checkpoint that is not made yet.

    With `count: {up_to: N, until: decided}`, that is N of every population: `all` and `submit` look at scores on the
    way and stop early.
    """
    from ray_unlearn.generation import generate
    from ray_unlearn.study import load_study

    loaded = load_study(study, with_keep_going(overrides, keep_going))
    if loaded.adaptive:
        print_line(loaded.adaptive.all_made(typed("all", study, overrides)))
    summary = generate(
        loaded,
        backend=backend.value,
        address=address,
        workers=workers,
        gpus_per_worker=gpus_per_worker,
        only=names_in(only),
        shard=shard_in(shard),
        verbose=verbose,
    )
    for line in summary.lines():
        print_line(named(line, study, overrides))
    raise typer.Exit(summary.exit_code)
