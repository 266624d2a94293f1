"""MIA-efficacy: the share of one model's forget images that a classifier of "retain or test" takes for unseen.

    efficacy = svc_forget_efficacy(retain_p_K, test_p_T, forget_p_E, rng)                # 1: all look unseen

As in "Model Sparsity Can Simplify Machine Unlearning" (NeurIPS 2023) and SalUn (ICLR 2024): a support vector classifier
learns "retain or test" from the label's probability.

Read in OPTML-Group/Unlearn-Saliency, `Classification/evaluation/SVC_MIA.py` at 9576623: the same classifier on the same
feature (`confidence`). On purpose different: the larger of retain and test is thinned by a draw, not by position, and
beyond 500 images neighbours share a point (`MAX_POINTS`).

1 is not the goal: forget images differ from test images for a retrained model too. The value to reach is the same
attack's on retrained models. Give every model a fresh generator of the same seed, so that all are attacked with the
same images.

Does not cover: populations of models (U-LiRA, RMIA), and the papers' other features (entropy, correctness).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ray_unlearn.evaluation.compiled import pays
from ray_unlearn.evaluation.measures.logistic_attack import MIN_IMAGES
from ray_unlearn.evaluation.measures.measure import ALL, MakeRng, Measure, Single, SingleAttack, rates
from ray_unlearn.evaluation.populations import FloatArray, by_examples, by_runs, random_half, thinned
from ray_unlearn.evaluation.rbf_classifier import RbfClassifier, ordered
from ray_unlearn.evaluation.roc import Roc

MAX_POINTS = 500
"""Points of each kind that the classifier is fitted to, whose cost grows with their square; more images share points.

