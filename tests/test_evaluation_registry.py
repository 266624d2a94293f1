"""Every measure of the registry against a reading of its source, on vectors that are hard on purpose.

Readings are written from the formulas that the measures' docstrings cite, with pairs counted one by one. Where a
formula compares numbers that are equal but for rounding, a reading gives the smallest and the largest value that
rounding allows.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property, partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from scipy import stats
from test_evaluation_definitions import VECTORS, Vectors, attack_epsilon, fit_of, many_runs, one_image, sigmoid, ties

from ray_unlearn.evaluation.comparison import attack_alone, compare
from ray_unlearn.evaluation.measures import MEASURES
from ray_unlearn.evaluation.measures.measure import Pair
from ray_unlearn.evaluation.outputs import Outputs, SplitOutputs
from ray_unlearn.evaluation.shadow_fits import ShadowFit

SPLITS = ("forget", "retain", "validation", "test")
WIDTH = {ties: 40, many_runs: 1, one_image: 1}
"""Draws of the vectors side by side, 5 unless stated: 200 images with ties, 100 of them outside RMIA's population."""
Ends = tuple[float, float]
Scored = tuple[np.ndarray, np.ndarray]
"""Smallest and largest value of each score, for rounding."""


@dataclass(frozen=True)
class World:
    """One vector on all splits, with shadows of the forget and test images."""

    vectors: Callable[[np.random.Generator], Vectors]

    @cached_property
    def phi(self) -> dict[str, Vectors]:
        """phi of unlearned and retrained models by split; `shadows` of the forget set, inside and outside; `others`."""
        rng, found = np.random.default_rng(20), dict[str, Vectors]()
        for name in (*SPLITS, "shadows", "others"):
            ours, theirs = zip(*(self.vectors(rng) for _ in range(WIDTH.get(self.vectors, 5))), strict=True)
            runs = slice(8 if self.vectors is ties else None)  # so many images are enough work
            found[name] = np.concatenate(ours, axis=1)[runs], np.concatenate(theirs, axis=1)[runs]
        return found

    @property
    def fits(self) -> dict[str, ShadowFit]:
        """What shadows make of forget and test images; no shadow was trained on a test image."""
        both, outside = fit_of(*self.phi["shadows"]), fit_of(*self.phi["others"])
        spread = both.outside_spread
        test = ShadowFit(inside=None, outside=outside.outside, pairs=both.pairs, inside_spread=0, outside_spread=spread)
        return {"forget": both, "test": test}

    def outputs(self, side: int) -> Outputs:
        """Return the outputs of one side."""
        splits = {}
        for name in SPLITS:
            phi = self.phi[name][side]
            images = np.arange(phi.shape[1])
            splits[name] = SplitOutputs(images, 0 * images, phi, phi > 0, shadows=self.fits.get(name))
        records: Any = (SimpleNamespace(method="a", original=0, original_sha256=""),) * len(phi)
        return Outputs("a", records, splits)

    def found(self) -> dict[str, float]:
        """Return every measure as the package computes it."""
        ours, theirs = self.outputs(0), self.outputs(1)
        alone = attack_alone(ours, self.rng).values
        return compare(Pair(ours, theirs, "exact", self.rng, alone))

    @staticmethod
    def rng() -> np.random.Generator:
        """Return the generator that divides test images."""
        return np.random.default_rng(7)

    def attacked(self, split: str) -> np.ndarray:
        """Return phi of the unlearned runs that are attacked one at a time: the first 64."""
        return self.phi[split][0][:64]


def within(scores: np.ndarray, share: float = 1e-7) -> Scored:
    """Return scores with the rounding that they allow; none where equal numbers are computed alike."""
    room = share * np.maximum(1, np.abs(scores))
    return scores - room, scores + room


