"""The sink that shows progress where the command runs.

    with show_progress(512, 100, study.execution, TimeLeft({"finetune": 412})) as console:
        console.log("412 of 512 runs to make")
        for event in schedule(...):
            console(event)

Does not cover: the sinks themselves (`console`, `notebook_bar`).
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ray_unlearn.monitor.console import LINE_EVERY_S, Bar, ConsoleSink
from ray_unlearn.monitor.notebook_bar import NotebookBar
from ray_unlearn.monitor.time_left import TimeLeft
from ray_unlearn.study.schema import Execution
from ray_unlearn.terminal import open_console


@contextmanager
def show_progress(
    total: int, already: int, execution: Execution, left: TimeLeft, verbose: bool = False, file: str = ""
) -> Iterator[ConsoleSink]:
    """Yield a sink that suits the place: a notebook's cell, a terminal, or a file.

    Args:
        total: number of runs that were requested.
        already: number of those that were made before.
        execution: the study's section; `max_attempts` is shown with retries.
        left: knows the runs that are left, and their seconds.
        verbose: print each run's output, too, when the run ends.
        file: the study's file, for commands in lines.

    """
    console = open_console(error=True)
    how: dict[str, Any] = {"max_attempts": execution.max_attempts, "verbose": verbose, "file": file}
    if console.is_jupyter:
        yield NotebookBar(console, total, already, left, **how)
        return
    if not console.is_terminal:
        sink = ConsoleSink(console, total, already, left, **how)
        with _ticking(sink):
            yield sink
        return
    bar = Bar(console, total, already, left, **how)
    with bar.bar:
        yield bar


@contextmanager
def _ticking(sink: ConsoleSink) -> Iterator[None]:
    """Call `tick` now and then from a thread, so that a log shows progress within long runs, too."""
    over = threading.Event()

    def work() -> None:
        while not over.wait(LINE_EVERY_S):
            sink.tick()

    thread = threading.Thread(target=work, name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
