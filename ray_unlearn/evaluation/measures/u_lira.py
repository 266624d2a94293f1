"""U-LiRA: per-example Gaussians of phi predict whether a model saw an example and forgot it, or never saw it.

    result = u_lira(unlearned_UE, retrained_RE)          # phi = logit-scaled confidences of the forget images
    result.auc, result.accuracy, result.tpr_at_1_percent
    null = u_lira(retrained_RE[::2], retrained_RE[1::2])  # the value of perfect unlearning at half the runs

Hayes et al., "Inexact Unlearning Needs More Careful Evaluations to Avoid a False Sense of Privacy" (arXiv 2403.01218):
for each example, score = log p(phi | trained on it, then unlearned) - log p(phi | retrained without it).

Read in RoyRin/data-unlearning-bench, `unlearning/auditors/ulira/compute_ulira_scores.py` at 09aa166: Gaussians of
margins (standard deviations with ddof 0) of up to 300 shadow models on each side, judged on 50 other models at a
likelihood share of 0.5. On purpose different: every model is judged, by Gaussians that exclude it, with variances of
ddof 1 and all thresholds; and phi takes the place of the margin, which it equals up to its clipping.

Compare the result with its null, at equal numbers of runs: fewer runs fit worse Gaussians and make the attack weaker,
not the unlearning better. A model's own Gaussian is fitted without it, and the other population's without one run too:
with one run less on its own side alone, two samples of one distribution gave an AUC of 0.37 at 3 runs each and 0.49 at
8, where they give 0.50 now. Models that start from one original are left out together: else a method that is perfect
over originals is recognised by its original (AUC 0.58 instead of 0.49, two originals). Implementations differ: Deep
Unlearn's (xcadet/deepunlearn, `munl/lira/consolidate_predictions.py` at d3dacb6) fits the Gaussians to 0/1 correctness,
and scores models with Gaussians that were fitted to them too; its numbers are not these. Do not bootstrap runs with
replacement: the double of a model would be in the fit of its own Gaussians. Attacks of this kind can be gamed by
constant margins (arXiv 2410.23232); KLOM is the authors' answer.

Does not cover: shadow models over many forget sets (the paper's attacker); here one forget set, and populations over
seeds. Nor one variance for all examples, which LiRA advises below 64 models or so.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt

from ray_unlearn.evaluation.compiled import pays
from ray_unlearn.evaluation.measures.measure import FALSE_POSITIVES, Distance, Measure, Pair, enough_negatives, rates
from ray_unlearn.evaluation.populations import FloatArray, compared, variance_of_mean
from ray_unlearn.evaluation.roc import Roc, Separation, roc, separation, share_below, tpr_on_halves

Places = npt.NDArray[np.intp]
"""[B, S]: the rows of B blocks of S runs, which are left out together."""
MIN_RUNS = 3
"""One is left out, and a variance needs two."""
_VALUES = 1 << 14
"""Values of both populations at a time."""
VARIANCE_FLOOR = 1e-4
"""Smallest variance of a Gaussian, as a share of its example's variance over both populations: 1 % of its spread."""


@dataclass(frozen=True, kw_only=True, eq=False)
class LiraResult:
    """Scores of every model on every example (positive: looks unlearned), and what an attacker gets from them."""

    unlearned_scores: FloatArray
    """[U, E], float64, natural logarithm: models that were trained on the example and unlearned it (the positives)."""
    retrained_scores: FloatArray
    """[R, E]: models that never saw it (the negatives)."""

    @cached_property
    def curve(self) -> Roc:
        """ROC over all models and examples together."""
        return roc(self.unlearned_scores, self.retrained_scores)

    @cached_property
    def _separation(self) -> Separation:
        return separation(self.unlearned_scores, self.retrained_scores, tuple(FALSE_POSITIVES.values()))

    @property
    def auc(self) -> float:
        """Area under the pooled curve: 1/2 if the populations cannot be distinguished."""
        return self._separation.auc

    def tpr_at(self, fpr: float) -> float:
        """Return the true positive rate at a false positive rate of at most `fpr`, 0.001 or 0.01, not interpolated."""
        return self._separation.tpr[fpr]

    @property
    def accuracy(self) -> float:
        """Mean of the two populations' shares on their own side of 0; a score of exactly 0 counts 1/2."""
        unlearned = np.heaviside(self.unlearned_scores, 0.5).mean()
        retrained = np.heaviside(-self.retrained_scores, 0.5).mean()
        return float(unlearned + retrained) / 2

    @property
    def tpr_at_01_percent(self) -> float:
        """True positive rate where the false positive rate is at most 0.1 %, not interpolated."""
        return self.tpr_at(0.001)

    @property
    def tpr_at_1_percent(self) -> float:
        """True positive rate where the false positive rate is at most 1 %, not interpolated."""
        return self.tpr_at(0.01)


