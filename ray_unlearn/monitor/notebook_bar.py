"""Progress in a notebook: one output of the cell, which is replaced as runs are made.

    sink = NotebookBar(console, total, already, left)
    sink(event)

It needs IPython, which a notebook has, and no widgets: the bar is HTML. The last lines of the log stand below it.

Does not cover: terminals and files (`console`).
"""

from __future__ import annotations

import html
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from ray_unlearn.monitor.console import ConsoleSink

_LINES = 6
_EVERY_S = 0.5

Show = Callable[[str], None]
"""Replaces the HTML of the cell's output."""


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
