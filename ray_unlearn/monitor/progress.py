"""The sink that shows progress where the command runs: a notebook's cell, a terminal, or a file.

    with show_progress(512, 100, study.execution, TimeLeft({"finetune": 412})) as console:
        console.log("412 of 512 runs to make")
        for event in schedule(...):
            console(event)

In a notebook the cell has one output, which is replaced as runs are made: a bar in HTML, with the last lines of the log
below it. It needs IPython, which a notebook has, and no widgets.

Does not cover: the sinks of terminals and files (`console`).
"""

from __future__ import annotations

import html
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from ray_unlearn.monitor.console import LINE_EVERY_S, Bar, ConsoleSink
from ray_unlearn.monitor.time_left import TimeLeft
from ray_unlearn.study.schema import Execution
from ray_unlearn.terminal import open_console

_LINES = 6
_EVERY_S = 0.5

Show = Callable[[str], None]
"""Replaces the HTML of the cell's output."""


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


class NotebookBar(ConsoleSink):
    """Sink with a bar in the output of a notebook's cell."""

    def __init__(self, *arguments: Any, show: Show | None = None, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._put = show or displayed()
        self._lines: deque[str] = deque(maxlen=_LINES)
        self._put_at = float("-inf")
        self._put_now()

    def log(self, line: str) -> None:
        """Add one line below the bar."""
        self._lines.append(line)
        self._put_now()

    def _show(self, *, force: bool) -> None:
        if force or time.monotonic() - self._put_at > _EVERY_S:
            self._put_now()

    def _put_now(self) -> None:
        self._put_at = time.monotonic()
        lines = "".join(f"<div>{html.escape(line)}</div>" for line in self._lines)
        self._put(
            f'<progress value="{self.done}" max="{self.total}" style="width: 40%"></progress> '
            f"{self.done}/{self.total} runs, {html.escape(self.describe())}<small>{lines}</small>"
        )


def displayed() -> Show:
    """Return a function that replaces the HTML of an output of the current cell."""
    from IPython.display import HTML, display

    handle = display(HTML(""), display_id=True)
    return lambda text: handle.update(HTML(text))
