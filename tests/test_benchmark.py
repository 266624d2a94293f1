"""tests/bench/benchmark.py: both sides do the same work, and the figures are what they state."""

from __future__ import annotations

import dataclasses
import importlib
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from ray_unlearn.errors import DataError, ModelError, RayUnlearnError, StudyError
from ray_unlearn.models import small_cnn
from ray_unlearn.store import StudyStore, open_storage
from ray_unlearn.study.plan import Run

BENCH = Path(__file__).resolve().parent / "bench"
sys.path.append(str(BENCH))  # as `python tests/bench/benchmark.py` has it
benchmark, floor, images, measured_process, notebook_loop, study_side, table = (
    importlib.import_module(name)
    for name in (
        "benchmark",
        "floor",
        "benchmark_images",
        "measured_process",
        "notebook_loop",
        "study_side",
        "benchmark_table",
    )
)
SMALL = ["--data", "digits", "--arch", "small_cnn", "--image-size", "8", "--backend", "inline"]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Batches as small as these gain nothing from more."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory, one_thread: None) -> tuple[Path, dict[str, Any]]:
    """Folder and figures of the command for two checkpoints a side, the sides' processes being this one."""
    folder = tmp_path_factory.mktemp("compared")
    command = [*SMALL, "--sides", "ad", "--images", "128", "--checkpoints", "2", "--repeats", "1", "--batch-size", "32"]
    command += ["--set", "execution.cpus_per_worker=1", "--folder", str(folder)]
    with pytest.MonkeyPatch.context() as patch:
        quick_floor(patch)
        patch.setattr(measured_process, "run_measured", run_here)
        returned = benchmark.main([*command, "--json", str(folder / "figures.json")])
    found = json.loads((folder / "figures.json").read_text())
    assert found == returned
    return folder, found


def quick_floor(patch: pytest.MonkeyPatch) -> None:
    """Measure peaks in a moment; they are then those of a cache and of calls."""
    patch.setattr(floor, "_PATIENCE_S", 0.0)
    patch.setattr(floor, "_MATRIX", {"cpu": 64})
    patch.setattr(floor, "_COPY_FLOATS", {"cpu": 1024})


def run_here(command: list[str], log: Path, environment: dict[str, str]) -> Any:
    """Stand in for a process: importing torch takes longer than all that these sides do."""
    begin = time.monotonic()
    assert benchmark.main(command[2:]) == {}
    return measured_process.Measured(wall_s=time.monotonic() - begin, peak_mb=None, load=0.0)


def setting(folder: Path, **changes: Any) -> Any:
    """Return the setting of a side in this process, its images written."""
    given = benchmark._parser().parse_args([*SMALL, "--images", "64", "--batch-size", "64", "--lr", "0.05"])
    for name, value in changes.items():
        setattr(given, name, value)
    base = benchmark._prepare(given, folder)
    out = folder / "out"
    out.mkdir()
    return dataclasses.replace(base, out=str(out), threads=1)


def test_both_sides_make_the_same_work(compared):
    """Law: as many checkpoints of as many images; times and accuracies of both; the ratio is of their times."""
    _, found = compared
    a, d = (table.by_side(found)[side][0] for side in "ad")
    assert a["checkpoints"] == d["checkpoints"] == found["setting"]["checkpoints"] == 2
    for side in (a, d):
        assert len(side["run_s"]) == len(side["accuracy"]["forget"]) == len(side["accuracy"]["test"]) == 2
        assert 0 < side["steady_s"] < side["wall_s"]
    assert table.ratios(found, "a", "steady_s") == [pytest.approx(a["steady_s"] / d["steady_s"])]
    assert a["threads"] == d["threads"] == 1
    assert {"cpu", "cores", "versions"} <= set(found["machine"])
    assert found["floor"]["fp32"]["seconds_per_step"] > 0


@pytest.mark.long
def test_a_side_is_a_process_of_its_own(tmp_path, monkeypatch):
    """Law: the command starts it, its pool starts another; both are in its memory, and nothing is left behind."""
    quick_floor(monkeypatch)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    command = [*SMALL, "--sides", "b", "--images", "64", "--checkpoints", "1", "--repeats", "1", "--workers", "1"]
    (side,) = benchmark.main(command)["results"]
    assert side["checkpoints"] == len(side["run_s"]) == 1
    assert side["wall_s"] > side["steady_s"] + 0.5  # imports
    assert side["peak_mb"] is None or side["peak_mb"] > 300  # two processes with torch in each
    assert list(tmp_path.iterdir()) == []


