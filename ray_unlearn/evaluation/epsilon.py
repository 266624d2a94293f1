"""Empirical epsilon of one example: how well an attacker distinguishes unlearned from retrained models by it.

    found = example_epsilons(unlearned_NE, retrained_NE, mode="parity")
    found.epsilon_E, found.guarded_E, found.undecided_E

An example's epsilon is the largest over all attacks of the mode, after the official rules: an attack without any error
gives the cap; one with exactly one of FPR and FNR zero is dropped; logarithms of negative numbers are ignored; the
result is in [0, 50], and is that of float32 rates and logarithms.

- `parity`: the attacks of the challenge's evaluator, on its grid (`parity.py`).
- `exact`: every interval and every threshold, in both directions. Never below `parity`'s where that decides;
  unchanged by strictly monotone maps of phi away from the guard. The two modes' numbers do not compare.

Legend: N runs, E examples.

Does not cover: from epsilon to F (`measures.forgetting_quality`), and confidence bounds on FPR and FNR.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ray_unlearn.errors import EvaluationError, did_you_mean
from ray_unlearn.evaluation.attack_tables import AttackTables, Floats, Indexes, Table, attack_tables
from ray_unlearn.evaluation.blocks import Pooled
from ray_unlearn.evaluation.compiled import pays
from ray_unlearn.evaluation.parity import parity_epsilons

Search = Callable[[Floats, Floats, AttackTables], Floats]
"""(unlearned, retrained, both sorted [E, N]; tables) -> the best epsilon of each image."""
MODES = ("parity", "exact")
CAP = 50.0
RANGE_RATIO = 0.01
"""Below this ratio of both ranges an example counts as distinguished: models that hardly differ are not unlearned."""
MAX_RUNS = 10_000
"""The tables take 12 (N + 1)^2 bytes: 3 MB at 512, 1.2 GB here."""
MAX_PARITY = 10_000.0
"""The single thresholds of `parity` take 100 places per unit of phi; phi itself is within +-104."""
TILE = 64
"""Left ends of `exact` at a time: 64 x 1024 indexes at N = 512 stay in the cache; 256 was 3 times slower."""
_VALUES = 1 << 13
"""Values of phi, of both sides, at a time: their arrays stay in the cache. Half and twice as many took longer."""


class ExampleEpsilons(NamedTuple):
    """Epsilon of each example, and where the official rules do not give it."""

    epsilon_E: Floats
    """Epsilon of each example, in [0, 50]."""
    guarded_E: NDArray[np.bool_]
    """50 without any attack: the ranges (max - min) have a ratio below 0.01, or are both zero (0/0 officially)."""
    undecided_E: NDArray[np.bool_]
    """50 because every attack was dropped, which officially is not defined; never in `exact`."""


def example_epsilons(unlearned_NE: ArrayLike, retrained_NE: ArrayLike, *, mode: str = "parity") -> ExampleEpsilons:
    """Return the epsilon of every example.

    `unlearned_NE`, `retrained_NE`: real [N >= 2, E >= 1], finite, one phi per model and example, N equal in `parity`.

    `parity` compares medians to choose a threshold's direction (equal: unlearned is above) and ranges to choose whose
    ends the intervals follow (equal: those of the sample below). Away from such ties, exchanging the samples changes
    nothing. `parity` follows a shift of phi, up to the rounding of its grid, but no scale. Its grid, 0.01 apart, may
    slip through samples that both spread less than that: such an example is undecided, and gets 50 and a flag, because
    one of a thousand should not stop an evaluation, nor pass for forgotten.
    Raises `EvaluationError` for wrong shapes or types, too few or too many runs, values that are not finite, and an
    unknown mode.
    """
    unlearned, retrained = _checked(unlearned_NE, retrained_NE, mode)
    tables = attack_tables(len(retrained), len(unlearned))
    unlearned_EN, retrained_EN = np.sort(unlearned.T, axis=1), np.sort(retrained.T, axis=1)
    guarded_E = guarded(unlearned_EN, retrained_EN)
    epsilon_E = np.full(len(guarded_E), CAP)
    open_E = np.flatnonzero(~guarded_E)
    epsilon_E[open_E] = _fastest(mode, unlearned.size + retrained.size)(
        unlearned_EN[open_E], retrained_EN[open_E], tables
    )
    undecided_E = np.isneginf(epsilon_E)
    epsilon_E[undecided_E] = CAP
    return ExampleEpsilons(np.clip(epsilon_E, 0.0, CAP), guarded_E, undecided_E)


def _fastest(mode: str, values: int) -> Search:
    """Return the search of a mode: compiled loops for many values, where Numba is installed, else NumPy's."""
    if pays(values):
        from ray_unlearn.evaluation.compiled.parity import parity_compiled
        from ray_unlearn.evaluation.compiled.search import exact_compiled

        return parity_compiled if mode == "parity" else exact_compiled
    return partial(_some_at_a_time, parity_epsilons if mode == "parity" else exact_epsilons)


