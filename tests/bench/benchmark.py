"""Time ray_unlearn against three ways of running the challenge's notebook, interleaved on the same machine.

    python tests/bench/benchmark.py                                          # every side, synthetic images, 2 CPU cores
    python tests/bench/benchmark.py --train fairface64/train.parquet --images 6400 --json faces.json
    python tests/bench/benchmark.py --train train.parquet --precision bf16 --baseline-precision fp32 --sides ad
    python tests/bench/benchmark.py --data digits --arch small_cnn --image-size 16 --images 1280 --epochs 4
    python tests/bench/benchmark.py --backend inline --sides ad              # where Ray is absent
    python tests/bench/benchmark.py --device cuda --backend inline --sides ad --train cifar10/train.parquet \
        --test cifar10/test.parquet --images 45000 --checkpoints 8

Sides, each making the same number of checkpoints, with logits of the same forget and test images, from the same
original, with the same recipe (SGD 1e-3, momentum 0.9, weight decay 5e-4, constant):

    a  the notebook's loop: a DataLoader over images in memory, one checkpoint after another, torch's own thread count
    b  a multiprocessing pool of that loop: --workers processes of one thread each
    c  Ray Tune, one trial of that loop per seed
    d  ray_unlearn: a study, made by `generate` with --workers workers of one CPU each

Every side of every repeat is a process of its own; the order of the sides turns round with every repeat. There are two
times. `steady` runs from the moment the first checkpoint begins to train until the last one is written (with c, from
the moment Tune schedules its first trial, because a trial's start is what each checkpoint costs there; with d, from the
publication of the original, for which the first run waits). The rest is starting and ending: imports, Ray,
decoding. Checkpoints per hour, images/s and the first ratio are steady; the second ratio is of the whole wall. Memory
is that of the host (measured_process.py); a GPU's is below the table, with each side's accuracies and the time
that 512 checkpoints take at these rates. The floor (floor.py) is the least that the device needs for a step.

Needs: for the default under 10 minutes of 2 cores, and 1 GB of temporary files; --folder keeps what is made.

Does not cover: evaluation (`benchmark_evaluation.py`), several machines.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import json
import os
import shutil
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from notebook_loop import Setting

from ray_unlearn.errors import ClusterError, RayUnlearnError, StudyError
from ray_unlearn.terminal import print_line, run_script

# The processes of every side import this file. What they do not need is imported where it is used, so that no side
# waits for what another one needs.
if TYPE_CHECKING:
    from benchmark_images import Pool

SIDES = "abcd"
ENVIRONMENT = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0", "PYTHONWARNINGS": "ignore"}


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Run every side, print, write JSON where asked, and return the figures."""
    asked = _parser().parse_args(arguments)
    if asked.spec:
        _one_side(asked.spec)
        return {}
    from benchmark_remarks import remark_lines
    from benchmark_table import floor_lines, table_lines

    sides = _sides(asked)
    _refuse_absent(asked.device)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(asked.folder or temporary).absolute()
        base = _prepare(asked, folder)
        results = _interleave(asked, base, sides)
        found = _figures(asked, base, results)
    print_line("\n".join([*table_lines(found), "", *floor_lines(found), "", *remark_lines(found)]))
    if asked.json:
        asked.json.write_text(json.dumps(found, indent=1) + "\n")
    return found


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--train", help="Parquet in the Hugging Face layout; default: synthetic images")
    add("--test", help="likewise; default: further images of --train")
    add("--data", choices=["synthetic", "digits"], default="synthetic", help="what to take without --train")
    add("--images", type=int, default=1280, help="images of an epoch; a fiftieth more to forget, a tenth more to test")
    add("--arch", default="resnet18", help="a torchvision name, or small_cnn")
    add("--image-size", type=int, default=32)
    add("--checkpoints", type=int, default=6, help="of each side in each repeat")
    add("--repeats", type=int, default=3)
    add("--epochs", type=int, default=1)
    add("--batch-size", type=int, default=64)
    add("--lr", type=float, default=1e-3)
    add("--precision", choices=["fp32", "tf32", "bf16"], default="fp32", help="bf16: autocast; tf32: on a GPU")
    add("--baseline-precision", choices=["fp32", "tf32", "bf16"], help="of a, b and c; default: --precision")
    add("--workers", type=int, help="of b, c and d; default: the CPU cores, on a GPU 1")
    add("--sides", default=SIDES, help="which of a, b, c, d")
    add("--device", choices=["cpu", "cuda"], default="cpu")
    add("--backend", choices=["auto", "ray", "inline"], default="auto", help="of d; inline leaves c out")
    add("--original", type=Path, help="weights to start from; default: freshly initialised")
    add("--set", action="append", default=[], metavar="KEY.KEY=VALUE", help="override the study of d")
    add("--folder", type=Path, help="keep everything that is made here")
    add("--json", type=Path, help="also write all figures here")
    add("--spec", type=Path, help=argparse.SUPPRESS)  # one side of one repeat: a Setting as JSON
    return parser


def _sides(asked: argparse.Namespace) -> str:
    sides = "".join(side for side in SIDES if side in asked.sides)
    if not sides or set(asked.sides) - set(SIDES):
        raise StudyError(f"--sides {asked.sides}: expected some of {SIDES}")
    needs_ray = (asked.backend != "inline" and "c" in sides) or (asked.backend == "ray" and "d" in sides)
    if needs_ray and importlib.util.find_spec("ray") is None:
        raise ClusterError("sides c and d need Ray: pip install 'ray[default]', or use --backend inline")
    if asked.backend == "inline" and "c" in sides:
        print_line("side c is left out: Ray Tune needs Ray, and --backend inline does without")
        sides = sides.replace("c", "")
    return sides


