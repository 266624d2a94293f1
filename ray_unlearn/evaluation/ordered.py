"""All runs of a population in the order of their values, image by image.

    ordered = ordered_by_value(phi_RN)           # kept by `SplitOutputs.ordered`: sorted once for all subsets

A subset's values, in order, are these without the runs that it lacks, so that no subset is sorted.

Does not cover: which subsets there are (`together`).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ray_unlearn.evaluation.populations import FloatArray

_IMAGES = 256
"""Images that are sorted at a time."""


class Ordered(NamedTuple):
    """All runs of a side in the order of their values, image by image."""

    values_EN: FloatArray
    """Rising."""
    run_EN: npt.NDArray[np.uint16]
    """Which run each value is of."""


def ordered_by_value(phi_RN: FloatArray) -> Ordered:
    """Return the runs in order; E is the number of images, N that of runs, 65,536 at most."""
    images = phi_RN.shape[1]
    found = Ordered(np.empty(phi_RN.shape[::-1]), np.empty(phi_RN.shape[::-1], np.uint16))
    for start in range(0, images, _IMAGES):
        some = slice(start, start + _IMAGES)
        values_EN = np.ascontiguousarray(phi_RN[:, some].T)
        order_EN = np.argsort(values_EN, axis=1)
        found.values_EN[some] = np.take_along_axis(values_EN, order_EN, axis=1)
        found.run_EN[some] = order_EN
    return found
