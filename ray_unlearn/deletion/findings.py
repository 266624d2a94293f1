"""A deletion request's store -> what is known of the original, the unlearned and the retrained models.

    found = read_findings(study, store)
    found.sides                                  # before, unlearned, retrained: accuracies, confidence
    found.images                                 # every forgotten image by name

Confidence is the probability that a model gives the class of an image.

Does not cover: sentences (`words`), the page (`page`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import stats

from ray_unlearn.deletion.request import RETRAINED, UNLEARNED
from ray_unlearn.evaluation.image_table import image_table
from ray_unlearn.evaluation.outputs import Outputs, read_outputs
from ray_unlearn.evaluation.scores import PopulationScores, Scores
from ray_unlearn.store import StudyStore
from ray_unlearn.study.plan import ORIGINAL
from ray_unlearn.study.schema import Study

_POWER, _ERROR = 0.8, 0.05


@dataclass(frozen=True, kw_only=True)
class Side:
    """One kind of model: means over its runs, as fractions."""

    name: str
    runs: int
    accuracy: dict[str, float]
    """By split: forget, retain, test."""
    confidence: float
    """Mean confidence on the forgotten images."""
    memory: float | None
    """Share of pairs of a forgotten and a held-out image of one class where the forgotten has the larger confidence."""
    first_test: float | None
    """Accuracy of run 0 on test images; of the unlearned runs, this is the model that is handed out."""
    first_confidence: float
    """Mean confidence of run 0 on the forgotten images."""


@dataclass(frozen=True, kw_only=True)
class Image:
    """One forgotten image."""

    image_id: str
    label: str
    before: float
    unlearned: float
    """Confidence of the model that is handed out: unlearned run 0."""
    retrained: float | None
    """Mean over the retrained models."""
    retrained_sd: float | None
    """Standard deviation over them; None with fewer than two."""
    epsilon: float | None
    """Against the retrained models; None with too few runs."""


@dataclass(frozen=True, kw_only=True)
class Findings:
    """Everything that the page states."""

    sides: dict[str, Side]
    """By population; without `retrained` where none was made."""
    images: tuple[Image, ...]
    scores: PopulationScores | None
    """The unlearned population's, where it was compared with retrained models."""
    noticed: float | None
    """Difference of mean confidence that these runs would have shown with a probability of 80 %; None with one run."""
    lost_retrained: float | None
    """Test accuracy of the original minus that of retrained models."""


def read_findings(study: Study, store: StudyStore, scores: Scores | None) -> Findings:
    """Return what the store holds of a deletion request; the original and one unlearned run are made.

    Raises:
        StoreError: outputs are damaged.

    """
    outputs = {
        name: read_outputs(store, name, records)
        for name in (ORIGINAL, UNLEARNED, RETRAINED)
        if (records := {i: r for i, r in store.made(name).items() if i < study.populations[name].planned})
    }
    sides = {name: _side(name, found) for name, found in outputs.items()}
    retrained = sides.get(RETRAINED)
    lost = sides[ORIGINAL].accuracy.get("test", 0.0) - retrained.accuracy.get("test", 0.0) if retrained else None
    return Findings(
        sides=sides,
        images=_images(study, store, outputs),
        scores=scores.populations.get(UNLEARNED) if scores else None,
        noticed=_noticed(outputs),
        lost_retrained=lost,
    )


def _side(name: str, found: Outputs) -> Side:
    forget, test = found.splits["forget"], found.splits.get("test")
    ours_RE = np.exp(-forget.loss_RN)
    return Side(
        name=name,
        runs=len(found),
        accuracy={split: float(one.accuracy_R.mean()) for split, one in found.splits.items()},
        confidence=float(ours_RE.mean()),
        memory=_memory(ours_RE, forget.labels_N, np.exp(-test.loss_RN), test.labels_N) if test is not None else None,
        first_test=float(test.accuracy_R[0]) if test is not None else None,
        first_confidence=float(ours_RE[0].mean()),
    )


def _memory(ours_RE: np.ndarray, labels_E: np.ndarray, theirs_RN: np.ndarray, labels_N: np.ndarray) -> float | None:
    """Return the mean over runs and classes of the share of pairs in which the forgotten image has the larger value.

    Classes count by their forgotten images; None where no class has both kinds of image.
    """
    shares, weights = [], []
    for label in np.unique(labels_E):
        ours, theirs = ours_RE[:, labels_E == label], theirs_RN[:, labels_N == label]
        if theirs.shape[1]:
            shares.append(np.mean([_larger(*pair) for pair in zip(ours, theirs, strict=True)]))
            weights.append(ours.shape[1])
    return float(np.average(shares, weights=weights)) if shares else None


def _larger(ours_E: np.ndarray, theirs_N: np.ndarray) -> float:
    """Return the share of pairs in which ours is the larger; ties count half."""
    ordered = np.sort(theirs_N)
    below, upto = np.searchsorted(ordered, ours_E, "left"), np.searchsorted(ordered, ours_E, "right")
    return float((below + upto).mean() / 2 / len(ordered))


def _images(study: Study, store: StudyStore, outputs: dict[str, Outputs]) -> tuple[Image, ...]:
    table = image_table(study, store)
    of = {name: rows.reset_index(drop=True) for name, rows in table.groupby("population", sort=False)}
    first_E = np.exp(-outputs[UNLEARNED].splits["forget"].loss_RN[0])
    retrained = of.get(RETRAINED)
    return tuple(
        Image(
            image_id=str(row["image_id"]),
            label=str(row["class"]),
            before=float(of[ORIGINAL]["confidence"][place]),
            unlearned=float(first_E[place]),
            retrained=float(retrained["confidence"][place]) if retrained is not None else None,
            retrained_sd=_number(retrained["confidence_sd"][place]) if retrained is not None else None,
            epsilon=_number(row["epsilon"]),
        )
        for place, row in enumerate(of[UNLEARNED].to_dict("records"))
    )


def _number(value: float) -> float | None:
    return None if math.isnan(value) else float(value)


def _noticed(outputs: dict[str, Outputs]) -> float | None:
    """Return the detectable difference of a two-sided t-test of equal group sizes, in confidence.

    d = (t(1 - 0.05 / 2) + t(0.8)) * sd * sqrt(2 / n) with 2 n - 2 degrees of freedom, sd pooled over runs: the usual
    approximation of the power of Student's test.
    """
    groups = [outputs[name] for name in (UNLEARNED, RETRAINED) if name in outputs]
    n = min((len(one) for one in groups), default=0)
    if len(groups) < 2 or n < 2:
        return None
    variances = [np.exp(-one.splits["forget"].loss_RN).mean(1).var(ddof=1) for one in groups]
    freedom = 2 * n - 2
    quantiles = stats.t.ppf(1 - _ERROR / 2, freedom) + stats.t.ppf(_POWER, freedom)
    return float(quantiles * math.sqrt(np.mean(variances)) * math.sqrt(2 / n))
