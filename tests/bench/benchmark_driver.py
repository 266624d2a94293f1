"""Time the driver: thousands of runs that do nothing, through the real scheduler, store and records.

    OMP_NUM_THREADS=1 uv run python tests/bench/benchmark_driver.py --json figures.json  # 5,000 runs: a minute
    OMP_NUM_THREADS=1 uv run python tests/bench/benchmark_driver.py --runs 500 --workers 1

Prints runs per second from the first ready worker to the last published run; memory of driver and workers and open
files at run 500 and when (nearly) all are made; and how long a second `generate` takes to find that nothing is left. A
run here is the method `null` on small_cnn of width 4, with three forget images' outputs and no checkpoint. Expected on
two AMD EPYC cores: 260 to 370 runs/s (every run is flushed to the disk, which decides), memory flat, under a second.
Needs Ray, no GPU; the images are scikit-learn's digits.
"""

import argparse
import json
import os
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sampler import Sampler

from ray_unlearn.generation import generate
from ray_unlearn.study import Study, parse_study

_PAGE_MB = os.sysconf("SC_PAGE_SIZE") / 1e6
_EARLY = 500


def study_of(runs: int, folder: Path) -> Study:
    """Return a study of one original and `runs` runs that leave it as it is."""
    tree = {
        "name": "no-op",
        "storage": str(folder),
        "data": {"train": "digits", "test": 0.05, "image_size": 8, "forget": {"fraction": 0.015}, "limit": 200},
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


@dataclass(frozen=True, slots=True)
class Look:
    """What there was at one moment."""

    made: int
    """Runs in the folder."""
    driver_mb: float
    """Resident memory of this process."""
    workers_mb: float
    """Resident memory of all workers together."""
    files: int
    """Open files of this process and the workers."""


def look(folder: Path) -> Look:
    """Look at the population's folder, at this process and at the workers on this machine."""
    made = sum(name.isdigit() for name in os.listdir(folder)) if folder.is_dir() else 0  # noqa: PTH208
    here, workers = Path("/proc/self"), [path.parent for path in Path("/proc").glob("[0-9]*/cmdline") if _is_ours(path)]
    files = sum(_count(process / "fd") for process in (here, *workers))
    return Look(made, _resident_mb(here), sum(map(_resident_mb, workers)), files)


def _is_ours(cmdline: Path) -> bool:
    """Return whether it is a worker of our own cluster: its parent is a raylet, whose parent is this process."""
    try:
        works = cmdline.read_bytes().startswith(b"ray::Worker")
        return works and _parent(Path(f"/proc/{_parent(cmdline.parent)}")) == os.getpid()
    except OSError:
        return False


def _parent(process: Path) -> int:
    return int((process / "stat").read_text().rpartition(")")[2].split()[1])


def _resident_mb(process: Path) -> float:
    try:
        return int((process / "statm").read_text().split()[1]) * _PAGE_MB
    except OSError:
        return 0.0


def _count(folder: Path) -> int:
    try:
        return len(os.listdir(folder))  # noqa: PTH208
    except OSError:
        return 0


class Watch(Sampler[Look]):
    """Looks every half second."""

    def __init__(self, folder: Path) -> None:
        super().__init__(lambda: look(folder), every_s=0.5)

    def at(self, made: int) -> Look:
        """Return the first look with so many runs made."""
        return next(each for each in self.samples if each.made >= made)


def measure(runs: int, workers: int, folder: Path) -> dict[str, Any]:
    """Return all figures."""
    study, population = study_of(runs, folder), folder / "no-op/no-op"
    with Watch(population) as watch:
        made = generate(study, backend="ray", workers=workers)
    start = time.monotonic()
    again = generate(study, backend="ray", workers=workers)
    return {
        "runs": runs,
        "workers": workers,
        "made": made.made,
        "failed": len(made.failed),
        "phases": made.phases,
        "runs_per_s": made.made / made.phases["runs"],
        "early": asdict(watch.at(min(_EARLY, runs // 2))),
        "all_made": asdict(watch.at(int(0.98 * runs))),
        "driver_most_mb": max(each.driver_mb for each in watch.samples),
        "temporary_left": len(list(folder.rglob(".tmp-*"))),
        "resume_decides_s": again.phases["prepare"],
        "resume_s": time.monotonic() - start,
        "resume_made": again.made,
        "load": os.getloadavg()[0],
    }


def _text(each: dict[str, Any]) -> str:
    memory = f"driver {each['driver_mb']:.0f} MB, workers {each['workers_mb']:.0f} MB"
    return f"{memory}, {each['files']} open files"


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
        *(f"at run {each['made']}: {_text(each)}" for each in (found["early"], found["all_made"])),
        f"driver at most {found['driver_most_mb']:.0f} MB, while records become a table; "
        f"{found['temporary_left']} temporary files left",
        f"resume: decided in {found['resume_decides_s']:.1f} s, {found['resume_s']:.1f} s in all",
    ]
    print("\n".join(lines))
    if asked.json:
        asked.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
