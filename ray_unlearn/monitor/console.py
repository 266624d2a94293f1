"""Progress for people: a live bar on a terminal, one in a notebook, plain lines elsewhere (job logs are files).

    sink = ConsoleSink(open_console(error=True), 512, 100, TimeLeft({"finetune": 412}))
    sink.log("412 of 512 runs to make")
    sink(event)

Does not cover: what `ray-unlearn status` prints about a store.
"""

from __future__ import annotations

import shlex
import time
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeElapsedColumn
from rich.text import Text

from ray_unlearn.monitor.time_left import TimeLeft
from ray_unlearn.run.outcome import Outcome
from ray_unlearn.schedule.events import Ended, Equal, Event, Failed, Made, Retried
from ray_unlearn.schedule.pool import Lost, Ready
from ray_unlearn.study.plan import Run
from ray_unlearn.terminal import print_error
from ray_unlearn.wording import duration, lines_in, plural

LINE_EVERY_S = 5.0
_QUIET_S = 60.0
"""Seconds without a line of progress after which one is printed although no run has ended."""


class ConsoleSink:
    """Sink that counts runs and prints events as plain lines."""

    def __init__(
        self,
        console: Console,
        total: int,
        already: int,
        left: TimeLeft,
        *,
        max_attempts: int = 1,
        verbose: bool = False,
        file: str = "",
    ) -> None:
        self.left = left
        self.console, self.total, self.done, self.failed = console, total, already, 0
        self._already, self._max_attempts, self._printed_at = already, max_attempts, float("-inf")
        self._verbose, self._file = verbose, file
        self._start: float | None = None
        self._ready: set[int] = set()
        self._errors: dict[str, Run] = {}
        """Error -> the first run that met it."""
        self._causes: set[str] = set()
        """Causes why workers could not start; each is printed once."""

    def __call__(self, event: Event) -> None:
        """Count an event, and print it if it is of interest to people."""
        self.left.note(event, time.monotonic())
        if isinstance(event, Made | Retried | Failed) and event.worker is not None and self._verbose:
            for line in lines_in(event.outcome.log):
                self.log(f"{event.outcome.run}: {line}")
        if isinstance(event, Made):
            self.done += 1
            if event.outcome.note:
                self.log(f"{event.outcome.run}: {event.outcome.note}")
            self._show(force=self.done + self.failed == self.total)
        elif isinstance(event, Failed):
            self.failed += 1
            attempts = plural(event.attempt, "attempt")
            self.log(f"failed: {event.outcome.run} after {attempts}: {self._error(event.outcome)}")
        elif isinstance(event, Retried):
            attempt = f"attempt {event.next_attempt} of {self._max_attempts}"
            self.log(f"retrying {event.outcome.run} ({attempt}): {self._error(event.outcome)}")
        elif isinstance(event, Equal):
            self.log(f"warning: {event.same}")
        elif isinstance(event, Ended):
            self.total -= len(event.runs)
            why = event.why.replace(" STUDY ", f" {shlex.quote(self._file)} ") if self._file else event.why
            self.log(f"population {event.population}: {plural(len(event.runs), 'run')} will not be made: {why}")
        elif isinstance(event, Ready):
            self._began(event)
        elif isinstance(event, Lost) and event.worker not in self._ready and not event.preempted:
            if event.cause not in self._causes:
                self.log(f"a worker could not start: {event.cause}")
            self._causes.add(event.cause)

    def log(self, line: str) -> None:
        """Print one line."""
        self.console.print(line, markup=False, highlight=False, soft_wrap=True)

    def describe(self) -> str:
        """Return the rate since the first worker was ready, and the time left, by the seconds of each population."""
        fresh, now = self.done - self._already, time.monotonic()
        left_s = self.left.seconds(now)
        if self._start is None or left_s is None:
            return "starting"
        rate = f"{60 * fresh / (now - self._start):.1f} runs/min, " if fresh and now > self._start else ""
        failed = f"{self.failed} failed, " if self.failed else ""
        return f"{rate}{failed}about {duration(left_s)} left"

    def tick(self) -> None:
        """Print a line of progress if there was none for a while; called by another thread."""
        if self._start is not None and time.monotonic() - self._printed_at > _QUIET_S:
            self._show(force=True)

    def _error(self, outcome: Outcome) -> str:
        """Return an outcome's error; of one that was printed for another run, that run alone."""
        first = self._errors.setdefault(outcome.error, outcome.run)
        return outcome.error if first == outcome.run else f"in the same way as {first}"

    def _began(self, event: Ready) -> None:
        """Measure time from the first ready worker on: the rate of runs does not include starting."""
        if self._start is None:
            self._start = time.monotonic()
        self._ready.add(event.worker)
        self.log(f"worker ready: {event.info.host}, pid {event.info.pid}, {event.info.device}")

    def _show(self, *, force: bool) -> None:
        if force or time.monotonic() - self._printed_at > LINE_EVERY_S:
            self._printed_at = time.monotonic()
            self.log(f"{self.done}/{self.total} runs, {self.describe()}")


class _Description(ProgressColumn):
    """Column whose text is made anew once a second: the time left moves while runs are at work."""

    max_refresh = 1.0

    def __init__(self, sink: ConsoleSink) -> None:
        super().__init__()
        self._sink = sink

    def render(self, task: Task) -> Text:
        """Return the sink's description."""
        return Text(self._sink.describe())


class Bar(ConsoleSink):
    """Sink with a live bar, for a terminal."""

    def __init__(self, console: Console, total: int, already: int, left: TimeLeft, **how: Any) -> None:
        super().__init__(console, total, already, left, **how)
        columns = (TextColumn("runs"), BarColumn(), MofNCompleteColumn(), _Description(self), TimeElapsedColumn())
        self.bar = Progress(*columns, console=console)
        self._task = self.bar.add_task("", total=total, completed=already)

    def _show(self, *, force: bool) -> None:
        self.bar.update(self._task, completed=self.done, refresh=force)


def announce(study: str) -> None:
    """Print the first line of a `generate`, before the imports and the start of Ray, which take seconds."""
    print_error(f"opening study {study}")
