"""Train from a set larger than memory, next to the same training from memory: images per second, and memory over time.

    OMP_NUM_THREADS=1 uv run python tests/bench/benchmark_streaming.py --json figures.json    # 200,000 images of 64x64

Writes synthetic Parquet files and decodes them on Ray (a set of 2.5 GB, 4 GB of disk in all, removed again). Then two
workers train one epoch each, a net that costs next to nothing and then small_cnn of width 4, in turn: `resident`, all
in the page cache and no limit; and under a limit of 1.5 GB for both workers together and what they read, from a cold
cache, `full` (`data.shuffle: full`) and `blocks`. Workers are plain processes here: the limit is theirs, not Ray's.

Prints images/s (both workers together, median of the repeats and their range), the ratio to `resident`, images per
second of CPU (other jobs on the machine hardly change it; reading counts), memory that the workers hold for themselves
(RssAnon) at 10 % and at 100 % of the training, the most that their control group held, and what the driver held before
and while it prepared. Needs Linux with a writable memory control group (root; version
1 was run, version 2 was not), and Ray; no GPU.
"""

import argparse
import io
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from limited_memory import Memory, anonymous_mb, limited, most_mb
from PIL import Image
from torch import nn

from ray_unlearn.errors import RayUnlearnError
from ray_unlearn.generation.job import open_job
from ray_unlearn.generation.prepare import prepare
from ray_unlearn.run.worker import Worker
from ray_unlearn.seeds import Seeds
from ray_unlearn.study import Study, parse_study
from ray_unlearn.study.plan import Run

_MODES = ("resident", "full", "blocks")
SMALL = {"arch": "small_cnn", "options": {"width": 4}}
_FILES, _DISTINCT, _CLASSES, _WORKERS = 100, 1000, 10, 2
_RUN = Run(population="original", index=0)


