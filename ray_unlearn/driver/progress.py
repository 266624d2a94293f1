"""Progress for people: a live bar on a terminal, plain lines elsewhere (job logs are files).

    with show_progress(total=512, already=100) as progress:
        progress.made()
        progress.say("worker 2 died; its run goes back to the queue")

Does not cover: what `ray-unlearn status` prints about a store.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from ray_unlearn.terminal import open_console
from ray_unlearn.wording import duration

_LINE_EVERY_S = 5.0


class Tracker:
    """Counts runs and says so; the base prints plain lines."""

    def __init__(self, console: Console, total: int, already: int) -> None:
        self.console, self.total, self.done, self.failed = console, total, already, 0
        self._already, self._said_at = already, float("-inf")
        self._start: float | None = None

    def begin(self) -> None:
        """Count time from now on, a worker being ready: what starting took says nothing about what is left."""
        if self._start is None:
            self._start = time.monotonic()

    def made(self) -> None:
        """Count a run that was published."""
        self.done += 1
        self._show(force=self.done + self.failed == self.total)

    def given_up(self, what: str) -> None:
        """Count a run that failed, and say why."""
        self.failed += 1
        self.say(f"failed: {what}")

    def say(self, line: str) -> None:
        """Print one line."""
        self.console.print(line, markup=False, highlight=False, soft_wrap=True)

    def describe(self) -> str:
        """Return rate and time left, measured since the first worker was ready."""
        fresh = self.done - self._already
        if not fresh or self._start is None:
            return "starting"
        elapsed = time.monotonic() - self._start
        left = (self.total - self.done - self.failed) * elapsed / fresh
        failed = f", {self.failed} failed" if self.failed else ""
        return f"{60 * fresh / elapsed:.1f} runs/min{failed}, about {duration(left)} left"

    def _show(self, *, force: bool) -> None:
        if force or time.monotonic() - self._said_at > _LINE_EVERY_S:
            self._said_at = time.monotonic()
            self.say(f"{self.done}/{self.total} runs, {self.describe()}")


class _Bar(Tracker):
    """The same on a terminal."""

    def __init__(self, console: Console, total: int, already: int) -> None:
        super().__init__(console, total, already)
        columns = (
            TextColumn("runs"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.description}"),
            TimeElapsedColumn(),
        )
        self.bar = Progress(*columns, console=console)
        self._task = self.bar.add_task("starting", total=total, completed=already)

    def _show(self, *, force: bool) -> None:
        self.bar.update(self._task, completed=self.done, description=self.describe(), refresh=force)


@contextmanager
def show_progress(total: int, already: int) -> Iterator[Tracker]:
    """Yield a tracker that suits standard error."""
    console = open_console(error=True)
    if not console.is_terminal:
        yield Tracker(console, total, already)
        return
    bar = _Bar(console, total, already)
    with bar.bar:
        yield bar
