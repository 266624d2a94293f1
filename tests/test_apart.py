"""A script's run in a process of its own: what is taken back, and what is left when a command ends."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import forks
import numpy as np
import pytest
import torch
import yaml
from conftest import TINY, merged, payload_bytes
from torch import nn
from waiting import until

from ray_unlearn.errors import MethodError
from ray_unlearn.generation import generate, open_job
from ray_unlearn.run.probe import largest_difference
from ray_unlearn.run.taken_back import load
from ray_unlearn.store import FailedRecord
from ray_unlearn.study import Study
from ray_unlearn.usercode import fork_server

LEFT = {
    "another_head": (
        "net[-1] = torch.nn.Sequential(torch.nn.Dropout(0.5), torch.nn.Linear(net[-1].in_features, 10))",
        "it is without 2 tensors '14.bias', '14.weight'; it is with 2 tensors '14.1.bias', '14.1.weight'",
    ),
    "more_classes": (
        "net[-1] = torch.nn.Linear(net[-1].in_features, 11)",
        "tensor '14.bias' has the shape [11] instead of [10] (2 such)",
    ),
    "half": ("net.half()", "has the type float16 instead of float32 (17 such); net.float()"),
    "double": ("net.double()", "has the type float64 instead of float32 (17 such); net.float()"),
    "mask": (
        "import torch.nn.utils.prune as prune; prune.l1_unstructured(net[0], 'weight', 0.5)",
        "'0.weight_mask', '0.weight_orig'; expected the tensors of the net that it got, with other values; "
        "torch.nn.utils.prune.remove(module, 'weight') makes pruning permanent",
    ),
    "eps": ("net[1].eps = 10.0", "module 1: BatchNorm2d(4, eps=10.0, momentum=0.1"),
    "forward": ("net.forward = lambda x: torch.zeros(len(x), 10)", "module net: another forward function"),
    "hook": ("net[0].register_forward_pre_hook(lambda m, i: (i[0] * 0,))", "module 0: a forward pre-hook"),
    "cannot": ("net.forward = lambda x: 1 / 0", "cannot predict: ZeroDivisionError: division by zero"),
    "no_effect": ("net[0].register_forward_hook(lambda m, i, o: None); net.train(); net.extra = 1", ""),
    "frozen": ("net.requires_grad_(False).eval().to(memory_format=torch.channels_last)", ""),
}


def scripts(folder: Path, bodies: dict[str, str]) -> dict[str, object]:
    """Write a script for each body; return their populations."""
    for name, body in bodies.items():
        (folder / f"{name}.py").write_text(
            f"import os, time\nimport torch\n\n\ndef unlearning(net, *loaders):\n    {body}\n"
        )
    return {name: {"method": f"{folder}/{name}.py:unlearning", "count": 1} for name in bodies}


def test_what_a_checkpoint_does_not_give_is_refused_by_name(tiny: Callable[..., Study], tmp_path):
    """Law: other tensors, types and outputs fail the run and are named, once; what has no effect does not."""
    populations = {"finetune": None} | scripts(tmp_path, {name: body for name, (body, _) in LEFT.items()})
    summary = generate(tiny(populations=populations), backend="inline")
    errors = {run.population: error for run, error in summary.failed.items()}
    assert {name: said in errors.get(name, "") for name, (_, said) in LEFT.items()} == dict.fromkeys(LEFT, True), errors
    assert {name for name, (_, said) in LEFT.items() if said} == set(errors)
    assert {failure.attempts for name in errors for failure in _failures(tiny, populations, name)} == {1}


def _failures(tiny: Callable[..., Study], populations: dict[str, object], name: str) -> list[FailedRecord]:
    job = open_job(tiny(populations={key: populations[key] for key in ("finetune", name)}))
    return list(job.store.failures(name).values())


def test_outputs_are_those_of_the_checkpoint(tiny, tmp_path):
    """Law: a script that leaves nothing but weights publishes what a fresh net with them gives, bit for bit."""
    bodies = {
        "plain": "net[-1].bias.data += 1",
        "formed": "net[-1].bias.data += 1; net.to(memory_format=torch.channels_last)",
    }
    assert generate(tiny(populations={"finetune": None} | scripts(tmp_path, bodies)), backend="inline").failed == {}
    found = payload_bytes(tmp_path / "store/tiny")
    assert found["plain/00000/outputs.arrow"] == found["formed/00000/outputs.arrow"]


NETS = """\
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.net, self.scale = nn.Sequential(nn.Flatten(), nn.Linear(192, num_classes)), 1.0

    def forward(self, x):
        return self.net(x) * self.scale


