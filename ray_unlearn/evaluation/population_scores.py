"""One population's scores: what it is by itself, and what it is against the reference.

    described = describe(outputs, names, "unlearned", "kookmin", reference.records)
    scored = score(described, unlearned, reference, names, 32, settings)     # everything but the nulls (`nulls`)

Does not cover: reading outputs and keeping scores (`evaluate`).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ray_unlearn.evaluation.caveats import caveats
from ray_unlearn.evaluation.comparison import (
    Alone,
    Values,
    attack_alone,
    attack_curves,
    check_forget,
    compare,
    why_missing,
)
from ray_unlearn.evaluation.measures import MEASURES
from ray_unlearn.evaluation.measures.forgetting_quality import (
    ForgettingQuality,
    forgetting_quality,
    num_buckets,
    quality_of,
)
from ray_unlearn.evaluation.measures.measure import Pair
from ray_unlearn.evaluation.nulls import CURVE_POINTS
from ray_unlearn.evaluation.outputs import ImageNames, Outputs
from ray_unlearn.evaluation.resampling import Rows, Settings, growth_sizes, interval, values_on
from ray_unlearn.evaluation.scores import Curve, Estimate, ExampleScores, Growth, PopulationScores, Role
from ray_unlearn.evaluation.slices import class_name, cost, slices, stages
from ray_unlearn.store import Record

_EXAMPLES_AT = (0.1, 0.37, 0.63, 0.9)
"""Quantiles of the reference's mean phi: from images that retrained models get wrong to those they are sure of."""


def describe(
    outputs: Outputs, names: ImageNames, role: Role, method: str, reference: Sequence[Record]
) -> PopulationScores:
    """Return what needs no outputs of the reference: slices, stages, cost."""
    first = outputs.records[0]
    starts = {record.original for record in outputs.records if record.original_sha256}
    return PopulationScores(
        population=outputs.population,
        role=role,
        method=method,
        options=first.options,
        runs=len(outputs),
        originals=len(starts),
        slices=slices(outputs, names),
        stages=stages(outputs.records),
        cost=cost(outputs.records, reference),
    )


def score(
    described: PopulationScores,
    unlearned: Outputs,
    reference: Outputs,
    names: ImageNames,
    null_runs: int,
    settings: Settings,
) -> PopulationScores:
    """Add everything that compares the population with the reference.

    Values are of N = as many runs of the reference, its first; intervals of halves of these. What stands beside the
    null is of `null_runs`, as many as the null has, against the same halves of the whole reference.

    Raises:
        EvaluationError: a side has no outputs of the forget set.

    """
    check_forget(unlearned, reference)
    theirs = reference.take(range(len(unlearned)))
    phi = unlearned.splits["forget"].phi_RN, theirs.splits["forget"].phi_RN
    attacked = attack_alone(unlearned, settings.attack_rng)
    alone = attacked.values
    pair = Pair(unlearned, theirs, settings.mode, alone)
    values = compare(pair)
    half = len(unlearned) // 2
    on_halves = values_on(unlearned, theirs, _pairs(unlearned, theirs, half, settings), settings.mode, alone)
    beside_null = on_halves
    if (len(reference), null_runs) != (len(unlearned), half):
        beside_null = values_on(
            unlearned, reference, _pairs(unlearned, reference, null_runs, settings), settings.mode, alone
        )
    quality = pair.once(quality_of) if "forgetting_quality" in values else None
    scored = described.model_copy(
        update={
            "measures": {name: _estimate(name, values, on_halves, beside_null, unlearned, names) for name in MEASURES},
            "epsilon_counts": _epsilon_counts(quality),
            "guarded": int(quality.guarded_E.sum()) if quality else 0,
            "undecided": int(quality.undecided_E.sum()) if quality else 0,
            "growth": _growth(*phi, settings),
            "examples": _examples(unlearned, theirs, names, quality),
            "curves": _curves(pair, attacked),
        }
    )
    return scored.model_copy(update={"warnings": caveats(scored, unlearned)})


def _pairs(unlearned: Outputs, reference: Outputs, size: int, settings: Settings) -> list[tuple[Rows, Rows]]:
    """Return rows of `size` runs of each side; none where a side has not so many."""
    if size > min(len(unlearned), len(reference)):
        return []
    sides = (settings.halves(side.population, len(side), size) for side in (unlearned, reference))
    return [(ours, theirs) for (ours, _), (theirs, _) in zip(*sides, strict=True)]


def _estimate(
    name: str,
    values: Values,
    on_halves: dict[str, np.ndarray],
    beside_null: dict[str, np.ndarray],
    unlearned: Outputs,
    names: ImageNames,
) -> Estimate:
    if name not in values:
        return Estimate(value=None, n=len(unlearned), missing=why_missing(name, unlearned, names.ids))
    low, high = interval(name, values[name], on_halves[name]) if name in on_halves else (None, None)
    at_null_n = float(beside_null[name].mean()) if name in beside_null else None
    return Estimate(value=values[name], low=low, high=high, n=len(unlearned), at_null_n=at_null_n)


def _epsilon_counts(quality: ForgettingQuality | None) -> tuple[int, ...]:
    if quality is None:
        return ()
    last = num_buckets(quality.num_unlearned) + 1
    counts_B = np.bincount(np.minimum(quality.bins, last), minlength=last + 1)[1:]
    return tuple(counts_B.tolist())


def _growth(phi_UE: np.ndarray, phi_RE: np.ndarray, settings: Settings) -> tuple[Growth, ...]:
    rng, runs = settings.rng("growth"), len(phi_UE)
    points = []
    for size in growth_sizes(runs):
        draws = 1 if size == runs else settings.growth_draws
        rows = [tuple(np.sort(rng.permutation(runs)[:size]) for _ in range(2)) for _ in range(draws)]
        found = [forgetting_quality(phi_UE[ours], phi_RE[theirs], settings.mode).score for ours, theirs in rows]
        points.append(Growth(n=size, value=float(np.mean(found)), low=min(found), high=max(found)))
    return tuple(points)


def _examples(
    unlearned: Outputs, reference: Outputs, names: ImageNames, quality: ForgettingQuality | None
) -> tuple[ExampleScores, ...]:
    """Return a few forget images, chosen by the reference alone, so that all methods show the same."""
    if quality is None:
        return ()
    ours, theirs = unlearned.splits["forget"], reference.splits["forget"]
    order = np.argsort(theirs.phi_RN.mean(0), kind="stable")
    chosen = dict.fromkeys(int(order[round(at * (len(order) - 1))]) for at in _EXAMPLES_AT)
    return tuple(
        ExampleScores(
            image_id=str(names.ids["forget"][ours.positions_N[e]]),
            label=class_name(names, int(ours.labels_N[e])),
            epsilon=float(quality.epsilon_E[e]),
            unlearned=tuple(np.round(ours.phi_RN[:, e], 3).tolist()),
            retrained=tuple(np.round(theirs.phi_RN[:, e], 3).tolist()),
        )
        for e in chosen
    )


def _curves(pair: Pair, attacked: Alone) -> dict[str, Curve]:
    found = {}
    for name, curve in (attack_curves(pair) | attacked.curves).items():
        false, true = (tuple(np.round(rates, 5).tolist()) for rates in curve.thinned(CURVE_POINTS))
        found[name] = Curve(false_positive_rate=false, true_positive_rate=true)
    return found
