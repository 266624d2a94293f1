"""Scores of a study with several forget sets: within each set, and then over sets.

    scored, draws = over_sets(each, "exact")     # PopulationScores, and values by which populations are ranked
    curves = mean_curves([one.curves for one in each])
    slices = merged_slices(each)

Models that forgot set s are compared with models that were retrained without set s, and every measure is the mean over
sets. With S sets, its variance over other sets, originals and runs is

    Var(mean) = Var_between / S + Cov

where Var_between is the variance (ddof 1) of the values on the sets, which contains that of their own runs, and Cov is
what two sets have in common because the same originals were the start of both: from 4 originals on, the covariance of
values on subsets of originals, times the factor of the jackknife; with fewer, 0, given these originals. Below 4 sets,
the standard error is that of runs (or originals and runs) within the sets at hand. Populations are ranked by their
values on the same sets, so that what is hard about a set cancels.

Does not cover: drawing the sets (`data.splits`), and measures (`measures`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ray_unlearn.evaluation.intervals import Error, Subsets, interval, standard_error
from ray_unlearn.evaluation.measures import MEASURES
from ray_unlearn.evaluation.measures.measure import Mode
from ray_unlearn.evaluation.populations import FloatArray
from ray_unlearn.evaluation.ranks import RANKED
from ray_unlearn.evaluation.resampling import LEAST_ORIGINALS, Draws
from ray_unlearn.evaluation.scores import (
    Curve,
    Estimate,
    ForgetSets,
    Growth,
    Originals,
    PopulationScores,
    Slice,
    Summary,
)
from ray_unlearn.evaluation.single_images import Side
from ray_unlearn.evaluation.t_distribution import degrees_of_sum, t_quantile

LEAST_SETS = 4
"""Least number of forget sets for an interval over sets too; with fewer, it is conditional on these sets."""


@dataclass(frozen=True, kw_only=True)
class OnSet:
    """A population against the reference on the images of one forget set."""

    side: Side
    population: PopulationScores
    """Without what is of all forget sets together: tests, worst images, bounds of epsilon."""
    draws: Draws
    drawn: Subsets


def over_sets(each: Sequence[OnSet], mode: Mode) -> tuple[PopulationScores, dict[str, FloatArray]]:
    """Return a population's scores over all sets, and the values that populations are ranked by.

    These are values on the sets where intervals are over sets, else means over sets on subsets of runs.
    """
    scores, first = [one.population for one in each], each[0]
    together = _together([one.draws for one in each])
    names = [name for name in first.population.measures if all(name in one.measures for one in scores)]
    measures = {name: _estimate(name, each, together, mode) for name in names}
    by_set = {
        name: np.array([one.measures[name].value for one in scores], dtype=float)
        for name in RANKED
        if name in measures and measures[name].value is not None
    }
    sampled = len(each) >= LEAST_SETS
    scored = first.population.model_copy(
        update={
            "runs": sum(one.runs for one in scores),
            "originals": max(one.originals for one in scores),
            "measures": measures,
            "slices": merged_slices(scores),
            "epsilon_counts": _added([one.epsilon_counts for one in scores]),
            "guarded": sum(one.guarded for one in scores),
            "undecided": sum(one.undecided for one in scores),
            "missed": sum(one.missed for one in scores),
            "growth": _mean_growth([one.growth for one in scores]),
            "curves": mean_curves([one.curves for one in scores]),
            "variance": _mean_originals([one.variance for one in scores]),
            "forget_sets": ForgetSets(
                sets=len(each),
                runs_each=len(first.side.unlearned),
                sampled=sampled,
                values={name: tuple(values_S.tolist()) for name, values_S in by_set.items()},
                set_share={name: share for name in by_set if (share := _set_share(name, scores)) is not None},
            ),
        }
    )
    return scored, by_set if sampled else together.values


def _together(draws: Sequence[Draws]) -> Draws:
    """Return means over sets on each subset, which lacks the same originals in each set, and the points of all images.

    Where sets have runs of other originals, `intervals.subsets` draws from those of all sets together.
    """
    names = [name for name in draws[0].values if all(name in one.values for one in draws)]
    points = [one.points_KE for one in draws]
    return Draws(
        values={name: np.mean([one.values[name] for one in draws], axis=0) for name in names},
        halves={
            name: np.mean([one.halves[name] for one in draws], axis=0)
            for name in draws[0].halves
            if all(name in one.halves for one in draws)
        },
        points_KE=np.concatenate(points, axis=1) if len({len(one) for one in points}) == 1 else np.empty((0, 0)),
        points_E=np.concatenate([one.points_E for one in draws]),
    )


def _estimate(name: str, each: Sequence[OnSet], together: Draws, mode: Mode) -> Estimate:
    """Return a measure's mean over sets, with its interval."""
    found = [one.population.measures[name] for one in each]
    single = MEASURES[name].per_run is not None
    runs = sum(one.n for one in found) if single else found[0].n
    values_S = np.array([one.value for one in found if one.value is not None])
    if len(values_S) < len(found):
        return Estimate(value=None, n=runs, missing=next(one.missing for one in found if one.value is None))
    at_null = [one.at_null_n for one in found if one.at_null_n is not None]
    mean = Estimate(
        value=float(values_S.mean()),
        n=runs,
        at_null_n=float(np.mean(at_null)) if len(at_null) == len(found) else None,
    )
    within = standard_error(name, together, each[0].drawn, mode) if name in together.values else None
    error = within
    if len(each) >= LEAST_SETS:
        common = 0.0
        if within is not None and each[0].population.originals >= LEAST_ORIGINALS:
            draws_SK = np.stack([one.draws.values[name] for one in each])
            common = _in_common(draws_SK, each[0].drawn) * MEASURES[name].error ** 2
        error = error_over_sets(values_S, within, common, each[0].drawn.units)
    if error is None:
        return mean
    low, high = interval(name, float(values_S.mean()), error)
    update = {"low": low, "high": high, "se": error.se, "se_apart": error.apart, "df": error.df}
    return mean.model_copy(update=update)