def _refuse_absent(device: str) -> None:
    if device == "cuda":
        import torch

        from ray_unlearn.training.precision import check_present

        check_present(torch.device(device), "use --device cpu")


def _prepare(asked: argparse.Namespace, folder: Path) -> Setting:
    """Write what every side reads; return a setting whose side is still open."""
    import torch
    from benchmark_images import write_images

    from ray_unlearn import models
    from ray_unlearn.seeds import Seeds
    from ray_unlearn.study.model import Model

    folder.mkdir(parents=True, exist_ok=True)
    pool = _pool(asked)
    write_images(folder, pool, asked.images)
    model = models.build(Model(arch=asked.arch), pool.classes, Seeds(study=0))
    if asked.original:
        weights = models.parse_weights(models.read_file(str(asked.original)), str(asked.original))
        models.load_weights(model, weights, str(asked.original))
    torch.save(model.state_dict(), folder / "original.pth")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return Setting(
        side="",
        folder=str(folder),
        out="",
        arch=asked.arch,
        image_size=asked.image_size,
        classes=pool.classes,
        checkpoints=asked.checkpoints,
        epochs=asked.epochs,
        batch_size=asked.batch_size,
        lr=asked.lr,
        precision=asked.precision,
        device=asked.device,
        workers=asked.workers or (1 if asked.device == "cuda" else cores),
        threads=cores,
        backend=asked.backend,
        overrides=asked.set,
    )


def _pool(asked: argparse.Namespace) -> Pool:
    from benchmark_images import digits_pool, parquet_pool, synthetic_pool

    if asked.train:
        return parquet_pool(asked.train, asked.test)
    return digits_pool() if asked.data == "digits" else synthetic_pool(asked.images, asked.image_size)


def _interleave(asked: argparse.Namespace, base: Setting, sides: str) -> list[dict[str, Any]]:
    """Run each side once per repeat; there and back, so that none is always first."""
    from device_memory import watched

    results = []
    for repeat in range(asked.repeats):
        for side in sides if repeat % 2 == 0 else reversed(sides):
            precision = asked.precision if side == "d" else asked.baseline_precision or asked.precision
            out = Path(base.folder) / f"{side}-{repeat}"
            setting = dataclasses.replace(base, side=side, out=str(out), precision=precision)
            with watched(base.device) as memory:
                took = _run_side(setting)
            results.append({"side": side, "repeat": repeat, "peak_device_mb": memory.peak_mb, **took})
            if not asked.folder:
                shutil.rmtree(out)
            print_line(f"{side}, repeat {repeat + 1}: {results[-1]['steady_s']:.1f} of {results[-1]['wall_s']:.1f} s")
    return results


def _run_side(setting: Setting) -> dict[str, Any]:
    """Run a side in a process of its own.

    Raises:
        RayUnlearnError: it failed, or made another number of checkpoints.

    """
    from measured_process import run_measured

    out = Path(setting.out)
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    spec = out / "setting.json"
    spec.write_text(json.dumps(dataclasses.asdict(setting)))
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"} | ENVIRONMENT
    measured = run_measured([sys.executable, __file__, "--spec", str(spec)], out / "log.txt", environment)
    result: dict[str, Any] = json.loads((out / "result.json").read_text())
    if result["checkpoints"] != setting.checkpoints:
        made = result["checkpoints"]
        raise RayUnlearnError(f"side {setting.side}: made {made} checkpoints of {setting.checkpoints}; see {out}")
    return {"precision": setting.precision, **dataclasses.asdict(measured), **result}


def _one_side(spec: Path) -> None:
    """Make one side's checkpoints: this process was started for that alone."""
    setting = Setting(**json.loads(spec.read_text()))
    if setting.side == "d":
        from study_side import study_side as make
    else:
        from notebook_loop import notebook_side as make
    result = make(setting)
    (Path(setting.out) / "result.json").write_text(json.dumps(result))


def _figures(asked: argparse.Namespace, base: Setting, results: list[dict[str, Any]]) -> dict[str, Any]:
    """Gather everything; measure the floor last, when nothing else runs."""
    from benchmark_table import describe_machine
    from floor import measure_floor

    from ray_unlearn import models
    from ray_unlearn.seeds import Seeds
    from ray_unlearn.study.model import Model

    model = models.build(Model(arch=base.arch), base.classes, Seeds(study=0))
    floors = {
        precision: measure_floor(
            model,
            image_size=base.image_size,
            num_classes=base.classes,
            batch_size=base.batch_size,
            device=base.device,
            precision=precision,
            threads=base.threads,
        )
        for precision in sorted({result["precision"] for result in results})
    }
    images = asked.train or asked.data
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": sys.argv,
        "machine": describe_machine(base.device, base.threads),
        "images": str(images),
        "images_per_epoch": asked.images,
        "repeats": asked.repeats,
        "setting": {name: value for name, value in dataclasses.asdict(base).items() if name not in ("side", "out")},
        "results": results,
        "floor": {name: dataclasses.asdict(f) | {"seconds_per_step": f.seconds_per_step} for name, f in floors.items()},
    }


if __name__ == "__main__":
    run_script(main)
