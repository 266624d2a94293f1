"""Time the evaluation's forgetting quality against a plain NumPy reading of the official definition, side by side.

    OMP_NUM_THREADS=1 uv run python tests/bench/benchmark_evaluation.py --json figures.json  # N = 512: 20 s on one core
    OMP_NUM_THREADS=1 uv run python tests/bench/benchmark_evaluation.py --runs 64 --examples 50
    OMP_NUM_THREADS=1 uv run python tests/bench/benchmark_evaluation.py --whole   # a study: a minute on one core

Prints CPU milliseconds per example of both on the same synthetic phi (Gaussian, sigma 1.5), with the spread over
repeats, their ratio, the largest difference of epsilon, and the peak memory that NumPy allocates for 1,000 examples.
Expected at N = 512 on an AMD EPYC core: 200 ms for the definition, 1 ms for parity and exact, 20 MB. Needs no GPU, no
Ray and no data.

`--whole` times all that `evaluate` computes of one population and of the null, from outputs in memory: N = 512, 1,000
forget, 2,000 retain and 2,000 test images, `parity`, with 2 and 12 halvings. CPU time is linear in halvings, so that of
100, and of 12 methods and the null, is extrapolated, and said to be.
"""

import argparse
import json
import math
import os
import statistics
import time
import tracemalloc
from collections.abc import Callable, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ray_unlearn.evaluation import forgetting_quality, population_scores
from ray_unlearn.evaluation.nulls import score_null
from ray_unlearn.evaluation.outputs import Outputs, SplitOutputs
from ray_unlearn.evaluation.population_scores import describe, on_set
from ray_unlearn.evaluation.resampling import Settings
from ray_unlearn.store import Record
from ray_unlearn.store.splits import ImageNames

Floats = NDArray[np.float64]


def definition(unlearned_N: Floats, retrained_N: Floats) -> float:
    """Return parity's epsilon of one example as it is defined: every attack is compared with every sample."""
    ranges = [float(np.ptp(retrained_N)), float(np.ptp(unlearned_N))]
    if max(ranges) == 0 or min(ranges) / max(ranges) < 0.01:
        return 50.0
    above = np.median(retrained_N) > np.median(unlearned_N)
    positive_N, negative_N = (retrained_N, unlearned_N) if above else (unlearned_N, retrained_N)
    narrow_N, wide_N = negative_N, positive_N
    if np.ptp(positive_N) < np.ptp(negative_N):
        narrow_N, wide_N = positive_N, negative_N
    single = [((positive_N < t).sum(), (negative_N >= t).sum()) for t in thresholds(positive_N, negative_N)]
    counts = np.concatenate([np.array(single).reshape(-1, 2), *intervals(narrow_N, wide_N)])
    return merge(counts[:, 0], counts[:, 1], len(positive_N))


def thresholds(positive_N: Floats, negative_N: Floats) -> Floats:
    """Return torch.linspace(low, high, number), which is float32, as float64."""
    import torch

    low, high = min(positive_N.min(), negative_N.min()), max(positive_N.max(), negative_N.max())
    return np.asarray(torch.linspace(low, high, math.ceil((high - low) * 100)).numpy(), np.float64)


def intervals(narrow_N: Floats, wide_N: Floats) -> list[NDArray[np.int64]]:
    """Return (missed, false) counts [400, 2] of each right end: NumPy's linspace, tiled over right ends."""
    width = narrow_N.max() - narrow_N.min()
    low, high = (narrow_N.min() + width) - 2.0, narrow_N.max() + 2.0
    found = []
    for right in np.linspace(low, high, math.ceil((high - low) * 100)):
        left = np.linspace((right - width) - 2.0, (right - width) + 2.0, 400)[:, None]
        missed = (~((left <= narrow_N) & (narrow_N <= right))).sum(axis=1)
        found.append(np.stack([missed, ((left <= wide_N) & (wide_N <= right)).sum(axis=1)], axis=1))
    return found


