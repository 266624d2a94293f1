"""Looking again and again: the 5 % of all tests are spent over the evaluations of a growing study.

    looks = Looks.read(store, mode)
    looks, look = looks.take("kookmin", runs=16, reference_runs=16, share=0.5, identity="ab12")
    look.level                                   # 0.0056

Tests at 5 % after 8, 16, 24 and 32 runs find a difference that is not there in 11 % of studies, not 5 %. So a look at
a share t of the planned runs may use what alpha(t) = 2 - 2 Phi(z / sqrt(t)), z = Phi^-1(1 - 0.05 / 2), allows and
earlier looks have not used (Lan and DeMets, Biometrika 1983; the function that approximates O'Brien and Fleming's
boundaries, `sfLDOF` of the R package gsDesign): 0.0001 at a quarter, 0.0056 at one half, 0.024 at three quarters.

Lan and DeMets find each boundary from the joint distribution of normal statistics. Here a look's level is the share
itself, which needs no distribution: by the union bound, all looks together err in 5 % at most, and in a little less.

A look is the same as an earlier one if it is at the same numbers of runs: evaluating twice costs nothing. After a look
at all planned runs nothing is left; raising `count` then shows where numbers go, and claims nothing.

Does not cover: 95 % intervals, each of which is of its own look.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Self

from pydantic import BaseModel, ConfigDict, ValidationError

from ray_unlearn.errors import StoreReadOnly
from ray_unlearn.store import StudyStore

ALPHA = 0.05
LEAST_LEVEL = 1e-6
"""Level of a look that has nothing left to spend: small enough to claim nothing, and no division by 0."""
_FILE = "looks.of.study"  # a population's name has no dot


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Taken(_Value):
    """One look at a population that was taken."""

    runs: int
    reference_runs: int
    level: float
    """Share of the 5 % that it spent."""


class History(_Value):
    """Looks at one population, in order."""

    identity: str
    """Changes when its runs, or the reference's, are made anew: looks at former ones do not count."""
    looks: tuple[Taken, ...] = ()


class Look(_Value):
    """A look as its scores tell it."""

    number: int
    """1 for the first."""
    share: float
    """Share of the planned runs that were there, at most 1."""
    level: float
    """Error that its tests, its equivalence bound and its ranks may make; 0.05 for a single look at all runs."""


class Looks(_Value):
    """All looks at a study's populations, in one mode; kept with the parts of its scores."""

    populations: dict[str, History] = {}

    @classmethod
    def read(cls, store: StudyStore, mode: str) -> Self:
        """Return the looks that were kept; none where there is no such file, or a damaged one."""
        try:
            return cls.model_validate_json(store.storage.read(store.layout.scores_part(mode, _FILE)))
        except (FileNotFoundError, ValidationError):
            return cls()

    def save(self, store: StudyStore, mode: str) -> None:
        """Keep the looks; a read-only store keeps none."""
        with suppress(StoreReadOnly):
            content = self.model_dump_json(indent=1).encode()
            store.storage.publish_file(store.layout.scores_part(mode, _FILE), content)

    def take(self, name: str, *, runs: int, reference_runs: int, share: float, identity: str) -> tuple[Self, Look]:
        """Return the looks with one more, or the same, and that look."""
        history = self.populations.get(name, History(identity=identity))
        if history.identity != identity:
            history = History(identity=identity)
        for number, one in enumerate(history.looks, start=1):
            if (one.runs, one.reference_runs) == (runs, reference_runs):
                return self, Look(number=number, share=share, level=one.level)
        left = spent(share) - sum(one.level for one in history.looks)
        taken = Taken(runs=runs, reference_runs=reference_runs, level=max(LEAST_LEVEL, left))
        grown = history.model_copy(update={"looks": (*history.looks, taken)})
        found = self.model_copy(update={"populations": {**self.populations, name: grown}})
        return found, Look(number=len(grown.looks), share=share, level=taken.level)


def spent(share: float) -> float:
    """Return how much of the 5 % may be spent when a share of the planned runs, above 0 and at most 1, is there."""
    from scipy.special import ndtr, ndtri

    return ALPHA if share == 1 else float(2 - 2 * ndtr(ndtri(1 - ALPHA / 2) / share**0.5))


def warning_of(look: Look) -> str:
    """Return what a reader must know about a look; nothing for the first one, at all planned runs."""
    if look.level <= LEAST_LEVEL and look.share == 1:
        return (
            f"look {look.number}: earlier looks have spent the 5 % of all tests; p values of this one show where "
            "numbers go and claim nothing (the number of runs was raised after all planned ones had been evaluated)"
        )
    if look.number > 1 or look.share < 1:
        return (
            f"look {look.number}, at {look.share:.0%} of the planned runs: tests, equivalence and places are at "
            f"{look.level:.2g}, so that all looks together err in 5 % at most"
        )
    return ""