def _some_at_a_time(best: Search, unlearned_EN: Floats, retrained_EN: Floats, tables: AttackTables) -> Floats:
    """Return the epsilons of all images, of which few are in memory in every form at once."""
    size = max(1, _VALUES // (unlearned_EN.shape[1] + retrained_EN.shape[1]))
    starts = range(0, len(unlearned_EN), size)
    found = [best(unlearned_EN[start : start + size], retrained_EN[start : start + size], tables) for start in starts]
    return np.concatenate([np.empty(0), *found])


def exact_epsilons(unlearned_EN: Floats, retrained_EN: Floats, tables: AttackTables) -> Floats:
    """Return the largest epsilon over all blocks of neighbouring values, of sorted samples; no cap, no guard."""
    pooled = Pooled.of(unlearned_EN, retrained_EN)
    row, place = pooled.distinct()
    index = pooled.retrained_EC[row, place] * (tables.num_unlearned + 1) + pooled.unlearned_EC[row, place]
    starts = np.searchsorted(row, np.arange(1, len(unlearned_EN)))
    return np.array([_largest_block(counts, tables.either) for counts in np.split(index, starts)])


def _largest_block(counts: Indexes, either: Table) -> float:
    """Return the largest entry at the differences of rising counts."""
    best = -np.inf
    for start in range(0, len(counts) - 1, TILE):
        blocks = counts[None, start + 1 :] - counts[start : start + TILE, None]
        best = max(best, float(either.take(blocks, mode="clip").max()))  # negative: crossed, nothing inside
    return best


def guarded(unlearned_EN: Floats, retrained_EN: Floats) -> NDArray[np.bool_]:
    """Return the examples, sorted along runs, whose ranges have a ratio below `RANGE_RATIO` or are both zero."""
    ranges_2E = np.stack([sample[:, -1] - sample[:, 0] for sample in (unlearned_EN, retrained_EN)])
    small_E, large_E = ranges_2E.min(axis=0), ranges_2E.max(axis=0)
    guarded_E: NDArray[np.bool_] = small_E / np.where(large_E == 0, 1.0, large_E) < RANGE_RATIO
    return guarded_E


def _checked(unlearned_NE: ArrayLike, retrained_NE: ArrayLike, mode: str) -> tuple[Floats, Floats]:
    """Return both as float64 [N, E], or refuse them."""
    if mode not in MODES:
        raise EvaluationError(f"mode: expected parity or exact, found {mode!r}{did_you_mean(mode, MODES)}")
    unlearned, retrained = _sample("unlearned_NE", unlearned_NE), _sample("retrained_NE", retrained_NE)
    if unlearned.shape[1] != retrained.shape[1]:
        raise EvaluationError(
            f"unlearned_NE, retrained_NE: expected the same examples, found {unlearned.shape[1]} and "
            f"{retrained.shape[1]} columns"
        )
    if mode == "parity" and len(unlearned) != len(retrained):
        raise EvaluationError(
            f"mode parity: expected as many unlearned as retrained runs, found {len(unlearned)} and {len(retrained)}; "
            f"pass the first {min(len(unlearned), len(retrained))} of each, or use mode exact"
        )
    if mode == "parity" and (most := max(np.abs(unlearned).max(), np.abs(retrained).max())) > MAX_PARITY:
        raise EvaluationError(
            f"mode parity: expected values within +-{MAX_PARITY:.0f}, as phi is, found {most:.3g}; "
            "pass logit_scaled_confidence(logits, labels), or use mode exact"
        )
    return unlearned, retrained


def _sample(name: str, values: ArrayLike) -> Floats:
    sample = np.asarray(values)
    if sample.ndim != 2 or len(sample) < 2 or sample.shape[1] < 1 or sample.dtype.kind not in "fiu":
        raise EvaluationError(
            f"{name}: expected real numbers [runs, examples], 2 runs and 1 example or more, "
            f"found {sample.dtype} {list(sample.shape)}"
        )
    if len(sample) > MAX_RUNS:
        raise EvaluationError(f"{name}: expected {MAX_RUNS} runs at most, found {len(sample)}; pass some of them")
    if not np.isfinite(sample).all():
        run, example = np.argwhere(~np.isfinite(sample))[0]
        raise EvaluationError(
            f"{name}: expected finite values, found {sample[run, example]} at run {run}, example {example}; "
            "leave that run out, or make it again"
        )
    return sample.astype(np.float64, copy=False)