class Plain(Net):
    pass


class Late(Net):
    def forward(self, x):
        self.steps = getattr(self, "steps", 0) + self.training
        return super().forward(x) * (1 + (self.steps > 2))


class Hooks(Late):
    def forward(self, x):
        if self.training and getattr(self, "steps", 0) == 2:
            self.net[0].register_forward_hook(lambda module, inputs, output: output * 0)
        return super().forward(x)
"""
KEPT_BESIDE = {"Plain": None, "Late": "", "Hooks": "Found: module net.0: a forward hook"}
"""Factory -> what is found of what its net keeps beside its tensors; None where it keeps nothing."""


@pytest.mark.parametrize("factory", KEPT_BESIDE)
def test_a_factorys_net_that_keeps_more_than_tensors_fails_its_runs(tiny, tmp_path, factory: str):
    """Law: also where no script is involved, a run whose checkpoint does not give its outputs is not published.

    What a first step shows is refused before any work (test_cases_nets); this is what begins later.
    """
    (tmp_path / "nets_of_apart.py").write_text(NETS)
    study = tiny(model={"arch": f"nets_of_apart:{factory}", "options": None}, populations={"finetune": {"count": 1}})
    study = study.model_copy(update={"model": study.model.with_folder(str(tmp_path))})
    summary = generate(study, backend="inline")
    found = KEPT_BESIDE[factory]
    if found is None:
        assert (summary.made, summary.failed) == (2, {})
        return
    (error,) = summary.failed.values()
    assert error.startswith(f"model.arch nets_of_apart:{factory}: the net as it was left gives other outputs than its")
    assert found in error
    assert (summary.made, len(summary.blocked)) == (0, 1)


def test_a_loaded_net_has_exactly_the_tensors_that_were_sent():
    """Law: load copies values; a tensor too few is refused."""
    net, other = nn.Linear(3, 2), nn.Linear(3, 2)
    load(net, other.state_dict(), "here")
    assert torch.equal(net.weight, other.weight)
    with pytest.raises(MethodError, match=r"here: .* it is without 1 tensor 'bias'"):
        load(net, {"weight": other.weight.detach()}, "here")


def test_differences_of_logits_are_relative_and_know_nan():
    """Law: worked by hand: 0.5 of 10 is 0.05; NaN equals NaN, and nothing else; shapes differ without end."""
    a = np.array([[10.0, 1.0]])
    assert largest_difference(a, np.array([[10.0, 1.5]])) == pytest.approx(0.05)
    assert largest_difference(np.array([[np.nan, 1.0]]), np.array([[np.nan, 1.0]])) == 0.0
    assert largest_difference(np.array([[np.nan, 1.0]]), np.array([[1.0, 1.0]])) == np.inf
    assert largest_difference(a, a[:, :1]) == np.inf


SPAWNS = """\
from __future__ import annotations

import multiprocessing


def square(number):
    return number * number, __file__


def unlearning(net, *loaders):
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        print(pool.map(square, [3])[0])
    net[-1].bias.data += 1
"""


def test_processes_that_a_script_spawns_find_its_functions(tiny, tmp_path, capsys):
    """Law: a pool of `spawn` calls a function of the script's, whose file is the script's own, and the run is made."""
    (tmp_path / "spawns.py").write_text(SPAWNS)
    mine = {"method": f"{tmp_path}/spawns.py:unlearning", "count": 1}
    study = tiny(populations={"finetune": None, "mine": mine}, execution={"run_timeout_s": 60, "max_attempts": 1})
    assert generate(study, backend="inline", verbose=True).failed == {}
    assert f"(9, '{tmp_path}/spawns.py')" in capsys.readouterr().err


WAITS = """\
open({marks!r}, "w").write(f"{{os.getpid()}} {{os.getcwd()}} {{os.spawnlp(os.P_NOWAIT, 'sleep', 'sleep', '600')}}\\n")
    time.sleep(600)"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)])
def test_a_command_that_ends_takes_its_scripts_with_it(tmp_path, number: signal.Signals, code: int):
    """Law: however the command ends, the script's process, what that started, and its folder are gone soon after."""
    marks, file = tmp_path / "marks", tmp_path / "study.yaml"
    populations = {"finetune": None} | scripts(tmp_path, {"waits": WAITS.format(marks=str(marks))})
    study = merged(TINY | {"storage": str(tmp_path / "store")}, {"populations": populations})
    file.write_text(yaml.safe_dump(study))
    process = forks.start(["generate", str(file), "--backend", "inline"], tmp_path / "said")
    until(lambda: marks.exists() and marks.read_text().endswith("\n"), 120)
    os.kill(process.pid, number)
    process.join(30)
    assert process.exitcode == code
    child, folder, grandchild = marks.read_text().split()
    until(lambda: not (_lives(child) or _lives(grandchild) or Path(folder).parent.exists()), 20)


