"""One population's scores: its own figures, and those against the reference.

    described = describe([outputs], outputs.records, names, "unlearned", "kookmin", reference.records)
    scored = whole([on_set(described, unlearned, reference, names, 32, settings)], settings)
    scored.population, scored.draws              # everything but the nulls (`nulls`), and what ranks need

Does not cover: reading outputs and keeping scores (`evaluate`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from ray_unlearn.evaluation.caveats import caveats
from ray_unlearn.evaluation.common_shift import common_shift
from ray_unlearn.evaluation.comparison import (
    Alone,
    Values,
    attack_alone,
    attack_curves,
    check_forget,
    check_margins,
    compare,
    why_missing,
)
from ray_unlearn.evaluation.equivalence import error_at_null
from ray_unlearn.evaluation.forget_sets import OnSet, over_sets
from ray_unlearn.evaluation.intervals import Subsets, interval, standard_error, subsets
from ray_unlearn.evaluation.measures import MEASURES
from ray_unlearn.evaluation.measures.forgetting_quality import (
    ForgettingQuality,
    forgetting_quality,
    num_buckets,
    quality_of,
)
from ray_unlearn.evaluation.measures.measure import Pair
from ray_unlearn.evaluation.moved import moved_measures
from ray_unlearn.evaluation.nulls import CURVE_POINTS
from ray_unlearn.evaluation.outputs import Outputs, original_of
from ray_unlearn.evaluation.ranks import RANKED
from ray_unlearn.evaluation.resampling import LEAST_ORIGINALS, Draws, Rows, Settings, growth_sizes, values_on
from ray_unlearn.evaluation.scores import Curve, Estimate, ExampleScores, Growth, PopulationScores, Role
from ray_unlearn.evaluation.single_images import Side, epsilon_bounds, image_numbers, missed, quantiles_of, with_quality
from ray_unlearn.evaluation.slices import class_name, cost, slices, stages
from ray_unlearn.evaluation.t_distribution import t_quantile
from ray_unlearn.evaluation.whole_populations import tests_of, variance_of
from ray_unlearn.evaluation.worst_images import image_scores
from ray_unlearn.store import Record
from ray_unlearn.store.membership import MEMBERS
from ray_unlearn.store.splits import ImageNames

_EXAMPLES_AT = (0.1, 0.37, 0.63, 0.9)
"""Quantiles of the reference's mean phi: from images that retrained models get wrong to those they are sure of."""


@dataclass(frozen=True)
class Scored:
    """A population's scores, and the values that it is compared by."""

    population: PopulationScores
    draws: dict[str, tuple[float, ...]]
    """Values on subsets by measure; those of two populations are of the same subsets of the reference."""
    images: dict[str, tuple[float, ...]]
    """Numbers of each forget image, in order, to be compared with the null's."""


def describe(
    parts: Iterable[Outputs],
    records: Sequence[Record],
    names: ImageNames,
    role: Role,
    method: str,
    reference: Sequence[Record],
) -> PopulationScores:
    """Return what needs no outputs of the reference: slices, stages, cost; one part is in memory at a time."""
    starts = {original for record in records if (original := original_of(record)) is not None}
    return PopulationScores(
        population=records[0].population,
        role=role,
        method=method,
        options=_shown(records[0].options),
        runs=len(records),
        originals=len(starts),
        slices=slices(parts, names),
        stages=stages(records),
        cost=cost(records, reference),
    )


def _shown(options: Mapping[str, object]) -> dict[str, object]:
    """Return a run's options without the half of the images that an imported shadow's record holds."""
    on = options.get("on")
    return {**options, **({"on": {k: v for k, v in on.items() if k != MEMBERS}} if isinstance(on, Mapping) else {})}


def on_set(
    described: PopulationScores,
    unlearned: Outputs,
    reference: Outputs,
    names: ImageNames,
    null_runs: int,
    settings: Settings,
    originals: npt.NDArray[np.int64] | None = None,
    threads: int = 1,
) -> OnSet:
    """Add what compares the population with the reference on the images of one forget set.

    Values are of N = as many runs of the reference, its first; intervals of subsets of these. What is compared with
    the null is of `null_runs`, as many as the null has, against the same halves of the whole reference. `originals`:
    those of all forget sets, where there are several (`intervals.subsets`). `threads`: how many subsets are computed at
    once.

    Raises:
        EvaluationError: a side has no outputs of the forget set.

    """
    check_forget(unlearned, reference)
    check_margins(unlearned, reference)
    theirs = reference.take(range(len(unlearned)))
    attacked = attack_alone(unlearned, settings.attack_rng)
    pair = Pair(unlearned, theirs, settings.mode, settings.attack_rng, attacked.values)
    values, drawn = compare(pair), subsets(unlearned, theirs, settings, originals)
    quality = pair.once(quality_of) if "forgetting_quality" in values else None
    draws = values_on(unlearned, theirs, drawn.pairs, settings, attacked.values, pair, threads)
    draws = with_moves(replace(draws, first=None), pair, values, drawn)
    at_null = _at_null(unlearned, reference, null_runs, settings)
    beside_null = values_on(unlearned, reference, at_null, settings, attacked.values, threads=threads)
    names_of = [name for name, one in MEASURES.items() if one.applies(unlearned)]
    measures = {name: _estimate(name, values, draws, drawn, beside_null.values, pair, names) for name in names_of}
    if quality and (error := error_at_null(unlearned, reference, null_runs, beside_null)):
        update = {"at_null_se": error.se, "at_null_df": error.df}
        measures["forgetting_quality"] = measures["forgetting_quality"].model_copy(update=update)
    scored = described.model_copy(
        update={
            "measures": measures,
            "slices": with_quality(described.slices, unlearned, names, quality),
            "epsilon_counts": _epsilon_counts(quality),
            "guarded": int(quality.guarded_E.sum()) if quality else 0,
            "undecided": int(quality.undecided_E.sum()) if quality else 0,
            "missed": missed(pair, quality),
            "growth": _growth(pair, measures["forgetting_quality"], settings),
            "examples": _examples(unlearned, theirs, names, quality),
            "curves": _curves(pair, attacked),
            "variance": variance_of(unlearned, reference),
        }
    )
    judged = beside_null.first or pair
    side = Side(
        unlearned=unlearned,
        reference=reference,
        images=image_scores(judged),
        image_runs=len(judged.unlearned),
        names=names,
    )
    return OnSet(side=side, population=scored, draws=draws, drawn=drawn)