def test_checkpoints_load_and_are_trained_each_by_a_seed_of_its_own(compared):
    """Law: on both sides both differ from the original and from one another, and fit the net strictly."""
    folder, _ = compared
    original = torch.load(folder / "original.pth", weights_only=True)["0.weight"]
    runs = folder / "d-0/store/benchmark/finetune"
    states = {
        "a": [torch.load(folder / f"a-0/unlearned_checkpoint_{i}.pth", weights_only=True) for i in range(2)],
        "d": [load_file(runs / f"{i:05d}/model.safetensors") for i in range(2)],
    }
    for first, second in states.values():
        small_cnn(10).load_state_dict(first)
        small_cnn(10).load_state_dict(second)
        assert not torch.equal(first["0.weight"], original)
        assert not torch.equal(first["0.weight"], second["0.weight"])
    logits = [np.load(folder / f"a-0/test_{i}.npy") for i in range(2)]
    assert [each.shape for each in logits] == [(12, 10)] * 2
    assert not np.array_equal(*logits)


def test_where_order_does_not_matter_both_sides_take_the_same_steps(tmp_path):
    """Law: with one batch an epoch, three epochs from the same original end at the same weights, up to rounding.

    So pixels, scaling, loss, rate, momentum, decay and schedule are the same.
    """
    given = setting(tmp_path, epochs=3, checkpoints=1)
    notebook_loop.loop_side(given)
    study_side.study_side(given)
    a = torch.load(tmp_path / "out/unlearned_checkpoint_0.pth", weights_only=True)
    d = load_file(tmp_path / "out/store/benchmark/finetune/00000/model.safetensors")
    original = torch.load(tmp_path / "original.pth", weights_only=True)
    for name, tensor in a.items():
        moved = (tensor.float() - original[name].float()).abs().max()
        torch.testing.assert_close(tensor, d[name], rtol=1e-3, atol=float(1e-2 * moved))


def test_accuracies_agree_within_their_spread(tmp_path):
    """Law: from one original with the same recipe, both sides' test accuracies are draws of one distribution.

    Means of six differ by less than four standard errors and one image.
    """
    given = setting(tmp_path, images=512, epochs=2, checkpoints=6)
    sides = notebook_loop.notebook_side(dataclasses.replace(given, side="a")), study_side.study_side(given)
    a, d = (side["accuracy"]["test"] for side in sides)
    error = ((statistics.variance(a) + statistics.variance(d)) / 6) ** 0.5
    assert statistics.mean(a) > 0.3  # 51 images in ten classes: it has learnt something
    assert abs(statistics.mean(a) - statistics.mean(d)) <= 4 * error + 1 / 51


def test_the_steady_part_runs_from_the_original_to_the_last_record(tmp_path):
    """Law: by the times of the records' files; the order of the runs does not matter."""
    store = StudyStore(open_storage(str(tmp_path)), "benchmark")
    for run, at in ((("original", 0), 100.0), (("finetune", 0), 109.5), (("finetune", 1), 104.0)):
        record = tmp_path / store.layout.record(Run(population=run[0], index=run[1]))
        record.parent.mkdir(parents=True)
        record.touch()
        os.utime(record, (at, at))
    assert study_side._steady(store, {0: None, 1: None}, str(tmp_path)) == pytest.approx(9.5)


def test_flops_by_hand():
    """Law: 2 x 4 x 3 FLOPs an image forward, as many for the weights' gradient, none for the input's.

    The convolution: 64 places x 2 channels x 27 products, twice; the linear layer behind it needs its input's, too.
    """
    images, labels = torch.zeros(5, 4), torch.zeros(5, dtype=torch.int64)
    assert floor.training_flops(nn.Linear(4, 3), images, labels) == 5 * 2 * (2 * 4 * 3)
    net = nn.Sequential(nn.Conv2d(3, 2, 3, padding=1), nn.Flatten(), nn.Linear(128, 3))
    expected = 2 * (2 * 64 * 2 * 27) + 3 * (2 * 128 * 3)
    assert floor.training_flops(net, torch.zeros(1, 3, 8, 8), labels[:1]) == expected


def test_a_step_takes_as_long_as_the_longer_of_computing_and_moving():
    """Law: 15 parameters are 8 x 4 x 15 bytes; 100 FLOPs at 50/s are 2 s, 480 bytes at 120/s are 4 s."""
    assert floor.step_bytes(nn.Linear(4, 3)) == 480
    values = {"precision": "fp32", "flops_per_image": 1, "flops_per_step": 100, "bytes_per_step": 480}
    assert floor.Floor(**values, flops_per_s=50, bytes_per_s=120).seconds_per_step == 4
    assert floor.Floor(**values, flops_per_s=20, bytes_per_s=120).seconds_per_step == 5


