"""Pictures of one population's forget images, on the same axes for every population.

    histogram(scores, found)                     # epsilon of every forget image
    distributions(scores, found)                 # phi of a few forget images, retrained against unlearned

Each returns SVG, or "" if the population lacks the numbers for it.

Does not cover: curves (`curve_pictures`), pictures of all populations at once (`overview_pictures`).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, NullLocator

from ray_unlearn.evaluation.scores import ExampleScores, PopulationScores, Scores
from ray_unlearn.report.ink import INK, METHOD, MUTED, REFERENCE, canvas, ink, picture, plot_area
from ray_unlearn.report.ranking import picture_id, ranked
from ray_unlearn.wording import decimals, short

_WIDTH, _HEIGHT = 300, 190
_MOST_EXAMPLES = 5
_BINS = 48


def histogram(scores: Scores, found: PopulationScores) -> str:
    """Return forget images by epsilon, in bins of 0.5."""
    counts = np.asarray(found.epsilon_counts)
    if not counts.sum():
        return ""
    highest = max(max(one.epsilon_counts, default=0) for one in ranked(scores))
    with ink():
        figure = canvas(_WIDTH, _HEIGHT)
        axes = plot_area(figure, left=40)
        axes.bar(np.arange(counts.size) / 2, counts, width=0.46, align="edge", color=METHOD)
        axes.set(xlabel="ε (last bar: all above)", ylim=(0, 1.05 * highest), xlim=(-0.05, counts.size / 2))
        axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
        axes.grid(visible=False, axis="x")
        return picture(figure, name=f"epsilon-{picture_id(scores, found)}", alt=_histogram_words(found, counts))


def _histogram_words(found: PopulationScores, counts: np.ndarray) -> str:
    middle = int(np.searchsorted(np.cumsum(counts), counts.sum() / 2))
    where = f"between {middle / 2} and {(middle + 1) / 2}" if middle < counts.size - 1 else f"above {middle / 2}"
    return (
        f"Epsilon of {counts.sum()} forget images under {found.population}, N = {found.runs}: the median is {where}; "
        f"{counts[-1]} are in the last bin, {found.guarded} are guarded."
    )


def distributions(scores: Scores, found: PopulationScores) -> str:
    """Return phi of a few forget images over runs: retrained filled, unlearned as a line, each to its own height.

    Values beyond the axis are counted at its end.
    """
    examples = found.examples[:_MOST_EXAMPLES]
    if not examples:
        return ""
    edges = _phi_edges(scores)
    with ink():
        figure = canvas(_WIDTH, 48 + 54 * len(examples))
        axes = plot_area(figure, left=10)
        for row, example in enumerate(examples):
            _ridge(axes, len(examples) - 1 - row, example, edges)
        axes.set(ylim=(-0.05, len(examples)), xlim=(edges[0], edges[-1]), xlabel="φ: confidence in the true class")
        axes.yaxis.set_major_locator(NullLocator())
        axes.spines["left"].set_visible(False)
        return picture(figure, name=f"phi-{picture_id(scores, found)}", alt=_phi_words(found, examples))


def _phi_edges(scores: Scores) -> np.ndarray:
    """Return bins of phi around the values of retrained models, so that no extreme method flattens the others."""
    shown = [one for other in ranked(scores) for one in other.examples[:_MOST_EXAMPLES]]
    low = min(min(one.retrained) for one in shown)
    high = max(max(one.retrained) for one in shown)
    margin = max(0.4 * (high - low), 0.5)
    return np.linspace(low - margin, high + margin, _BINS + 1)


def _ridge(axes: Axes, base: int, example: ExampleScores, edges: np.ndarray) -> None:
    axes.axhline(base, color=MUTED, linewidth=0.5)
    retrained, unlearned = (_heights(values, edges) for values in (example.retrained, example.unlearned))
    axes.stairs(base + retrained, edges, baseline=base, fill=True, color=REFERENCE, alpha=0.4, linewidth=0)
    axes.stairs(base + unlearned, edges, baseline=base, color=METHOD, linewidth=1.4)
    label: dict[str, Any] = {"va": "top", "fontsize": 10, "transform": axes.get_yaxis_transform()}
    axes.text(0, base + 0.92, short(example.label, 20), ha="left", color=INK, **label)
    axes.text(1, base + 0.92, f"ε {example.epsilon:.1f}", ha="right", color=MUTED, **label)


def _heights(values: tuple[float, ...], edges: np.ndarray) -> np.ndarray:
    counts, _ = np.histogram(np.clip(values, edges[0], edges[-1]), bins=edges)
    heights: np.ndarray = 0.66 * counts / max(counts.max(), 1)
    return heights


def _mean(values: tuple[float, ...]) -> str:
    return f"{decimals(float(np.mean(values)))} (N = {len(values)})"


def _phi_words(found: PopulationScores, examples: tuple[ExampleScores, ...]) -> str:
    sentences = [
        f"{one.label}, {one.image_id}: mean {_mean(one.retrained)} retrained, {_mean(one.unlearned)} unlearned, "
        f"epsilon {one.epsilon:.1f}."
        for one in examples
    ]
    return " ".join([f"Distributions over runs of phi under {found.population}.", *sentences])
