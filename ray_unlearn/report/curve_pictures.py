"""Curves of one population.

    growth(scores, found)                        # F against the number of runs
    roc(scores, found, "u_lira")
    stages(scores, found)                        # accuracy epoch by epoch

Growth and ROC have the same axes for every population; epochs fit their own range, because unlearning moves little.

Each returns SVG, or "" if the population lacks the numbers for it.

Does not cover: single forget images (`image_pictures`); curves of single runs (`curves`).
"""

from __future__ import annotations

import numpy as np
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

from ray_unlearn.evaluation.scores import Curve, PopulationScores, Scores
from ray_unlearn.report.ink import METHOD, MUTED, REFERENCE, SERIES, canvas, ink, picture, plot_area
from ray_unlearn.report.ranking import SPLITS, picture_id, ranked
from ray_unlearn.wording import decimals, percent

_WIDTH, _HEIGHT = 300, 190
_FLOOR = 1e-3
"""The smallest rate on the logarithmic axes of a ROC."""
_RATES = np.geomspace(_FLOOR, 1, 121)
_DASHES = ("-", "-", ":", "--")
ATTACKS = {
    "u_lira": "U-LiRA",
    "rmia": "RMIA",
    "lira_offline_auc": "LiRA, offline",
    "lira_online": "LiRA, online",
    "shadow_rmia_offline_auc": "RMIA with shadows, offline",
    "shadow_rmia_online": "RMIA with shadows, online",
    "logistic_attack": "the logistic attack",
    "svc_efficacy": "the SVC",
}


KNOWN = {
    "lira_online": "LiRA online, training images known",
    "lira_offline": "LiRA offline, training images known",
    "rmia_online": "RMIA online, training images known",
    "u_lira_unlearned": "U-LiRA of unlearned shadows",
}
"""Attacks on originals, shadows, and models that started from shadows."""


def growth(scores: Scores, found: PopulationScores) -> str:
    """Return F against the number of runs, with the null at each."""
    steps = found.growth
    if not steps:
        return ""
    highest = max(max(step.high, step.null or 0) for one in ranked(scores) for step in one.growth)
    most = max(step.n for one in ranked(scores) for step in one.growth)
    sizes = [step.n for step in steps]
    with ink():
        figure = canvas(_WIDTH, _HEIGHT)
        axes = plot_area(figure, left=40, right=14)
        axes.fill_between(sizes, [s.low for s in steps], [s.high for s in steps], color=METHOD, alpha=0.2, linewidth=0)
        axes.plot(sizes, [step.value for step in steps], "o-", color=METHOD, markersize=5, linewidth=1.8)
        nulls = [(step.n, step.null) for step in steps if step.null is not None]
        axes.plot(*np.transpose(nulls) if nulls else ([], []), "s--", color=REFERENCE, markersize=4, linewidth=1.4)
        axes.set_xscale("log", base=2)
        axes.set_xticks(sizes[:: max(1, -(-len(sizes) // 7))])
        axes.xaxis.set_major_formatter(FuncFormatter(lambda n, _: f"{n:.0f}"))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_locator(MaxNLocator(4))
        axes.set(xlabel="N, runs a side", ylim=(0, 1.05 * highest or 1), xlim=(0.9 * min(sizes), 1.1 * most))
        return picture(figure, name=f"growth-{picture_id(scores, found)}", alt=_growth_words(found))


def _growth_words(found: PopulationScores) -> str:
    values = ", ".join(f"{decimals(s.value)} at N = {s.n} (null {decimals(s.null)})" for s in found.growth)
    return f"F of {found.population} by number of runs: {values}."


def roc(scores: Scores, found: PopulationScores, attack: str) -> str:
    """Return an attack's true against false positive rate, both logarithmic; dashed: on retrained models."""
    curve = found.curves.get(attack)
    if curve is None:
        return ""
    with ink():
        figure = canvas(_WIDTH, 230)
        axes = plot_area(figure, left=56, right=20)
        axes.plot([_FLOOR, 1], [_FLOOR, 1], color=MUTED, linewidth=0.8, linestyle=(0, (1, 2)))
        axes.plot(_RATES, _null_rates(curve), color=REFERENCE, linewidth=1.5, linestyle="--")
        axes.plot(_RATES, _rates(curve.false_positive_rate, curve.true_positive_rate), color=METHOD, linewidth=2)
        axes.set(xscale="log", yscale="log", xlim=(_FLOOR, 1), ylim=(_FLOOR, 1.1))
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(FuncFormatter(lambda rate, _: f"{100 * rate:g} %"))
            axis.set_minor_locator(NullLocator())
        axes.set(xlabel="false positives", ylabel="true positives")
        name = f"{attack.replace('_', '-')}-{picture_id(scores, found)}"
        return picture(figure, name=name, alt=_roc_words(found, attack, curve))


def _rates(false: tuple[float, ...], true: tuple[float, ...]) -> np.ndarray:
    """Return the true positive rate at each false positive rate of `_RATES`, or below; NaN without a curve."""
    if not false:
        return np.full(_RATES.size, np.nan)
    place = np.searchsorted(np.asarray(false), _RATES, side="right") - 1
    rates = np.where(place >= 0, np.asarray(true)[np.maximum(place, 0)], 0)
    return np.maximum(rates, _FLOOR / 10)  # nothing recognised: below the axis, not off the logarithm


def _null_rates(curve: Curve) -> np.ndarray:
    return _rates(curve.null_false_positive_rate, curve.null_true_positive_rate)


def _roc_words(found: PopulationScores, attack: str, curve: Curve) -> str:
    at_one_percent = int(np.argmin(np.abs(_RATES - 0.01)))
    rate = _rates(curve.false_positive_rate, curve.true_positive_rate)[at_one_percent]
    null = _null_rates(curve)[at_one_percent]
    against = f"; {percent(float(null))} % on half of the reference" if np.isfinite(null) else ""
    return (
        f"ROC of {(ATTACKS | KNOWN)[attack]} on {found.population}, N = {found.runs}: "
        f"{percent(float(rate))} % true positives at 1 % false ones{against}."
    )


def stages(scores: Scores, found: PopulationScores) -> str:
    """Return mean accuracy by split after every epoch, or the training loss if there is no accuracy."""
    splits = [split for split in SPLITS if any(f"{split}_accuracy" in stage.metrics for stage in found.stages)]
    keys = {split: f"{split}_accuracy" for split in splits} or {"training loss": "train_loss"}
    lines = {
        label: [(stage.epoch, stage.metrics[key]) for stage in found.stages if key in stage.metrics]
        for label, key in keys.items()
    }
    lines = {label: line for label, line in lines.items() if line}
    if not lines:
        return ""
    with ink():
        figure = canvas(_WIDTH, _HEIGHT)
        axes = plot_area(figure, left=52, right=14)
        for label, line in lines.items():
            place = SPLITS.index(label) if label in SPLITS else 0
            axes.plot(*np.transpose(line), color=SERIES[place], linestyle=_DASHES[place], linewidth=1.8)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(4))
        axes.set(xlabel="epoch", ylabel="accuracy" if splits else "training loss (nats)")
        ends = ", ".join(f"{label} {decimals(line[0][1])} to {decimals(line[-1][1])}" for label, line in lines.items())
        runs = found.stages[-1].n
        alt = f"{found.population} by epoch, mean of N = {runs}: {ends} after {found.stages[-1].epoch} epochs."
        return picture(figure, name=f"stages-{picture_id(scores, found)}", alt=alt)