def figures() -> dict[str, Any]:
    """Return figures worked by hand: repeat 0 takes 8 s and 4 s, repeat 1 takes 3 s and 1 s, each 2 s of starting."""
    seconds = {("a", 0): 8.0, ("d", 0): 4.0, ("d", 1): 1.0, ("a", 1): 3.0}
    results = [
        {"side": s, "repeat": r, "precision": "fp32", "checkpoints": 2, "steady_s": t, "wall_s": t + 2, "peak_mb": 7.0}
        for (s, r), t in seconds.items()
    ]
    least = {"flops_per_step": 1e9, "flops_per_s": 1e10, "bytes_per_step": 1e6, "bytes_per_s": 1e9}
    shared = {"arch": "net", "image_size": 8, "batch_size": 10, "epochs": 5, "checkpoints": 2, "workers": 2}
    return {
        "setting": shared | {"backend": "ray"},
        "machine": {"device": "CPU", "cores": 2},
        "images": "noise",
        "images_per_epoch": 20,
        "repeats": 2,
        "results": results,
        "floor": {"fp32": least | {"seconds_per_step": 0.1}},
    }


def test_the_table_by_hand():
    """Law: ratios are of the same repeat, 8/4 and 3/1; whole wall 10/6 and 5/3; 2 checkpoints in 8 s: 900 an hour."""
    lines = table.table_lines(figures())
    row = "| a notebook loop | fp32 | 1,650 (900 to 2,400) | 46 | 2.0 | 7 | 2.50 (2.00 to 3.00) | 1.67 (1.67 to 1.67) |"
    assert row in lines
    assert "| d ray_unlearn | fp32 | 4,500 (1,800 to 7,200) | 125 | 2.0 | 7 |  |  |" in lines


def test_the_floor_by_hand():
    """Law: d's 2 checkpoints of 5 epochs of 2 steps: 4 s and 1 s over 20 steps, median 125 ms, 1.25 of the 100 ms."""
    lines = table.floor_lines(figures())
    assert "a step is 1 GFLOP, 100 ms at 10 GFLOP/s, and moves 1 MB of parameters, 1 ms at 1 GB/s" in lines[0]
    assert lines[-1] == "d ray_unlearn: 125 ms per step, 1.2 times the floor"


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
def test_memory_is_that_of_the_whole_tree(tmp_path):
    """Law: a process and its child that hold 100 MB each have held 200 MB, also where both let go before the end."""
    code = "import time; held = bytearray(b'x') * 100_000_000; del held; time.sleep(0.6)"
    parent = f"import subprocess, sys; p = subprocess.Popen([sys.executable, '-c', {code!r}]); {code}; p.wait()"
    measured = measured_process.run_measured([sys.executable, "-c", parent], tmp_path / "log")
    assert 200 < measured.peak_mb < 300
    assert measured.wall_s > 0.6


def test_a_side_that_fails_states_why(tmp_path):
    """Law: the error has the process's last lines."""
    command = [sys.executable, "-c", "import sys; print('no memory left'); sys.exit(3)"]
    with pytest.raises(RayUnlearnError, match=r"ended with 3: no memory left"):
        measured_process.run_measured(command, tmp_path / "log")


def test_what_cannot_be_is_refused():
    """Law: unknown sides, and more images than there are, are refused before anything runs."""
    with pytest.raises(StudyError, match="--sides ax: expected some of abcd"):
        benchmark.main(["--sides", "ax"])
    with pytest.raises(DataError, match=r"--images 1437: needs 1,437 images, 28 to forget and 143 to test; digits has"):
        benchmark.main([*SMALL, "--images", "1437"])


def test_without_a_gpu_it_is_refused_before_a_side_begins(monkeypatch):
    """Law: the parent states it in one line, and starts no process."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(benchmark, "_prepare", None)
    with pytest.raises(ModelError, match=r"^device cuda: this machine has no GPU that torch can use; use"):
        benchmark.main([*SMALL, "--device", "cuda"])


def test_inline_leaves_ray_tune_out(capsys):
    """Law: what is left out is reported."""
    asked = benchmark._parser().parse_args(["--backend", "inline"])
    assert benchmark._sides(asked) == "abd"
    assert "side c is left out" in capsys.readouterr().out


def test_images_are_shared_out_without_overlap(tmp_path):
    """Law: 100 to train on, 2 to forget, 10 to test, no image in two of them; noise is drawn by the seed alone."""
    pool = images.synthetic_pool(100, 8)
    images.write_images(tmp_path, pool, 100)
    rows = notebook_loop.read_rows(dataclasses.replace(notebook_setting(), folder=str(tmp_path)))
    assert {name: len(found) for name, found in rows.items()} == {"retain": 100, "forget": 2, "test": 10}
    assert len({row["image"]["bytes"] for found in rows.values() for row in found}) == 112
    assert images.synthetic_pool(100, 8).train == pool.train


def notebook_setting() -> Any:
    """Return a setting with nothing in it."""
    empty = {field.name: "" for field in dataclasses.fields(notebook_loop.Setting)}
    return notebook_loop.Setting(**empty)
