"""sweep_device.py: however runs share a device, each is the run that it is alone; the figures are counted right.

On a CPU a capture is a stand-in that calls the step again, and a stream is nothing; that proves the turns, the stacked
arithmetic, the processes and the counting. How fast anything is on a GPU no test can show.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import json
import multiprocessing
import os
import stat
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from ray_unlearn.errors import RayUnlearnError, StudyError
from ray_unlearn.training import Training

BENCH = Path(__file__).resolve().parent / "bench"
sys.path.append(str(BENCH))  # as `python tests/bench/sweep_device.py` has it
sweep_device, sweep_members, sweep_runs, sweep_table, mps_daemon, profile_step = (
    importlib.import_module(name)
    for name in ("sweep_device", "sweep_members", "sweep_runs", "sweep_table", "mps_daemon", "profile_step")
)
TINY = ["--device", "cpu", "--arch", "small_cnn", "--image-size", "8", "--images", "20", "--batch-size", "8"]
TINY += ["--epochs", "1", "--repeats", "2", "--lr", "0.05", "--runs", "1,2"]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """A measurement sets one thread, for its process; here it is put back."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def setting(**changes: Any) -> Any:
    """Return a setting of two timed epochs: of 20 images in batches of 8, two full ones and one of 4."""
    given = sweep_device._setting(sweep_device._parse(TINY))
    return dataclasses.replace(given, **{"epochs": 2, **changes})


def measured(given: Any, way: str, runs: list[int], folder: Path) -> Any:
    """Measure in this process."""
    folder.mkdir(exist_ok=True)
    return sweep_members.measure(given, way, runs, lambda: None, folder)


def run_here(given: Any, way: str, parts: Any, folder: Path) -> list[Any]:
    """Stand in for processes: importing torch takes longer than all that these do."""
    return [measured(given, way, list(part), folder) for part in parts]


def alone_each(given: Any, folder: Path, runs: int = 3) -> Path:
    """Train every run in a group of its own; return where their weights are."""
    for run in range(runs):
        measured(given, "alone", [run], folder)
    return folder


# Weights


@pytest.mark.parametrize("changes", [{}, {"precision": "bf16"}, {"optimizer": "adam", "lr": 3e-3}], ids=str)
@pytest.mark.parametrize("way", ["alone", "streams"])
def test_runs_that_take_turns_are_the_runs_alone(tmp_path, way, changes):
    """Law: bit for bit, smaller last batches, running statistics and counters included; and no two are the same."""
    reference = alone_each(setting(**changes), tmp_path / "reference")
    measured(setting(**changes), way, [0, 1, 2], tmp_path / "together")
    assert sweep_device.difference(tmp_path / "together", reference, 3) == 0
    first, second = (load_file(reference / f"{run}.safetensors")["0.weight"] for run in (0, 1))
    assert not torch.equal(first, second)


@pytest.mark.parametrize(
    ("changes", "within"),
    [({}, 1e-4), ({"precision": "bf16", "lr": 0.01}, 0.3), ({"optimizer": "adam"}, 1e-2)],
    ids=str,
)
def test_packed_runs_are_the_runs_alone_to_rounding(tmp_path, changes, within):
    """Law: all tensors are as close as the precision lets them, far closer than two runs; each has its own images."""
    reference = alone_each(setting(**changes), tmp_path / "reference", runs=2)
    measured(setting(**changes), "packed", [0, 1], tmp_path / "together")
    assert sweep_device.difference(tmp_path / "together", reference, 2) < within
    (tmp_path / "swapped").mkdir()
    for run in (0, 1):
        (tmp_path / "swapped" / f"{run}.safetensors").hardlink_to(reference / f"{1 - run}.safetensors")
    assert sweep_device.difference(tmp_path / "together", tmp_path / "swapped", 2) > 1


