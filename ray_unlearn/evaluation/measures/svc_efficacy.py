"""MIA-efficacy: the share of one model's forget images that a classifier of "retain or test" takes for unseen.

    efficacy = svc_forget_efficacy(retain_p_K, test_p_T, forget_p_E, rng)                # 1: all look unseen

As in "Model Sparsity Can Simplify Machine Unlearning" (NeurIPS 2023) and SalUn (ICLR 2024): a support vector classifier
learns "retain or test" from the label's probability.

1 is not the goal: forget images differ from test images for a retrained model too. The value to reach is the same
attack's on retrained models. Give every model a fresh generator of the same seed, so that all are attacked with the
same images.

Does not cover: populations of models (U-LiRA, RMIA), and the papers' other features (entropy, correctness).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ray_unlearn.errors import EvaluationError
from ray_unlearn.evaluation.measures.logistic_attack import MIN_IMAGES
from ray_unlearn.evaluation.measures.measure import ALL, Measure, Single, SingleAttack, rates
from ray_unlearn.evaluation.populations import FloatArray, by_examples, thinned
from ray_unlearn.evaluation.roc import Roc

MAX_SHADOW = 500
"""Images of each kind that the support vector classifier is fitted to; its cost grows with the square."""


def svc_forget_efficacy(
    retain_confidence: npt.ArrayLike,
    test_confidence: npt.ArrayLike,
    forget_confidence: npt.ArrayLike,
    rng: np.random.Generator,
    *,
    max_shadow: int = MAX_SHADOW,
) -> float:
    """Return the share of one model's forget images that a classifier of "retain or test" takes for test images.

    scikit-learn's `SVC(C=3, gamma="auto", kernel="rbf")`, the published settings, on equally many of both.

    Args:
        retain_confidence: probability of the label [K] on retain images, the members.
        test_confidence: [T] on test images, the non-members.
        forget_confidence: [E] on forget images, all of which are judged.
        rng: draws min(K, T, max_shadow) images of each kind, without replacement, in their own order.
        max_shadow: images of each kind at most. The papers use all: their numbers are those of a larger fit.

    Raises:
        EvaluationError: wrong shapes, no image, NaN or infinity, `max_shadow` below 1.

    """
    classifier = _svc(retain_confidence, test_confidence, rng, max_shadow)
    forget_E = by_examples(forget_confidence, "forget confidence")
    return float(np.mean(classifier.predict(forget_E[:, None]) == 0))


def svc_scores(
    retain_confidence: npt.ArrayLike,
    test_confidence: npt.ArrayLike,
    forget_confidence: npt.ArrayLike,
    rng: np.random.Generator,
) -> tuple[FloatArray, FloatArray]:
    """Return how much a classifier of "retain or test" takes images for members: forget [E], unseen test [T // 2].

    Fitted as in `svc_forget_efficacy`, but to the test images at even positions; those at odd positions are the
    negatives of the attack's ROC.

    Raises:
        EvaluationError: wrong shapes, fewer than 2 test images, NaN or infinity.

    """
    test_T = by_examples(test_confidence, "test confidence", at_least=2)
    forget_E = by_examples(forget_confidence, "forget confidence")
    classifier = _svc(retain_confidence, test_T[::2], rng, MAX_SHADOW)
    return classifier.decision_function(forget_E[:, None]), classifier.decision_function(test_T[1::2, None])


def _svc(members: npt.ArrayLike, others: npt.ArrayLike, rng: np.random.Generator, max_shadow: int) -> Any:
    """Return a classifier fitted to equally many of both."""
    from sklearn.svm import SVC

    members_K, others_T = by_examples(members, "retain confidence"), by_examples(others, "test confidence")
    if max_shadow < 1:
        raise EvaluationError(f"svc_forget_efficacy: expected max_shadow of 1 or more, found {max_shadow}")
    size = min(len(members_K), len(others_T), max_shadow)
    shadow = np.concatenate([thinned(members_K, size, rng), thinned(others_T, size, rng)])[:, None]
    return SVC(C=3, gamma="auto", kernel="rbf").fit(shadow, np.repeat([1, 0], size))


def attack(single: Single) -> SingleAttack:
    """Return the attack on every run: its efficacy, and the ROC of the classifier's scores."""
    retain, test, forget = (np.exp(-single.outputs.splits[split].loss_RN) for split in ("retain", "test", "forget"))
    models = list(zip(retain, test, forget, strict=True))
    found = [svc_forget_efficacy(*model, single.make_rng()) for model in models]
    scores = [svc_scores(*model, single.make_rng()) for model in models]
    return SingleAttack.of(found, *(np.stack([pair[kind] for pair in scores]) for kind in (0, 1)))


def curve(single: Single) -> Roc:
    """Return the ROC over all runs: forget images are the positives, test images the negatives."""
    return single.once(attack).curve


def _efficacies(single: Single) -> FloatArray:
    return single.once(attack).values_R


def _rates(single: Single, *, fpr: float) -> FloatArray:
    return single.once(attack).tpr_at(fpr)


_EFFICACY = Measure(
    label="SVC efficacy",
    better="null",
    meaning="share of forget images that an RBF SVC trained on retain against test images calls non-members",
    source="Jia et al., Model Sparsity Can Simplify Machine Unlearning, NeurIPS 2023; Fan et al., SalUn, ICLR 2024",
    upper=1.0,
    needs=ALL,
    least_images=MIN_IMAGES,
    per_run=_efficacies,
)
MEASURES = {
    "svc_efficacy": _EFFICACY,
    **rates("svc_efficacy", "SVC", "forget images", "test images", _EFFICACY, _rates),
}
