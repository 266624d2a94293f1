"""Time one training step of the real training loop, and set it next to what the hardware could do.

    uv run python tests/bench/profile_step.py --device cuda                      # ResNet-18, 32x32, batches of 64, fp32
    uv run python tests/bench/profile_step.py --device cuda --precision bf16 --no-cuda-graph --json figures.json
    OMP_NUM_THREADS=1 uv run python tests/bench/profile_step.py --device cpu --images 320 --epochs 2  # half a minute

Prints milliseconds per step (median over epochs after the first, which captures and warms up, with the spread), how
many kernels and launches a step takes (torch.profiler; operators on a CPU), and two floors measured next to it: the
bytes of weights, gradients and optimiser state over the copy bandwidth, and the floating-point operations over the rate
of a large matrix product in the same precision. Images are random uint8; needs no data and no Ray. Nothing is expected
on a GPU yet: none has run it.
"""

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import nn
from torch.autograd import DeviceType  # type: ignore[attr-defined]
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from ray_unlearn import models
from ray_unlearn.data.images import ImageSet, Pixels, RunData, Scaling
from ray_unlearn.data.shards import Shard
from ray_unlearn.methods.masks import Held
from ray_unlearn.seeds import Seeds
from ray_unlearn.study.model import Model
from ray_unlearn.study.recipe import Recipe
from ray_unlearn.terminal import run_script
from ray_unlearn.training import Batch, Hooks, Training, cross_entropy
from ray_unlearn.training.fast.cuda_graph import Engines, cuda_graph
from ray_unlearn.training.precision import allow_tensor_float_32, arithmetic, autocast, check_present

CLASSES = 10
OBJECTIVES = ("plain", "retain and forget, masked")
SEEDS = Seeds(study=0, population="profile")
# Times that a step moves every weight: forward 1, backward 2 (the weight, its gradient), the optimiser the rest (it
# reads weight, gradient and state, and writes weight and state).
PASSES = {"sgd": 3 + 5, "adam": 3 + 7, "adamw": 3 + 7}


def random_images(count: int, size: int, device: torch.device) -> ImageSet:
    """Return random images in one shard, resident on the device."""
    rng = SEEDS.numpy("images")
    pixels = rng.integers(0, 256, (count, size, size, 3), dtype=np.uint8)
    labels = rng.integers(0, CLASSES, count)
    columns = {name: [""] * count for name in ("image_id", "group", "given")} | {"age": [0.0] * count}
    shard = Shard(pixels, labels, pa.table(columns))
    return ImageSet(Pixels([shard], device, budget_bytes=2.0**40), np.arange(count), Scaling.of("standard"))


def run_data(images: ImageSet, engines: Engines | None) -> RunData:
    """Return a run's view of the images, of which it trains on all."""
    return RunData(
        train=images,
        retain=images,
        forget=images,
        validation=None,
        num_classes=CLASSES,
        device=images.pixels.device,
        engines=engines,
    )


def settle(device: torch.device, *, deterministic: bool) -> None:
    """Set what a GPU's arithmetic depends on, as a worker does: by default, deterministic algorithms."""
    if device.type != "cuda":
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(deterministic)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = not deterministic
    allow_tensor_float_32(False)


def training(asked: argparse.Namespace) -> Training:
    """Return a training of more epochs than will be taken, on the objective that is asked for."""
    device = torch.device(asked.device)
    settle(device, deterministic=asked.deterministic)
    images = random_images(asked.images, asked.image_size, device)
    engines = Engines(cuda_graph) if device.type == "cuda" and asked.cuda_graph else None
    data = run_data(images, engines)
    model = models.build(Model(arch=asked.arch), CLASSES, SEEDS).to(device)
    recipe = Recipe(
        epochs=asked.epochs + 10, batch_size=asked.batch_size, precision=asked.precision, optimizer=asked.optimizer
    )
    if asked.objective == "plain":
        return Training(model, data, recipe, SEEDS)
    moving = {one: torch.rand(one.shape, generator=SEEDS.torch("mask")).to(device) < 0.5 for one in model.parameters()}
    hooks = Hooks(after_step=Held(moving).restore)
    return Training(model, data, recipe, SEEDS, sets=("retain", "forget"), loss=_retain_and_forget, hooks=hooks)


def _retain_and_forget(model: nn.Module, retain: Batch, forget: Batch) -> torch.Tensor:
    """Return the cross-entropy on retain less a part of that on forget, as methods with a forget objective have it."""
    on_labels = cross_entropy()
    return 0.95 * on_labels(model, retain) - 0.05 * on_labels(model, forget)


def seconds_of(call: Callable[[], object], device: torch.device) -> float:
    """Return how long a call takes, until the device is done."""
    finish(device)
    start = time.perf_counter()
    call()
    finish(device)
    return time.perf_counter() - start


