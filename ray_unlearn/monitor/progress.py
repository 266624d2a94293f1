"""The sink that shows progress where the command runs.

    with show_progress(512, 100, study.execution) as console:
        console.log("412 of 512 runs to make")
        for event in schedule(...):
            console(event)

Does not cover: the sinks themselves (`console`, `notebook_bar`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ray_unlearn.monitor.console import Bar, ConsoleSink
from ray_unlearn.monitor.notebook_bar import NotebookBar
from ray_unlearn.study.schema import Execution
from ray_unlearn.terminal import open_console


@contextmanager
def show_progress(total: int, already: int, execution: Execution, verbose: bool = False) -> Iterator[ConsoleSink]:
    """Yield a sink that suits the place: a notebook's cell, a terminal, or a file.

    Args:
        total: number of runs that were requested.
        already: number of those that were made before.
        execution: the study's section; `max_attempts` is shown with retries.
        verbose: print each run's output, too, when the run ends.

    """
    console, max_attempts = open_console(error=True), execution.max_attempts
    if console.is_jupyter:
        yield NotebookBar(console, total, already, max_attempts=max_attempts, verbose=verbose)
        return
    if not console.is_terminal:
        yield ConsoleSink(console, total, already, max_attempts=max_attempts, verbose=verbose)
        return
    bar = Bar(console, total, already, max_attempts=max_attempts, verbose=verbose)
    with bar.bar:
        yield bar