@pytest.mark.parametrize(
    "changes",
    [{"lr": 0.1}, {"arch": "resnet18", "image_size": 32, "images": 32, "batch_size": 32, "lr": 1e-3}],
    ids=["small_cnn", "resnet18"],
)
def test_packed_runs_are_plain_trainings(changes):
    """Law: an epoch moves each run's tensors as the eager loop does, to a twentieth of the way and rounding.

    Most are ten thousand times closer; where rounding turns the sign before a ReLU, a channel's gradient differs.
    """
    given, runs = setting(**changes), [0, 1]
    group = sweep_runs.AsOne(given, runs)
    group.epoch()
    images = profile_step.random_images(given.images, given.image_size, torch.device("cpu"))
    for run in runs:
        plain, before = (sweep_runs._net(given, run, trim=False) for _ in range(2))
        Training(plain, profile_step.run_data(images, None), given.recipe, sweep_runs._seeds(run)).epoch()
        start, packed = before.state_dict(), group.states()[run]
        assert packed.keys() == start.keys()
        for name, tensor in plain.state_dict().items():
            moved = float((tensor.float() - start[name].float()).abs().max())
            rounding = 2e-6 * float(tensor.float().abs().max())
            torch.testing.assert_close(packed[name], tensor, rtol=0, atol=0.05 * moved + rounding)
            assert moved > 5 * rounding


def test_steps_are_taken_in_turn(tmp_path, monkeypatch):
    """Law: one step of each run, then the next of each; a run with nothing left is not asked again."""
    asked = []
    real = sweep_runs._Streamed.step
    monkeypatch.setattr(sweep_runs._Streamed, "step", lambda run: asked.append(id(run)) or real(run))
    group = sweep_runs.OnStreams(setting(), [0, 1])
    group.epoch()
    first, second = (id(run) for run in group._runs.values())
    assert asked == [first, second] * 4  # 3 steps, and the news that there is no other


def test_a_loss_that_is_not_finite_is_reported(tmp_path):
    """Law: whichever way; the loop looks once an epoch, and so do the others."""
    for way in sweep_runs.WAYS:
        with pytest.raises(RayUnlearnError, match="loss"):
            measured(setting(lr=1e30, epochs=8), way, [0], tmp_path)


def test_too_many_streams_are_refused(tmp_path):
    """Law: beyond 16 runs two would share a stream's workspace."""
    with pytest.raises(RayUnlearnError, match="17 runs on streams: torch has streams for 16 at most"):
        measured(setting(), "streams", list(range(17)), tmp_path)


# Processes


@pytest.mark.long
def test_processes_make_the_runs_and_begin_together(tmp_path):
    """Law: two real processes give the bits of the runs alone, and their timed epochs overlap."""
    reports = sweep_members.run_members(setting(), "alone", [[0], [1]], tmp_path)
    assert sweep_device.difference(tmp_path, alone_each(setting(), tmp_path / "reference", 2), 2) == 0
    begins, ends = [report.begin for report in reports], [report.end for report in reports]
    assert max(begins) <= min(ends)
    assert min(report.mb for report in reports) > 100
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize(
    ("failure", "said"),
    [(MemoryError("no room\nat all"), "MemoryError: no room"), (threading.BrokenBarrierError(), "")],
)
def test_a_process_states_why_it_failed(monkeypatch, failure, said):
    """Law: the first line of its error, and the others are let go; who was let go blames no one."""

    def failing(*args):
        raise failure

    monkeypatch.setattr(sweep_members, "measure", failing)
    source, sink = multiprocessing.Pipe(duplex=False)
    barrier = threading.Barrier(2)
    sweep_members._member(setting(), "alone", [0], barrier, sink, Path())
    assert source.recv() == said
    assert barrier.broken == bool(said)


def test_the_first_reason_is_the_error(tmp_path):
    """Law: not that others waited; a process that reports nothing was killed."""
    pipes = [multiprocessing.Pipe(duplex=False) for _ in range(3)]
    sources = [source for source, _ in pipes]
    for (_, sink), said in zip(pipes, ("", "OutOfMemoryError: 80 GiB", ""), strict=True):
        sink.send(said)
    with pytest.raises(RayUnlearnError, match=r"^OutOfMemoryError: 80 GiB$"):
        sweep_members._reports(sources)
    pipes[0][1].close()
    with pytest.raises(RayUnlearnError, match="killed"):
        sweep_members._reports(sources[:1])


# MPS