def u_lira(
    unlearned_UE: npt.ArrayLike, retrained_RE: npt.ArrayLike, originals_U: npt.ArrayLike | None = None
) -> LiraResult:
    """Return the attack's scores and its pooled curve.

    A model is scored against Gaussians (mean, variance with ddof 1) that exclude it, and with it all models that share
    its original; of the other population as many are left out, those at the same places (modulo its size), so that both
    fits lack equally many. An affine map of an example's phi in all models changes nothing.

    Args:
        unlearned_UE: phi of U >= 3 unlearned models on E forget examples.
        retrained_RE: phi of R >= 3 retrained models on the same examples.
        originals_U: which original each unlearned model started from; default a different one for each. It is ignored
            where fewer than 2 models of other originals would remain, or fewer than 2 of the other population.

    Raises:
        EvaluationError: wrong shapes, too few runs, different examples, NaN or infinity.

    """
    seen_UE, unseen_RE = compared(unlearned_UE, retrained_RE, at_least=MIN_RUNS)
    blocks = _blocks(np.arange(len(seen_UE)) if originals_U is None else np.asarray(originals_U), len(unseen_RE))
    if seen_UE.shape[1] > 1 and _alone(blocks) and pays(seen_UE.size + unseen_RE.size):
        from ray_unlearn.evaluation.compiled.gaussians import scores_of

        ours_UE, theirs_RE = scores_of(seen_UE, unseen_RE, VARIANCE_FLOOR)
        return LiraResult(unlearned_scores=ours_UE, retrained_scores=theirs_RE)
    ours_UE, theirs_RE = np.empty_like(seen_UE), np.empty_like(unseen_RE)
    for images in _together(seen_UE.shape[1], seen_UE.size + unseen_RE.size, blocks):
        ours_UE[:, images], theirs_RE[:, images] = _scores(seen_UE[:, images], unseen_RE[:, images], blocks)
    return LiraResult(unlearned_scores=ours_UE, retrained_scores=theirs_RE)