def area(positives: Scored, negatives: Scored) -> Ends:
    """Return the share of pairs in order, ties counted 1/2."""
    return tuple(  # type: ignore[return-value]
        float(np.mean([((p > n).mean() + (p == n).mean() / 2) for p in np.ravel(above)]))
        for above, n in ((positives[0], np.ravel(negatives[1])), (positives[1], np.ravel(negatives[0])))
    )


def rate(positives: Scored, negatives: Scored, fpr: float) -> Ends | None:
    """Return the largest share of positives above a threshold that accuses no more than `fpr` of the negatives."""
    count = negatives[0].size
    if count * fpr < 1 - 1e-9:
        return None
    ends = []
    for p, n in ((positives[0], negatives[1]), (positives[1], negatives[0])):
        allowed = math.floor(count * fpr + 1e-9)
        highest = np.sort(np.ravel(n))[::-1][allowed]  # a threshold must be above this one
        ends.append(float((np.ravel(p) > highest).mean()))
    return ends[0], ends[1]


def mean(each: list[Ends | None]) -> Ends | None:
    """Return the mean over runs."""
    if any(one is None for one in each):
        return None
    low, high = np.mean(np.array(each), axis=0)
    return float(low), float(high)


def accuracies(world: World, split: str, side: int) -> list[float]:
    """Return the share of images with phi above 0 of each run."""
    return [sum(value > 0 for value in row) / len(row) for row in world.phi[split][side].tolist()]


def ratio(world: World, split: str) -> float | None:
    """Return mean accuracy over mean accuracy."""
    ours, theirs = (sum(accuracies(world, split, side)) for side in (0, 1))
    return ours / theirs if theirs else None


