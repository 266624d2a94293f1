"""Made-up but plausible `Scores`: what the report's tests set on a page. Nothing here was measured."""

from __future__ import annotations

from typing import Any

import numpy as np

from ray_unlearn.evaluation.measures import MEASURES
from ray_unlearn.evaluation.ranks import RANKED
from ray_unlearn.evaluation.scores import (
    Cost,
    Curve,
    Estimate,
    ExampleScores,
    Growth,
    PopulationScores,
    Rank,
    Scores,
    Slice,
    Stage,
    Summary,
)

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
SPLITS = {"retain": 0.999, "forget": 0.90, "validation": 0.905, "test": 0.903}
LONG = "negative-gradient-plus_lr-0.0003_epochs-5_seeded-twice"
METHODS: dict[str, tuple[str, float]] = {
    "finetune": ("finetune", 0.071),
    "kookmin": ("kookmin", 0.112),
    LONG: ("negative_gradient_plus", 0.205),  # better than the null
    "ssd": ("selective_synaptic_dampening", 0.0),  # deterministic: every image guarded
}
"""Population -> its method and its F."""
STUDY: dict[str, Any] = {
    "name": "cifar-slice",
    "seed": 3,
    "data": {"train": {"format": "cifar10"}, "forget": {"fraction": 0.02}},
    "populations": {"original": {"method": "train", "on": "train"}, "kookmin": {"method": "kookmin", "count": 64}},
}


def make_scores(methods: dict[str, tuple[str, float]] = METHODS, runs: int = 64, **changes: Any) -> Scores:
    """Return scores of one original, the retrained population and the methods, as a value of its own each time."""
    rng = np.random.default_rng(7)
    populations = [_trained("original", "original", 1, rng), _trained("retrained", "reference", runs, rng)]
    populations += [_unlearned(name, method, quality, runs, rng) for name, (method, quality) in methods.items()]
    values: dict[str, Any] = {
        "study": "cifar-slice",
        "mode": "parity",
        "reference": "retrained",
        "seed": 3,
        "images": {"retain": 49_000, "forget": 300, "test": 10_000},
        "class_names": CLASSES,
        "populations": {one.population: one for one in populations},
        "warnings": ("one original only: another could order the methods differently",),
        "versions": {"ray_unlearn": "0.2.0", "torch": "2.15.0", "numpy": "2.4.0"},
    }
    return Scores(**values | changes)


def settled(scores: Scores) -> Scores:
    """Return the scores with a single place for each method, by F and by score, and the intervals that each has."""
    ranks: dict[str, dict[str, Rank]] = {}
    for measure in RANKED:
        found = {name: one.measures[measure] for name, one in scores.populations.items() if one.role == "unlearned"}
        order = sorted(found, key=lambda name: -(found[name].value or 0.0))
        ranks[measure] = {
            name: Rank(best=nth, worst=nth, low=one.low or 0.0, high=one.high or 0.0)
            for nth, name in enumerate(order, 1)
            if (one := found[name]).value is not None
        }
    return scores.model_copy(update={"ranks": ranks})


def _summary(mean: float, sd: float, n: int) -> Summary:
    half = 2 * sd / np.sqrt(n)
    many = n > 1
    return Summary(
        mean=mean, sd=sd if many else None, low=mean - half if many else None, high=mean + half if many else None, n=n
    )


def _slices(runs: int, drop: float, rng: np.random.Generator) -> tuple[Slice, ...]:
    found = []
    for split, base in SPLITS.items():
        parts = [("all", "", 0.0), *(("class", key, float(rng.normal(0, 0.03))) for key in CLASSES)]
        parts += [("group", key, float(rng.normal(0, 0.02))) for key in ("0-19", "20-39", "40+")] * (split == "test")
        for by, key, shift in parts:
            mean = float(np.clip(base - drop + shift, 0, 1))
            found.append(
                Slice(
                    split=split,
                    by=by,
                    key=key,
                    images=300 if not key else 30,
                    accuracy=_summary(mean, 0.008, runs),
                    loss=_summary(2 * (1 - mean), 0.02, runs),
                )
            )
    return tuple(found)


def _trained(name: str, role: str, runs: int, rng: np.random.Generator) -> PopulationScores:
    return PopulationScores(
        population=name,
        role=role,
        method="train",
        options={"on": "train" if role == "original" else "retain", "epochs": 30},
        runs=runs,
        originals=0,
        slices=_slices(runs, -0.09 if role == "original" else 0.0, rng),
        stages=tuple(Stage(epoch=e, n=runs, metrics=_stage(e, 30)) for e in range(1, 31)) if role != "original" else (),
        cost=Cost(seconds=_summary(212.0, 4.0, runs), relative=1.0, efficient=None),
    )