def _in_common(draws_SK: FloatArray, drawn: Subsets) -> float:
    """Return the covariance of two sets' values, not below 0: of originals that both start from."""
    sets = len(draws_SK)
    of_mean, of_each = float(np.var(draws_SK.mean(axis=0), ddof=1)), float(np.var(draws_SK, axis=1, ddof=1).mean())
    return max(0.0, (sets * of_mean - of_each) / (sets - 1)) * drawn.factor


def error_over_sets(values_S: FloatArray, within: Error | None, common: float, units: int) -> Error:
    """Return the standard error of a mean over sets that were drawn from many.

    Args:
        values_S: value on each set.
        within: standard error of the mean over runs alone, given these sets; None with too few runs of each.
        common: covariance of two sets' values.
        units: originals, or runs, that `common` was estimated from.

    """
    sets = len(values_S)
    between = float(np.var(values_S, ddof=1)) / sets
    total = between + common
    df = degrees_of_sum(between, sets - 1, common, units - 1) if total else float(sets - 1)
    if within is None:  # all may be of sets, and more runs promise nothing
        return Error(se=total**0.5, df=df, apart=total**0.5)
    of_sets = max(0.0, between - max(0.0, within.se**2 - common))
    return Error(se=total**0.5, df=df, apart=min(total, of_sets + within.apart**2) ** 0.5)


def _set_share(name: str, scores: Sequence[PopulationScores]) -> float | None:
    """Return the share of the variance between values on sets that is of sets, from 0 to 1; None without errors."""
    found = [one.measures[name] for one in scores]
    within = [one.se**2 for one in found if one.se is not None]
    between = float(np.var([one.value or 0.0 for one in found], ddof=1))
    if len(within) < len(found) or not between + sum(within):
        return None
    of_sets = max(0.0, between - float(np.mean(within)))
    return of_sets / (of_sets + float(np.mean(within))) if of_sets else 0.0


def merged_slices(each: Sequence[PopulationScores]) -> tuple[Slice, ...]:
    """Return slices over the runs of all sets: forget images of all sets count, of other splits those of the first."""
    found: dict[tuple[str, str, str], list[Slice]] = {}
    for part in each:
        for one in part.slices:
            found.setdefault((one.split, one.by, one.key), []).append(one)
    over_originals = all(one.originals >= LEAST_ORIGINALS for one in each)
    return tuple(_merged(one, over_originals) for one in found.values())


