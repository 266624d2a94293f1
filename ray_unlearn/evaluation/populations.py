"""What two populations must be before they are compared: finite numbers by run and example, enough runs of them.

    phi_RE = by_runs(phi, "retrained", at_least=3)
    unlearned_UE, retrained_RE = compared(unlearned, retrained, at_least=3)
    losses_E = by_examples(losses, "forget losses")

All arrays are returned as float64, for every stored type; those that are float64 are not copied.

Does not cover: which outputs are compared, and that they are of the same images in the same order; the caller knows.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from ray_unlearn.errors import EvaluationError

FloatArray = npt.NDArray[np.float64]


def by_runs(values: npt.ArrayLike, name: str, *, at_least: int = 1) -> FloatArray:
    """Return values as float64 [runs, examples].

    Raises:
        EvaluationError: not real numbers, not two axes, fewer runs than `at_least`, no example, or NaN or infinity.

    """
    array = _real(values, name)
    if array.ndim != 2:
        raise EvaluationError(f"{name}: expected an array [runs, examples], found shape {list(array.shape)}")
    runs, examples = array.shape
    if runs < at_least:
        raise EvaluationError(
            f"{name}: expected {at_least} or more runs, found {runs}; raise its count (halves need twice as many)"
        )
    if examples == 0:
        raise EvaluationError(f"{name}: expected one or more examples, found none")
    return _finite(array, name)


def by_examples(values: npt.ArrayLike, name: str, *, at_least: int = 1) -> FloatArray:
    """Return one model's values as float64 [examples].

    Raises:
        EvaluationError: not real numbers, not one axis, fewer examples than `at_least`, or NaN or infinity.

    """
    array = _real(values, name)
    if array.ndim != 1:
        raise EvaluationError(f"{name}: expected one model's values [examples], found shape {list(array.shape)}")
    if len(array) < at_least:
        raise EvaluationError(f"{name}: expected {at_least} or more examples, found {len(array)}")
    return _finite(array, name)


def compared(unlearned: npt.ArrayLike, retrained: npt.ArrayLike, *, at_least: int = 1) -> tuple[FloatArray, FloatArray]:
    """Return both populations as float64 [runs, examples]; they may have different numbers of runs.

    Raises:
        EvaluationError: as `by_runs`, or different numbers of examples.

    """
    unlearned_UE = by_runs(unlearned, "unlearned", at_least=at_least)
    retrained_RE = by_runs(retrained, "retrained", at_least=at_least)
    same_examples(unlearned_UE, "unlearned", retrained_RE, "retrained")
    return unlearned_UE, retrained_RE


def same_examples(first_RE: FloatArray, first: str, second_RE: FloatArray, second: str) -> None:
    """Refuse two arrays [runs, examples] whose numbers of examples differ.

    Raises:
        EvaluationError: they do.

    """
    if first_RE.shape[1] != second_RE.shape[1]:
        raise EvaluationError(
            f"{first} has {first_RE.shape[1]} examples, {second} has {second_RE.shape[1]}; compare the same images"
        )


def thinned(values: FloatArray, size: int, rng: np.random.Generator) -> FloatArray:
    """Return `size` of the values in their own order, drawn by rng without replacement; rng is unused if all stay."""
    if size == len(values):
        return values
    return values[np.sort(rng.choice(len(values), size, replace=False))]


def variance_of_mean(values: FloatArray) -> float:
    """Return the variance of independent values' mean: their variance over their number; inf for fewer than two."""
    return float(values.var(ddof=1)) / len(values) if len(values) > 1 else math.inf


def random_half(size: int, rng: np.random.Generator) -> npt.NDArray[np.bool_]:
    """Return a mask of size // 2 places out of `size`, drawn by rng without replacement, [size]."""
    mask = np.zeros(size, dtype=np.bool_)
    mask[rng.permutation(size)[: size // 2]] = True
    return mask


def _real(values: npt.ArrayLike, name: str) -> npt.NDArray[Any]:
    array = np.asarray(values)
    if array.dtype.kind not in "buif":
        raise EvaluationError(f"{name}: expected real numbers, found {array.dtype}")
    return array


def _finite(array: npt.NDArray[Any], name: str) -> FloatArray:
    result = array.astype(np.float64, copy=False)
    if not (finite := np.isfinite(result)).all():
        wrong = np.argwhere(~finite)
        place = ", ".join(map(str, wrong[0]))
        raise EvaluationError(
            f"{name}[{place}]: expected finite numbers, found {result[tuple(wrong[0])]} ({len(wrong)} in all); "
            "a run whose outputs are not finite should have failed: make it again"
        )
    return result
