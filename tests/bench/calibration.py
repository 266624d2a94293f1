"""How often intervals and tests are right: simulated studies of known truth, put through the evaluation's own code.

    uv run python tests/bench/calibration.py                              # a cell: parity, N = 32, 40 images
    uv run python tests/bench/calibration.py --mode exact --runs 64 --images 200 --world t3 --rho 0.2 --studies 400
    uv run python tests/bench/calibration.py --measures all               # RA, TA, U-LiRA, RMIA, KLOM, ... too
    uv run python tests/bench/calibration.py --tests                      # type I error and power of the tests
    uv run python tests/bench/calibration.py --table verify --json cells.json    # the whole grid: an hour

`SHARED` and `APART` of `evaluation/intervals.py` were chosen on the grid `fit`; `verify` has other worlds and other
draws. `REST` was chosen on the cells of both with N = 16 and 32, `ALONE` on both, `OF_SCORE` on `fit`.

A world states how phi of the unlearned models is next to that of retrained ones: `perfect` alike, `shift` 0.35 sd above
with 0.85 of the spread, `t3` and `bimodal` the same with other shapes, `far` 1 sd above. `rho` is the share of variance
that all images of a model have in common (0.1 to 0.17 in the quickstart). The truth is the mean of a number over all
simulated studies. A cell of 200 studies has a standard error of 1.5 points at 95 %.

With `--originals k` a quarter of the variance (`--tau`) belongs to the original that a run starts from: coverage is of
the mean over studies that draw other originals.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from ray_unlearn.evaluation.common_shift import common_shift
from ray_unlearn.evaluation.comparison import compare
from ray_unlearn.evaluation.intervals import Subsets, interval, standard_error, subsets
from ray_unlearn.evaluation.measures import MEASURES
from ray_unlearn.evaluation.measures.forgetting_quality import forgetting_quality
from ray_unlearn.evaluation.measures.measure import Mode, Pair
from ray_unlearn.evaluation.outputs import Outputs, SplitOutputs
from ray_unlearn.evaluation.permutation import holm, permutation_tests
from ray_unlearn.evaluation.population_scores import with_moves
from ray_unlearn.evaluation.resampling import Draws, Settings, values_on

F = "forgetting_quality"
SCALE = 1.5
"""Standard deviation of phi."""
WORLDS = {
    "perfect": ("normal", 0.0, 1.0),
    "shift": ("normal", 0.35, 0.85),
    "t3": ("t3", 0.35, 0.85),
    "bimodal": ("bimodal", 0.35, 0.85),
    "far": ("normal", 1.0, 0.85),
    "mild": ("normal", 0.2, 0.95),
    "wide": ("normal", 0.5, 1.1),
    "mild_t3": ("t3", 0.2, 0.95),
    "perfect_t3": ("t3", 0.0, 1.0),
    "wide_bimodal": ("bimodal", 0.2, 1.1),
}
"""Shape of a model's own noise, shift in standard deviations, spread."""
GRIDS = {
    "fit": [("perfect", 0.0), ("perfect", 0.4), ("shift", 0.0), ("shift", 0.4), ("t3", 0.2), ("bimodal", 0.2)],
    "verify": [
        ("perfect", 0.2),
        ("mild", 0.1),
        ("wide", 0.3),
        ("mild_t3", 0.1),
        ("perfect_t3", 0.3),
        ("wide_bimodal", 0.3),
    ],
}
ALTERNATIVES = [(0.0, 1.0), (0.15, 1.0), (0.3, 1.0), (0.5, 1.0), (0.0, 0.85)]
"""Shift and spread of the studies that tests are tried on; the first is no difference."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One kind of study, simulated again and again."""

    mode: Mode = "parity"
    runs: int = 32
    images: int = 40
    world: str = "shift"
    rho: float = 0.4
    originals: int = 0
    """0: every run has its own."""
    tau: float = 0.25
    """Share of the variance that belongs to the original, where there are some."""
    studies: int = 200
    resamples: int = 100
    seed: int = 0
    every: bool = False
    """Whether retain and test images are drawn too, so that all measures are there."""

    def population(self, name: str, rng: np.random.Generator) -> Outputs:
        """Return the outputs of one population of one study."""
        method = name == "unlearned"
        shape, shift, spread = WORLDS[self.world] if method else (WORLDS[self.world][0], 0.0, 1.0)
        starts = np.arange(self.runs) % self.originals if method and self.originals else None
        sizes = {"forget": self.images} | ({"retain": 120, "test": 200} if self.every else {})
        shared_R = rng.normal(size=(self.runs, 1))
        splits = {}
        for split, size in sizes.items():
            z_RN = math.sqrt(self.rho) * shared_R + math.sqrt(1 - self.rho) * noise(rng, shape, (self.runs, size))
            if starts is not None:
                z_RN = (
                    math.sqrt(self.tau) * rng.normal(size=(self.originals, size))[starts]
                    + math.sqrt(1 - self.tau) * z_RN
                )
            moved, wide = (shift, spread) if split == "forget" else (0.0, 1.0)
            phi_RN = SCALE * (moved + wide * z_RN) + {"forget": 0.0, "retain": 3.0, "test": 1.0}[split]
            splits[split] = SplitOutputs(np.arange(size), np.zeros(size, np.int64), phi_RN, phi_RN > 0)
        numbers = range(self.runs) if starts is None else starts.tolist()
        records: Any = tuple(SimpleNamespace(original=k, original_sha256="a" * method, method="a") for k in numbers)
        return Outputs(name, records, splits)