def with_moves(draws: Draws, pair: Pair, values: Values, drawn: Subsets) -> Draws:
    """Return the draws with what measures are after moves of all images, where intervals follow."""
    starts_U = pair.unlearned.originals_R if drawn.over_originals else None
    few = starts_U is not None and len(np.unique(starts_U)) < LEAST_ORIGINALS  # the others are of other forget sets
    if few or not drawn.pairs:
        return draws
    f = values.get("forgetting_quality")
    shift = None if f is None else common_shift(*pair.phi("forget"), pair.mode, f, starts_U)
    return replace(draws, shift=shift, moved=moved_measures(pair, values, shift, starts_U))


def whole(each: Sequence[OnSet], settings: Settings) -> Scored:
    """Return a population's scores over all forget sets.

    Tests and bounds of epsilon are of all runs of both sides.

    Args:
        each: the population on each forget set, with as many runs of each.
        settings: those of `on_set`.

    """
    sides = [one.side for one in each]
    scored, draws = (each[0].population, each[0].draws.values) if len(each) == 1 else over_sets(each, settings.mode)
    numbers = image_numbers(sides)
    scored = scored.model_copy(
        update={
            "tests": tests_of([(side.unlearned, side.reference) for side in sides], settings),
            "worst_images": quantiles_of(numbers, sides),
            "epsilon_bounds": epsilon_bounds(sides, settings),
        }
    )
    kept = {name: tuple(draws[name].tolist()) for name in RANKED if name in draws}
    scored = scored.model_copy(update={"warnings": caveats(scored, [side.unlearned for side in sides])})
    return Scored(scored, kept, {name: tuple(numbers_E.tolist()) for name, numbers_E in numbers.items()})


def _at_null(unlearned: Outputs, reference: Outputs, size: int, settings: Settings) -> list[tuple[Rows, Rows]]:
    """Return rows of `size` runs of each side; none where a side has not so many."""
    if size > min(len(unlearned), len(reference)):
        return []
    sides = (settings.halves(side.population, len(side), size) for side in (unlearned, reference))
    return [(ours, theirs) for (ours, _), (theirs, _) in zip(*sides, strict=True)]


def _estimate(
    name: str,
    values: Values,
    draws: Draws,
    drawn: Subsets,
    beside_null: dict[str, np.ndarray],
    pair: Pair,
    names: ImageNames,
) -> Estimate:
    attacked = pair.alone.get(name)
    runs = len(pair.unlearned) if attacked is None else int((~np.isnan(attacked)).sum())
    if name not in values:
        return Estimate(value=None, n=runs, missing=why_missing(name, pair.unlearned, names.ids, pair.reference))
    at_null_n = float(beside_null[name].mean()) if name in beside_null else None
    if name not in draws.values:
        return Estimate(value=values[name], n=runs, at_null_n=at_null_n)
    error = standard_error(name, draws, drawn, pair.mode)
    low, high = interval(name, values[name], error)
    return Estimate(
        value=values[name],
        low=low,
        high=high,
        se=error.se,
        se_apart=error.apart,
        df=error.df,
        n=runs,
        at_null_n=at_null_n,
    )


def _epsilon_counts(quality: ForgettingQuality | None) -> tuple[int, ...]:
    if quality is None:
        return ()
    last = num_buckets(quality.num_unlearned) + 1
    counts_B = np.bincount(np.minimum(quality.bins, last), minlength=last + 1)[1:]
    return tuple(counts_B.tolist())


def _growth(pair: Pair, whole: Estimate, settings: Settings) -> tuple[Growth, ...]:
    """Return F at fewer runs with the range of one study with so many: subsets vary by 1 - n / N of that."""
    phi_UE, phi_RE = pair.phi("forget")
    rng, runs = settings.rng("growth"), len(phi_UE)
    points = []
    for size in growth_sizes(runs):
        if size == runs and whole.value is not None:
            low, high = (whole.value if end is None else end for end in (whole.low, whole.high))
            points.append(Growth(n=size, value=whole.value, low=low, high=high))
            continue
        rows = [[np.sort(rng.permutation(runs)[:size]) for _ in range(2)] for _ in range(settings.growth_draws)]
        found = [forgetting_quality(phi_UE[ours], phi_RE[theirs], settings.mode).score for ours, theirs in rows]
        spread = float(np.std(found, ddof=1)) * (runs / (runs - size)) ** 0.5
        mean, margin = float(np.mean(found)), t_quantile(0.975, settings.growth_draws - 1) * spread
        points.append(Growth(n=size, value=mean, low=max(0.0, mean - margin), high=min(1.0, mean + margin)))
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
