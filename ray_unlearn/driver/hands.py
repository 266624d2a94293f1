"""What a worker was given and has not told the outcome of.

    hand = Hand()
    hand.calls.append([run, other])
    hand.answered(outcomes)                      # the oldest call; what was not told is being published
    hand.touched                                 # those that the worker may be at now

Does not cover: what it is given (`loop`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from ray_unlearn.outcome import Outcome
from ray_unlearn.study.plan import Run


@dataclass(slots=True)
class Hand:
    """A ready worker's runs."""

    calls: deque[list[Run]] = field(default_factory=deque)
    """Calls not answered yet; it works on the first."""
    publishing: list[Run] = field(default_factory=list)
    """Runs of answered calls that it is still publishing."""

    @property
    def runs(self) -> list[Run]:
        """All of them, oldest first."""
        return [*self.publishing, *(run for call in self.calls for run in call)]

    @property
    def touched(self) -> list[Run]:
        """Those that the worker may be at now: what it publishes, and the call that it works on."""
        return [*self.publishing, *(self.calls[0] if self.calls else ())]

    @property
    def is_idle(self) -> bool:
        """Whether it waits for us."""
        return not self.calls and not self.publishing

    def __len__(self) -> int:
        """Return how many runs it holds."""
        return len(self.publishing) + sum(map(len, self.calls))

    def answered(self, outcomes: Iterable[Outcome]) -> None:
        """Take the answer of the oldest call in."""
        told = {outcome.run for outcome in outcomes}
        self.publishing = [run for run in (*self.publishing, *self.calls.popleft()) if run not in told]
