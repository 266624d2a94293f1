"""The subcommand that shows what one run printed, and why it failed: logs.

    ray-unlearn logs faces.yaml finetune/7

Does not cover: capturing a log (`run.run_log`), nor showing it during the run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from ray_unlearn.cli.options import Overrides, StudyFile, store_of
from ray_unlearn.errors import StudyError, did_you_mean
from ray_unlearn.terminal import print_error, print_line

if TYPE_CHECKING:
    from ray_unlearn.study import Run, Study


def logs(
    study: StudyFile,
    run: Annotated[str, typer.Argument(metavar="POPULATION/INDEX", help="The run, for example finetune/7.")],
    overrides: Overrides = [],  # noqa: B006
) -> None:
    """Show what a run printed, warned and logged.

    For a failed run, this is the output of its last attempt, then the traceback.
    """
    from ray_unlearn.study import load_study
    from ray_unlearn.wording import lines_in

    loaded = load_study(study, overrides)
    chosen = _run(run, loaded)
    store = store_of(loaded)
    lines = lines_in(store.log(chosen))
    if lines:
        print_line("\n".join(lines))
    else:
        print_error(f"run {chosen} printed nothing")
    if failure := store.failed(chosen):
        print_line(failure.traceback.rstrip() or failure.error)


def _run(text: str, study: Study) -> Run:
    """Return the run that POPULATION/INDEX names.

    Raises:
        StudyError: the text names no run, or a population that the study does not have.

    """
    from ray_unlearn.study import Run

    population, slash, index = text.rpartition("/")
    if not (slash and index.isascii() and index.isdecimal() and len(index) <= 5):
        raise StudyError(f"logs: expected POPULATION/INDEX, for example finetune/7; found {text!r}")
    if population not in study.populations:
        hint = did_you_mean(population, study.populations)
        raise StudyError(f"logs: {population!r} is not a population of the study{hint}")
    return Run(population=population, index=int(index))