def _stage(epoch: int, epochs: int) -> dict[str, float]:
    grown = 1 - np.exp(-4 * epoch / epochs)
    return {f"{split}_accuracy": float(base * grown) for split, base in SPLITS.items()} | {
        "train_loss": 2 * (1 - grown)
    }


def _unlearned(name: str, method: str, quality: float, runs: int, rng: np.random.Generator) -> PopulationScores:
    guarded = quality == 0
    return PopulationScores(
        population=name,
        role="unlearned",
        method=method,
        options={"epochs": 5, "lr": 3e-4, "momentum": 0.9, "reinit": ["conv1", "fc"], "note": None},
        runs=runs,
        originals=1,
        measures=_measures(quality, runs, guarded),
        slices=_slices(runs, 0.01, rng),
        epsilon_counts=_epsilons(quality, rng),
        guarded=300 if guarded else 0,
        growth=() if guarded else _growth(quality, runs),
        examples=tuple(_example(i, guarded, runs, rng) for i in range(4)),
        curves={} if guarded else {"u_lira": _curve(0.35 + quality, rng), "rmia": _curve(0.9, rng)},
        stages=() if guarded else tuple(Stage(epoch=e, n=runs, metrics=_stage(e + 4, 9)) for e in range(1, 6)),
        cost=Cost(
            seconds=_summary(3.0 if guarded else 61.0 * quality / 0.1, 0.5, runs),
            relative=0.014 if guarded else 2.9 * quality,
            efficient=guarded or 2.9 * quality <= 0.2,
        ),
        warnings=("deterministic: its runs do not differ",) if guarded else (),
    )


def _measures(quality: float, runs: int, guarded: bool) -> dict[str, Estimate]:
    found = {
        "score": _estimate(0.97 * quality, 0.185, 0.006, runs),
        "forgetting_quality": _estimate(quality, 0.189, 0.006, runs),
        "retain_ratio": Estimate(value=0.988, low=0.981, high=0.994, n=runs),
        "test_ratio": Estimate(value=0.982, low=0.977, high=0.987, n=runs),
    }
    for name, measure in MEASURES.items():
        if name not in found:
            blind = {"high": 0.96, "low": 0.1, "null": 0.5}[measure.better]
            found[name] = _estimate(blind + (0.2 - quality), blind, 0.01, runs)
    if guarded:
        found["u_lira_auc"] = Estimate(value=None, n=runs, missing="no Gaussian fits runs that do not differ")
    return found


def _estimate(value: float, null: float, spread: float, runs: int) -> Estimate:
    return Estimate(
        value=value,
        low=max(value - 2 * spread, 0),
        high=value + 2 * spread,
        n=runs,
        at_null_n=value * 1.04,
        null=null,
        null_low=null - spread,
        null_high=null + spread,
        null_n=runs // 2,
    )


def _epsilons(quality: float, rng: np.random.Generator) -> tuple[int, ...]:
    if quality == 0:
        return (*[0] * 10, 300)
    epsilons = np.minimum(rng.gamma(6, 0.19 / quality * 0.28, 300), 5.2)
    return tuple(int(n) for n in np.histogram(epsilons, bins=np.arange(0, 6, 0.5))[0])


def _growth(quality: float, runs: int) -> tuple[Growth, ...]:
    sizes = [n for n in (8, 16, 32, 64, 128, 256, 512) if n <= runs]
    return tuple(
        Growth(n=n, value=quality * (1 + 3 / n), low=quality * (1 - 1 / n), high=quality * (1 + 7 / n), null=null)
        for n in sizes
        for null in [0.19 + 1 / n if 2 * n <= runs else None]
    )


def _example(number: int, guarded: bool, runs: int, rng: np.random.Generator) -> ExampleScores:
    unlearned = np.full(runs, 3.0) if guarded else rng.normal(2.5 - number, 1.2, runs)
    return ExampleScores(
        image_id=f"train-{number:05d}",
        label=CLASSES[number],
        epsilon=50.0 if guarded else 1.2 + number / 2,
        unlearned=tuple(map(float, unlearned)),
        retrained=tuple(map(float, rng.normal(2 - number, 1.5, runs))),
    )


def _curve(power: float, rng: np.random.Generator) -> Curve:
    false = np.concatenate([[0.0], np.geomspace(1e-4, 1, 400)])
    null = np.clip(false * np.exp(rng.normal(0, 0.02, false.size)), 0, 1)
    return Curve(
        false_positive_rate=tuple(false),
        true_positive_rate=tuple(false**power),
        null_false_positive_rate=tuple(false),
        null_true_positive_rate=tuple(np.maximum.accumulate(null)),
    )