def epsilon(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Return the largest epsilon over all intervals of one image."""
    ranges = sorted(np.ptp(side) for side in (ours, theirs))
    if ranges[1] == 0 or ranges[0] / ranges[1] < 0.01:
        return 50.0
    cuts = np.unique(np.concatenate([ours, theirs]))
    below = [np.array([0, *(np.sort(side).searchsorted(cuts, "right"))]) for side in (ours, theirs)]
    inside = [(one[None, :] - one[:, None]) for one in below]  # from above cut i up to and with cut j
    upper = np.triu_indices(len(cuts) + 1, 1)
    pairs = np.unique(inside[0][upper] * (len(theirs) + 1) + inside[1][upper])
    best = 0.0
    for u, r in zip(*(part.tolist() for part in np.divmod(pairs, len(theirs) + 1)), strict=True):
        x, y = u / len(ours), r / len(theirs)
        best = max(best, *(attack_epsilon(round(a, 9), round(b, 9)) for a, b in ((x, 1 - y), (y, 1 - x))))
    return min(best, 50.0)


@cache
def forgetting_quality(world: World) -> float:
    """Return the mean of 1, 1/2, 1/4, ... for epsilon below 0.5, 1, 1.5, ... up to ceil(log(N - 1))."""
    ours, theirs = world.phi["forget"]
    points = []
    for image in range(ours.shape[1]):
        bucket = math.floor((epsilon(ours[:, image], theirs[:, image]) + 1e-9) / 0.5) + 1
        points.append(2 * 2.0**-bucket if bucket <= 2 * math.ceil(math.log(len(ours) - 1)) else 0.0)
    return sum(points) / len(points)


def score(world: World) -> float | None:
    """Return F times both ratios."""
    ratios = [ratio(world, split) for split in ("retain", "test")]
    return None if None in ratios else forgetting_quality(world) * math.prod(ratios)  # type: ignore[arg-type]


def tug_of_war(world: World) -> float:
    """Return the mean over runs of the product over splits of 1 - |accuracy - mean of the retrained|."""
    splits = ("forget", "retain", "test")
    means = [float(np.mean(accuracies(world, split, 1))) for split in splits]
    runs = zip(*(accuracies(world, split, 0) for split in splits), strict=True)
    return float(np.mean([math.prod(1 - abs(a - b) for a, b in zip(run, means, strict=True)) for run in runs]))


@cache
def u_lira_scores(world: World) -> tuple[Scored, Scored]:
    """Return log densities by Gaussians that exclude the model and one of the other side, unlearned minus retrained."""
    sides, found = world.phi["forget"], []
    for own, other, sign in ((sides[0], sides[1], 1), (sides[1], sides[0], -1)):
        floor = 1e-4 * np.concatenate(sides).var(axis=0, ddof=1)
        scores = np.zeros(own.shape)
        for model, image in np.ndindex(*own.shape):
            if np.ptp(np.concatenate(sides)[:, image]) == 0:
                continue
            densities = []
            for side in (own, other):
                left = np.delete(side[:, image], model)
                sd = math.sqrt(max(left.var(ddof=1), floor[image]))
                densities.append(-(((own[model, image] - left.mean()) / sd) ** 2) / 2 - math.log(sd))
            scores[model, image] = sign * (densities[0] - densities[1])
        found.append(within(scores))
    return found[0], found[1]


def shares(ours: np.ndarray, population: np.ndarray) -> Scored:
    """Return the share of a run's population that is below each image, strictly, for each run."""
    ends = [
        [[float((x * (1 + way * 1e-9) > z).mean()) for x in row] for row, z in zip(ours, population, strict=True)]
        for way in (-1, 1)
    ]
    return np.array(ends[0]), np.array(ends[1])


def one_by_one(of: Callable[..., Any], positives: Scored, negatives: Scored) -> Ends | None:
    """Return the mean over runs of an area or a rate."""
    each = zip(*positives, *negatives, strict=True)
    return mean([of((a, b), (c, d)) for a, b, c, d in each])


def rmia_scores(world: World, pbar: Callable[[str], np.ndarray], runs: int | None = None) -> tuple[Scored, Scored]:
    """Return scores of forget images and of test images outside the population, by run."""
    p = {split: sigmoid(world.phi[split][0][:runs]) / pbar(split) for split in ("forget", "test")}
    images = p["test"].shape[1]
    population = np.isin(np.arange(images), world.rng().permutation(images)[: images // 2])
    z = p["test"][:, population]
    return shares(p["forget"], z), shares(p["test"][:, ~population], z)


def rmia(world: World, of: Callable[..., Any]) -> Ends | None:
    """Return RMIA with retrained models as references, a = 0.3."""
    if world.phi["test"][0].shape[1] < 2:
        return None
    return one_by_one(of, *rmia_scores(world, lambda split: 0.65 * sigmoid(world.phi[split][1]).mean(0) + 0.35))


def shadow_rmia_offline(world: World, of: Callable[..., Any]) -> Ends | None:
    """Return the same with shadows outside as references, of the first 64 runs."""
    if world.phi["test"][0].shape[1] < 2:
        return None
    outside = {"forget": world.phi["shadows"][1], "test": world.phi["others"][1]}
    return one_by_one(of, *rmia_scores(world, lambda split: 0.65 * sigmoid(outside[split]).mean(0) + 0.35, 64))


def shadow_rmia_online(world: World, of: Callable[..., Any]) -> Ends | None:
    """Return unlearned against retrained models, with shadows on both sides; all test images are the population."""
    pbar = sum(sigmoid(side).mean(0) for side in world.phi["shadows"]) / 2
    z = sigmoid(world.phi["others"][1]).mean(0)
    found = [shares(sigmoid(world.phi["forget"][k]) / pbar, sigmoid(world.phi["test"][k]) / z) for k in (0, 1)]
    return of(*found)


def lira_offline(world: World, of: Callable[..., Any]) -> Ends | None:
    """Return standard deviations above the median of shadows outside: forget against test images."""
    (_, forget), (_, test) = world.phi["shadows"], world.phi["others"]
    many = len(forget) >= 32
    found = []
    for split, shadows in (("forget", forget), ("test", test)):
        sd = (shadows.std(0) if many else np.full(shadows.shape[1], forget.std())) + 1e-30
        found.append(within((world.attacked(split) - np.median(shadows, 0)) / sd, 0.0))
    return one_by_one(of, *found)


def lira_online(world: World, of: Callable[..., Any]) -> Ends | None:
    """Return log densities inside minus outside: forget images under unlearned against retrained models."""
    inside, outside = world.phi["shadows"]
    many = len(inside) >= 32
    found = []
    for phi in world.phi["forget"]:
        densities = []
        for shadows in (inside, outside):
            sd = (shadows.std(0) if many else np.full(shadows.shape[1], inside.std())) + 1e-30
            densities.append(stats.norm.logpdf(phi, np.median(shadows, 0), sd))
        found.append(within(densities[0] - densities[1], 0.0))
    return of(*found)


def logistic(world: World) -> float | None:
    """Return scikit-learn's cross-validated accuracy on the losses of each run, mean over runs."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedShuffleSplit, cross_val_score

    size = world.phi["test"][0].shape[1]
    if size < 10:
        return None
    labels, splits = np.repeat([0, 1], size), StratifiedShuffleSplit(n_splits=10, random_state=0)
    found = []
    for test, forget in zip(world.attacked("test"), world.attacked("forget"), strict=True):
        losses = np.log1p(np.exp(-np.concatenate([test, forget])))[:, None]
        found.append(cross_val_score(LogisticRegression(), losses, labels, cv=splits, scoring="accuracy").mean())
    return float(np.mean(found))


def logistic_rate(world: World, fpr: float) -> Ends | None:
    """Return the rate at which small losses name forget images."""
    if world.phi["test"][0].shape[1] < 10:
        return None
    found = (within(-np.log1p(np.exp(-world.attacked(split))), 1e-12) for split in ("forget", "test"))
    return one_by_one(partial(rate, fpr=fpr), *found)


def svc(members: np.ndarray, others: np.ndarray) -> Any:
    """Return the published classifier of retain (1) and test (0) probabilities."""
    from sklearn.svm import SVC

    labels = np.repeat([1, 0], [len(members), len(others)])
    return SVC(C=3, gamma="auto", kernel="rbf").fit(np.concatenate([members, others])[:, None], labels)


def svc_efficacy(world: World) -> float | None:
    """Return the share of forget images that it takes for test images, mean over runs."""
    if world.phi["test"][0].shape[1] < 10:
        return None
    runs = zip(*(sigmoid(world.attacked(split)) for split in ("retain", "test", "forget")), strict=True)
    found = [(svc(retain, test).predict(forget[:, None]) == 0).mean() for retain, test, forget in runs]
    return float(np.mean(found))


def svc_rate(world: World, fpr: float) -> Ends | None:
    """Return the rate of its decision, fitted to a random half of the test images and as many retain images."""
    size = world.phi["test"][0].shape[1]
    if size < 10:
        return None
    rng = world.rng()
    half = np.isin(np.arange(size), rng.permutation(size)[: size // 2])
    kept = np.sort(rng.choice(size, size // 2, replace=False))
    found = []
    for retain, test, forget in zip(*(sigmoid(world.attacked(s)) for s in ("retain", "test", "forget")), strict=True):
        decide = svc(retain[kept], test[half]).decision_function
        found.append(rate(within(decide(forget[:, None])), within(decide(test[~half, None])), fpr))
    return mean(found)


def klom(world: World, split: str, first: int) -> float:
    """Return the 95th percentile over images of KL(first || second) of 20 bins, empty ones of the second at 1e-5."""
    sides, found = world.phi[split], []
    for image in range(sides[0].shape[1]):
        samples = [np.clip(side[:, image], -100, 100).tolist() for side in sides]
        low, high = min(map(min, samples)), max(map(max, samples))
        bins = [[0 if high == low else min(int((v - low) * 20 / (high - low)), 19) for v in one] for one in samples]
        p, q = ([one.count(k) / len(one) for k in range(20)] for one in (bins[first], bins[1 - first]))
        found.append(sum(a * math.log(a / max(b, 1e-5)) for a, b in zip(p, q, strict=True) if a))
    ordered, place = sorted(found), 0.95 * (len(found) - 1)
    low_end, high_end = ordered[math.floor(place)], ordered[math.ceil(place)]
    return low_end + (high_end - low_end) * (place - math.floor(place))


def spreads(world: World) -> list[tuple[float, float]]:
    """Return for each image |shift| in standard deviations of the retrained models, and the ratio of spreads."""
    found = []
    for ours, theirs in zip(*(side.T.tolist() for side in world.phi["forget"]), strict=True):
        if len(set(theirs)) > 1:
            sds = [float(np.std(side, ddof=1)) if len(set(side)) > 1 else 0.0 for side in (ours, theirs)]
            found.append((abs(sum(ours) / len(ours) - sum(theirs) / len(theirs)) / sds[1], sds[0] / sds[1]))
    return found


def rates_of(attack: str, reading: Callable[[World, Callable[..., Any]], Any]) -> dict[str, Callable[[World], Any]]:
    """Return the readings of an attack's area and rates."""
    ends = {"auc": area, "tpr_0.1": partial(rate, fpr=0.001), "tpr_1": partial(rate, fpr=0.01)}
    return {f"{attack}_{end}": lambda world, of=of: reading(world, of) for end, of in ends.items()}


READINGS: dict[str, Callable[[World], Any]] = {
    "score": score,
    "forgetting_quality": forgetting_quality,
    "retain_ratio": lambda world: ratio(world, "retain"),
    "test_ratio": lambda world: ratio(world, "test"),
    **rates_of("u_lira", lambda world, of: of(*u_lira_scores(world))),
    **rates_of("rmia", rmia),
    **rates_of("lira_offline", lira_offline),
    **rates_of("lira_online", lira_online),
    **rates_of("shadow_rmia_offline", shadow_rmia_offline),
    **rates_of("shadow_rmia_online", shadow_rmia_online),
    "logistic_attack": logistic,
    "logistic_attack_tpr_0.1": partial(logistic_rate, fpr=0.001),
    "logistic_attack_tpr_1": partial(logistic_rate, fpr=0.01),
    "svc_efficacy": svc_efficacy,
    "svc_efficacy_tpr_0.1": partial(svc_rate, fpr=0.001),
    "svc_efficacy_tpr_1": partial(svc_rate, fpr=0.01),
    **{
        f"klom_{way}{'' if split == 'forget' else f'_{split}'}": partial(klom, split=split, first=first)
        for split in SPLITS
        for way, first in (("retrained_to_unlearned", 1), ("unlearned_to_retrained", 0))
    },
    "mean_shift": lambda world: float(np.mean([shift for shift, _ in spreads(world)])) if spreads(world) else None,
    "spread_ratio": lambda world: float(np.median([one for _, one in spreads(world)])) if spreads(world) else None,
    "tug_of_war": tug_of_war,
}


def test_every_measure_of_the_registry_has_a_reading() -> None:
    """Law: a new measure is not in the registry without a reading of its source."""
    assert READINGS.keys() == MEASURES.keys()


@pytest.mark.parametrize("vectors", VECTORS, ids=lambda vectors: vectors.__name__)
def test_every_measure_is_its_definition(vectors: Callable[[np.random.Generator], Vectors]) -> None:
    """Law: value by value, within what rounding allows; a measure has no value where its reading has none."""
    world = World(vectors)
    found = world.found()
    for name, reading in READINGS.items():
        expected, value = reading(world), found.get(name)
        if expected is None or value is None:
            assert expected is value is None, (name, expected, value)
            continue
        low, high = expected if isinstance(expected, tuple) else (expected, expected)
        assert low - 2e-5 <= value <= high + 2e-5, (name, expected, value)
        assert high - low < 0.3, (name, expected)  # with ties, rounding decides about many pairs
