"""How good a tuned run is, judged without a test image and without a forget label.

    seen = seen_in(outputs)                      # bytes of a run's outputs.arrow -> what the objective may look at
    judgement = judge(seen, original)
    judgement.objective                          # keeping * forgetting, in 0..1; larger is better

The objective has the form of the challenge's score, F * (retain ratio) * (test ratio), with a stand-in for each part
that must not be looked at:

    keeping    = min(1, retain accuracy / the original's) * min(1, validation accuracy / the original's)
    forgetting = 1 - KS(margins on forget images, margins on validation images)

The margin of an image is max_c z_c - log sum_(j != c) exp z_j, the log odds of the likeliest class: a monotone map of
the largest probability that does not saturate at 1. KS is the largest distance between the two samples' distribution
functions (Kolmogorov and Smirnov). Neither forget nor validation images are to have been trained on after unlearning,
so a model that has forgotten is as sure of the ones as of the others; one that remembers is surer, one that was driven
too far less sure. Ratios are cut off at 1: training further is no merit of an unlearning method.

It can be misled: by a model that is wrong about forget images with just the confidence it has elsewhere, because only
labels would show it; and by a method that trains on the validation images themselves (`amnesiacs` does). What the
original predicts for forget images is not used, because it knows them by heart and would give their labels away.

Does not cover: a method's spread over seeds, nor its cost.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ray_unlearn.errors import StoreError
from ray_unlearn.store.outputs import decode_outputs


@dataclass(frozen=True, kw_only=True, slots=True)
class Seen:
    """Outputs that the objective may see of a model: of forget images, no label; of test images, nothing."""

    retain_NC: np.ndarray
    """float32 logits, as are the next two."""
    validation_NC: np.ndarray
    forget_NC: np.ndarray
    retain_labels_N: np.ndarray
    """int64, as are the next."""
    validation_labels_N: np.ndarray


@dataclass(frozen=True, kw_only=True, slots=True)
class Judgement:
    """The objective and its two factors, each in 0..1."""

    keeping: float
    forgetting: float

    @property
    def objective(self) -> float:
        """Objective that tuning maximises."""
        return self.keeping * self.forgetting


FAILED = Judgement(keeping=0.0, forgetting=0.0)
"""Judgement of a run whose loss or weights became NaN or infinite."""


def seen_in(outputs: bytes) -> Seen:
    """Read a run's outputs; labels of forget images are left behind.

    Raises:
        StoreError: retain, forget or validation images are missing, or test images are there.

    """
    found, expected = decode_outputs(outputs), ["forget", "retain", "validation"]
    if sorted(found) != expected:
        raise StoreError(
            f"outputs for tuning: expected the splits {expected}; found {sorted(found)}; set outputs.splits"
        )
    return Seen(
        retain_NC=found["retain"].logits_NC,
        validation_NC=found["validation"].logits_NC,
        forget_NC=found["forget"].logits_NC,
        retain_labels_N=found["retain"].labels_N,
        validation_labels_N=found["validation"].labels_N,
    )


def judge(seen: Seen, original: Seen) -> Judgement:
    """Judge a model against the original that it started from; one whose logits are not finite has failed."""
    if not all(np.isfinite(logits).all() for logits in (seen.retain_NC, seen.validation_NC, seen.forget_NC)):
        return FAILED
    retain = _accuracy(seen.retain_NC, seen.retain_labels_N) / _accuracy(original.retain_NC, original.retain_labels_N)
    validation = _accuracy(seen.validation_NC, seen.validation_labels_N) / _accuracy(
        original.validation_NC, original.validation_labels_N
    )
    distance = kolmogorov_smirnov(margins(seen.forget_NC), margins(seen.validation_NC))
    return Judgement(keeping=min(1.0, retain) * min(1.0, validation), forgetting=1.0 - distance)


def margins(logits_NC: np.ndarray) -> np.ndarray:
    """Return the log odds of each image's likeliest class, float64 [N]; classes C >= 2."""
    sorted_NC = np.sort(logits_NC.astype(np.float64), axis=1)
    top_N, others_NC = sorted_NC[:, -1], sorted_NC[:, :-1]
    next_N = others_NC[:, -1]
    return np.asarray(top_N - next_N - np.log(np.exp(others_NC - next_N[:, None]).sum(1)))


def kolmogorov_smirnov(first_N: np.ndarray, second_M: np.ndarray) -> float:
    """Return the largest distance between two samples' empirical distribution functions, in 0..1."""
    both = np.concatenate([first_N, second_M])
    below = [np.searchsorted(np.sort(sample), both, side="right") / len(sample) for sample in (first_N, second_M)]
    return float(np.abs(below[0] - below[1]).max())


def _accuracy(logits_NC: np.ndarray, labels_N: np.ndarray) -> float:
    return float((logits_NC.argmax(1) == labels_N).mean())
