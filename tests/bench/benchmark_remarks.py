"""Figures of benchmark.py -> what is below its table: what is too short, a GPU's memory, accuracies, 512 runs.

    for line in remark_lines(found): ...

Accuracies are those of one repeat: every repeat makes the same seeds again.

Does not cover: the table and the floor (`benchmark_table`), measuring.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from benchmark_table import Found, by_side

_MANY = 512  # checkpoints, as the challenge's protocol asks
_SHORT_S = 1.0  # steady seconds of a side, below which a ratio compares starts and chance
_ENOUGH = 8  # checkpoints of a side, below which its spread shows little


def remark_lines(found: Found) -> list[str]:
    """Return the lines; none about what was not measured."""
    return [*short_lines(found), *memory_lines(found), *accuracy_lines(found), *many_lines(found)]


def short_lines(found: Found) -> list[str]:
    """Return that the ratios mean nothing, where a side's steady part was over at once."""
    median = {side: statistics.median(r["steady_s"] for r in results) for side, results in by_side(found).items()}
    said = [f"{side} {seconds:.2g} s" for side, seconds in median.items() if seconds < _SHORT_S]
    if not said:
        return []
    return [f"too short to compare: {', '.join(said)} steady; ratios and rates mean little, raise --images or --epochs"]


def memory_lines(found: Found) -> list[str]:
    """Return the most memory of the GPU that each side held in any repeat."""
    known = {
        side: [mb for each in results if (mb := each.get("peak_device_mb")) is not None]
        for side, results in by_side(found).items()
    }
    said = [f"{side} {max(values):,.0f}" for side, values in known.items() if values]
    return [f"memory of the GPU at most, MB: {', '.join(said)}"] if said else []


def accuracy_lines(found: Found) -> list[str]:
    """Return mean ± standard deviation (least to most) of each side's checkpoints, and whether d is like a."""
    first = {side: results[0]["accuracy"] for side, results in by_side(found).items() if "accuracy" in results[0]}
    lines = []
    for name in ("forget", "test"):
        said = [f"{side} {_described(accuracies[name])}" for side, accuracies in first.items()]
        if said:
            lines.append(f"accuracy on {name} images, %: {', '.join(said)}{_likeness(first, name)}")
    return lines


def _described(accuracies: Sequence[float]) -> str:
    percent = [100 * each for each in accuracies]
    mean, low, high = (f"{value:.2f}" for value in (statistics.mean(percent), min(percent), max(percent)))
    if len(percent) < 2:
        return f"{mean} (N = 1)"
    return f"{mean} ± {statistics.stdev(percent):.2f} ({low} to {high}, N = {len(percent)})"


def _likeness(first: Mapping[str, Mapping[str, Sequence[float]]], name: str) -> str:
    """Return whether the mean of d is between a's least and most; nothing without the two."""
    if not {"a", "d"} <= first.keys():
        return ""
    a, d = first["a"][name], first["d"][name]
    inside = min(a) <= statistics.mean(d) <= max(a)
    few = f"; fewer than {_ENOUGH}: says little" if min(len(a), len(d)) < _ENOUGH else ""
    return f": d's mean is {'within' if inside else 'OUTSIDE'} a's range{few}"


def many_lines(found: Found) -> list[str]:
    """Return how long 512 checkpoints with outputs take, start and end included: measured, or at the measured rate."""
    said = []
    for side, results in by_side(found).items():
        seconds = statistics.median(_seconds_for_many(each) for each in results)
        made = results[0]["checkpoints"]
        said.append(f"{side} {seconds / 60:,.1f}" + (" (measured)" if made == _MANY else ""))
    return [f"{_MANY} checkpoints with outputs and saving, min (at these rates, where not measured): {', '.join(said)}"]


def _seconds_for_many(result: Mapping[str, Any]) -> float:
    beside = result["wall_s"] - result["steady_s"]
    return float(_MANY * result["steady_s"] / result["checkpoints"] + beside)