def finish(device: torch.device) -> None:
    """Wait until the device has done all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def launches(job: Training) -> dict[str, float]:
    """Return kernels and launches per step of an epoch; on a CPU, operators that call no other."""
    on_gpu = job.data.device.type == "cuda"
    if not on_gpu:  # torch's profiler (Kineto) reports on stderr that it finds no GPU, and its own start and end
        os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    with profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]) as seen:
        job.epoch()
        finish(job.data.device)
    events = seen.events() or []
    if not on_gpu:
        leaves = [e for e in events if e.name.startswith("aten::") and not any(_is_operator(c) for c in e.cpu_children)]
        return {"operators": len(leaves) / job.steps_per_epoch}
    kernels = [e for e in events if e.device_type == DeviceType.CUDA]
    calls = [e for e in events if e.name.startswith(("cudaLaunch", "cuLaunch", "cudaGraphLaunch"))]
    return {"kernels": len(kernels) / job.steps_per_epoch, "launches": len(calls) / job.steps_per_epoch}


def _is_operator(event: Any) -> bool:
    return str(event.name).startswith("aten::")


def floors(job: Training, elements: int) -> dict[str, float]:
    """Return what a step moves and computes, how fast the device copies and multiplies, and both quotients."""
    device, precision = job.data.device, job.recipe.precision
    weights = sum(p.numel() * p.element_size() for p in job.model.parameters())
    moved = weights * PASSES[job.recipe.optimizer]
    flops = _flops(job)
    source, target = (torch.zeros(elements, device=device) for _ in range(2))
    copying = min(seconds_of(lambda: target.copy_(source), device) for _ in range(5))
    side = int(elements**0.5)
    factor = torch.ones(side, side, device=device)
    with arithmetic(precision), autocast(precision, device):
        multiplying = min(seconds_of(lambda: factor @ factor, device) for _ in range(5))
    bandwidth, rate = 2 * source.nbytes / copying, 2 * side**3 / multiplying
    return {
        "mb_moved": moved / 1e6,
        "gb_per_s": bandwidth / 1e9,
        "bytes_ms": 1e3 * moved / bandwidth,
        "gflop": flops / 1e9,
        "gflop_per_s": rate / 1e9,
        "flops_ms": 1e3 * flops / rate,
    }


def _flops(job: Training) -> int:
    """Return the operations of one step's products and convolutions, backwards included; a product and a sum are 2."""
    images, labels = job.data.retain.batch(np.arange(job.recipe.batch_size))
    with FlopCounterMode(display=False) as counter:
        torch.autograd.backward(torch.nn.functional.cross_entropy(job.model(images), labels))
    return int(counter.get_total_flops())


def measure(asked: argparse.Namespace) -> dict[str, Any]:
    """Return all figures."""
    job = training(asked)
    first = seconds_of(job.epoch, job.data.device)
    each = [1e3 * seconds_of(job.epoch, job.data.device) / job.steps_per_epoch for _ in range(asked.epochs)]
    on_gpu = asked.device == "cuda"
    name = torch.cuda.get_device_name(job.data.device) if on_gpu else "cpu"
    held = torch.cuda.max_memory_reserved(job.data.device) / 1e6 if on_gpu else None  # before the floors take theirs
    return {
        "device": name,
        "threads": torch.get_num_threads(),
        "asked": {key: value for key, value in vars(asked).items() if key != "json"},
        "steps_per_epoch": job.steps_per_epoch,
        "first_epoch_s": first,
        "ms_per_step": {"median": statistics.median(each), "least": min(each), "most": max(each)},
        "peak_device_mb": held,
        "per_step": launches(job),
        "floor": floors(job, 2 ** (26 if on_gpu else 22)),
    }


def text(found: dict[str, Any]) -> str:
    """Return the figures as lines."""
    step, floor, asked = found["ms_per_step"], found["floor"], found["asked"]
    what = f"{asked['arch']}, {asked['image_size']}x{asked['image_size']}, batch {asked['batch_size']}"
    counts = ", ".join(f"{count:.0f} {name}" for name, count in found["per_step"].items())
    held = found["peak_device_mb"]
    memory = [] if held is None else [f"device memory: {held:,.0f} MB reserved at most, the context beside it"]
    return "\n".join(
        [
            f"{what}, {asked['precision']}, {asked['optimizer']}, on {found['device']}, {found['threads']} threads",
            f"first epoch: {found['first_epoch_s']:.2f} s for {found['steps_per_epoch']} steps",
            f"step: {step['median']:.3f} ms ({step['least']:.3f} to {step['most']:.3f}, {asked['epochs']} epochs)",
            f"per step: {counts}",
            f"floor by bytes: {floor['bytes_ms']:.3f} ms ({floor['mb_moved']:.0f} MB at {floor['gb_per_s']:.0f} GB/s)",
            f"floor by FLOPs: {floor['flops_ms']:.3f} ms "
            f"({floor['gflop']:.1f} GFLOP at {floor['gflop_per_s']:.0f} GFLOP/s)",
            f"the step is {step['median'] / max(floor['bytes_ms'], floor['flops_ms']):.1f} times the higher floor",
            *memory,
        ]
    )


def parse(words: list[str] | None = None) -> argparse.Namespace:
    """Return what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), required=True)
    parser.add_argument("--objective", choices=OBJECTIVES, default="plain", help="cross-entropy, or a forget method's")
    parser.add_argument("--arch", default="resnet18", help="as model.arch of a study")
    parser.add_argument("--image-size", type=int, default=32)
    parser.add_argument("--images", type=int, default=6400)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=5, help="epochs timed")
    parser.add_argument("--precision", choices=("fp32", "tf32", "bf16"), default="fp32")
    parser.add_argument("--optimizer", choices=("sgd", "adam", "adamw"), default="adam")
    parser.add_argument("--cuda-graph", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument(
        "--deterministic", action=argparse.BooleanOptionalAction, default=True, help="as execution.deterministic"
    )
    parser.add_argument("--json", type=Path, help="also write the figures here")
    return parser.parse_args(words)


def main() -> None:
    """Measure, print, and write JSON where asked."""
    asked = parse()
    check_present(torch.device(asked.device), "--device cpu measures the processor")
    found = measure(asked)
    print(text(found))
    if asked.json:
        asked.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    run_script(main)
