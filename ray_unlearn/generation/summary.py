"""Result of a `generate`, as a value and as lines for people.

    summary = generate(study)
    summary.exit_code                            # 0 all done, 3 finished with failed runs
    summary.lines()                              # most important last

Does not cover: the results of single runs, which are in their records.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ray_unlearn.monitor.phases import phases_line
from ray_unlearn.schedule.events import Ended
from ray_unlearn.study.plan import Run

_MOST_NAMES = 4
"""Runs that failed with the same error, of which a line names no more."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Summary:
    """Result of a `generate`."""

    planned: int
    """Number of runs that were requested, including the originals that they start from."""
    already: int
    """Number of those that were made before."""
    made: int
    failed: dict[Run, str] = field(default_factory=dict)
    blocked: tuple[Run, ...] = ()
    """Runs whose original failed."""
    ended: tuple[Ended, ...] = ()
    """Populations that ended early: all runs of a script are the same, or runs failed in the same way."""
    skipped_images: int = 0
    seconds: float = 0.0
    phases: Mapping[str, float] = field(default_factory=dict)
    """Seconds by phase (`ray_unlearn.monitor.phases`); they add up to `seconds`."""
    uri: str = ""
    unwritten: str = ""
    """Why metrics.parquet could not be written, if runs failed, too; else empty."""

    @property
    def exit_code(self) -> int:
        """Exit code of the command: 0 if every requested run is made, else 3."""
        return 3 if self.failed or self.blocked or self.ended else 0

    def lines(self) -> list[str]:
        """Return the closing lines of the command, most important last."""
        from ray_unlearn.wording import plural

        lines = [f"not made: {_named(runs)}: {error}" for error, runs in self._failures().items()]
        lines += [f"not made: {plural(len(one.runs), 'run')} of {one.population}: {one.why}" for one in self.ended]
        if self.blocked:
            lines.append(f"not made: {plural(len(self.blocked), 'run')} whose original failed")
        if self.failed:
            lines.append(f"`ray-unlearn logs STUDY {min(self.failed)}` shows its traceback; `generate` tries it again")
        if self.unwritten:
            lines.append(f"metrics.parquet is not up to date: {self.unwritten}")
        if self.skipped_images:
            lines.append(f"{plural(self.skipped_images, 'image')} skipped; data-cache/*/manifest.json lists each")
        if self.already == self.planned:
            return [*lines, f"nothing to do: all {plural(self.planned, 'run')} in {self.uri} are made"]
        done = f"{self.already + self.made} of {self.planned} done, {len(self.failed)} failed"
        lines.append(phases_line(self.phases))
        return [*lines, f"made {plural(self.made, 'run')} in {self.seconds:.0f} s; {done}; store {self.uri}"]

    def _failures(self) -> dict[str, list[Run]]:
        """Return the runs that were given up by their error, in the order in which each error was first met."""
        found: dict[str, list[Run]] = {}
        for run, error in self.failed.items():
            found.setdefault(error, []).append(run)
        return found

    def __str__(self) -> str:
        return "\n".join(self.lines())

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        """Print the closing lines where a notebook or IPython shows the value."""
        printer.text(str(self))


def _named(runs: Sequence[Run]) -> str:
    names = ", ".join(map(str, runs[:_MOST_NAMES]))
    return f"{names} and {len(runs) - _MOST_NAMES} more" if len(runs) > _MOST_NAMES else names
