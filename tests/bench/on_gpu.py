"""Everything that is asked of a GPU, in one table: what tests/bench/on_gpu.sh runs.

    python tests/bench/on_gpu.py --cifar ../shared/data/cifar10 --out on_gpu    # 12 minutes; on_gpu.md, on_gpu.json
    python tests/bench/on_gpu.py --dry                                          # tiny, on a CPU: does every row work?
    python tests/bench/on_gpu.py --list                                         # the rows, all of them "unmeasured"

    step        ms of a step, eager and captured, beside its floor: ResNet-18, batch 64; plain cross-entropy, and an
                objective over retain and forget with a mask over the weights (`profile_step`)
    resnet9     checkpoints per GPU hour by EasyDUB's recipe, one run after another
    loop        the challenge's notebook loop against ray_unlearn, 45,000 images of CIFAR-10, ResNet-18 (`benchmark`)
    runs        steps/s of several runs on one device: streams, processes, MPS, packed (`sweep_device`)
    pack        checkpoints per hour by `execution.pack`, where this version has it; packs are computed in fp32

With --dry, names of rows are those of a GPU, and figures mean nothing; on a CPU no step is captured.

A group that fails, or that would begin after --minutes, is named with its reason; the others are measured. Without
--cifar, images are random: times are the same, but for decoding.

Does not cover: Ray; several GPUs; what the figures mean for a default (tests/bench/README.md).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from ray_unlearn.errors import RayUnlearnError, first_line
from ray_unlearn.study.schema import Execution
from ray_unlearn.terminal import print_line, run_script

HERE = Path(__file__).resolve().parent
PRECISIONS = ("fp32", "tf32", "bf16")
EASYDUB = {
    "batch_size": 256,
    "optimizer": "sgd",
    "lr": 0.4 * 24 / 19,
    "weight_decay": 5e-4,
    "schedule": "linear",
    "schedule_per": "batch",
    "precision": "bf16",
}
"""Their recipe as a `training` block (`models.resnet9`); 24 epochs, of which 5 to warm up."""


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table."""

    group: str
    what: str
    figure: str


@dataclass(frozen=True, slots=True)
class Asked:
    """How the rows are measured."""

    device: str
    dry: bool
    cifar: Path | None

    @property
    def precisions(self) -> tuple[str, ...]:
        """Precisions that the device has."""
        return PRECISIONS if self.device == "cuda" else ("fp32", "bf16")


def step_rows(asked: Asked, folder: Path) -> Iterator[Row]:
    """Time steps in this process, eager and captured."""
    import profile_step

    size = ["--arch", "small_cnn", "--image-size", "8", "--images", "40", "--batch-size", "16", "--epochs", "1"]
    for objective in profile_step.OBJECTIVES:
        for precision in asked.precisions:
            for captured in (False, True):
                words = ["--device", asked.device, "--precision", precision, "--optimizer", "sgd"]
                words += ["--objective", objective, *(size if asked.dry else [])]
                parsed = profile_step.parse([*words, "--cuda-graph" if captured else "--no-cuda-graph"])
                yield Row("step", step_name(objective, precision, captured), _step(profile_step.measure(parsed)))


def step_name(objective: str, precision: str, captured: bool) -> str:
    """Return the name of a row about a step."""
    return f"{objective}, {precision}, {'captured' if captured else 'eager'}"


def _step(found: Mapping[str, Any]) -> str:
    step, floor = found["ms_per_step"], found["floor"]
    least = max(floor["bytes_ms"], floor["flops_ms"])
    counts = ", ".join(f"{count:.0f} {name}" for name, count in found["per_step"].items())
    return f"{step['median']:.2f} ms ({step['least']:.2f} to {step['most']:.2f}); floor {least:.2f} ms; {counts}"


