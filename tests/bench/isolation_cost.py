"""What a process of its own costs a script's run: the same calls in this process and apart, alternately.

    uv run python tests/bench/isolation_cost.py                  # runs of about 10 ms, 1 s and 30 s
    uv run python tests/bench/isolation_cost.py --seconds 0.01 1 --repeats 20

A run is a script that trains small_cnn on digits for some batches, so many that it takes about that long here. Prints
the median seconds of each kind, by the clock and of the CPU (of a machine with other work, the latter say more), and
how long a fork server takes to start. Needs neither a GPU nor Ray.

Does not cover: GPUs, where each process makes a context of its own.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path

import torch
from torch import nn

from ray_unlearn.generation import generate, open_job
from ray_unlearn.run.apart import RunsApart
from ray_unlearn.run.run_log import RunLog
from ray_unlearn.run.worker import Worker
from ray_unlearn.seeds import Seeds
from ray_unlearn.study import Run, Study, parse_study
from ray_unlearn.usercode import fork_server

SCRIPT = """\
import itertools, torch


def unlearning(net, retain, forget, val):
    optimizer = torch.optim.SGD(net.parameters(), lr=0.001)
    net.train()
    batches = itertools.islice(itertools.chain.from_iterable(itertools.repeat(retain)), {batches})
    for batch in batches:
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(net(batch["image"]), batch["age_group"]).backward()
        optimizer.step()
"""


def study_of(folder: Path, batches: int) -> Study:
    """Return a study with one original and runs of a script that trains on so many batches."""
    (folder / f"train{batches}.py").write_text(SCRIPT.format(batches=batches), encoding="utf-8")
    return parse_study(
        {
            "name": f"cost{batches}",
            "storage": str(folder / "store"),
            "data": {
                "train": "digits",
                "test": "digits",
                "image_size": 8,
                "validation": 0.1,
                "forget": {"fraction": 0.1},
            },
            "model": {"arch": "small_cnn"},
            "training": {"epochs": 1},
            "populations": {
                "original": {"method": "train", "on": "train"},
                "mine": {"method": f"{folder}/train{batches}.py:unlearning", "count": 1},
            },
            "execution": {"device": "cpu"},
        },
        where="isolation_cost",
    )


class Both:
    """One script's runs, made here and apart."""

    def __init__(self, folder: Path, batches: int) -> None:
        study = study_of(folder, batches)
        generate(study, backend="inline", only=["original"])
        self.worker = Worker(open_job(study), "cpu")
        self.worker.open()
        self.runs = RunsApart(self.worker._job, torch.device("cpu"), self.worker._sets, self.worker._train)

    def here(self, index: int) -> nn.Module:
        """Make a run in this process."""
        return self.worker.trained_here(_run(index)[0])

    def apart(self, index: int) -> nn.Module:
        """Make a run in a process of its own."""
        (run, rng), start = _run(index), Run(population="original", index=0)
        return self.runs.made(run, rng, start, self.worker._starts.original(start)[1], RunLog())

    def cpu_s(self) -> float:
        """Return the CPU seconds of this process, of the fork server, and of what that forked."""
        with fork_server.fork_server() as server:
            fields = Path(f"/proc/{server._pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
        return time.process_time() + sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


def _run(index: int) -> tuple[Run, Seeds]:
    return Run(population="mine", index=index), Seeds(study=0, population="mine", run=index)


def seconds_of(both: Both, repeats: int) -> list[float]:
    """Return median seconds of runs here and apart, made alternately after one of each, and their CPU seconds."""
    found: list[list[float]] = [[], [], [], []]
    for index in range(repeats + 1):
        for place, make in enumerate((both.here, both.apart)):
            start, used = time.perf_counter(), both.cpu_s()
            make(index)
            if index:
                found[place].append(time.perf_counter() - start)
                found[place + 2].append(both.cpu_s() - used)
    return [statistics.median(values) for values in found]


def started() -> float:
    """Return the seconds from the start of a fork server until it has imported everything, and answers."""
    fork_server.stop()
    start = time.perf_counter()
    with fork_server.fork_server() as server:
        server.do("ray_unlearn.run.child:prepare", {})  # an answer, after its imports; a second time, it does little
    return time.perf_counter() - start


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Cost of a script's own process.")
    parser.add_argument("--seconds", type=float, nargs="+", default=[0.01, 1.0, 30.0])
    parser.add_argument("--repeats", type=int, default=0, help="runs of each kind; default: by their length")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        first = Both(folder, 10)
        first.apart(0)  # starts the server
        per_batch = seconds_of(first, 5)[0] / 10
        print("| run | batches | here | apart | difference | CPU here | apart | difference |\n" + "|---" * 8 + "|")
        for seconds in options.seconds:
            batches = max(1, round(seconds / per_batch))
            both = Both(folder, batches)
            repeats = options.repeats or (30 if seconds < 0.5 else 5 if seconds < 10 else 2)
            both.apart(0)
            here, apart, cpu_here, cpu_apart = seconds_of(both, repeats)
            clock = f"{here:.3f} s | {apart:.3f} s | {apart - here:+.3f} s"
            cpu = f"{cpu_here:.3f} s | {cpu_apart:.3f} s | {cpu_apart - cpu_here:+.3f} s"
            print(f"| {seconds:g} s | {batches} | {clock} | {cpu} |", flush=True)
    print(f"\nA fork server answers {statistics.median(started() for _ in range(3)):.1f} s after its start.")
    fork_server.stop()


if __name__ == "__main__":
    main()