def _merged(slices: Sequence[Slice], over_originals: bool) -> Slice:
    images = [one.images for one in slices]
    qualities = [one.quality for one in slices if one.quality is not None]
    losses = [one.loss for one in slices if one.loss is not None]
    quality = float(np.average(qualities, weights=images)) if len(qualities) == len(slices) else None
    update = {
        "images": sum(images) if slices[0].split == "forget" else images[0],
        "accuracy": merged_summary([one.accuracy for one in slices], over_originals, upper=1.0),
        "loss": merged_summary(losses, over_originals) if len(losses) == len(slices) else None,
        "quality": quality,
    }
    return slices[0].model_copy(update=update)


def merged_summary(parts: Sequence[Summary], over_originals: bool, upper: float = np.inf) -> Summary:
    """Return the summary of all runs from the summaries of their parts, as `slices.summary` of all together.

    Over originals the parts' margins are added: runs take turns at originals within each forget set, so that all sets
    start from the same ones. An interval is too wide where they do not.
    """
    n, sizes = sum(one.n for one in parts), np.array([one.n for one in parts])
    means, sds = np.array([one.mean for one in parts]), np.array([one.sd or 0.0 for one in parts])
    mean = float((sizes * means).sum() / n)
    if n < 2:
        return Summary(mean=mean, sd=None, low=None, high=None, n=n)
    sd = float((((sizes - 1) * sds**2 + sizes * (means - mean) ** 2).sum() / (n - 1)) ** 0.5)
    margin = t_quantile(0.975, n - 1) * sd / n**0.5
    if over_originals:
        margins = [max((one.high or 0.0) - one.mean, one.mean - (one.low or 0.0)) for one in parts]
        margin = float(np.dot(sizes, margins)) / n
    return Summary(mean=mean, sd=sd, low=max(0.0, mean - margin), high=min(upper, mean + margin), n=n)


def _added(counts: Sequence[Sequence[int]]) -> tuple[int, ...]:
    """Return the sums of counts by bin."""
    longest = max(map(len, counts))
    padded = np.array([[*one, *[0] * (longest - len(one))] for one in counts])
    return tuple(padded.sum(axis=0).tolist())


def _mean_growth(parts: Sequence[Sequence[Growth]]) -> tuple[Growth, ...]:
    """Return means over sets at each number of runs; the range of a mean of independent ones."""
    found = []
    for points in zip(*parts, strict=False):
        mean = float(np.mean([one.value for one in points]))
        low, high = (
            float(sum((getattr(one, end) - one.value) ** 2 for one in points) ** 0.5) / len(points)
            for end in ("low", "high")
        )
        found.append(Growth(n=points[0].n, value=mean, low=mean - low, high=mean + high))
    return tuple(found)


def _mean_originals(parts: Sequence[Originals | None]) -> Originals | None:
    """Return both shares as means over sets."""
    found = [one for one in parts if one is not None]
    if len(found) < len(parts):
        return None
    share = float(np.mean([one.original_share for one in found]))
    many = sum(one.buys_more == "originals" for one in found) * 2 >= len(found)
    update = {"original_share": share, "run_share": 1 - share, "buys_more": "originals" if many else "runs"}
    return found[0].model_copy(update=update)


def mean_curves(parts: Sequence[Mapping[str, Curve]]) -> dict[str, Curve]:
    """Return ROC curves by attack whose true positive rate is the mean over sets at each false positive rate."""
    names = [name for name in parts[0] if all(name in part for part in parts)]
    return {name: _mean_curve([part[name] for part in parts]) for name in names}


def _mean_curve(curves: Sequence[Curve]) -> Curve:
    sides = dict[str, tuple[float, ...]]()
    for side in ("", "null_"):
        false, true = (f"{side}{kind}_positive_rate" for kind in ("false", "true"))
        rates = [(np.array(getattr(one, false)), np.array(getattr(one, true))) for one in curves]
        if any(not len(one) for one, _ in rates):
            continue
        longest = max((one for one, _ in rates), key=len)
        mean = np.mean([np.interp(longest, xs, ys) for xs, ys in rates], axis=0)
        sides[false], sides[true] = tuple(longest.tolist()), tuple(np.round(np.asarray(mean), 5).tolist())
    return Curve(**sides)
