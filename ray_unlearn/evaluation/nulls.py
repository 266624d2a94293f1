"""The reference against itself: scores of retraining when it is scored like a method.

    null = score_null([reference], 32, settings) # NullPart: every measure between disjoint halves, 32 runs a side
    scores = with_null(scored, null, images)     # a method's numbers with the null at that N

A perfect method does not score 1: at 512 against 512 the official metric gives retrained models about 0.19 against
themselves. Numbers at unequal N are never put side by side.

Does not cover: the methods' own numbers (`population_scores`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict

from ray_unlearn.evaluation.comparison import attack_alone, attack_curves, check_forget
from ray_unlearn.evaluation.forget_sets import mean_curves
from ray_unlearn.evaluation.looks import ALPHA
from ray_unlearn.evaluation.measures.forgetting_quality import forgetting_quality
from ray_unlearn.evaluation.outputs import Outputs
from ray_unlearn.evaluation.populations import FloatArray
from ray_unlearn.evaluation.resampling import Settings, growth_sizes, values_on
from ray_unlearn.evaluation.scores import Curve, Estimate, Growth, ImageQuantiles, PopulationScores
from ray_unlearn.evaluation.whole_populations import equivalence
from ray_unlearn.evaluation.worst_images import image_scores, joined, limit, quantiles, share_beyond

CURVE_POINTS = 60


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Null(_Value):
    """A number between two halves of the reference, over all halvings."""

    mean: float
    low: float
    high: float


class NullImages(_Value):
    """A number that each forget image has, between two halves of the reference."""

    quantiles: tuple[float, ...]
    limit: float
    """95 % quantile."""


class NullPart(_Value):
    """The reference against itself."""

    n: int
    """Runs a side."""
    measures: dict[str, Null]
    curves: dict[str, Curve]
    """Curves of the first halving, or of all single models; the method's side is empty."""
    growth: dict[int, float]
    """Forgetting quality by runs a side."""
    images: dict[str, NullImages] = {}
    """Numbers of single images on the first halving."""


def score_null(sides: Sequence[Outputs], size: int, settings: Settings, threads: int = 1) -> NullPart:
    """Compare halves of the reference, of `size` runs each, as if one were a method's population.

    Args:
        sides: the reference's outputs for each forget set; numbers are means over sets.
        size: runs of a half.
        settings: gives the halves.
        threads: halvings that are computed at once.

    Raises:
        EvaluationError: it has no outputs of the forget set.

    """
    check_forget(*sides)
    each = [_halved(side, size, settings, threads) for side in sides]
    names = [name for name in each[0].values if all(name in one.values for one in each)]
    found = {name: np.mean([one.values[name] for one in each], axis=0) for name in names}
    growth = [_growth(side, settings) for side in sides]
    images = joined([one.images for one in each])
    return NullPart(
        n=size,
        measures={
            name: Null(mean=float(v.mean()), low=float(v.min()), high=float(v.max())) for name, v in found.items()
        },
        curves=each[0].curves if len(each) == 1 else mean_curves([one.curves for one in each]),
        growth={n: float(np.mean([one[n] for one in growth])) for n in growth[0] if all(n in one for one in growth)},
        images={name: NullImages(quantiles=quantiles(one), limit=limit(one)) for name, one in images.items()},
    )


class _Halved(NamedTuple):
    """The reference against itself on the images of one forget set."""

    values: dict[str, FloatArray]
    """[K] by measure, of the halvings."""
    curves: dict[str, Curve]
    images: dict[str, FloatArray]
    """Numbers of each forget image on the first halving."""


def _halved(reference: Outputs, size: int, settings: Settings, threads: int) -> _Halved:
    halves = settings.halves(reference.population, len(reference), size)
    alone = attack_alone(reference, settings.attack_rng)
    pairs = [(other, half) for half, other in halves]
    found = values_on(reference, reference, pairs, settings, alone.values, threads=threads)
    rocs = alone.curves | (attack_curves(found.first) if found.first else {})
    curves = {}
    for name, curve in rocs.items():
        false, true = (tuple(np.round(rates, 5).tolist()) for rates in curve.thinned(CURVE_POINTS))
        curves[name] = Curve(null_false_positive_rate=false, null_true_positive_rate=true)
    return _Halved(found.values, curves, image_scores(found.first) if found.first else {})


def _growth(reference: Outputs, settings: Settings) -> dict[int, float]:
    phi_RE, rng = reference.splits["forget"].phi_RN, settings.rng("growth-null")
    found = {}
    for size in growth_sizes(len(reference) // 2):
        orders = [rng.permutation(len(reference))[: 2 * size] for _ in range(settings.growth_draws)]
        pairs = [(phi_RE[order[:size]], phi_RE[order[size:]]) for order in orders]
        found[size] = float(np.mean([forgetting_quality(*pair, settings.mode).score for pair in pairs]))
    return found


def with_null(scored: PopulationScores, null: NullPart, images: Mapping[str, Sequence[float]]) -> PopulationScores:
    """Return a method's numbers with the null of each; `images`: numbers of each forget image."""
    measures = {name: _estimate_with_null(estimate, null, name) for name, estimate in scored.measures.items()}
    return scored.model_copy(
        update={
            "measures": measures,
            "growth": tuple(_growth_with_null(point, null) for point in scored.growth),
            "curves": {name: _curve_with_null(curve, null.curves.get(name)) for name, curve in scored.curves.items()},
            "worst_images": tuple(_images_with_null(one, null, images) for one in scored.worst_images),
            "equivalence": equivalence(measures["forgetting_quality"], scored.look.level if scored.look else ALPHA),
        }
    )


def _estimate_with_null(estimate: Estimate, null: NullPart, name: str) -> Estimate:
    found = null.measures.get(name)
    if found is None or estimate.at_null_n is None:  # too few runs: nothing of it compares with the null
        return estimate
    return estimate.model_copy(
        update={"null": found.mean, "null_low": found.low, "null_high": found.high, "null_n": null.n}
    )


def _images_with_null(found: ImageQuantiles, null: NullPart, images: Mapping[str, Sequence[float]]) -> ImageQuantiles:
    beside = null.images.get(found.number)
    if beside is None or found.n != null.n or found.number not in images:
        return found
    beyond = share_beyond(np.array(images[found.number]), beside.limit)
    return found.model_copy(update={"null": beside.quantiles, "beyond_null": beyond})


def _growth_with_null(point: Growth, null: NullPart) -> Growth:
    return point.model_copy(update={"null": null.growth.get(point.n)})


def _curve_with_null(curve: Curve, null: Curve | None) -> Curve:
    if null is None:
        return curve
    both = ("null_false_positive_rate", "null_true_positive_rate")
    return curve.model_copy(update={name: getattr(null, name) for name in both})
