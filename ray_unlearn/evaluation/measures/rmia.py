"""RMIA: is an image more likely than others, by what a model makes of it and what models make of it that never saw it.

    result = rmia(
        target_forget=phi_UE, target_test=phi_UT,      # unlearned models on forget and test images
        reference_forget=phi_RE, reference_test=phi_RT,  # retrained models on the same images
        population=random_half(num_test, rng),           # test images that others are compared with
    )
    result.auc, result.tpr_at_1_percent                # means over targets; result.auc_per_target for an interval

Zarifzadeh, Liu, Shokri, "Low-Cost High-Power Membership Inference Attacks" (ICML 2024), offline form with gamma = 1:

    score(x) = share of population images z with  p(x) / pbar(x) > p(z) / pbar(z),
    pbar(x) = ((1 + a) * mean of p(x) over reference models + (1 - a)) / 2,   p = 1 / (1 + exp(-phi))

Read in privacytrustlab/ml_privacy_meter, `modules/mia/attacks/rmia.py` at 0b8cb7a, `run_rmia`: the same pbar, and the
same strict comparison. On purpose different: pbar is of the mean over all reference models; that program sorts the
probabilities of models without x and, unless it is given their number, averages the largest half of them. It also tunes
a on a second model; see below.

Members are the forget images. A random half of the test images is the population z, the others are the non-members x,
so that no image is compared with itself. Every population of a study meets the same halves.

p is the probability of the label. Above phi = 36.7 it is 1 exactly in float64, and images that are that certain tie;
ties in z do not count for x, and tied scores count 1/2 in the area. A score is a multiple of 2 / T, and a non-member
above its whole population ties with the surest members: rates at 0.1 % want test images by the thousand. Forget images
may differ from test images (one class, one person), which pbar takes out in part only: compare the result with its
null, not with 1/2.

Does not cover: shadow models that were trained on some of the images (`shadow_rmia`), and tuning a. The authors tune it
on reference models and their own members; no retrained model was trained on a forget image, so it cannot rank values of
a, and tuning on the targets would cheat. `tune_offline_a` there tries a = 0, 0.1, ..., 1 on the target's partner, whose
members are known, and keeps the largest area; it matters: in a simulated world of well fitted models the area was 0.81
with a = 0, 0.77 with 0.3 and 0.74 with 0.6. The value of `A` is the default of the program's functions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from ray_unlearn.errors import EvaluationError
from ray_unlearn.evaluation.compiled import pays
from ray_unlearn.evaluation.confidence import probability_of
from ray_unlearn.evaluation.measures.measure import FALSE_POSITIVES, Measure, Pair, enough_negatives, rates
from ray_unlearn.evaluation.populations import FloatArray, by_runs, random_half, same_examples
from ray_unlearn.evaluation.roc import Roc, roc, rocs_of_counts

A = 0.3
"""How p of a model that saw x is guessed from one that did not: p_in = a p_out + 1 - a. Fixed; see above."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class RmiaResult:
    """Scores of every target model, each a share of the population in [0, 1], and what an attacker gets from them."""

    member_scores: FloatArray
    """[U, E], float64: forget images (the positives)."""
    non_member_scores: FloatArray
    """[U, X], float64: test images outside the population (the negatives)."""
    curves: tuple[Roc, ...]
    """ROC of each of the U models."""

    @property
    def auc_per_target(self) -> FloatArray:
        """Area under each model's curve, [U]."""
        return np.array([curve.auc for curve in self.curves])

    def tpr_per_target(self, fpr: float) -> FloatArray:
        """Return each model's true positive rate at a false positive rate of at most `fpr`, a share, [U]."""
        return np.array([curve.tpr_at(fpr) for curve in self.curves])

    @property
    def auc(self) -> float:
        """Mean over targets."""
        return float(self.auc_per_target.mean())

    @property
    def tpr_at_01_percent(self) -> float:
        """Mean over targets at 0.1 %; with under 1000 non-members, of no false positive at all."""
        return float(self.tpr_per_target(0.001).mean())

    @property
    def tpr_at_1_percent(self) -> float:
        """Mean over targets at 1 %."""
        return float(self.tpr_per_target(0.01).mean())

    @property
    def curve(self) -> Roc:
        """All targets' scores in one curve, for a plot; its area is not the mean of the targets' areas."""
        return roc(self.member_scores, self.non_member_scores)


