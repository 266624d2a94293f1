"""Several forget sets in one study, `forget: {fraction: 0.02, sets: 10}`: which run is about which, and what cannot be.

    runs_by_set(range(7), 3)                     # ((0, 3, 6), (1, 4), (2, 5))
    check_forget_sets(3, "finetune", 12, fixed=True, on_halves=False)

Run i of every population but the original is about set i modulo the number of sets, so a raised count moves no run, and
every beginning of a population has its sets in equal parts, to one run. Originals are trained on all images, which are
the same for every set; their outputs are those of set 0.

Does not cover: drawing the sets (`data.splits`), and comparing within each (`evaluation.forget_sets`).
"""

from __future__ import annotations

from collections.abc import Iterable

LEAST_RUNS = 3
"""Runs of each set: with fewer, the forgetting quality counts no image."""


def runs_by_set(indexes: Iterable[int], sets: int) -> tuple[tuple[int, ...], ...]:
    """Return the indexes of the runs that are about each set, in order.

    >>> runs_by_set(range(7), 3)
    ((0, 3, 6), (1, 4), (2, 5))
    """
    ordered = sorted(indexes)
    return tuple(tuple(index for index in ordered if index % sets == one) for one in range(sets))


def check_forget_sets(sets: int, name: str, planned: int, *, fixed: bool, on_halves: bool) -> None:
    """Refuse a population that a study with several forget sets cannot have.

    Args:
        sets: number of forget sets.
        name: the population, which is not the original.
        planned: its number of runs.
        fixed: whether that number is known before any run.
        on_halves: whether its models are trained on halves of the images.

    Raises:
        ValueError: it has too few runs for the sets, or such a number or such models.

    """
    where = f"data.forget.sets: {sets} and populations.{name}"
    if sets > 1 and on_halves:
        raise ValueError(f"{where}: models on halves of the images take one forget set; make them in another study")
    if sets > 1 and not fixed:
        raise ValueError(f"{where}.count: until: decided takes one forget set; give a number of runs")
    if sets > 1 and planned < LEAST_RUNS * sets:
        raise ValueError(
            f"populations.{name}.count: expected {LEAST_RUNS * sets} or more, {LEAST_RUNS} for each of the {sets} "
            f"forget sets (data.forget.sets); found {planned}"
        )