DAEMON = """#!/bin/sh
at="$CUDA_MPS_PIPE_DIRECTORY"
if [ "$1" = "-f" ]; then
  [ -z "$FAKE_BROKEN" ] || exit 7
  [ -z "$CUDA_VISIBLE_DEVICES" ] || exit 8
  echo $$ > "$FAKE_PID"; touch "$at/up"
  [ -z "$FAKE_STUBBORN" ] || trap "" TERM
  while [ -n "$FAKE_STUBBORN" ] || [ ! -e "$at/quit" ]; do sleep 0.02; done
  exit 0
fi
[ -e "$at/up" ] || exit 1
read command rest
case "$command" in
  get_server_list) [ ! -e "$at/served" ] || echo 4711;;
  quit) touch "$at/quit" "$FAKE_PID-quit";;
esac
"""


@pytest.fixture
def fake_daemon(tmp_path, monkeypatch) -> Path:
    """Put a stand-in for NVIDIA's daemon into PATH; return the file of its process id."""
    folder = tmp_path / "bin"
    folder.mkdir()
    program = folder / mps_daemon.CONTROL
    program.write_text(DAEMON)
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setenv("FAKE_PID", str(tmp_path / "pid"))
    for name in ("PIPE", "LOG"):
        monkeypatch.delenv(f"CUDA_MPS_{name}_DIRECTORY", raising=False)
    return tmp_path / "pid"


def gone(pid: Path) -> bool:
    """Return whether the process whose id a file holds has ended."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)
        return False
    return True


def test_the_daemon_has_folders_of_its_own_and_is_ended(fake_daemon, monkeypatch):
    """Law: its folders are in the environment as long as it lasts, and are those of no one else."""
    monkeypatch.setenv("CUDA_MPS_LOG_DIRECTORY", "/somewhere")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")  # the clients': the daemon shows all
    with mps_daemon.mps_daemon() as served:
        pipe, log = (Path(os.environ[f"CUDA_MPS_{name}_DIRECTORY"]) for name in ("PIPE", "LOG"))
        assert pipe.is_dir()
        assert log.is_dir()
        assert not gone(fake_daemon)
        assert not served()
        (pipe / "served").touch()
        assert served()
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "1"
    assert gone(fake_daemon)
    assert Path(f"{fake_daemon}-quit").exists()  # it was asked before it was killed
    assert not pipe.exists()
    assert "CUDA_MPS_PIPE_DIRECTORY" not in os.environ
    assert os.environ["CUDA_MPS_LOG_DIRECTORY"] == "/somewhere"


def test_others_are_kept_out_of_a_daemon_that_is_there(monkeypatch, tmp_path):
    """Law: where someone's daemon serves, what is not `mps` finds none; the environment is put back."""
    monkeypatch.setenv("CUDA_MPS_PIPE_DIRECTORY", "/somebodys")
    seen = []

    def members(given, way, parts, folder):
        seen.append((way, list(Path(os.environ["CUDA_MPS_PIPE_DIRECTORY"]).iterdir())))

    monkeypatch.setattr(sweep_device, "run_members", members)
    for way in ("reference", "alone", "processes", "streams", "packed"):
        sweep_device._measure(setting(), (way, 2), tmp_path)
    assert seen == [("alone", [])] * 3 + [("streams", []), ("packed", [])]
    assert os.environ["CUDA_MPS_PIPE_DIRECTORY"] == "/somebodys"


@pytest.mark.parametrize("stubborn", ["", "yes"])
def test_the_daemon_is_ended_no_matter_what_happens(fake_daemon, monkeypatch, stubborn):
    """Law: an error in the block passes through; a daemon that neither quits nor heeds a signal is killed."""
    monkeypatch.setenv("FAKE_STUBBORN", stubborn)
    monkeypatch.setattr(mps_daemon, "_END_S", 0.2)
    with pytest.raises(ZeroDivisionError), mps_daemon.mps_daemon():
        1 / 0  # noqa: B018
    assert gone(fake_daemon)
    assert "CUDA_MPS_PIPE_DIRECTORY" not in os.environ


def test_a_daemon_that_does_not_start_is_reported(fake_daemon, monkeypatch):
    """Law: with the code it ended with, and nothing is left in the environment."""
    monkeypatch.setenv("FAKE_BROKEN", "yes")
    with pytest.raises(RayUnlearnError, match="nvidia-cuda-mps-control ended at once, with 7"), mps_daemon.mps_daemon():
        pass
    assert "CUDA_MPS_PIPE_DIRECTORY" not in os.environ