def rmia(
    *,
    target_forget: npt.ArrayLike,
    target_test: npt.ArrayLike,
    reference_forget: npt.ArrayLike,
    reference_test: npt.ArrayLike,
    population: npt.NDArray[np.bool_],
    a: float = A,
    given: Literal["phi", "probability"] = "phi",
) -> RmiaResult:
    """Return the attack's scores, and each target's area and true positive rates.

    Args:
        target_forget: phi [U, E] of the models under attack on the forget images.
        target_test: phi [U, T] of the same models on T >= 2 test images.
        reference_forget: phi [R, E] of R >= 1 models that saw neither; on the same forget images.
        reference_test: phi [R, T], of the same models.
        population: which test images [T] are the population z, not all and not none.
        a: in [0, 1], see `A`.
        given: what the arrays hold: phi, or the label's probability.

    Raises:
        EvaluationError: wrong shapes, different images or models, under 2 test images, NaN or infinity, `a` outside.

    """
    if not 0 <= a <= 1:
        raise EvaluationError(f"rmia: expected a in [0, 1], found {a}")
    forget, test = _alike(target_forget, reference_forget, "forget"), _alike(target_test, reference_test, "test")
    _same_models(forget, test)
    if test[0].shape[1] < 2:
        raise EvaluationError("rmia: expected 2 test images or more, one non-member and one of the population, found 1")
    if population.shape != test[0].shape[1:] or population.all() or not population.any():
        raise EvaluationError(
            f"rmia: expected a mask of {test[0].shape[1]} test images, some in the population and some outside; "
            f"found {int(population.sum())} of {len(population)}"
        )
    if given == "phi":
        forget, test = ((probability_of(target), probability_of(reference)) for target, reference in (forget, test))
    return _scored(_relative(*forget, a), _relative(*test, a), population)


def _scored(forget_UE: FloatArray, test_UT: FloatArray, population: npt.NDArray[np.bool_]) -> RmiaResult:
    """Return the attack by p / pbar of each target and image."""
    population_UZ = test_UT.compress(population, axis=1)
    size, sorted_UZ = population_UZ.shape[1], np.sort(population_UZ, axis=1)
    member_UE, other_UX = (_below(some_UX, sorted_UZ) for some_UX in (forget_UE, test_UT.compress(~population, axis=1)))
    curves = tuple(rocs_of_counts(member_UE, other_UX, size))
    return RmiaResult(member_scores=member_UE / size, non_member_scores=other_UX / size, curves=curves)


def _alike(target: npt.ArrayLike, reference: npt.ArrayLike, images: str) -> tuple[FloatArray, FloatArray]:
    names = f"target_{images}", f"reference_{images}"
    target_UE, reference_RE = by_runs(target, names[0]), by_runs(reference, names[1])
    same_examples(target_UE, names[0], reference_RE, names[1])
    return target_UE, reference_RE


def _same_models(forget: tuple[FloatArray, FloatArray], test: tuple[FloatArray, FloatArray]) -> None:
    for name, forget_RE, test_RT in zip(("target", "reference"), forget, test, strict=True):
        if len(forget_RE) != len(test_RT):
            raise EvaluationError(
                f"rmia: {name}_forget has {len(forget_RE)} runs, {name}_test has {len(test_RT)}; give the same models"
            )


def _relative(target_UE: FloatArray, reference_RE: FloatArray, a: float) -> FloatArray:
    """Return p / pbar of probabilities, [U, E]."""
    return np.asarray(target_UE / _pbar(reference_RE.mean(axis=0), a))


def _pbar(mean_E: FloatArray, a: float) -> FloatArray:
    """Return pbar by the mean over reference models, above 0 also where a = 1."""
    return np.maximum(((1 + a) * mean_E + (1 - a)) / 2, np.finfo(np.float64).tiny)


def share_below(relative_UX: FloatArray, population_UZ: FloatArray) -> FloatArray:
    """Return for each target and image the share of its population that is strictly below, [U, X]."""
    return np.asarray(_below(relative_UX, np.sort(population_UZ, axis=1)) / population_UZ.shape[1])


def _below(relative_UX: FloatArray, sorted_UZ: FloatArray) -> npt.NDArray[np.intp]:
    """Return for each target and image how many of its sorted population are strictly below, [U, X].

    In NumPy, merging two sorted halves is faster than looking images up one by one. An image is merged before its
    equals.
    """
    if pays(relative_UX.size):
        from ray_unlearn.evaluation.compiled.counts import below

        return below(relative_UX, sorted_UZ)
    found_UX = np.empty(relative_UX.shape, np.intp)
    for relative_X, sorted_Z, found_X in zip(relative_UX, sorted_UZ, found_UX, strict=True):
        order_X = np.argsort(relative_X)
        merged = np.argsort(np.concatenate([relative_X[order_X], sorted_Z]), kind="stable")
        found_X[order_X] = np.flatnonzero(merged < len(order_X)) - np.arange(len(order_X))
    return found_UX


