"""`status --watch` and `evaluate --watch`: the same output, repeated until the study is done or has no driver.

    raise typer.Exit(watch_status(Watch(study, store), every_s=5.0))

On a terminal a table is refreshed in place; elsewhere each change is printed as a line. Both end with exit code 0 when
every planned run is made, or the last scores of an adaptive study decide it without the rest; and with 3 when the
driver has ended and no other followed within 15 s, or when its events have stopped.

Does not cover: reading progress (`monitor.watch`) and computing scores (`evaluation`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from ray_unlearn.errors import StoreError
from ray_unlearn.monitor.watch import Driver, Look, Watch
from ray_unlearn.study.plan import ORIGINAL
from ray_unlearn.terminal import open_console, print_error, print_line
from ray_unlearn.wording import aligned, duration, plural

if TYPE_CHECKING:
    from ray_unlearn.evaluation.scores import Scores
    from ray_unlearn.store import StudyStore
    from ray_unlearn.study import Study

GROWTH = 1.5
"""Factor by which a population's runs grow before scores are computed again; all together cost a few times the last."""
LEAST = 6
"""Number of runs of each forget set at which a population is first scored: a null and intervals need halves of at least
three runs."""


Decide = Callable[[Look], str]
"""Function that returns why a study needs no more runs than it has; empty where it needs all that are planned."""


def decision(study: Study, store: StudyStore) -> Decide:
    """Return the function of a study: `until: decided` needs no more runs where the last scores decide and have all."""

    def decide(look: Look) -> str:
        from ray_unlearn.evaluation.decided import decided
        from ray_unlearn.evaluation.evaluate import read_scores

        if study.adaptive is None:
            return ""
        made = {one.population: one.made for one in look.populations if one.population != ORIGINAL}
        try:
            scores = read_scores(store)
        except StoreError:
            return ""
        scored = {name: one.runs for name, one in scores.populations.items()}
        is_a_look = len({*made.values()}) == 1 and {*made.values()} <= {*study.adaptive.looks}
        return decided(scores, study.adaptive.width) if is_a_look and made.items() <= scored.items() else ""

    return decide


def watch_status(watch: Watch, every_s: float, decide: Decide = lambda look: "") -> int:
    """Show a study's progress until it is done; return the exit code."""
    with _shown() as show:
        while True:
            look = watch.look()
            show(look)
            end = _end(look, decide)
            if end is not None:
                break
            time.sleep(every_s)
    code, line = end
    print_line(line)
    return code


def watch_scores(
    watch: Watch,
    every_s: float,
    compared: Compared,
    score: Callable[[int | None], Scores],
    decide: Decide = lambda look: "",
) -> int:
    """Score populations again whenever they have grown, until the study is done; return the exit code.

    Args:
        watch: the study.
        every_s: seconds between two looks.
        compared: the populations, and their reference.
        score: returns the scores of each population's first n runs; of all runs for None.
        decide: the study's `decision`.

    """
    from ray_unlearn.report.text import growth_lines

    scored, waits = dict[str, int](), ""
    while True:
        look = watch.look()
        end, (sizes, common) = _end(look, decide), compared.sizes(look)
        if sizes and (end or _grown(sizes, scored)):
            for line in growth_lines(score(None if end else common)):
                print_line(f"{_now()} {line}")
            scored = sizes
        if end is not None:
            break
        if not sizes and (why := compared.waiting(look)) != waits:
            waits = why
            print_error(f"{_now()} {why}")
        time.sleep(every_s)
    code, line = end
    print_line(line)
    return code


@dataclass(frozen=True, slots=True)
class Compared:
    """The populations to score, and the reference that they are compared with."""

    reference: str
    populations: Sequence[str]
    forget_sets: int = 1
    """Forget sets of the study; runs take turns at them."""

    def sizes(self, look: Look) -> tuple[dict[str, int], int | None]:
        """Return the N at which each population can be compared, and the common N where they are about equal.

        No N is larger than the reference's. Populations made one after another (`interleave: false`) have no useful
        common N; each is then compared at its own, as `evaluate` does.
        """
        found = {one.population: one for one in look.populations}
        theirs = found[self.reference]
        wanted = [one for name, one in found.items() if name in self.populations and name != self.reference]
        least = min([LEAST * self.forget_sets, theirs.planned, *(one.planned for one in wanted)])
        sizes = {one.population: n for one in wanted if (n := min(one.made, theirs.made)) >= least}
        common = min(sizes.values(), default=0)
        if 2 * common < max(sizes.values(), default=0):
            return sizes, None
        return dict.fromkeys(sizes, common), common

    def waiting(self, look: Look) -> str:
        """Return the reason why no population can be scored yet."""
        theirs = next(one.made for one in look.populations if one.population == self.reference)
        if not theirs:
            return f"waiting: the reference {self.reference} has no finished run yet"
        least = plural(LEAST * self.forget_sets, "run")
        return f"waiting: scores begin when {self.reference} and another population have {least}"


def _grown(sizes: Mapping[str, int], scored: Mapping[str, int]) -> bool:
    return any(size > scored.get(name, 0) and size >= GROWTH * scored.get(name, 0) for name, size in sizes.items())


def _end(look: Look, decide: Decide) -> tuple[int, str] | None:
    """Return the exit code and the last line where the watch ends, else None."""
    planned, failed = sum(one.planned for one in look.populations), sum(one.failed for one in look.populations)
    if look.all_made:
        return 0, f"all {plural(planned, 'run')} are made"
    rest = (
        f"{look.made} of {plural(planned, 'run')} made, {failed} failed; `ray-unlearn generate` makes what is missing"
    )
    if look.driver in (Driver.ended, Driver.silent) and (why := decide(look)):
        return 0, f"{why}: {look.made} of {plural(planned, 'run')} made, and the others need not be"
    if look.driver is Driver.ended:
        return 3, f"the driver has ended: {rest}"
    if look.driver is Driver.silent:
        return 3, f"the driver sends no more events: {rest}"
    return None


@contextmanager
def _shown() -> Iterator[Callable[[Look], None]]:
    """Yield the function that shows a look: in place on a terminal, else as a line per change."""
    from rich.live import Live
    from rich.text import Text

    console = open_console()
    if console.is_terminal:
        with Live(console=console, auto_refresh=False) as live:
            yield lambda look: live.update(Text("\n".join(_table(look))), refresh=True)
        return
    last = ""

    def line(look: Look) -> None:
        nonlocal last
        counts = ", ".join(_count(look))
        if counts != last:
            print_line(f"{_now()} {counts}; {_rate(look)}")
        last = counts

    yield line


def _count(look: Look) -> list[str]:
    return [
        f"{one.population} {one.made}/{one.planned}" + (f" ({one.failed} failed)" if one.failed else "")
        for one in look.populations
    ]


def _table(look: Look) -> list[str]:
    rows = [["population", "planned", "made", "failed"]]
    rows += [[one.population, *map(str, (one.planned, one.made, one.failed))] for one in look.populations]
    return [*aligned(rows), f"{_now()} {_rate(look)}"]


def _rate(look: Look) -> str:
    driver = f"driver {look.driver.value}" if look.driver is not Driver.none else look.driver.value
    if look.runs_per_s is None:
        return driver
    left = f", about {duration(look.left_s)} left" if look.left_s is not None else ""
    return f"{driver}, {60 * look.runs_per_s:.1f} runs/min{left}"


def _now() -> str:
    return datetime.now().astimezone().strftime("%H:%M:%S")