def resnet9_rows(asked: Asked, folder: Path) -> Iterator[Row]:
    """Make whole checkpoints by EasyDUB's recipe in this process: train, predict, save."""
    import profile_step
    from safetensors.torch import save_file

    from ray_unlearn import models
    from ray_unlearn.study.model import Model
    from ray_unlearn.study.recipe import Recipe
    from ray_unlearn.training import fit, predict
    from ray_unlearn.training.fast.cuda_graph import Engines, cuda_graph

    device, (epochs, warm_up) = torch.device(asked.device), (1.0, 0.5) if asked.dry else (24.0, 5.0)
    profile_step.settle(device, deterministic=True)
    images = profile_step.random_images(512 if asked.dry else 50_000, 32, device)
    data = profile_step.run_data(images, Engines(cuda_graph) if asked.device == "cuda" else None)
    recipe = Recipe(**EASYDUB, epochs=epochs, warmup_epochs=warm_up)
    seconds = []
    for run in range(2 if asked.dry else 3):  # the first one captures, and is left out
        begin = time.perf_counter()
        model = models.build(Model(arch="resnet9"), profile_step.CLASSES, profile_step.SEEDS).to(device)
        fit(model, data, recipe, profile_step.SEEDS)
        predict(model, images.subset(images.indices[:10_000]))
        save_file({name: one.contiguous() for name, one in model.state_dict().items()}, folder / f"{run}.safetensors")
        seconds.append(time.perf_counter() - begin)
    taken = min(seconds[1:])
    yield Row("resnet9", RESNET9, f"{3600 / taken:,.0f} checkpoints per hour ({taken:.1f} s each)")


RESNET9 = "24 epochs of 50,000 images, batch 256, bf16, one after another"


def loop_rows(asked: Asked, folder: Path) -> Iterator[Row]:
    """Compare with the notebook's loop, each side in a process of its own."""
    images = ["--images", "45000", "--checkpoints", "2"]
    if asked.cifar is not None:
        images += ["--train", str(asked.cifar / "train.parquet"), "--test", str(asked.cifar / "test.parquet")]
    if asked.dry:
        images = [
            "--images",
            "64",
            "--checkpoints",
            "2",
            "--data",
            "digits",
            "--arch",
            "small_cnn",
            "--image-size",
            "8",
        ]
    for precision in asked.precisions:
        out = folder / f"{precision}.json"
        words = ["--device", asked.device, "--backend", "inline", "--sides", "ad", "--repeats", "1", *images]
        _run("benchmark.py", [*words, "--precision", precision, "--json", str(out)])
        yield Row("loop", precision, _sides(json.loads(out.read_text())))


def _sides(found: Mapping[str, Any]) -> str:
    per_hour = {one["side"]: 3600 * one["checkpoints"] / one["steady_s"] for one in found["results"]}
    ratio = per_hour["d"] / per_hour["a"]
    return f"loop {per_hour['a']:,.0f}, ray_unlearn {per_hour['d']:,.0f} checkpoints per hour: {ratio:.1f} times"


def runs_rows(asked: Asked, folder: Path) -> Iterator[Row]:
    """Share the device between runs in every way."""
    import sweep_device
    import sweep_table

    ways, runs = (["streams", "packed"], "1,2") if asked.dry else (list(sweep_device.WAYS), "2,8")
    size = ["--arch", "small_cnn", "--image-size", "8", "--images", "20", "--batch-size", "8", "--epochs", "1"]
    words = [
        "--device",
        asked.device,
        "--precision",
        "bf16",
        "--repeats",
        "1",
        "--ways",
        ",".join(ways),
        "--runs",
        runs,
    ]
    found = sweep_device.main([*words, *(size if asked.dry else ["--epochs", "2"])])
    for (way, number), results in sweep_table.by_cell(found).items():
        times = sweep_table.ratios(found, (way, number))[0]
        held, weights = sweep_table.held_mb(results), sweep_table.weights_of(results)
        steps = f"{results[0]['steps_per_s']:,.0f} steps/s, {times:.2f} of one alone"
        yield Row("runs", f"{way}, {number}", f"{steps}; {held:,.0f} MB; weights {weights}")
    for one in found["left_out"]:
        yield Row("runs", f"{one['way']}, {one['runs']}", f"left out: {one['why']}")