@pytest.mark.parametrize("served", [True, False])
def test_processes_that_did_not_reach_the_daemon_are_no_measurement(fake_daemon, monkeypatch, tmp_path, served):
    """Law: CUDA goes on without MPS in silence; the daemon is asked, and the way is left out."""

    def members(given, way, parts, folder):
        assert (way, parts) == ("alone", [[0], [1]])
        if served:
            Path(os.environ["CUDA_MPS_PIPE_DIRECTORY"], "served").touch()
        return ["report"]

    monkeypatch.setattr(sweep_device, "run_members", members)
    if served:
        assert sweep_device._measure(setting(), ("mps", 2), tmp_path) == ["report"]
    else:
        with pytest.raises(RayUnlearnError, match="not through the MPS daemon"):
            sweep_device._measure(setting(), ("mps", 2), tmp_path)
    assert gone(fake_daemon)


# Figures


def test_the_command_compares_every_way(tmp_path, monkeypatch, capsys):
    """Law: every way and number of runs in every repeat, but for what cannot run, which is named, once, with why."""
    monkeypatch.setattr(sweep_device, "run_members", run_here)
    monkeypatch.setenv("PATH", str(tmp_path))
    found = sweep_device.main([*TINY, "--json", str(tmp_path / "sweep.json")])
    cells = sweep_table.by_cell(found)
    assert list(cells) == [("alone", 1), ("packed", 1), ("packed", 2), ("processes", 2), ("streams", 1), ("streams", 2)]
    assert all([each["repeat"] for each in results] == [0, 1] for results in cells.values())
    assert json.loads((tmp_path / "sweep.json").read_text())["cells"] == found["cells"]
    printed = capsys.readouterr().out
    for runs in ("1 run", "2 runs"):
        assert f"left out: mps with {runs}: nvidia-cuda-mps-control is not in PATH" in printed
    assert len(found["left_out"]) == 2
    for way in ("alone, once more", "streams", "processes"):
        assert f"{way}: weights equal in every bit to those of the same run alone" in printed
    assert "packed: weights within " in printed
    assert cells["streams", 2][0]["steps"] == 2 * 3
    assert cells["alone", 1][0]["images_per_s"] * cells["alone", 1][0]["seconds"] == pytest.approx(20)


def test_the_counts_by_hand():
    """Law: 2 runs of 2 epochs of 3 steps from the first begin, 1.0, to the last end, 3.5: 12 steps in 2.5 s.

    A GPU's memory is that of the device, seen by both; on a CPU each process has its own.
    """
    reports = [
        sweep_members.Report(begin=begin, end=end, mb=mb, device="x")
        for begin, end, mb in ((1, 3, 100), (1.5, 3.5, 120))
    ]
    found = sweep_device._figures(setting(), 2, reports)
    assert found == {"seconds": 2.5, "steps": 12, "steps_per_s": 4.8, "images_per_s": 32, "mb": 220}
    assert sweep_device._figures(setting(device="cuda"), 2, reports)["mb"] == 120


@pytest.mark.parametrize(
    ("found", "said"),
    [
        ({"a": torch.tensor([1.0, 4.0]), "n": torch.tensor(3)}, 0.0),
        ({"a": torch.tensor([1.5, 4.0]), "n": torch.tensor(3)}, 0.125),  # half of one next to a largest of four
        ({"a": torch.tensor([1.0, 4.0]), "n": torch.tensor(2)}, float("inf")),
        ({"a": torch.tensor([1.0, float("nan")]), "n": torch.tensor(3)}, float("inf")),
    ],
)
def test_the_difference_by_hand(tmp_path, found, said):
    """Law: over the tensor's largest value; the farthest tensor of all runs counts; counters are equal or not."""
    for folder, second in (("mine", found), ("reference", {"a": torch.tensor([1.0, 4.0]), "n": torch.tensor(3)})):
        (tmp_path / folder).mkdir()
        save_file({"a": torch.tensor([1.0, 4.0]), "n": torch.tensor(3)}, tmp_path / folder / "0.safetensors")
        save_file(second, tmp_path / folder / "1.safetensors")
    assert sweep_device.difference(tmp_path / "mine", tmp_path / "reference", 1) == 0
    assert sweep_device.difference(tmp_path / "mine", tmp_path / "reference", 2) == said


