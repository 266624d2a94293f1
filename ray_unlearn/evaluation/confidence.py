"""Logits -> one scalar per model and example: phi, the logit-scaled confidence of LiRA and the NeurIPS 2023 challenge.

    phi_N = logit_scaled_confidence(logits_NC, labels_N)      # one model
    phi_RN = logit_scaled_confidence(logits_RNC, labels_N)    # R models on the same examples, the same bits

Legend: R runs (models), N examples, C classes.

Does not cover: the margin of KLOM and U-LiRA, which phi equals within 1e-6 below 90 and leaves where it
is clipped, and scores of phi (`ray_unlearn.evaluation.measures.forgetting_quality`).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ray_unlearn.errors import EvaluationError

TINY = 1e-45
"""Added to both probabilities before their logarithms, so phi is within +-103.616 = -+log(1e-45)."""


def logit_scaled_confidence(logits: ArrayLike, labels: ArrayLike) -> NDArray[np.float64]:
    """Return phi = log(p_y + 1e-45) - log(sum of p_j over j != y + 1e-45), float64, of the shape of logits without C.

    `logits`: real [..., N, C], C >= 2, taken as float32; `labels`: integers [N] in 0..C-1. Neither is changed.
    The exponential is taken in float32 and everything after it in float64, and the other classes are summed, never
    1 - p_y: this order is the official evaluator's (NeurIPS 2023 machine unlearning challenge) and decides the bits.
    Raises `EvaluationError` for wrong shapes or types, labels outside the classes, and logits that are not finite.
    """
    logits_NC, labels_N = _logits(logits), np.asarray(labels)
    _check_labels(labels_N, *logits_NC.shape[-2:])
    odds_NC = np.exp(logits_NC - logits_NC.max(axis=-1, keepdims=True)).astype(np.float64)
    odds_NC /= odds_NC.sum(axis=-1, keepdims=True)
    rows_N = np.arange(len(labels_N))
    right_N = odds_NC[..., rows_N, labels_N]
    odds_NC[..., rows_N, labels_N] = 0.0
    phi_N: NDArray[np.float64] = np.log(right_N + TINY) - np.log(odds_NC.sum(axis=-1) + TINY)
    return phi_N


def probability_of(phi: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the label's probability 1 / (1 + exp(-phi)) without overflow, exact to rounding at both ends."""
    small = np.abs(phi)  # one array, changed in place: new ones of this size cost more than what is computed
    np.exp(np.negative(small, out=small), out=small)
    probability: NDArray[np.float64] = np.where(phi >= 0, 1, small)
    small += 1
    probability /= small
    return probability


def _logits(logits: ArrayLike) -> NDArray[np.float32]:
    given = np.asarray(logits)
    if given.ndim < 2 or given.shape[-1] < 2 or given.dtype.kind not in "fiu":
        raise EvaluationError(
            f"logits: expected real numbers [..., examples, classes] with 2 classes or more, "
            f"found {given.dtype} {list(given.shape)}"
        )
    with np.errstate(over="ignore"):  # what float32 cannot hold is refused below
        logits_NC = np.ascontiguousarray(given, dtype=np.float32)
    if not np.isfinite(logits_NC).all():
        where = np.argwhere(~np.isfinite(logits_NC))[0].tolist()
        raise EvaluationError(
            f"logits: expected finite float32 values, found {given[tuple(where)]} at {where}; "
            "leave that run out, or make it again"
        )
    return logits_NC


def _check_labels(labels_N: NDArray[np.integer], num_examples: int, num_classes: int) -> None:
    if labels_N.shape != (num_examples,) or labels_N.dtype.kind not in "iu":
        raise EvaluationError(
            f"labels: expected {num_examples} integers, one per example of the logits, "
            f"found {labels_N.dtype} {list(labels_N.shape)}"
        )
    outside = np.flatnonzero((labels_N < 0) | (labels_N >= num_classes))
    if len(outside):
        raise EvaluationError(
            f"labels: expected 0 to {num_classes - 1} for {num_classes} classes, "
            f"found {labels_N[outside[0]]} at [{outside[0]}]"
        )