def merge(missed: NDArray[np.int64], false: NDArray[np.int64], num_runs: int) -> float:
    """Return epsilon of all attacks, or NaN where none is left: rates and logarithms in float32, as the evaluator."""
    if ((missed == 0) & (false == 0)).any():
        return 50.0
    kept = (missed > 0) & (false > 0)
    fnr, fpr = ((count[kept] / num_runs).astype(np.float32) for count in (missed, false))
    with np.errstate(invalid="ignore", divide="ignore"):
        epsilon = [np.log(np.float32(0.99999) - fpr) - np.log(fnr), np.log(np.float32(0.99999) - fnr) - np.log(fpr)]
    finite = np.concatenate(epsilon)
    finite = finite[~np.isnan(finite)]
    return float(np.clip(finite.max(), 0.0, 50.0)) if len(finite) else math.nan


def milliseconds(call: Callable[[], object], examples: int, repeats: int) -> dict[str, float]:
    """Return CPU time per example: median, least and most over the repeats; a first call is not counted."""
    call()
    found = []
    for _ in range(repeats):
        start = time.process_time()
        call()
        found.append(1e3 * (time.process_time() - start) / examples)
    return {"median": statistics.median(found), "least": min(found), "most": max(found)}


def peak_mb(call: Callable[[], object]) -> float:
    """Return the most memory, in MB, that was allocated at a time during a call, its inputs not counted."""
    tracemalloc.start()
    call()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak / 1e6


def measure(
    runs: int, examples: int, naive_examples: int, repeats: int, *, memory_examples: int = 1000
) -> dict[str, Any]:
    """Return all figures."""
    unlearned_NE, retrained_NE = np.random.default_rng(0).normal(0.0, 1.5, (2, runs, examples))
    many_u_NE, many_r_NE = np.random.default_rng(1).normal(0.0, 1.5, (2, runs, memory_examples))

    def defined() -> Floats:
        return np.array([definition(unlearned_NE[:, e], retrained_NE[:, e]) for e in range(naive_examples)])

    times, peaks = {"definition": milliseconds(defined, naive_examples, repeats)}, {}
    for mode in ("parity", "exact"):
        times[mode] = milliseconds(partial(forgetting_quality, unlearned_NE, retrained_NE, mode), examples, repeats)
        peaks[mode] = peak_mb(partial(forgetting_quality, many_u_NE, many_r_NE, mode))
    ours = forgetting_quality(unlearned_NE, retrained_NE).epsilon_E[:naive_examples]
    return {
        "runs": runs,
        "examples": examples,
        "naive_examples": naive_examples,
        "repeats": repeats,
        "memory_examples": memory_examples,
        "threads": os.environ.get("OMP_NUM_THREADS", "not set"),
        "ms_per_example": times,
        "ratio_parity": times["definition"]["median"] / times["parity"]["median"],
        "largest_difference": float(np.abs(defined() - ours).max()),
        "peak_mb": peaks,
    }


def outputs(population: str, images: dict[str, int], runs: int, shift: float) -> Outputs:
    """Return outputs of a population whose phi of an image are Gaussian, in part the same for all images of a run."""
    scratch, world = population == "retrained", np.random.default_rng(99)
    rng = np.random.default_rng(int(scratch))
    splits = {}
    for split, number in images.items():
        mean_N, spread_N = world.normal(2, 2, number), world.lognormal(0, 0.4, number)
        noise_RN = 0.93 * rng.normal(size=(runs, number)) + 0.37 * rng.normal(size=(runs, 1))
        phi_RN = mean_N + spread_N * noise_RN + (shift if split == "forget" else 0)
        phi_RN = phi_RN.astype(np.float32).astype(np.float64)
        splits[split] = SplitOutputs(np.arange(number), np.arange(number) % 10, phi_RN, phi_RN > 0)
    fields = {
        "population": population, "original": 0, "digest": "", "method": "train" if scratch else "finetune",
        "options": {}, "seeds": {}, "original_sha256": "" if scratch else "0" * 64, "metrics": {}, "epoch_loss": [1.0],
        "stages": [], "seconds": {"train": 1.0}, "started_at": "2026-01-01T00:00:00+00:00", "device": "cpu",
        "threads": 1, "host": "here", "versions": {}, "attempt": 1, "checksum": "",
    }  # fmt: skip
    payloads = [{"outputs.arrow": {"size_bytes": 1, "sha256": f"{run:064d}"}} for run in range(runs)]
    records = [Record.model_validate({**fields, "index": run, "payloads": one}) for run, one in enumerate(payloads)]
    return Outputs(population, tuple(records), splits)