def figures() -> dict[str, Any]:
    """Return figures worked by hand: alone 10 and 20 steps/s; streams 30 and 80; packed slower in more memory."""
    rates = {("alone", 1): (10, 20), ("streams", 2): (30, 80), ("packed", 2): (25, 40), ("processes", 2): (40, 80)}
    memory = {"alone": 100, "streams": 150, "packed": 200, "processes": 300}
    away = {"alone": 0.0, "streams": 0.0, "packed": 2e-6, "processes": 0.0}
    cells = [
        {"way": way, "runs": runs, "repeat": repeat, "steps_per_s": rate, "images_per_s": 8 * rate}
        | {"mb": memory[way] + repeat, "difference": away[way] * repeat}
        for (way, runs), both in rates.items()
        for repeat, rate in enumerate(both)
    ]
    asked = {"arch": "net", "image_size": 8, "images": 1000, "batch_size": 8, "precision": "bf16", "optimizer": "sgd"}
    left_out = [{"way": "mps", "runs": 2, "why": "no daemon"}]
    return {
        "asked": asked | {"epochs": 3, "repeats": 2, "device": "cuda"},
        "device": "X",
        "cells": cells,
        "left_out": left_out,
    }


def test_the_table_by_hand():
    """Law: ratios are of the same repeat: 30/10 and 80/20; memory and distance are the largest of the repeats."""
    lines = sweep_table.table_lines(figures())
    assert lines[0] == "net, 8x8, 1,000 random images, batch 8, bf16, sgd, 3 epochs timed, 2 repeats, on X"
    assert "| alone | 1 | 15.0 (10.0 to 20.0) | 120 | 1.00 (1.00 to 1.00) | 101 | equal |" in lines
    assert "| streams | 2 | 55.0 (30.0 to 80.0) | 440 | 3.50 (3.00 to 4.00) | 151 | equal |" in lines
    assert "| packed | 2 | 32.5 (25.0 to 40.0) | 260 | 2.25 (2.00 to 2.50) | 201 | 2.0e-06 |" in lines


def test_what_is_read_from_the_table():
    """Law: a way is as good as its worst run; packed needs more memory than streams and is slower: no choice."""
    lines = sweep_table.table_lines(figures())
    assert "streams: weights equal in every bit to those of the same run alone" in lines
    assert "packed: weights within 2.0e-06 of them" in lines
    assert [line for line in lines if line.startswith("fastest")] == [
        "fastest in 101 MB: alone with 1 run, 1.00 of one alone",
        "fastest in 151 MB: streams with 2 runs, 3.50 of one alone",
        "fastest in 301 MB: processes with 2 runs, 4.00 of one alone",
    ]
    assert lines[-1] == "left out: mps with 2 runs: no daemon"


def test_what_cannot_be_asked_is_refused(capsys):
    """Law: unknown ways and odd numbers, before anything runs."""
    for words, said in ((["--ways", "streams,magic"], "expected some of"), (["--runs", "0,2"], "from 1")):
        with pytest.raises(SystemExit):
            sweep_device.main(["--device", "cpu", *words])
        assert said in capsys.readouterr().err
    with pytest.raises(StudyError, match="images for a full batch"):
        sweep_device.main(["--device", "cpu", "--images", "8", "--batch-size", "9"])


def test_without_a_gpu_it_is_refused_before_anything_is_measured(monkeypatch):
    """Law: one line of its own; no process is started that would state it."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sweep_device, "_measure", None)
    with pytest.raises(RayUnlearnError, match=r"^device cuda: this machine has no GPU that torch can use; use"):
        sweep_device.main(["--device", "cuda"])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="replays graphs on streams: needs a GPU")
def test_on_a_gpu_streams_change_no_bit(tmp_path):
    """Law: with deterministic algorithms, four graphs replayed at once give what each gives alone."""
    given = setting(device="cuda", images=164, image_size=32, arch="resnet18")  # a smaller last batch, too
    reference = alone_each(given, tmp_path / "reference", 4)
    measured(given, "streams", [0, 1, 2, 3], tmp_path / "together")
    torch.use_deterministic_algorithms(False)
    assert sweep_device.difference(tmp_path / "together", reference, 4) == 0