def _together(examples: int, values: int, blocks: list[Places]) -> list[slice]:
    """Return examples whose arrays stay in the cache together; all, where a matrix product may round otherwise.

    Two or more, because NumPy adds up a single column in another order.
    """
    parts = max(1, min(examples // 2, values // _VALUES)) if _alone(blocks) else 1
    cuts = np.arange(parts + 1) * examples // parts
    return [slice(start, end) for start, end in zip(cuts[:-1].tolist(), cuts[1:].tolist(), strict=True)]


def _alone(blocks: list[Places]) -> bool:
    """Return whether every run is left out alone."""
    return all(places_BS.shape[1] == 1 for places_BS in blocks)


def _scores(seen_UE: FloatArray, unseen_RE: FloatArray, blocks: list[Places]) -> tuple[FloatArray, FloatArray]:
    """Return the scores of both populations on some examples."""
    origin_E = unseen_RE[0]  # an example on which all models agree is exactly 0 from here on, also in its mean
    seen_UE, unseen_RE = seen_UE - origin_E, unseen_RE - origin_E
    floor_E = VARIANCE_FLOOR * np.concatenate([seen_UE, unseen_RE]).var(axis=0, ddof=1)
    unlearned_UE = _own_minus_other(seen_UE, unseen_RE, floor_E, blocks)
    alone = [np.arange(len(unseen_RE))[:, None]]
    return unlearned_UE, -_own_minus_other(unseen_RE, seen_UE, floor_E, alone)


def _blocks(originals_U: npt.NDArray[np.generic], others: int) -> list[Places]:
    """Return blocks by size: the models of each original, or each model alone where blocks would be too large."""
    places, runs = np.unique(originals_U, return_inverse=True)[1], len(originals_U)
    blocks = [np.flatnonzero(places == block) for block in range(places.max() + 1)]
    largest = max(map(len, blocks))
    if largest > min(runs, others) - 2:
        return [np.arange(runs)[:, None]]
    return [np.stack([one for one in blocks if len(one) == size]) for size in {len(block) for block in blocks}]


def _own_minus_other(own_RE: FloatArray, other_ME: FloatArray, floor_E: FloatArray, blocks: list[Places]) -> FloatArray:
    """Return log p(phi | own population without the model's block) - log p(phi | other population without as many)."""
    scores_RE, own, other = np.empty_like(own_RE), _Sums(own_RE), _Sums(other_ME)
    for places_BS in blocks:
        inside = own.without(places_BS)
        outside = other.without(places_BS % len(other_ME))
        for step in range(places_BS.shape[1]):
            phi_BE = own_RE[places_BS[:, step]]
            ours = _log_density(phi_BE, inside[0], np.maximum(inside[1], floor_E))
            scores_RE[places_BS[:, step]] = ours - _log_density(phi_BE, outside[0], np.maximum(outside[1], floor_E))
    return scores_RE


class _Sums:
    """Mean and variance of a population without some of its runs, from deviations around the mean of all."""

    def __init__(self, phi_RE: FloatArray) -> None:
        self.mean_E = phi_RE.mean(axis=0)
        self.deviation_RE = phi_RE - self.mean_E
        self.squares_E = (self.deviation_RE**2).sum(axis=0)

    def without(self, places_BS: Places) -> tuple[FloatArray, FloatArray]:
        """Return mean and variance (ddof 1) over the runs outside each block: [B, E] both.

        With d = phi - mean of all, and sums over a block of S runs: the others' mean is mean - sum(d) / (R - S), and
        their sum of squares is that of all - sum(d^2) - sum(d)^2 / (R - S). A place that a block names twice, which
        happens where the other population is smaller, is left out once.
        """
        if places_BS.shape[1] == 1:
            sum_BE, left = self.deviation_RE[places_BS[:, 0]], len(self.deviation_RE) - 1
            squares_BE = self.squares_E - sum_BE**2 - sum_BE**2 / left
            return self.mean_E - sum_BE / left, np.maximum(squares_BE, 0) / (left - 1)
        rows_BR = np.zeros((len(places_BS), len(self.deviation_RE)))
        np.put_along_axis(rows_BR, places_BS, 1.0, axis=1)
        left_B1 = len(self.deviation_RE) - rows_BR.sum(axis=1, keepdims=True)
        sum_BE = rows_BR @ self.deviation_RE
        squares_BE = self.squares_E - rows_BR @ self.deviation_RE**2 - sum_BE**2 / left_B1
        return self.mean_E - sum_BE / left_B1, np.maximum(squares_BE, 0) / (left_B1 - 1)


def _log_density(phi_RE: FloatArray, mean: FloatArray, variance: FloatArray) -> FloatArray:
    """Return the Gaussian's log density without -log(2 pi) / 2, which cancels; 0 where no model differs at all."""
    spread = np.where(variance > 0, variance, 1)
    density_RE: FloatArray = -((phi_RE - mean) ** 2) / (2 * spread) - np.log(spread) / 2
    return density_RE


def attack(pair: Pair) -> LiraResult:
    """Return the attack on the forget images."""
    return u_lira(*pair.phi("forget"), pair.unlearned.originals_R)


def curve(pair: Pair) -> Roc:
    """Return the ROC over all runs and forget images: unlearned models are the positives."""
    return pair.once(attack).curve


def _auc(pair: Pair) -> float:
    return pair.once(attack).auc


def _moved(pair: Pair, by_ME: FloatArray) -> FloatArray:
    """Return the area after moves of the unlearned models' phi, [moves]."""
    (seen_UE, unseen_RE), originals_U = pair.phi("forget"), pair.unlearned.originals_R
    return np.array(
        [u_lira(seen_UE + by_E, unseen_RE, originals_U).auc if by_E.any() else _auc(pair) for by_E in by_ME]
    )


def _own(pair: Pair) -> float:
    """Return the variance of the area, if images had nothing in common.

    An image adds the scores below its unlearned models' and above its retrained ones': the area is the mean of either,
    and varies by their sum (DeLong, DeLong and Clarke-Pearson, Biometrics 1988).
    """
    found = pair.once(attack)
    ours_UE, theirs_RE = found.unlearned_scores, found.retrained_scores
    return variance_of_mean(share_below(ours_UE, theirs_RE).mean(axis=0) - share_below(theirs_RE, ours_UE).mean(axis=0))


def _rate(pair: Pair, *, fpr: float) -> float | None:
    found = pair.once(attack)
    return found.tpr_at(fpr) if enough_negatives(found.retrained_scores.size, fpr) else None


def _halves(pair: Pair, *, fpr: float) -> tuple[float, float] | None:
    found, half_E = pair.once(attack), pair.half_of("forget")
    if half_E is None:
        return None
    return tpr_on_halves(found.unlearned_scores, found.retrained_scores, half_E, fpr)


_AUC = Measure(
    label="U-LiRA AUC",
    better="null",
    meaning="per-example likelihood-ratio attack: unlearned against retrained models; 0.5 is blind",
    source="Hayes et al., Inexact Unlearning Needs More Careful Evaluations, SaTML 2025",
    deviation="one forget set, and models over seeds, where the paper's attacker has shadow models over many forget "
    "sets; a model is judged by Gaussians that exclude it, and one run or original of the other side; all thresholds",
    upper=1.0,
    least_runs=MIN_RUNS,
    compute=_auc,
    distance=Distance(_moved, _own),
)
_BOTH = replace(_AUC, source="Hayes et al., SaTML 2025; Carlini et al., S&P 2022", distance=None)
MEASURES = {
    "u_lira_auc": _AUC,
    **rates(
        "u_lira", "U-LiRA", "unlearned models", "retrained ones", _BOTH, _rate, error=0.6, halves=_halves, rare=True
    ),
}
