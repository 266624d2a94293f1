"""The two pictures of the first screen: F of every population with the null, and accuracy against forgetting.

    forest(scores), plane(scores)                # SVG, or "" if no population has an F

Does not cover: one population's own pictures (`image_pictures`, `curve_pictures`).
"""

from __future__ import annotations

import math
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from ray_unlearn.evaluation.scores import Estimate, PopulationScores, Scores
from ray_unlearn.report.ink import BAND, INK, METHOD, MUTED, PAPER, REFERENCE, canvas, ink, picture, plot_area
from ray_unlearn.report.ranking import estimate, null_of, originals_of, quoted, ranked, reference_of, slice_of
from ray_unlearn.wording import decimals, interval, joined, short

_WIDTH = 410
_MOST_NAMES = 6
"""Populations whose names are written next to their dots; more are numbered, with a key below the plot."""
_KEY_LINE = 17
"""Pixels of a line of the key."""
_ONE_DOT = 4.0
"""Pixels within which two dots, 8 across, look like one."""


def with_quality(scores: Scores) -> list[PopulationScores]:
    """Return the ranked populations that have an F."""
    return [one for one in ranked(scores) if estimate(one, "forgetting_quality").value is not None]


def forest(scores: Scores) -> str:
    """Return F with its interval and F at the null's N, one line per population, in front of the null's range."""
    scores = quoted(scores)
    found = with_quality(scores)
    if not found:
        return ""
    with ink():
        figure = canvas(_WIDTH, 66 + 36 * len(found))
        axes = plot_area(figure, left=138, right=14, top=24)
        for row, one in enumerate(found):
            _forest_row(axes, row, estimate(one, "forgetting_quality"))
        axes.set(ylim=(len(found) - 0.4, -0.6), xlabel="F: higher is harder to distinguish from retraining")
        axes.set_yticks(range(len(found)), [short(one.population, 20) for one in found])
        axes.tick_params(axis="y", labelcolor=INK)
        axes.set_xlim(left=0, right=_right(scores, found))
        axes.grid(visible=False, axis="y")
        axes.spines["left"].set_visible(False)
        _null_label(axes, scores)
        return picture(figure, name="forest", alt=_forest_words(scores, found))


def _forest_row(axes: Axes, row: int, found: Estimate) -> None:
    if found.null_low is not None and found.null_high is not None:
        width = max(found.null_high - found.null_low, 1e-4)
        axes.add_patch(Rectangle((found.null_low, row - 0.6), width, 1.2, facecolor=BAND, edgecolor="none", zorder=0.6))
    if found.low is not None and found.high is not None:
        axes.plot([found.low, found.high], [row, row], color=METHOD, linewidth=2.2, solid_capstyle="round")
    axes.plot([found.value or 0.0], [row], "o", color=METHOD, markersize=8, markeredgecolor=PAPER)
    if found.at_null_n is not None:
        axes.plot([found.at_null_n], [row], "D", color=PAPER, markersize=5.5, markeredgecolor=METHOD, zorder=3)


def _right(scores: Scores, found: list[PopulationScores]) -> float:
    values = [estimate(one, "forgetting_quality") for one in found]
    ends = [end for v in values for end in (v.value, v.high, v.at_null_n, v.null, v.null_high) if end is not None]
    return 1.06 * max(ends) or 1.0


def _null_label(axes: Axes, scores: Scores) -> None:
    null = null_of(scores, "forgetting_quality")
    if null is not None and null.null is not None:
        label = f"{scores.reference} against itself, N {null.null_n}"
        left, right = axes.get_xlim()
        to_the_right = null.null < (left + right) / 2
        axes.annotate(
            label,
            (null.null, 1),
            xycoords=("data", "axes fraction"),
            xytext=(0, 6),
            textcoords="offset points",
            ha="left" if to_the_right else "right",
            color=MUTED,
            fontsize=10.5,
            annotation_clip=False,
        )


