"""Figures of tests/bench/benchmark.py -> its table, its lines about the floor, and what machine it was.

    for line in table_lines(found): ...           # median (least to most) over repeats, ratios per repeat

Does not cover: measuring.
"""

from __future__ import annotations

import importlib.metadata
import math
import platform
import statistics
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ray_unlearn.wording import plural

NAMES = {
    "a": "a notebook loop",
    "b": "b multiprocessing pool",
    "c": "c Ray Tune, a trial per seed",
    "d": "d ray_unlearn",
}
_PACKAGES = ("ray-unlearn", "torch", "torchvision", "ray", "numpy", "pyarrow")
Found = Mapping[str, Any]
"""What `benchmark.main` returns."""


def table_lines(found: Found) -> list[str]:
    """Return one row per side; ratios are (d)/(side), each of the two sides' same repeat."""
    setting, machine = found["setting"], found["machine"]
    lines = [
        f"{setting['arch']}, {found['images_per_epoch']:,} images ({found['images']}) at "
        f"{setting['image_size']}x{setting['image_size']}, batch {setting['batch_size']}, "
        f"{plural(setting['epochs'], 'epoch')}, {plural(setting['checkpoints'], 'checkpoint')} a side, "
        f"{plural(found['repeats'], 'repeat')}; {machine['device']}, {plural(machine['cores'], 'core')}, "
        f"{plural(setting['workers'], 'worker')}, backend {setting['backend']}",
        "",
        "| side | precision | checkpoints/h | images/s | start and end, s | peak MB | (d)/(side) | whole wall |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for side, results in by_side(found).items():
        per_hour = [rate(each) for each in results]
        images = [each * setting["epochs"] * found["images_per_epoch"] / 3600 for each in per_hour]
        beside = [each["wall_s"] - each["steady_s"] for each in results]
        peaks = [each["peak_mb"] for each in results if each["peak_mb"] is not None]
        cells = [
            NAMES[side],
            results[0]["precision"],
            spread(per_hour, 0),
            f"{statistics.median(images):,.0f}",
            f"{statistics.median(beside):.1f}",
            f"{statistics.median(peaks):,.0f}" if peaks else "?",
            spread(ratios(found, side, "steady_s"), 2),
            spread(ratios(found, side, "wall_s"), 2),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def by_side(found: Found) -> dict[str, list[dict[str, Any]]]:
    """Return each side's results in the order of the repeats."""
    sides = sorted({result["side"] for result in found["results"]})
    ordered = sorted(found["results"], key=lambda result: result["repeat"])
    return {side: [result for result in ordered if result["side"] == side] for side in sides}


def rate(result: Mapping[str, Any], seconds: str = "steady_s") -> float:
    """Return checkpoints per hour."""
    return float(3600 * result["checkpoints"] / result[seconds])


def ratios(found: Found, side: str, seconds: str) -> list[float]:
    """Return how many times as fast d was, per repeat; nothing where d or the side is d itself."""
    results = by_side(found)
    if side == "d" or "d" not in results:
        return []
    return [rate(d, seconds) / rate(own, seconds) for d, own in zip(results["d"], results[side], strict=True)]


def spread(values: Iterable[float], digits: int) -> str:
    """Return `median (least to most)`, or the only value, or nothing."""
    values = sorted(values)
    if len(values) < 2:
        return "".join(f"{value:,.{digits}f}" for value in values)
    low, middle, high = (f"{v:,.{digits}f}" for v in (values[0], statistics.median(values), values[-1]))
    return f"{middle} ({low} to {high})"


def floor_lines(found: Found) -> list[str]:
    """Return what a training step costs at least, and how far above it each side is."""
    setting = found["setting"]
    steps = setting["epochs"] * math.ceil(found["images_per_epoch"] / setting["batch_size"])
    lines = []
    for precision, floor in found["floor"].items():
        compute_ms = 1e3 * floor["flops_per_step"] / floor["flops_per_s"]
        move_ms = 1e3 * floor["bytes_per_step"] / floor["bytes_per_s"]
        lines.append(
            f"floor, {precision}: a step is {floor['flops_per_step'] / 1e9:.3g} GFLOP, {compute_ms:.3g} ms at "
            f"{floor['flops_per_s'] / 1e9:,.0f} GFLOP/s, and moves {floor['bytes_per_step'] / 1e6:,.3g} MB of "
            f"parameters, {move_ms:.3g} ms at {floor['bytes_per_s'] / 1e9:.3g} GB/s; so at least "
            f"{1e3 * floor['seconds_per_step']:.3g} ms"
        )
    for side, results in by_side(found).items():
        least = found["floor"][results[0]["precision"]]["seconds_per_step"]
        taken = statistics.median(each["steady_s"] / (each["checkpoints"] * steps) for each in results)
        lines.append(f"{NAMES[side]}: {1e3 * taken:.3g} ms per step, {taken / least:.1f} times the floor")
    return lines


def describe_machine(device: str, cores: int) -> dict[str, Any]:
    """Return processor, cores, device and versions."""
    import torch

    gpu = torch.cuda.get_device_name() if device == "cuda" else ""
    return {
        "cpu": _processor(),
        "cores": cores,
        "device": gpu or "CPU",
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": {name: version for name in _PACKAGES if (version := _version(name))},
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""
