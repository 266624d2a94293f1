"""The two attacks on a single model that most papers report: weak, cheap, and comparable with what is published.

    accuracy = simple_attack(forget_losses_E, test_losses_T, rng)                        # 0.5: losses look alike
    efficacy = svc_forget_efficacy(retain_p_K, test_p_T, forget_p_E, rng)                # 1: all look unseen

`simple_attack` is the NeurIPS 2023 starting kit's: logistic regression from the loss to "forget or test", mean accuracy
over ten random splits. `svc_forget_efficacy` is MIA-efficacy as in "Model Sparsity Can Simplify Machine Unlearning" and
SalUn: a support vector classifier learns "retain or test" from the label's probability, and the result is the share of
forget images that it takes for non-members.

Neither 0.5 nor 1 is the goal: forget images differ from test images for a retrained model too. The value to reach is
the same attack's on retrained models. Give every model a fresh generator of the same seed, so that all are attacked
with the same images. The classifiers are scikit-learn's with its defaults, whose optimiser stops early on losses of
small range: exact logistic regression gave another accuracy in one case of five, and by up to 0.09, hence is not used.

Does not cover: populations of models (U-LiRA, RMIA), and the papers' other features (entropy, correctness).
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ray_unlearn.errors import EvaluationError
from ray_unlearn.evaluation.populations import FloatArray, by_examples

if TYPE_CHECKING:
    from collections.abc import Sequence

MIN_IMAGES = 10
"""Of each kind, for `simple_attack`: a tenth of all is held out, and both kinds must be in it."""
MAX_SHADOW = 500
"""Images of each kind that the support vector classifier is fitted to; its cost grows with the square."""


def simple_attack(forget_losses: npt.ArrayLike, test_losses: npt.ArrayLike, rng: np.random.Generator) -> float:
    """Return the mean accuracy of telling one model's forget images from test images by their losses.

    Equally many of both: the larger set is thinned by `rng`, without replacement, in its own order. Then scikit-learn's
    `LogisticRegression()` on `StratifiedShuffleSplit(n_splits=10, random_state=0)`, a tenth held out each time.

    Args:
        forget_losses: cross-entropy [E], in nats, E >= 10.
        test_losses: [T], T >= 10, of the same model.
        rng: draws the images that stay; nothing else is random.

    Raises:
        EvaluationError: wrong shapes, too few images, NaN or infinity.

    """
    forget_E = by_examples(forget_losses, "forget losses", at_least=MIN_IMAGES)
    test_T = by_examples(test_losses, "test losses", at_least=MIN_IMAGES)
    size = min(len(forget_E), len(test_T))
    features = np.concatenate([_thin(test_T, size, rng), _thin(forget_E, size, rng)])[:, None]
    member = np.repeat([0, 1], size)
    return float(np.mean([_accuracy(features, member, *split) for split in _splits(size)]))


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
    shadow = np.concatenate([_thin(members_K, size, rng), _thin(others_T, size, rng)])[:, None]
    return SVC(C=3, gamma="auto", kernel="rbf").fit(shadow, np.repeat([1, 0], size))


def _thin(values: FloatArray, size: int, rng: np.random.Generator) -> FloatArray:
    """Return `size` of the values in their own order, drawn by rng; it is not asked where all stay."""
    if size == len(values):
        return values
    return values[np.sort(rng.choice(len(values), size, replace=False))]


@lru_cache(maxsize=4)
def _splits(size: int) -> Sequence[tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]]:
    """Return the ten (fitted, held out) positions among `size` of each kind: the same for every model."""
    from sklearn.model_selection import StratifiedShuffleSplit

    kinds = np.repeat([0, 1], size)
    return tuple(StratifiedShuffleSplit(n_splits=10, random_state=0).split(kinds[:, None], kinds))


def _accuracy(
    features: FloatArray, member: npt.NDArray[Any], fitted: npt.NDArray[np.intp], held_out: npt.NDArray[np.intp]
) -> float:
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression().fit(features[fitted], member[fitted])
    return float(model.score(features[held_out], member[held_out]))