def noise(rng: np.random.Generator, shape: str, size: tuple[int, int]) -> np.ndarray:
    """Return noise of mean 0 and variance 1."""
    if shape == "t3":
        return np.asarray(rng.standard_t(3, size) / math.sqrt(3))
    if shape == "bimodal":
        return 0.5 * rng.normal(size=size) + math.sqrt(0.75) * rng.choice([-1.0, 1.0], size=size)
    return rng.normal(size=size)


def studies(cell: Cell) -> Iterator[dict[str, tuple[float, float, float, float]]]:
    """Yield for each study every measure's value, standard error and interval."""
    rng = np.random.default_rng([cell.seed, cell.runs, cell.images])
    for study in range(cell.studies):
        settings = Settings(mode=cell.mode, resamples=cell.resamples, seed=study)
        unlearned, reference = (cell.population(name, rng) for name in ("unlearned", "retrained"))
        drawn = subsets(unlearned, reference, settings)
        if cell.every:
            pair = Pair(unlearned, reference, cell.mode, settings.attack_rng)
            values = compare(pair)
            draws = values_on(unlearned, reference, drawn.pairs, settings, {}, pair)
            draws = with_moves(draws, pair, values, drawn)
        else:
            values, draws = f_alone(unlearned, reference, drawn, cell.mode)
        errors = {name: standard_error(name, draws, drawn, cell.mode) for name in draws.values}
        yield {name: (values[name], error.se, *interval(name, values[name], error)) for name, error in errors.items()}


def f_alone(unlearned: Outputs, reference: Outputs, drawn: Subsets, mode: Mode) -> tuple[dict[str, float], Draws]:
    """Return F, and F on all subsets, which are of one size, at once."""
    phi_UE, phi_RE = (side.splits["forget"].phi_RN for side in (unlearned, reference))
    ours = np.concatenate([phi_UE[rows] for rows, _ in drawn.pairs], axis=1)
    theirs = np.concatenate([phi_RE[rows] for _, rows in drawn.pairs], axis=1)
    points_KE = forgetting_quality(ours, theirs, mode).points_E.reshape(len(drawn.pairs), -1)
    whole = forgetting_quality(phi_UE, phi_RE, mode)
    starts = unlearned.originals_R if drawn.over_originals else None
    shift = common_shift(phi_UE, phi_RE, mode, whole.score, starts)
    draws = Draws(values={F: points_KE.mean(axis=1)}, points_KE=points_KE, points_E=whole.points_E, shift=shift)
    return {F: whole.score}, draws