def _forest_words(scores: Scores, found: list[PopulationScores]) -> str:
    sentences = [f"F by population, {scores.mode} mode."]
    for one in found:
        quality = estimate(one, "forgetting_quality")
        number = joined(decimals(quality.value), interval(quality.low, quality.high))
        at_null = f" ({decimals(quality.at_null_n)} at N = {quality.null_n})" if quality.at_null_n is not None else ""
        sentences.append(f"{one.population}: {number} at N = {quality.n}{at_null}.")
    null = null_of(scores, "forgetting_quality")
    if null is not None:
        words = joined(decimals(null.null), interval(null.null_low, null.null_high))
        sentences.append(f"{scores.reference} against itself: {words} at N = {null.null_n}.")
    return " ".join(sentences)


def plane(scores: Scores) -> str:
    """Return the plot of the ratio of test accuracy against F: up and to the right is good."""
    scores = quoted(scores)
    found = [one for one in with_quality(scores) if estimate(one, "test_ratio").value is not None]
    if not found:
        return ""
    names = [one.population for one in found]
    key = math.ceil(len(names) / 2) * _KEY_LINE + 14 if len(names) > _MOST_NAMES else 0
    with ink():
        figure = canvas(_WIDTH, min(max(270, 66 + 36 * len(found)), 340) + key)
        axes = plot_area(figure, left=52, right=14, top=24, bottom=38 + key)
        shown = _numbered(figure, names) if key else names
        labels = [(*_scatter_point(axes, one), name) for one, name in zip(found, shown, strict=True)]
        labels += _reference_point(axes, scores)
        _original_line(axes, scores)
        axes.set(xlabel="F: closeness to retraining", ylabel="accuracy on new images, of theirs")
        axes.set_xlim(left=-0.02 * _right(scores, found), right=_right(scores, found))
        axes.margins(y=0.15)
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.yaxis.set_major_locator(MaxNLocator(5))
        _place_labels(axes, _gathered(axes, labels), _null_line(scores))
        return picture(figure, name="plane", alt=_plane_words(scores, found))


def _numbered(figure: Figure, names: list[str]) -> list[str]:
    """Write the key below the plot, in two columns; return the numbers of the populations."""
    width, height = 72 * figure.get_size_inches()
    rows = math.ceil(len(names) / 2)
    for place, name in enumerate(names):
        column, row = divmod(place, rows)
        x, y = 14 + column * width / 2, 6 + (rows - 1 - row) * _KEY_LINE
        figure.text(x / width, y / height, f"{place + 1} {short(name, 26)}", color=INK, fontsize=10.5)
    return [str(place + 1) for place in range(len(names))]


def _scatter_point(axes: Axes, one: PopulationScores) -> tuple[float, float]:
    x, y = estimate(one, "forgetting_quality"), estimate(one, "test_ratio")
    at_another_n = x.at_null_n is not None and x.null_n != x.n  # the reference's point is at the null's N
    across, up = (x.at_null_n if at_another_n else x.value) or 0.0, y.value or 0.0
    if x.low is not None and x.high is not None and not at_another_n:
        axes.plot([x.low, x.high], [up, up], color=METHOD, linewidth=1.2)
    if y.low is not None and y.high is not None:
        axes.plot([across, across], [y.low, y.high], color=METHOD, linewidth=1.2)
    axes.plot([across], [up], "o", color=METHOD, markersize=8, markeredgecolor=PAPER)
    return across, up


def _reference_point(axes: Axes, scores: Scores) -> list[tuple[float, float, str]]:
    null = null_of(scores, "forgetting_quality")
    if null is None or null.null is None:
        return []
    line = _null_line(scores)
    if line is not None:
        axes.plot([line[0], line[2]], [1, 1], color=REFERENCE, linewidth=1.6)
    axes.plot([null.null], [1], "s", color=REFERENCE, markersize=8, markeredgecolor=PAPER)
    return [(line[2] if line else null.null, 1.0, f"{scores.reference} (N {null.null_n})")]


def _null_line(scores: Scores) -> tuple[float, float, float] | None:
    """Return the null with the ends of its range, the smallest first, in F; its ratio of accuracies is 1."""
    null = null_of(scores, "forgetting_quality")
    if null is None or null.null is None or null.null_low is None or null.null_high is None:
        return None
    return null.null_low, null.null, null.null_high


