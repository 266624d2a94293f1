"""Subcommand `status`: how many runs are planned, finished and failed.

    ray-unlearn status faces.yaml --watch

Does not cover: how it is repeated (`watching`).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ray_unlearn.cli.options import AsJson, Every, Overrides, StudyFile, store_of, typed
from ray_unlearn.errors import StudyError
from ray_unlearn.terminal import print_error, print_line

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ray_unlearn.store import StudyStore
    from ray_unlearn.study import Study


def status(
    study: StudyFile,
    as_json: AsJson = False,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Save training curves to FILE (.png, .svg or .pdf).")
    ] = None,
    watch: Annotated[
        bool, typer.Option("--watch", help="Refresh until all runs are made, or no driver has been active for 15 s.")
    ] = False,
    every_s: Every = 5.0,
    overrides: Overrides = [],  # noqa: B006
) -> None:
    """Count planned, finished and failed runs."""
    from dataclasses import asdict

    from ray_unlearn.report.text import status_lines
    from ray_unlearn.store.metrics import study_status
    from ray_unlearn.study import load_study

    loaded = load_study(study, overrides)
    store = store_of(loaded)
    if watch:
        from ray_unlearn.cli.watching import decision, watch_status
        from ray_unlearn.monitor.watch import Watch

        if as_json or plot:
            raise StudyError(
                "status: --watch repeats until all runs are made; --json and --plot read once, so leave one out"
            )
        raise typer.Exit(watch_status(Watch(loaded, store), every_s, decision(loaded, store)))
    if plot is not None:
        from ray_unlearn.report.curves import check_picture, save_curves

        check_picture(plot)
    found = study_status(loaded, store)
    if as_json:
        rows = [asdict(one) | {"failed": {i: f.model_dump() for i, f in one.failed.items()}} for one in found]
        print_line(json.dumps({"study": loaded.name, "store": store.uri, "populations": rows}, indent=1))
    else:
        print_line("\n".join(status_lines(found, store.uri)))
        for line in _remarks(loaded, store, typed("all", study, overrides)):
            print_line(line)
    if plot is not None:
        left_out = save_curves(store, list(loaded.populations), plot)
        write = print_error if as_json else print_line
        for name, why in left_out.items():
            write(f"not in {plot}: {name}: {why}")
        write(f"wrote {plot}")


def _remarks(study: Study, store: StudyStore, everything: str) -> Iterator[str]:
    """Yield what stands below the counts of `status`; `everything`: the command that runs all stages."""
    from ray_unlearn.monitor.utilisation import utilisation, utilisation_line
    from ray_unlearn.store.agreement import changed_scripts, disagreements
    from ray_unlearn.store.arithmetic import mixtures
    from ray_unlearn.store.events import EventReader

    if study.adaptive:
        yield study.adaptive.all_made(everything)
    events, unread = EventReader(store).newest_or_error("begun")
    if unread:
        yield f"events cannot be read: {unread}"
    elif (use := utilisation(events)).share is not None:
        yield f"last generate: {utilisation_line(use)}"
    reference = study.evaluation.reference if study.evaluation else ""
    for line in mixtures({name: store.made(name) for name in study.populations}, reference):
        yield f"warning: {line}"
    for line in disagreements(study, store):
        yield f"warning: made from another value than the study has: {line}; `generate` will refuse it"
    for line in changed_scripts(study, store):
        yield f"warning: made with another script than the study names: {line}; `generate` will refuse it"
