"""Time the driver: thousands of runs that do nothing, through the real scheduler, store and records.

    OMP_NUM_THREADS=1 uv run python jobs/benchmark_driver.py --json figures.json    # 5,000 runs, 2 workers: a minute
    OMP_NUM_THREADS=1 uv run python jobs/benchmark_driver.py --runs 500 --workers 1

Prints runs per second from the first ready worker to the last published run, the driver's resident memory at run 500,
when all are made and at most, and how long a second `generate` takes to find that nothing is left. A run here is the
method `null` on small_cnn of width 4, with three forget images' outputs and no checkpoint. Expected on two AMD EPYC
cores: over 300 runs/s, memory flat, under 5 s. Needs Ray, no GPU; the images are scikit-learn's digits.
"""

import argparse
import json
import os
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from ray_unlearn.driver import generate
from ray_unlearn.study import Study, parse_study

_PAGE_MB = os.sysconf("SC_PAGE_SIZE") / 1e6
_EARLY = 500


def study_of(runs: int, folder: Path) -> Study:
    """Return a study of one original and `runs` runs that leave it as it is."""
    tree = {
        "name": "no-op",
        "storage": str(folder),
        "data": {
            "train": "digits",
            "test": 0.05,
            "image_size": 8,
            "forget": {"fraction": 0.015},
            "limit": 200,
        },
        "model": {"arch": "small_cnn", "options": {"width": 4}},
        "training": {"epochs": 1, "batch_size": 64},
        "keep_checkpoints": False,
        "outputs": {"splits": ["forget"]},
        "populations": {
            "original": {"method": "train", "on": "train", "count": 1},
            "no-op": {"method": "null", "count": runs},
        },
        "execution": {"device": "cpu"},
    }
    return parse_study(tree, where="benchmark_driver")


def resident_mb() -> float:
    """Return this process's resident memory in MB."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE_MB


class Watch:
    """Looks at the folder and at this process's memory until it is told to stop."""

    def __init__(self, folder: Path) -> None:
        self.samples: list[tuple[int, float]] = []
        self._folder, self._over = folder, threading.Event()
        self._thread = threading.Thread(target=self._look)

    def __enter__(self) -> "Watch":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._over.wait(0.5):
            made = sum(name.isdigit() for name in os.listdir(self._folder)) if self._folder.is_dir() else 0  # noqa: PTH208
            self.samples.append((made, resident_mb()))

    def memory_from(self, made: int) -> list[float]:
        """Return memory in MB at every look from the first with so many runs made."""
        return [memory for count, memory in self.samples if count >= made]


def measure(runs: int, workers: int, folder: Path) -> dict[str, Any]:
    """Return all figures."""
    study = study_of(runs, folder)
    with Watch(folder / "no-op/no-op") as watch:
        made = generate(study, backend="ray", workers=workers)
    memory = watch.memory_from(min(_EARLY, runs // 2))
    start = time.monotonic()
    again = generate(study, backend="ray", workers=workers)
    return {
        "runs": runs,
        "workers": workers,
        "made": made.made,
        "failed": len(made.failed),
        "phases": made.phases,
        "runs_per_s": made.made / made.phases["runs"],
        "memory_early_mb": memory[0],
        "memory_all_made_mb": watch.memory_from(runs)[0],
        "memory_most_mb": max(memory),
        "resume_decides_s": again.phases["prepare"],
        "resume_s": time.monotonic() - start,
        "resume_made": again.made,
        "load": os.getloadavg()[0],
    }


def main() -> None:
    """Measure, print, and write JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--json", type=Path, help="also write the figures here")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="benchmark-driver-") as folder:
        found = measure(asked.runs, asked.workers, Path(folder))
    lines = [
        f"{found['made']} runs made, {found['failed']} failed, {found['workers']} workers, load {found['load']:.1f}",
        f"{found['runs_per_s']:.0f} runs/s over {found['phases']['runs']:.1f} s",
        f"driver memory: {found['memory_early_mb']:.0f} MB at run {min(_EARLY, asked.runs // 2)}, "
        f"{found['memory_all_made_mb']:.0f} MB when all are made, {found['memory_most_mb']:.0f} MB at most",
        f"resume: decided in {found['resume_decides_s']:.1f} s, {found['resume_s']:.1f} s in all",
    ]
    print("\n".join(lines))  # noqa: T201 - what it is for
    if asked.json:
        asked.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