def coverage(cell: Cell) -> dict[str, dict[str, float]]:
    """Return for each measure its truth, the share of intervals that hold it, and estimated over true spread."""
    found = list(studies(cell))
    cells = {}
    for name in MEASURES:
        if not all(name in study for study in found):
            continue
        value, se, low, high = np.array([study[name] for study in found]).T
        truth, spread = value.mean(), value.std(ddof=1)
        cells[name] = {
            "truth": float(truth),
            "coverage": float(((low <= truth) & (truth <= high)).mean()),
            "sd_ratio": float(np.sqrt((se**2).mean()) / spread) if spread else math.nan,
            "below": float((high < truth).mean()),
            "above": float((low > truth).mean()),
        }
    return cells


def rejections(cell: Cell, shift: float, spread: float, permutations: int = 199) -> dict[str, float]:
    """Return the share of studies that each test, and Holm's correction of both, rejects at 5 %.

    The reference has twice as many runs.
    """
    rng = np.random.default_rng([cell.seed, round(1000 * shift), round(1000 * spread), round(100 * cell.rho)])

    def draw(runs: int) -> np.ndarray:
        shared, own = rng.normal(size=(runs, 1)), rng.normal(size=(runs, cell.images))
        return math.sqrt(cell.rho) * shared + math.sqrt(1 - cell.rho) * own

    found = []
    for _ in range(cell.studies):
        tests = permutation_tests(shift + spread * draw(cell.runs), draw(2 * cell.runs), rng, permutations)
        p = {name: one.p for name, one in tests.items()}
        found.append([p["energy"], p["log_variance"], min(holm(p).values())])
    shares = (np.array(found) <= 0.05).mean(axis=0)
    return dict(zip(("energy", "log_variance", "either, Holm"), shares.tolist(), strict=True))


def main() -> None:
    """Simulate and print; write JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mode", choices=["parity", "exact"], default="parity")
    parser.add_argument("--runs", type=int, default=32, help="N of both populations")
    parser.add_argument("--images", type=int, default=40, help="forget images")
    parser.add_argument("--world", choices=list(WORLDS), default="shift")
    parser.add_argument("--rho", type=float, default=0.4)
    parser.add_argument("--originals", type=int, default=0)
    parser.add_argument("--tau", type=float, default=0.25)
    parser.add_argument("--studies", type=int, default=200)
    parser.add_argument("--resamples", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--measures", choices=["f", "all"], default="f")
    parser.add_argument("--tests", action="store_true", help="type I error and power instead of intervals")
    parser.add_argument("--table", choices=list(GRIDS), help="a whole grid of both modes")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    asked = vars(parser.parse_args())
    file, tests, table = asked.pop("json"), asked.pop("tests"), asked.pop("table")
    cell, found = Cell(every=asked.pop("measures") == "all", **asked), []
    for one in grid(cell, table) if table else [cell]:
        for figures in power(one) if tests else covered(one):
            print(words(figures))
            found.append(figures)
    if file:
        file.write_text(json.dumps(found, indent=1) + "\n")


def words(figures: dict[str, Any]) -> str:
    """Return a row as text."""
    said = {key: f"{value:.3g}" if isinstance(value, float) else str(value) for key, value in figures.items()}
    return " ".join(f"{key} {value}" for key, value in said.items())


def grid(cell: Cell, name: str) -> Iterator[Cell]:
    """Yield the cells of one of README's tables."""
    for mode in ("parity", "exact"):
        for images in (40, 200):
            for runs in (16, 32, 64, 128):
                for world, rho in GRIDS[name]:
                    yield replace(cell, mode=mode, images=images, runs=runs, world=world, rho=rho)


def covered(cell: Cell) -> Iterator[dict[str, Any]]:
    """Yield a row for each measure."""
    for name, figures in coverage(cell).items():
        here = {"mode": cell.mode, "N": cell.runs, "images": cell.images, "world": cell.world, "rho": cell.rho}
        yield here | {"measure": name} | figures


def power(cell: Cell) -> Iterator[dict[str, Any]]:
    """Yield a row for each alternative."""
    for shift, spread in ALTERNATIVES:
        here = {"N": cell.runs, "images": cell.images, "rho": cell.rho, "shift": shift, "spread": spread}
        yield here | rejections(cell, shift, spread)


if __name__ == "__main__":
    main()