def _lives(pid: str) -> bool:
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def test_a_server_that_is_gone_is_replaced(tiny, tmp_path):
    """Law: whether it ended for want of work or was killed, the next run gets another one."""
    populations = {"finetune": None} | scripts(tmp_path, {"plain": "net[-1].bias.data += 1"})
    study = tiny(populations=populations)
    with fork_server.fork_server() as server:
        server.do("ray_unlearn.run.child:prepare", {})
        os.kill(server._pid, signal.SIGKILL)
    until(lambda: server.has_ended, 10)
    assert generate(study, backend="inline").made == 2


LOCKED = """\
from pathlib import Path
from ray_unlearn.usercode.serving import _remove
folder, outside = Path("locked"), Path("outside")
(folder / "work/a/b").mkdir(parents=True)
outside.mkdir(0o500)
(folder / "work/a/b/link").symlink_to(outside.absolute())
for place in (folder / "work/a/b", folder / "work/a", folder / "work"):
    place.chmod(0)
_remove(folder)
_remove(folder)
print(folder.exists(), oct(outside.stat().st_mode & 0o777))
"""


@pytest.mark.skipif(os.getuid() == 0 and not shutil.which("setpriv"), reason="nothing is locked for root")
def test_a_folder_is_removed_whatever_rights_the_script_took(tmp_path):
    """Law: locked folders in locked folders, with links, go; what a link leads to keeps its rights."""
    drop = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", "--securebits=+noroot"] if os.getuid() == 0 else []
    done = subprocess.run([*drop, sys.executable, "-c", LOCKED], cwd=tmp_path, capture_output=True, text=True)
    assert (done.stdout, done.returncode) == ("False 0o500\n", 0), done.stderr


def test_a_script_reads_beside_itself_and_is_told_nothing_of_the_store(tiny, tmp_path):
    """Law: files beside the script are found by its __file__; its process holds no description of the store."""
    (tmp_path / "beside.txt").write_text("0.5")
    body = (
        "import gc, pathlib; net[-1].bias.data += float((pathlib.Path(__file__).parent / 'beside.txt').read_text())\n"
        "    assert not [one for one in gc.get_objects() if type(one).__name__ in ('StudyStore', 'Study', 'Job')]"
    )
    populations = {"finetune": None} | scripts(tmp_path, {"reads": body})
    assert generate(tiny(populations=populations), backend="inline").failed == {}


@pytest.mark.skipif(not torch.version.cuda, reason="this torch knows no CUDA")
def test_a_script_may_begin_to_use_a_gpu(tiny, tmp_path):
    """Law: torch lets a script's process use CUDA, also where a script or a factory asked whether there is a GPU.

    To ask CUDA in the server would make torch refuse it to all its forks ("Cannot re-initialize CUDA").
    """
    ask = "import torch\nAVAILABLE = torch.cuda.is_available(), torch.cuda.device_count()\n"
    (tmp_path / "nets_that_ask.py").write_text(ask + NETS)
    body = "assert not torch.cuda._is_in_bad_fork() and torch.cuda.is_available() == (torch.cuda.device_count() > 0)"
    populations = {"finetune": None} | scripts(tmp_path, {"asks": body})
    study = tiny(model={"arch": "nets_that_ask:Plain", "options": None}, populations=populations)
    study = study.model_copy(update={"model": study.model.with_folder(str(tmp_path))})
    assert generate(study, backend="inline").failed == {}


def test_the_cpu_seconds_of_a_script_are_those_of_its_processes(tiny, tmp_path):
    """Law: half a second of work in a child of the script's counts as the run's training; waiting does not."""
    work = "ends = time.process_time() + 0.5\n    while time.process_time() < ends: pass\n    os._exit(0)"
    bodies = {"works": f"if os.fork():\n        return os.wait() and None\n    {work}", "waits": "time.sleep(0.5)"}
    study = tiny(populations={"finetune": None} | scripts(tmp_path, bodies))
    assert generate(study, backend="inline").failed == {}
    store = open_job(study).store
    used = {name: store.made(name)[0].cpu_seconds["train"] for name in bodies}
    assert used["works"] > used["waits"] + 0.4
    assert all(store.made(name)[0].seconds["train"] > 0.5 for name in bodies)