With 5,000 images of each kind, in three simulated worlds, the share differed from that of a fit to all by 0.001 at
most. A fit to 500 drawn images, which earlier versions did, was 0.05 too low, because C is a weight per image.
"""


def svc_forget_efficacy(
    retain_confidence: npt.ArrayLike,
    test_confidence: npt.ArrayLike,
    forget_confidence: npt.ArrayLike,
    rng: np.random.Generator,
) -> float:
    """Return the share of one model's forget images that a classifier of "retain or test" takes for test images.

    scikit-learn's `SVC(C=3, gamma="auto", kernel="rbf")`, the published settings, on equally many of both.

    Args:
        retain_confidence: probability of the label [K] on retain images, the members.
        test_confidence: [T] on test images, the non-members.
        forget_confidence: [E] on forget images, all of which are judged.
        rng: draws min(K, T) images of each kind, without replacement.

    Raises:
        EvaluationError: wrong shapes, no image, NaN or infinity.

    """
    classifier = _svc(retain_confidence, by_examples(test_confidence, "test confidence"), rng)
    forget_E = by_examples(forget_confidence, "forget confidence")
    return float(np.mean(classifier.below_zero(forget_E)))


def svc_scores(
    retain_RK: npt.ArrayLike, test_RT: npt.ArrayLike, forget_RE: npt.ArrayLike, make_rng: MakeRng
) -> tuple[FloatArray, FloatArray]:
    """Return how much classifiers of "retain or test" take images for members: forget [R, E], unseen test [R, T'].

    The numbers are in the order of the classifiers' scores, with the same ties, and equal up to rounding.

    Fitted as in `svc_forget_efficacy`, a model each, but to a random half of the test images, which a fresh generator
    draws first; the others, T' = T - T // 2, are the negatives of the attack's ROC.

    Args:
        retain_RK: probability of the label on retain images, of R models.
        test_RT: on test images.
        forget_RE: on forget images.
        make_rng: returns the same fresh generator for each model.

    Raises:
        EvaluationError: wrong shapes, fewer than 2 test images, NaN or infinity.

    """
    test_RT, forget_RE = by_runs(test_RT, "test confidence"), by_runs(forget_RE, "forget confidence")
    classifiers, judged = [], []
    for retain_K, test_T, forget_E in zip(by_runs(retain_RK, "retain confidence"), test_RT, forget_RE, strict=True):
        rng = make_rng()
        fitted_T = random_half(len(by_examples(test_T, "test confidence", at_least=2)), rng)
        classifiers.append(_svc(retain_K, test_T[fitted_T], rng))
        judged.append(np.concatenate([forget_E, test_T[~fitted_T]]))
    scores_RX, forget = ordered(classifiers, np.stack(judged)), forget_RE.shape[1]
    return scores_RX[:, :forget], scores_RX[:, forget:]


def _svc(members: npt.ArrayLike, others_T: FloatArray, rng: np.random.Generator) -> RbfClassifier:
    """Return a classifier fitted to equally many of both."""
    from sklearn import config_context
    from sklearn.svm import SVC

    members_K = by_examples(members, "retain confidence")
    size = min(len(members_K), len(others_T))
    kinds = [_merged(thinned(values, size, rng)) for values in (members_K, others_T)]
    values, weights = (np.concatenate([kind[part] for kind in kinds]) for part in (0, 1))
    labels = np.repeat([1, 0], [len(kind[0]) for kind in kinds])
    with config_context(assume_finite=True, skip_parameter_validation=True):
        if pays(len(values) ** 2):
            from ray_unlearn.evaluation.compiled.kernels import kernel

            fitted = SVC(C=3, kernel="precomputed").fit(kernel(values), labels, sample_weight=weights)
        else:
            fitted = SVC(C=3, gamma="auto", kernel="rbf").fit(values[:, None], labels, sample_weight=weights)
    return RbfClassifier(fitted, values)


def _merged(values: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return at most `MAX_POINTS` values and how many each replaces: neighbours in order become their mean.

    Images of one kind with one probability are one term of the classifier's loss with their number as its weight. Up to
    `MAX_POINTS` images nothing is merged.
    """
    if len(values) <= MAX_POINTS:
        return values, np.ones(len(values))
    starts = np.arange(MAX_POINTS) * len(values) // MAX_POINTS
    weights = np.diff([*starts, len(values)]).astype(np.float64)
    return np.add.reduceat(np.sort(values), starts) / weights, weights


def attack(single: Single) -> SingleAttack:
    """Return the attack on every run: its efficacy, and the ROC of the classifier's scores."""
    retain, test, forget = (np.exp(-single.outputs.splits[split].loss_RN) for split in ("retain", "test", "forget"))
    models = zip(retain, test, forget, strict=True)
    found = [svc_forget_efficacy(*model, single.make_rng()) for model in models]
    return SingleAttack.of(found, *svc_scores(retain, test, forget, single.make_rng))


def curve(single: Single) -> Roc:
    """Return the ROC over all runs: forget images are the positives, test images the negatives."""
    return single.once(attack).curve


def _efficacies(single: Single) -> FloatArray:
    return single.once(attack).values_R


def _rates(single: Single, *, fpr: float) -> FloatArray | None:
    return single.once(attack).rate_of(fpr)


_EFFICACY = Measure(
    label="SVC efficacy",
    better="null",
    meaning="share of forget images that an RBF SVC trained on retain against test images calls non-members",
    source="Jia et al., Model Sparsity Can Simplify Machine Unlearning, NeurIPS 2023; Fan et al., SalUn, ICLR 2024",
    deviation="the larger of retain and test is thinned by a draw, where the program takes its first images; beyond "
    "500 images of a kind, neighbours share a point; the first 64 runs are attacked",
    upper=1.0,
    needs=ALL,
    takes=("probabilities",),
    least_images=MIN_IMAGES,
    per_run=_efficacies,
)
MEASURES = {
    "svc_efficacy": _EFFICACY,
    **rates("svc_efficacy", "SVC", "forget images", "test images", _EFFICACY, _rates),
}