def whole(runs: int, images: dict[str, int], halvings: tuple[int, int], wanted: int, methods: int) -> dict[str, Any]:
    """Return CPU seconds of a method and of the null with few and more halvings, and those of a study, extrapolated."""
    unlearned, reference = (outputs(name, images, runs, shift) for name, shift in (("ours", 0.3), ("retrained", 0.0)))
    ids = {split: [f"{split}{place}" for place in range(number)] for split, number in images.items()}
    names = ImageNames(ids, {split: [""] * len(some) for split, some in ids.items()}, ())

    def method(settings: Settings) -> None:
        described = describe([unlearned], unlearned.records, names, "unlearned", "finetune", reference.records)
        on = on_set(described, unlearned, reference, names, runs // 2, settings)
        population_scores.whole([on], settings)

    def null(settings: Settings) -> None:
        score_null([reference], runs // 2, settings)

    found: dict[str, Any] = {"runs": runs, "images": images, "halvings": halvings, "compiled": bool(find_spec("numba"))}
    for name, compute in (("method", method), ("null", null)):
        compute(Settings(mode="parity", resamples=2, seed=0))  # imports, and what is compiled
        seconds = []
        for resamples in halvings:
            start = time.process_time()
            compute(Settings(mode="parity", resamples=resamples, seed=0))
            seconds.append(time.process_time() - start)
        found[name] = {"seconds": seconds, "extrapolated": extrapolated(halvings, seconds, wanted)}
    found["study"] = methods * found["method"]["extrapolated"] + found["null"]["extrapolated"]
    return found


def extrapolated(halvings: Sequence[int], seconds: Sequence[float], wanted: int) -> float:
    """Return the seconds of a number of halvings, on the line through two measurements."""
    each = (seconds[1] - seconds[0]) / (halvings[1] - halvings[0])
    return seconds[0] + each * (wanted - halvings[0])


def whole_lines(found: dict[str, Any], wanted: int, methods: int) -> list[str]:
    """Return what was measured, and what is extrapolated from it."""
    few, more = found["halvings"]
    how = "compiled loops" if found["compiled"] else "NumPy alone"
    lines = [f"N = {found['runs']}, images {found['images']}, parity, {how}; CPU seconds on one core"]
    for name in ("method", "null"):
        one, other = found[name]["seconds"]
        lines += [f"{name:>6}: {one:.1f} with {few} halvings, {other:.1f} with {more}; {wanted} extrapolated: "]
        lines[-1] += f"{found[name]['extrapolated']:.0f}"
    return [
        *lines,
        f"{methods} methods and the null, {wanted} halvings, extrapolated: {found['study'] / 60:.1f} minutes",
    ]


def main() -> None:
    """Measure, print, and write JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=512, help="N of both populations")
    parser.add_argument("--examples", type=int, default=300, help="forget examples, ours")
    parser.add_argument("--naive-examples", type=int, default=6, help="how many of them the definition does")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path, help="also write the figures here")
    parser.add_argument("--whole", action="store_true", help="time a study's evaluation instead, of --runs runs")
    asked = parser.parse_args()
    if asked.whole:
        study = whole(asked.runs, {"retain": 2000, "forget": 1000, "test": 2000}, (2, 12), 100, 12)
        print("\n".join(whole_lines(study, 100, 12)))
        if asked.json:
            asked.json.write_text(json.dumps(study, indent=2) + "\n")
        return
    found = measure(asked.runs, asked.examples, min(asked.naive_examples, asked.examples), asked.repeats)
    lines = [f"N = {found['runs']}, OMP_NUM_THREADS {found['threads']}, {found['repeats']} repeats"]
    for name, value in found["ms_per_example"].items():
        lines += [
            f"{name:>10}: {value['median']:8.3f} CPU ms per example ({value['least']:.3f} to {value['most']:.3f})"
        ]
    lines += [f"parity is {found['ratio_parity']:.0f} times faster than the definition"]
    lines += [f"largest difference of epsilon: {found['largest_difference']:.1e}"]
    for mode, peak in found["peak_mb"].items():
        lines += [f"peak memory for {found['memory_examples']} examples, {mode}: {peak:.0f} MB beside the input"]
    print("\n".join(lines))
    if asked.json:
        asked.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
