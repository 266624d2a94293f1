"""Looking again and again: the 5 % of all tests are spent over the evaluations of a growing study.

    looks = Looks.read(store)
    looks, look = looks.take("kookmin", runs=16, reference_runs=16, share=0.5, identity="ab12", which="c3")
    look.level                                   # 0.0056

Tests at 5 % after 8, 16, 24 and 32 runs find a difference that is not there in 11 % of studies, not 5 %. So a look at
a share t of the planned runs may use what alpha(t) = 2 - 2 Phi(z / sqrt(t)), z = Phi^-1(1 - 0.05 / 2), allows and
earlier looks have not used (Lan and DeMets, Biometrika 1983; the function that approximates O'Brien and Fleming's
boundaries, `sfLDOF` of the R package gsDesign): 0.0001 at a quarter, 0.0056 at one half, 0.024 at three quarters.

Lan and DeMets find each boundary from the joint distribution of normal statistics. Here a look's level is the share
itself, which needs no distribution: by the union bound, all looks together err in 5 % at most, and in a little less.

A look is the same as an earlier one if it is at the same runs of both sides: evaluating twice costs nothing, nor does
the other mode, because the tests are the same in both. After a look at all planned runs nothing is left; raising
`count` then shows where numbers go, and claims nothing. Looks belong to the recipes of the population and the
reference, not to single runs: a run that comes late, or is made again, forgets none. Looks that version 0.1 kept, by
mode, count for any recipe of their population.

Does not cover: 95 % intervals, each of which is of its own look; and choosing between the equivalence bounds, or the
places, of two modes after both were seen.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Self, get_args

from pydantic import BaseModel, ConfigDict, ValidationError

from ray_unlearn.errors import StoreError, StoreReadOnly
from ray_unlearn.evaluation.measures.measure import Mode
from ray_unlearn.store import StudyStore

ALPHA = 0.05
LEAST_LEVEL = 1e-6
"""Level of a look that has nothing left to spend: small enough to claim nothing, and no division by 0."""


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Taken(_Value):
    """One look at a population that was taken."""

    runs: int
    reference_runs: int
    which: str = ""
    """Digest of the indexes of both sides' runs; empty where it was not kept."""
    level: float
    """Share of the 5 % that it spent."""


class _History(_Value):
    """Looks at one population in one mode, as version 0.1 kept them."""

    identity: str
    looks: tuple[Taken, ...] = ()


class _OfMode(_Value):
    populations: dict[str, _History] = {}


class Look(_Value):
    """A look as its scores tell it."""

    number: int
    """1 for the first."""
    share: float
    """Share of the planned runs that were there, at most 1."""
    level: float
    """Error that its tests, its equivalence bound and its ranks may make; 0.05 for a single look at all runs."""

    @property
    def claims_nothing(self) -> bool:
        """Whether earlier looks, one of them at all planned runs, have spent the 5 %."""
        return self.level <= LEAST_LEVEL and self.share == 1


class Looks(_Value):
    """All looks at a study's populations, in either mode; kept beside its scores."""

    populations: dict[str, tuple[Taken, ...]] = {}
    """Looks in order, by name and identity of the population; those of version 0.1 by its name alone."""

    @classmethod
    def read(cls, store: StudyStore) -> Self:
        """Return the looks that were kept; none where there is no such file.

        Raises:
            StoreError: the file is damaged.

        """
        try:
            return cls.model_validate_json(store.storage.read(store.layout.looks))
        except FileNotFoundError:
            return cls(populations=_kept_by_mode(store))
        except ValidationError:
            raise StoreError(
                f"{store.storage.uri}/{store.layout.looks}: damaged, or of a later version; it says how much of the "
                "5 % of all tests was spent; restore it, or delete it to begin anew"
            ) from None

    def save(self, store: StudyStore) -> None:
        """Keep the looks; a read-only store keeps none."""
        with suppress(StoreReadOnly):
            store.storage.publish_file(store.layout.looks, self.model_dump_json(indent=1).encode())

    def of(self, name: str, identity: str) -> tuple[Taken, ...]:
        """Return the looks at a population that were taken, in order."""
        return (*self.populations.get(name, ()), *self.populations.get(_key(name, identity), ()))

    def take(
        self, name: str, *, runs: int, reference_runs: int, share: float, identity: str, which: str = ""
    ) -> tuple[Self, Look]:
        """Return the looks with one more, or the same, and that look.

        Args:
            name: the population.
            runs: how many of its runs are looked at.
            reference_runs: and of the reference.
            share: of the planned runs, above 0 and at most 1.
            identity: digest of the recipes of both.
            which: digest of the indexes of both sides' runs.

        """
        before, key = self.of(name, identity), _key(name, identity)
        for number, one in enumerate(before, start=1):
            if (one.runs, one.reference_runs) == (runs, reference_runs) and one.which in ("", which):
                return self, Look(number=number, share=share, level=one.level)
        level = max(LEAST_LEVEL, spent(share) - sum(one.level for one in before))
        taken = Taken(runs=runs, reference_runs=reference_runs, which=which, level=level)
        populations = {**self.populations, key: (*self.populations.get(key, ()), taken)}
        found = self.model_copy(update={"populations": populations})
        return found, Look(number=len(before) + 1, share=share, level=level)


def _key(name: str, identity: str) -> str:
    return f"{name} {identity[:16]}"


def _kept_by_mode(store: StudyStore) -> dict[str, tuple[Taken, ...]]:
    """Return the looks that version 0.1 kept with the parts of both modes' scores; one at the same runs counts once."""
    found: dict[str, dict[tuple[int, int], Taken]] = {}
    for mode in get_args(Mode):
        with suppress(FileNotFoundError, ValidationError):
            kept = _OfMode.model_validate_json(store.storage.read(store.layout.scores_part(mode, "looks.of.study")))
            for name, history in kept.populations.items():
                found.setdefault(name, {}).update({(one.runs, one.reference_runs): one for one in history.looks})
    return {name: tuple(each.values()) for name, each in found.items()}


def spent(share: float) -> float:
    """Return how much of the 5 % may be spent when a share of the planned runs, above 0 and at most 1, is there."""
    from scipy.special import ndtr, ndtri

    return ALPHA if share == 1 else float(2 - 2 * ndtr(ndtri(1 - ALPHA / 2) / share**0.5))


def warning_of(look: Look) -> str:
    """Return what a reader must know about a look; nothing for the first one, at all planned runs."""
    if look.claims_nothing:
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