def pack_rows(asked: Asked, folder: Path) -> Iterator[Row]:
    """Make a population in packs."""
    if "pack" not in Execution.model_fields:
        yield Row("pack", PACK, "left out: this version has no execution.pack")
        return
    images = ["--images", "64", "--data", "digits", "--arch", "small_cnn", "--image-size", "8"]
    words = ["--device", asked.device, "--backend", "inline", "--sides", "d", "--repeats", "1", "--checkpoints", "8"]
    words += images if asked.dry else ["--images", "6400"]
    per_hour = []
    for pack in (1, 8):
        out = folder / f"{pack}.json"
        _run("benchmark.py", [*words, "--set", f"execution.pack={pack}", "--json", str(out)])
        (made,) = json.loads(out.read_text())["results"]
        per_hour.append(3600 * made["checkpoints"] / made["steady_s"])
    one, packed = per_hour
    yield Row("pack", PACK, f"{packed:,.0f} checkpoints per hour, {packed / one:.2f} of one after another")


PACK = "8 runs in a pack, 6,400 images, fp32"
GROUPS: Mapping[str, Callable[[Asked, Path], Iterator[Row]]] = {
    "step": step_rows,
    "resnet9": resnet9_rows,
    "loop": loop_rows,
    "runs": runs_rows,
    "pack": pack_rows,
}


def unmeasured() -> list[Row]:
    """Return every row of a GPU without its figure."""
    import profile_step
    import sweep_device

    steps = [
        step_name(objective, precision, captured)
        for objective in profile_step.OBJECTIVES
        for precision in PRECISIONS
        for captured in (False, True)
    ]
    runs = ["alone, 1", *(f"{way}, {number}" for way in sorted(sweep_device.WAYS) for number in (2, 8))]
    rows = {"step": steps, "resnet9": [RESNET9], "loop": PRECISIONS, "runs": runs, "pack": [PACK]}
    return [Row(group, what, "unmeasured") for group in GROUPS for what in rows[group]]


def table(rows: list[Row]) -> str:
    """Return the rows as Markdown."""
    lines = ["| group | what | figure |", "|---|---|---|"]
    return "\n".join([*lines, *(f"| {row.group} | {row.what} | {row.figure} |" for row in rows)])


def main(words: list[str] | None = None) -> list[Row]:
    """Measure group after group; print and write the table after each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--dry", action="store_true", help="tiny rows on a CPU, to see that each works")
    add("--list", action="store_true", help="print the rows unmeasured, and measure nothing")
    add("--cifar", type=Path, help="folder of CIFAR-10's train.parquet and test.parquet; default: random images")
    add("--only", default=",".join(GROUPS), help="groups to measure")
    add("--minutes", type=float, default=11.0, help="no group begins later")
    add("--out", type=Path, help="also write OUT.md and OUT.json")
    given = parser.parse_args(words)
    if given.list:
        return _printed(unmeasured(), None)
    asked, end, rows = Asked("cpu" if given.dry else "cuda", given.dry, given.cifar), time.monotonic(), []
    end += 60 * given.minutes
    for name in given.only.split(","):
        late = time.monotonic() > end
        rows += [Row(name, "all", f"left out: {given.minutes:g} minutes are over")] if late else _group(name, asked)
        _printed(rows, given.out)
    return rows


def _group(name: str, asked: Asked) -> list[Row]:
    """Return a group's rows; with the reason as the last one, where it failed."""
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="on-gpu-") as folder:
        try:
            rows.extend(GROUPS[name](asked, Path(folder)))
        except (RayUnlearnError, RuntimeError, subprocess.SubprocessError) as error:  # the others are still worth it
            rows.append(Row(name, "the rest", f"left out: {first_line(error)}"))
    return rows


def _run(script: str, words: list[str]) -> None:
    """Run a benchmark in a process of its own.

    Raises:
        RayUnlearnError: it failed; with its last line.

    """
    done = subprocess.run([sys.executable, str(HERE / script), *words], capture_output=True, text=True, timeout=600)
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines() or [f"exit code {done.returncode}"]
        raise RayUnlearnError(f"{script}: {lines[-1]}")


def _printed(rows: list[Row], out: Path | None) -> list[Row]:
    print_line(table(rows) + "\n")
    if out:
        out.with_suffix(".md").write_text(table(rows) + "\n")
        out.with_suffix(".json").write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")
    return rows


if __name__ == "__main__":
    run_script(main)
