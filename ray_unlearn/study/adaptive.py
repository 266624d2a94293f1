"""`count: {up_to: 512, until: decided}`: as many runs as a decision takes, at most so many.

    UpTo(up_to=100).looks                        # (16, 32, 64, 100)

Does not cover: the decision (`ray_unlearn.evaluation.decided`), and what a look may spend (`evaluation.looks`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import Field

from ray_unlearn.study.recipe import Block, Float, Int

FIRST_LOOK = 16
"""Runs of the first look: with fewer, hardly anything can be decided."""


class UpTo(Block):
    """As many runs as a decision takes: scores are looked at with 16, 32, 64, ... runs of every population."""

    up_to: Int = Field(ge=1, le=99_999, description="Number of checkpoints at most.")
    until: Literal["decided"] = Field("decided", description="decided: the order is settled, or `width` is reached.")
    width: Float | None = Field(
        None, gt=0, description="Width of the 95 % intervals of the score that is narrow enough. Default: order alone."
    )

    @property
    def looks(self) -> tuple[int, ...]:
        """Numbers of runs at which scores are looked at: 16, 32, 64, ..., and `up_to`."""
        doubled = (FIRST_LOOK * 2**n for n in range(20))
        return (*(n for n in doubled if n < self.up_to), self.up_to)

    def all_made(self, command: str) -> str:
        """Return what a stage that looks at no scores must say about itself; `command` may stop earlier."""
        return (
            f"until: decided: all {self.up_to} runs of every population are meant here; `{command}` looks at the "
            f"scores of {', '.join(map(str, self.looks))} runs, and makes no more once they decide"
        )


def check_equal(counts: Mapping[str, int | UpTo | None], reference: str) -> None:
    """Refuse an adaptive number of runs that is not that of every population but the original.

    Args:
        counts: the populations' numbers, without the original's.
        reference: the population that the others are compared with.

    Raises:
        ValueError: numbers differ, the reference is missing, or there is no order and no width to decide.

    """
    wanted = next((count for count in counts.values() if isinstance(count, UpTo)), None)
    if wanted is None:
        return
    if differing := [name for name, count in counts.items() if count != wanted]:
        raise ValueError(
            f"populations.{differing[0]}.count: expected {{up_to: {wanted.up_to}, until: decided}}, as another "
            "population has: populations are compared at equal numbers of runs"
        )
    if reference not in counts:
        raise ValueError(f"populations: until: decided needs the reference {reference}, to compare with")
    if len(counts) < 3 and wanted.width is None:
        raise ValueError("populations: until: decided with one method needs a `width`: there is no order to settle")
