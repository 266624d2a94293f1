"""Compare ways to train several runs on one device at once: streams, processes, MPS, one packed step.

    python tests/bench/sweep_device.py --device cuda --runs 1,2,4,8,16 --precision bf16 --json sweep.json
    python tests/bench/sweep_device.py --device cuda --ways processes,mps --repeats 2
    OMP_NUM_THREADS=1 python tests/bench/sweep_device.py --device cpu --arch small_cnn --image-size 16 --runs 1,2

    alone      one process, one run: the package's own loop with its captured step
    streams    one process; each run has an engine, a captured step and a stream; one thread replays them in turn
    processes  a process per run, each as `alone`, all started together
    mps        the same under NVIDIA's MPS daemon, which this job starts and ends
    packed     one process; torch.func stacks the runs' weights, one captured step trains all

For each way and number of runs: steps/s summed over the runs, images/s, the ratio to one alone in the same repeat,
memory of the whole device (on a CPU: of all processes), and how far the trained weights are from those of the same runs
one at a time: "equal" in every bit, or the largest difference of a tensor over the tensor's largest value. Every
measurement is made by fresh processes; repeats are interleaved, there and back. What cannot run is named with its
reason. Figures go to --json after every measurement. Images are random; each run has its own weights and order.

Needs torch, and neither Ray nor data. On a GPU no one has run it: expect 10 to 20 s a measurement, mostly imports.

Does not cover: loading, outputs and saving (`benchmark.py`), several devices.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from mps_daemon import missing, mps_daemon, without_mps
from safetensors.torch import load_file
from sweep_members import Report, run_members
from sweep_runs import Setting
from sweep_table import table_lines

from ray_unlearn.errors import RayUnlearnError, StudyError
from ray_unlearn.interrupts import interrupts
from ray_unlearn.terminal import print_line, run_script
from ray_unlearn.training.precision import check_present

WAYS = ("streams", "processes", "mps", "packed")
Cell = tuple[str, int]
"""A way, and how many runs share the device."""


def main(words: list[str] | None = None) -> dict[str, Any]:
    """Measure every cell, print, write JSON, and return the figures."""
    asked = _parse(words)
    setting = _setting(asked)
    check_present(torch.device(asked.device), "use --device cpu")
    found: dict[str, Any] = {"asked": {**vars(asked), "json": str(asked.json or "")}, "cells": [], "left_out": []}
    with interrupts(), tempfile.TemporaryDirectory(prefix="sweep-") as folder:
        reference = Path(folder, "reference")
        _measure(setting, ("reference", max(asked.runs)), reference)
        for repeat in range(asked.repeats):
            cells = _cells(asked)
            for cell in cells if repeat % 2 == 0 else reversed(cells):
                _add(found, setting, cell, repeat, reference)
                if asked.json:
                    asked.json.write_text(json.dumps(found, indent=1) + "\n")
    print_line("\n".join(["", *table_lines(found)]))
    return found


def _parse(words: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--device", choices=("cuda", "cpu"), required=True)
    add("--runs", type=_numbers, default=[1, 2, 4, 8, 16], help="how many share the device, e.g. 1,2,4")
    add("--ways", type=_ways, default=list(WAYS), help=f"some of {','.join(WAYS)}")
    add("--precision", choices=("fp32", "tf32", "bf16"), default="fp32")
    add("--arch", default="resnet18", help="as model.arch of a study")
    add("--image-size", type=int, default=32)
    add("--images", type=int, default=6400, help="of an epoch")
    add("--batch-size", type=int, default=64)
    add("--epochs", type=int, default=3, help="timed in each measurement; one more comes first")
    add("--repeats", type=int, default=3)
    add("--optimizer", choices=("sgd", "adam", "adamw"), default="sgd", help="sgd: momentum 0.9; decay 5e-4 with all")
    add("--lr", type=float, default=1e-3)
    add("--deterministic", action=argparse.BooleanOptionalAction, default=True, help="as execution.deterministic")
    add("--json", type=Path, help="also write the figures here")
    return parser.parse_args(words)


def _numbers(text: str) -> list[int]:
    numbers = sorted({int(each) for each in text.split(",")})
    if numbers[0] < 1:
        raise argparse.ArgumentTypeError(f"{text}: expected whole numbers from 1, e.g. 1,2,4")
    return numbers


def _ways(text: str) -> list[str]:
    chosen = text.split(",")
    if set(chosen) - set(WAYS):
        raise argparse.ArgumentTypeError(f"{text}: expected some of {','.join(WAYS)}")
    return [way for way in WAYS if way in chosen]


def _setting(asked: argparse.Namespace) -> Setting:
    if min(asked.images, asked.batch_size, asked.epochs, asked.repeats) < 1 or asked.images < asked.batch_size:
        raise StudyError("--images, --batch-size, --epochs, --repeats: expected 1 or more, and images for a full batch")
    return Setting(
        device=asked.device,
        arch=asked.arch,
        image_size=asked.image_size,
        images=asked.images,
        batch_size=asked.batch_size,
        epochs=asked.epochs,
        precision=asked.precision,
        optimizer=asked.optimizer,
        lr=asked.lr,
        deterministic=asked.deterministic,
    )


def _cells(asked: argparse.Namespace) -> list[Cell]:
    """Return what is measured in one repeat; a single process is what `alone` is."""
    return [("alone", 1), *((way, n) for way in asked.ways for n in asked.runs if (way, n) != ("processes", 1))]


def _add(found: dict[str, Any], setting: Setting, cell: Cell, repeat: int, reference: Path) -> None:
    """Measure a cell and add its figures; or why it is left out, once for all repeats."""
    way, runs = cell
    if any((each["way"], each["runs"]) == cell for each in found["left_out"]):
        return
    with tempfile.TemporaryDirectory(prefix="sweep-", dir=reference.parent) as weights:
        try:
            reports = _measure(setting, cell, Path(weights))
            figures = _figures(setting, runs, reports) | {"difference": difference(Path(weights), reference, runs)}
        except RayUnlearnError as error:
            if way == "alone":  # nothing could be compared
                raise
            found["left_out"].append({"way": way, "runs": runs, "why": str(error)})
            print_line(f"{way}, {runs}: left out: {error}")
            return
    found["device"] = reports[0].device
    found["cells"].append({"way": way, "runs": runs, "repeat": repeat, **figures})
    print_line(f"{way}, {runs}, repeat {repeat + 1}: {figures['steps_per_s']:,.1f} steps/s")


def _measure(setting: Setting, cell: Cell, weights: Path) -> list[Report]:
    """Run a cell's processes.

    Raises:
        RayUnlearnError: it cannot be run here.

    """
    way, runs = cell
    weights.mkdir(exist_ok=True)
    parts = [range(runs)] if way in ("streams", "packed", "reference") else [[run] for run in range(runs)]
    if way != "mps":
        with without_mps():
            return run_members(setting, way if way in ("streams", "packed") else "alone", parts, weights)
    if missing():
        raise RayUnlearnError(missing())
    with mps_daemon() as served:
        reports = run_members(setting, "alone", parts, weights)
        if not served():
            raise RayUnlearnError("the processes ran, but not through the MPS daemon: it has started no server")
    return reports


def _figures(setting: Setting, runs: int, reports: Sequence[Report]) -> dict[str, float]:
    """Return what is counted over all processes, from the first begin to the last end."""
    seconds = max(report.end for report in reports) - min(report.begin for report in reports)
    held = [report.mb for report in reports]
    return {
        "seconds": seconds,
        "steps": runs * setting.steps,
        "steps_per_s": runs * setting.steps / seconds,
        "images_per_s": runs * setting.epochs * setting.images / seconds,
        "mb": max(held) if setting.device == "cuda" else sum(held),
    }


def difference(weights: Path, reference: Path, runs: int) -> float:
    """Return the largest difference of a tensor over its largest value, of all tensors and runs.

    0.0 where all are equal; infinite where counters differ, or a value is not finite.
    """
    largest = 0.0
    for run in range(runs):
        mine, other = (load_file(folder / f"{run}.safetensors") for folder in (weights, reference))
        for name, expected in other.items():
            if not torch.equal(mine[name], expected):
                largest = max(largest, _relative(mine[name], expected))
    return largest


def _relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    if not expected.is_floating_point():
        return math.inf
    ratio = float((found - expected).abs().max() / expected.abs().max())
    return ratio if math.isfinite(ratio) else math.inf


if __name__ == "__main__":
    run_script(main)