def _original_ratio(scores: Scores) -> float | None:
    original = slice_of(next(iter(originals_of(scores)), None), "test")
    reference = slice_of(reference_of(scores), "test")
    return original.accuracy.mean / reference.accuracy.mean if original and reference else None


def _original_line(axes: Axes, scores: Scores) -> None:
    """Mark the original by its accuracy alone: one model has no F."""
    ratio = _original_ratio(scores)
    if ratio is not None:
        axes.axhline(ratio, color=MUTED, linewidth=1, linestyle=(0, (2, 3)))
        where: dict[str, Any] = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points", "xytext": (0, 4)}
        axes.annotate("original: accuracy only", (1, ratio), ha="right", color=MUTED, fontsize=10.5, **where)


def _gathered(axes: Axes, labels: list[tuple[float, float, str]]) -> list[tuple[float, float, str]]:
    """Return one label for each group of points at the same place: overlapping names could not be read."""
    places: dict[tuple[float, float], tuple[float, float, list[str]]] = {}
    for across, up, name in labels:
        x, y = axes.transData.transform((across, up))
        at = next((one for one in places if max(abs(one[0] - x), abs(one[1] - y)) < _ONE_DOT), (x, y))
        places.setdefault(at, (across, up, []))[2].append(name)
    return [(across, up, _names(names)) for across, up, names in places.values()]


def _names(names: list[str]) -> str:
    if all(name.isdecimal() for name in names):
        return ", ".join(names)
    if len(names) <= 2:
        return ", ".join(short(name, 24 if len(names) == 1 else 14) for name in names)
    return f"{short(names[0], 16)} and {len(names) - 1} more"


def _place_labels(
    axes: Axes, labels: list[tuple[float, float, str]], null_line: tuple[float, float, float] | None = None
) -> None:
    """Write each name next to its point, at the first place where it overlaps no other name, no point and no null."""
    figure_box = axes.get_window_extent()
    points = [tuple(axes.transData.transform((across, up))) for across, up, _ in labels]
    taken = [(x - 6, y - 6, x + 6, y + 6) for x, y in points]
    if null_line is not None:
        (left, y), (x, _), (right, _) = (axes.transData.transform((one, 1.0)) for one in null_line)
        taken += [(left, y - 2, right, y + 2), (x - 6, y - 6, x + 6, y + 6)]
    for (x, y), (across, up, name) in zip(points, labels, strict=True):
        width = 6.2 * len(name)
        places = [(dx, dy) for dy in (11, -11, 0, 25, -25, 39) for dx in (6, -6)]
        if name.isdecimal():
            places = [(0, 19), (0, -19), *places, *((dx, dy) for dx in (26, -26) for dy in (0, 14, -14))]
        boxes = {(dx, dy): _label_box(x, y, width, dx, dy) for dx, dy in places}
        inside = {at: b for at, b in boxes.items() if b[0] > figure_box.x0 and b[2] < figure_box.x1}
        free = [at for at, box in inside.items() if not any(_overlaps(box, other) for other in taken)]
        dx, dy = (free or [*inside, (6, 11)])[0]
        taken.append(boxes[dx, dy])
        side = "left" if dx > 0 else "right" if dx else "center"
        where: dict[str, Any] = {"xytext": (dx, dy), "textcoords": "offset points", "ha": side, "va": "center"}
        axes.annotate(name, (across, up), fontsize=10.5, **where)


def _label_box(x: float, y: float, width: float, dx: float, dy: float) -> tuple[float, float, float, float]:
    left = x + dx if dx > 0 else x + dx - width if dx else x - width / 2
    return left, y + dy - 7, left + width, y + dy + 7


def _overlaps(one: tuple[float, float, float, float], other: tuple[float, float, float, float]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _plane_words(scores: Scores, found: list[PopulationScores]) -> str:
    sentences = [f"Test accuracy over that of {scores.reference}, against F."]
    for one in found:
        quality, ratio = estimate(one, "forgetting_quality"), estimate(one, "test_ratio")
        numbers = f"F {decimals(quality.value)}, ratio {decimals(ratio.value)}, N = {ratio.n}"
        sentences.append(f"{one.population}: {numbers}.")
    original = _original_ratio(scores)
    return " ".join([*sentences, f"original: ratio {decimals(original)}."] if original is not None else sentences)
