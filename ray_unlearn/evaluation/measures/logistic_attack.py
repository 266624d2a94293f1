"""The attack of the challenge's starting kit: weak, cheap, and comparable with what is published.

    accuracy = simple_attack(forget_losses_E, test_losses_T, rng)                        # 0.5: losses look alike

Logistic regression from one model's loss to "forget or test", mean accuracy over ten random splits (NeurIPS 2023
Machine Unlearning Challenge, starting kit).

Read in unlearning-challenge/starting-kit, `unlearning-CIFAR10.py` at 0b903b9 and `simple_mia` in its public copies. On
purpose different: whichever set is larger is thinned (there always the forget set), by a draw that is the same for
every model.

0.5 is not the goal: forget images differ from test images for a retrained model too. The value to reach is the same
attack's on retrained models. Give every model a fresh generator of the same seed, so that all are attacked with the
same images. The classifier is scikit-learn's with its defaults, whose optimiser stops early on losses of small range:
exact logistic regression gave another accuracy in one case of five, and by up to 0.09, hence is not used.

Does not cover: populations of models (U-LiRA, RMIA).
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ray_unlearn.evaluation.compiled import pays
from ray_unlearn.evaluation.measures.measure import Measure, Single, SingleAttack, rates
from ray_unlearn.evaluation.populations import FloatArray, by_examples, thinned
from ray_unlearn.evaluation.roc import Roc

if TYPE_CHECKING:
    from collections.abc import Sequence

MIN_IMAGES = 10
"""Of each kind: a tenth of all is held out, and both kinds must be in it."""


def simple_attack(
    forget_losses: npt.ArrayLike, test_losses: npt.ArrayLike, rng: np.random.Generator, *, compiled: bool = False
) -> float:
    """Return the mean accuracy of telling one model's forget images from test images by their losses.

    Equally many of both: the larger set is thinned by `rng`, without replacement, in its own order. Then scikit-learn's
    `LogisticRegression()` on `StratifiedShuffleSplit(n_splits=10, random_state=0)`, a tenth held out each time.

    Args:
        forget_losses: cross-entropy [E], in nats, E >= 10.
        test_losses: [T], T >= 10, of the same model.
        rng: draws the images that stay; nothing else is random.
        compiled: whether the classifier is fitted by compiled loops, with the same numbers.

    Raises:
        EvaluationError: wrong shapes, too few images, NaN or infinity.

    """
    forget_E = by_examples(forget_losses, "forget losses", at_least=MIN_IMAGES)
    test_T = by_examples(test_losses, "test losses", at_least=MIN_IMAGES)
    size = min(len(forget_E), len(test_T))
    values = np.concatenate([thinned(test_T, size, rng), thinned(forget_E, size, rng)])
    member = np.repeat([0.0, 1.0], size)
    return float(np.mean([_accuracy(values, member, *split, compiled=compiled) for split in _splits(size)]))


@lru_cache(maxsize=4)
def _splits(size: int) -> Sequence[tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]]:
    """Return the ten (fitted, held out) positions among `size` of each kind: the same for every model."""
    from sklearn.model_selection import StratifiedShuffleSplit

    kinds = np.repeat([0, 1], size)
    return tuple(StratifiedShuffleSplit(n_splits=10, random_state=0).split(kinds[:, None], kinds))


def _accuracy(
    values_K: FloatArray,
    member_K: FloatArray,
    fitted: npt.NDArray[np.intp],
    held_out: npt.NDArray[np.intp],
    *,
    compiled: bool,
) -> float:
    """Return the accuracy on what is held out."""
    weight, intercept = _fit(values_K[fitted], member_K[fitted], compiled=compiled)
    predicted = values_K[held_out] * weight + intercept > 0
    return float(np.mean(predicted == member_K[held_out]))


def _fit(values_K: FloatArray, member_K: FloatArray, *, compiled: bool) -> tuple[float, float]:
    """Return the classifier's weight and intercept, without those of scikit-learn's checks that can be left out."""
    if compiled:
        from ray_unlearn.evaluation.compiled.logistic import fit

        return fit(values_K, member_K)
    from sklearn import config_context
    from sklearn.linear_model import LogisticRegression

    with config_context(assume_finite=True, skip_parameter_validation=True):
        model = LogisticRegression().fit(values_K[:, None], member_K)
    return float(model.coef_[0, 0]), float(model.intercept_[0])


def attack(single: Single) -> SingleAttack:
    """Return the attack on every run: its accuracy, and the ROC of the losses themselves.

    On one thread of BLAS: others wait in loops between the tiny products of a fit, which took up to ten times as much
    CPU time, and the last bits of fits to over 10,000 images depended on their number.
    """
    from threadpoolctl import threadpool_limits

    forget_RE, test_RT = (single.outputs.splits[split].loss_RN for split in _NEEDS)
    models, compiled = zip(forget_RE, test_RT, strict=True), pays(forget_RE.size + test_RT.size)
    with threadpool_limits(1, user_api="blas"):
        found = [simple_attack(*model, single.make_rng(), compiled=compiled) for model in models]
    return SingleAttack.of(found, -forget_RE, -test_RT)


def curve(single: Single) -> Roc:
    """Return the ROC over all runs: forget images are the positives, test images the negatives."""
    return single.once(attack).curve


def _accuracies(single: Single) -> FloatArray:
    return single.once(attack).values_R


def _rates(single: Single, *, fpr: float) -> FloatArray | None:
    return single.once(attack).rate_of(fpr)


_NEEDS = ("forget", "test")
_ACCURACY = Measure(
    label="logistic attack",
    better="null",
    meaning="accuracy of a logistic regression that separates forget from test losses of one model",
    source="NeurIPS 2023 Machine Unlearning Challenge, starting kit",
    deviation="the larger of both sets is thinned by a draw that is the same for every model, where the kit takes its "
    "first images; the first 64 runs are attacked",
    upper=1.0,
    needs=_NEEDS,
    takes=("probabilities",),
    least_images=MIN_IMAGES,
    per_run=_accuracies,
)
MEASURES = {
    "logistic_attack": _ACCURACY,
    **rates("logistic_attack", "logistic", "forget images", "test images", _ACCURACY, _rates),
}
