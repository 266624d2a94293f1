"""Figures of tests/bench/sweep_device.py -> its table, and what can be read from it.

    for line in table_lines(found): ...          # median (least to most) over repeats, ratios per repeat

Does not cover: measuring.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping
from typing import Any

from benchmark_table import spread

from ray_unlearn.wording import plural

Found = Mapping[str, Any]
"""What `sweep_device.main` returns."""
Cell = tuple[str, int]
ALONE: Cell = ("alone", 1)


def table_lines(found: Found) -> list[str]:
    """Return the table, what each way promises about weights, what is fastest, and what was left out."""
    asked, cells = found["asked"], by_cell(found)
    memory = "device MB" if asked["device"] == "cuda" else "MB of all processes"
    lines = [
        f"{asked['arch']}, {asked['image_size']}x{asked['image_size']}, {asked['images']:,} random images, batch "
        f"{asked['batch_size']}, {asked['precision']}, {asked['optimizer']}, {plural(asked['epochs'], 'epoch')} timed, "
        f"{plural(asked['repeats'], 'repeat')}, on {found['device']}",
        "",
        f"| way | runs | steps/s | images/s | over one alone | {memory} | weights |",
        "|---|---|---|---|---|---|---|",
    ]
    for (way, runs), results in cells.items():
        columns = [
            way,
            str(runs),
            spread((each["steps_per_s"] for each in results), 1),
            f"{statistics.median(each['images_per_s'] for each in results):,.0f}",
            spread(ratios(found, (way, runs)), 2),
            f"{held_mb(results):,.0f}",
            weights_of(results),
        ]
        lines.append(f"| {' | '.join(columns)} |")
    return [*lines, "", *promise_lines(found), *fastest_lines(found), *_left_out_lines(found)]


def by_cell(found: Found) -> dict[Cell, list[dict[str, Any]]]:
    """Return each cell's results in the order of the repeats; the cells by way and number of runs, `alone` first."""
    keys = {(each["way"], each["runs"]) for each in found["cells"]}
    ordered = sorted(found["cells"], key=lambda each: each["repeat"])
    return {
        key: [each for each in ordered if (each["way"], each["runs"]) == key]
        for key in sorted(keys, key=lambda key: (key != ALONE, key))
    }


def ratios(found: Found, cell: Cell) -> list[float]:
    """Return how many times the steps/s of one run alone a cell had, in each repeat."""
    cells = by_cell(found)
    alone = {each["repeat"]: each["steps_per_s"] for each in cells[ALONE]}
    return [each["steps_per_s"] / alone[each["repeat"]] for each in cells[cell] if each["repeat"] in alone]


def held_mb(results: Iterable[Mapping[str, Any]]) -> float:
    """Return the most memory in any repeat."""
    return max(float(each["mb"]) for each in results)


def weights_of(results: Iterable[Mapping[str, Any]]) -> str:
    """Return how far the weights of any run in any repeat were from those of the run alone."""
    furthest = max(float(each["difference"]) for each in results)
    if not furthest:
        return "equal"
    return f"{furthest:.1e}" if math.isfinite(furthest) else "not comparable"


def promise_lines(found: Found) -> list[str]:
    """Return a line per way: in which sense a run's result does not depend on how many share the device."""
    lines = []
    cells = by_cell(found)
    for way in dict.fromkeys(way for way, _ in cells):
        said = weights_of(each for (name, _), results in cells.items() if name == way for each in results)
        what = "equal in every bit to those of the same run alone" if said == "equal" else f"within {said} of them"
        lines.append(f"{way}: weights {what}" if way != "alone" else f"alone, once more: weights {what}")
    return lines


def fastest_lines(found: Found) -> list[str]:
    """Return, from little memory to much, the cells that no cell of as little memory beats, and the fastest of all."""
    best, lines = 0.0, []
    for (way, runs), results in sorted(by_cell(found).items(), key=lambda item: held_mb(item[1])):
        times = statistics.median(ratios(found, (way, runs)))
        if times > best:
            best, memory = times, f"{held_mb(results):,.0f} MB"
            lines.append(f"fastest in {memory}: {way} with {plural(runs, 'run')}, {times:.2f} of one alone")
    return lines


def _left_out_lines(found: Found) -> list[str]:
    return [f"left out: {each['way']} with {plural(each['runs'], 'run')}: {each['why']}" for each in found["left_out"]]