def write_source(folder: Path, images: int, size: int) -> None:
    """Write Parquet files of `images` encoded images, of which a thousand are distinct; and a small test file."""
    rng = Seeds(study=0, population="streaming").numpy("images")
    coarse = rng.integers(0, 256, (_DISTINCT, size // 8, size // 8, 3), np.uint8)
    encoded = [_png(Image.fromarray(each).resize((size, size), Image.Resampling.BILINEAR)) for each in coarse]
    labels = rng.integers(0, _CLASSES, images)
    for file, rows in enumerate(np.array_split(np.arange(images), _FILES)):
        _write(folder / f"train/{file:03d}.parquet", [encoded[i % _DISTINCT] for i in rows], labels[rows])
    _write(folder / "test.parquet", encoded[:200], labels[:200])


def _png(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def _write(path: Path, encoded: list[bytes], labels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"image": pa.array(encoded, pa.binary()), "label": pa.array(labels)}), path)


def patches(num_classes: int) -> nn.Module:
    """Return a net that costs next to nothing: 35,000 images of 64x64 per second and core, so that reading shows."""
    layers = [nn.Conv2d(3, 16, 8, stride=8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(16, num_classes))


def study_of(folder: Path, name: str, size: int, order: str, net: str) -> Study:
    """Return a study of one original over the whole source."""
    tree = {
        "name": name,
        "storage": str(folder / "studies"),
        "data": {
            "train": str(folder / "train"),
            "test": str(folder / "test.parquet"),
            "image_size": size,
            "forget": {"fraction": 0.01},
            "shuffle": order,
        },
        "model": {"arch": "benchmark_streaming:patches"} if net == "patches" else SMALL,
        "training": {"epochs": 1, "batch_size": 64},
        "outputs": {"splits": ["test"]},
        "populations": {"original": {"method": "train", "on": "train", "count": 1}},
        "execution": {"device": "cpu"},
    }
    return parse_study(tree, where="benchmark_streaming")


def set_cache(folder: Path, warm: bool) -> None:
    """Read every shard into the page cache, or drop it from there."""
    for shard in sorted(folder.glob("studies/data-cache/*/*.arrow")):
        with shard.open("rb") as file:
            while warm and file.read(2**24):
                pass
            os.fsync(file.fileno())
            if not warm:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def train(folder: Path, size: int, mode: str, net: str, repeat: int, limit_bytes: float) -> dict[str, Any]:
    """Train with every worker at once; return the figures."""
    streamed = mode != "resident"
    set_cache(folder, warm=not streamed)
    order = "full" if mode == "resident" else mode
    with limited(limit_bytes if streamed else None) as group:
        tasks = [[str(folder), f"{net}-{mode}-{repeat}-{i}", size, order, net] for i in range(_WORKERS)]
        workers = [_start(task, group) for task in tasks]
        try:
            with Memory(lambda: anonymous_mb([worker.pid for worker in workers])) as memory:
                reports = [json.loads(worker.communicate()[0] or "{}") for worker in workers]
        finally:
            for worker in workers:
                worker.kill()
                worker.wait()
        if not all(reports):
            raise RayUnlearnError(f"{mode}: a worker ended with {[worker.returncode for worker in workers]}")
        images = sum(each["images"] for each in reports)
        begin, end = max(each["begin"] for each in reports), min(each["end"] for each in reports)
        return {
            "mode": mode,
            "net": net,
            "images_per_s": images / (max(each["end"] for each in reports) - min(each["begin"] for each in reports)),
            "images_per_cpu_s": images / sum(each["cpu_s"] for each in reports),
            "open_s": max(each["open_s"] for each in reports),
            "read_mb": sum(each["read_mb"] for each in reports),
            "own_mb_at": [memory.at(begin + share * (end - begin)) for share in (0.1, 0.25, 0.5, 0.75, 1.0)],
            "group_most_mb": most_mb(group),
        }


def _start(task: list[Any], group: Path | None) -> "subprocess.Popen[str]":
    command = [sys.executable, __file__, "--work", json.dumps(task)]
    if group:  # before Python starts, so that all that it holds counts
        command = ["/bin/sh", "-c", 'echo $$ > "$0" && exec "$@"', str(group / "cgroup.procs"), *command]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def work(folder: str, name: str, size: int, order: str, net: str) -> None:
    """Be a worker: train one run, and report when."""
    begin = time.monotonic()
    job = open_job(study_of(Path(folder), name, size, order, net))
    worker = Worker(job, device="cpu")
    worker.open()
    opened, cpu_begin = time.monotonic(), time.process_time()
    outcomes = worker.work([(_RUN, 1)], flush=True)
    if outcomes[-1].error:
        raise RayUnlearnError(outcomes[-1].error)
    read = next(line for line in Path("/proc/self/io").read_text().splitlines() if line.startswith("read_bytes"))
    figures = {
        "images": len(job.data.splits.train),
        "begin": opened,
        "end": time.monotonic(),
        "cpu_s": time.process_time() - cpu_begin,
        "open_s": opened - begin,
        "read_mb": int(read.split()[1]) / 1e6,
    }
    sys.stdout.write(json.dumps(figures))


def measure(folder: Path, images: int, size: int, limit_bytes: float, repeats: dict[str, int]) -> dict[str, Any]:
    """Return all figures; each is printed when it is known."""
    write_source(folder, images, size)
    before, begin = anonymous_mb([os.getpid()]), time.monotonic()
    with Memory(lambda: anonymous_mb([os.getpid()])) as memory:
        prepare(study_of(folder, "prepare", size, "full", "patches"))
        prepared_s, begin = time.monotonic() - begin, time.monotonic()
        open_job(study_of(folder, "prepare", size, "full", "patches"))
        opened_s = time.monotonic() - begin
    figures: dict[str, Any] = {
        "images": images,
        "image_size": size,
        "set_mb": images * size * size * 3 / 1e6,
        "limit_mb": limit_bytes / 1e6,
        "prepare_s": prepared_s,
        "open_again_s": opened_s,
        "driver_mb": [before, max(held for _, held in memory.samples)],
        "trained": [],
    }
    sys.stderr.write(f"{json.dumps(figures)}\n")
    for net, repeat in [(net, repeat) for net, count in repeats.items() for repeat in range(count)]:
        for mode in _MODES:
            figures["trained"].append(train(folder, size, mode, net, repeat, limit_bytes))
            sys.stderr.write(f"{json.dumps(figures['trained'][-1])}\n")
    return figures


def show(figures: dict[str, Any]) -> str:
    """Return the figures as lines of text."""
    lines = [
        f"{figures['images']:,} images, {figures['set_mb']:,.0f} MB decoded; limit {figures['limit_mb']:,.0f} MB; "
        f"prepared in {figures['prepare_s']:.0f} s, driver {figures['driver_mb'][0]:.0f} -> "
        f"{figures['driver_mb'][1]:.0f} MB; opened again in {figures['open_again_s']:.1f} s"
    ]
    base = 1.0
    for net, mode in [(net, mode) for net in ("patches", "small_cnn") for mode in _MODES]:
        runs = [each for each in figures["trained"] if (each["net"], each["mode"]) == (net, mode)]
        if not runs:
            continue
        found = [each["images_per_s"] for each in runs]
        base = median(found) if mode == "resident" else base
        own, most = runs[-1]["own_mb_at"], runs[-1]["group_most_mb"]
        lines.append(
            f"{net:9} {mode:9} {median(found):8,.0f} images/s ({min(found):,.0f} to {max(found):,.0f}), "
            f"{median(found) / base:.2f} of resident, {median(each['images_per_cpu_s'] for each in runs):,.0f} per CPU "
            f"second; workers' own memory {own[0]:.0f} -> {own[-1]:.0f} MB"
            + (f", at most {most:.0f} MB with page cache" if most else "")
        )
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=200_000)
    parser.add_argument("--size", type=int, default=64, help="pixels per side")
    parser.add_argument("--limit-gb", type=float, default=1.5)
    parser.add_argument("--repeats", type=int, default=3, help="with the net that costs next to nothing")
    parser.add_argument("--small-repeats", type=int, default=1, help="with small_cnn")
    parser.add_argument("--folder", type=Path, help="where to write; default a temporary folder (a disk, not a tmpfs)")
    parser.add_argument("--json", type=Path, help="where to write the figures")
    parser.add_argument("--work", type=json.loads, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.work:
        work(*arguments.work)
        sys.exit()
    repeats = {"patches": arguments.repeats, "small_cnn": arguments.small_repeats}
    with tempfile.TemporaryDirectory(dir=arguments.folder) as place:
        found = measure(Path(place), arguments.images, arguments.size, arguments.limit_gb * 1e9, repeats)
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=1))
    sys.stdout.write(show(found) + "\n")