class Summary(NamedTuple):
    """What is reported of each target."""

    auc_U: FloatArray
    tpr: Mapping[float, FloatArray]
    """False positive rate -> true positive rate of each target."""
    non_members: int


def summary(pair: Pair) -> Summary | None:
    """Return what measures take of the attack, from large populations without scores; None as `attack`."""
    fprs = tuple(FALSE_POSITIVES.values())
    sizes = [len(pair.unlearned.splits[split].labels_N) for split in _NEEDS]
    if min(sizes) > 1 and pays(len(pair.unlearned) * sum(sizes)):
        return _summary_compiled(pair, sizes[1], fprs)
    found = pair.once(attack)
    if found is None:
        return None
    tpr = {fpr: found.tpr_per_target(fpr) for fpr in fprs}
    return Summary(found.auc_per_target, tpr, found.non_member_scores.shape[1])


def _summary_compiled(pair: Pair, test_images: int, fprs: tuple[float, ...]) -> Summary:
    """Return the same by compiled loops, which read probabilities among all runs."""
    from ray_unlearn.evaluation.compiled.likelihoods import separations, sums_of

    sides, population = [], random_half(test_images, pair.make_rng())
    for split in _NEEDS:
        target_NE, rows_U = pair.unlearned.splits[split].among_all
        reference_NE, rows_R = pair.reference.splits[split].among_all
        sides.append((target_NE, _pbar(sums_of(reference_NE, rows_R) / len(rows_R), A)))
    found = separations(sides[0], sides[1], rows_U, population, fprs)
    auc_U, left = found.twice_U / 2, np.flatnonzero(found.left_U)
    tpr = dict(zip(fprs, found.tpr_FU, strict=True))
    if len(left):
        forget_UE, test_UT = (all_NE[rows_U[left]] / pbar_E for all_NE, pbar_E in sides)
        again = _scored(forget_UE, test_UT, population)
        auc_U[left] = again.auc_per_target
        for fpr, tpr_U in tpr.items():
            tpr_U[left] = again.tpr_per_target(fpr)
    return Summary(auc_U, tpr, int((~population).sum()))


def attack(pair: Pair) -> RmiaResult | None:
    """Return the attack, or None where there are not two test images: a non-member, and one of the population."""
    (target_forget, reference_forget), (target_test, reference_test) = (
        [side.splits[split].probability_RN for side in (pair.unlearned, pair.reference)] for split in _NEEDS
    )
    if target_test.shape[1] < 2:
        return None
    return rmia(
        target_forget=target_forget,
        target_test=target_test,
        reference_forget=reference_forget,
        reference_test=reference_test,
        population=random_half(target_test.shape[1], pair.make_rng()),
        given="probability",
    )


def curve(pair: Pair) -> Roc | None:
    """Return the ROC over all runs: forget images are the positives, test images the negatives."""
    found = pair.once(attack)
    return None if found is None else found.curve


def _auc(pair: Pair) -> float | None:
    found = pair.once(summary)
    return None if found is None else float(found.auc_U.mean())


def _rate(pair: Pair, *, fpr: float) -> float | None:
    found = pair.once(summary)
    if found is None or not enough_negatives(found.non_members, fpr):
        return None
    return float(found.tpr[fpr].mean())


_NEEDS = ("forget", "test")
_AUC = Measure(
    label="RMIA AUC",
    better="null",
    meaning="robust membership inference: forget against test images of one model, retrained models as references",
    source="Zarifzadeh et al., Low-Cost High-Power Membership Inference Attacks, ICML 2024",
    deviation=f"pbar averages all reference models, where the program takes the largest half; a is fixed at {A}, its "
    "default, where the program tunes it on a model that was trained on some of the images: no retrained model was",
    upper=1.0,
    needs=_NEEDS,
    takes=("probabilities",),
    error=1.08,
    compute=_auc,
)
_SHORT = replace(_AUC, source="Zarifzadeh et al., ICML 2024")
MEASURES = {"rmia_auc": _AUC, **rates("rmia", "RMIA", "forget images", "test images", _SHORT, _rate, error=0.85)}
