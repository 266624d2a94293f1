"""A net whose code ends, replaces or doubles its process: refused before any work, and never a success without runs."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import re
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import forks
import pytest
import yaml
from conftest import TINY, merged
from torch import nn

from ray_unlearn.cli import main
from ray_unlearn.errors import ModelError
from ray_unlearn.generation import generate, open_job
from ray_unlearn.generation.checks import Checks
from ray_unlearn.run.packing import train_pack
from ray_unlearn.study import Run, Study, load_study
from ray_unlearn.usercode.exits import Exit, stays, threads_left

NETS = """
import ctypes, itertools, multiprocessing, os, sys, threading, time
from torch import nn

class Net(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                                 nn.Linear(4, num_classes))
    def forward(self, x):
        self.act()
        return self.net(x)
    def act(self):
        pass

class ExitsWhenMade(Net):
    def __init__(self, num_classes):
        os._exit(9)

class ExitsForward(Net):
    def act(self):
        os._exit(9)

class ExitsByC(Net):
    def act(self):
        ctypes.CDLL(None)._exit(9)

class ReplacesProcess(Net):
    def act(self):
        os.execv("/bin/false", ["false"])

CALLS = itertools.count()

class ExitsAtOneImage(Net):
    def forward(self, x):
        if len(x) == 1:
            sys.exit(0)
        return super().forward(x)

class ExitsLate(Net):
    def forward(self, x):
        if self.training and len(x) > 8:
            os._exit(9)
        return super().forward(x)

class Forks(Net):
    def act(self):
        os.fork()

class Crashes(Net):
    def act(self):
        ctypes.string_at(0)

def works():
    pass

class StartsThreads(Net):
    def act(self):
        if next(CALLS) == 0:
            process = multiprocessing.get_context("fork").Process(target=works)
            process.start()
            process.join()
            assert process.exitcode == 0
            threading.Thread(target=time.sleep, args=(1000,)).start()
"""
"""They exit with 9, not 0: where one is not met, pytest ends with it."""
EXITS = "import os\nos._exit(9)\n"
REFUSED = {
    "exits_at_import:net": r"model\.arch: 'exits_at_import:net' cannot be imported \(os\._exit\(9\)\)",
    "nets_of_exits:ExitsWhenMade": r"the factory fails: Exit: it calls os\._exit\(9\) \(nets_of_exits\.py:\d+\)",
    "nets_of_exits:ExitsForward": r"fails on images of 8x8 pixels: it calls os\._exit\(9\) \(nets_of_exits\.py:\d+\)",
    "nets_of_exits:ExitsByC": r"fails on images of 8x8 pixels: it calls _exit of the C library",
    "nets_of_exits:ReplacesProcess": r"fails on images of 8x8 pixels: it calls os\.exec\*\(b?'/bin/false'\)",
    "nets_of_exits:Forks": r"fails on images of 8x8 pixels: it calls os\.fork\(\) \(nets_of_exits\.py:\d+\)",
    "nets_of_exits:ExitsAtOneImage": r"it calls sys\.exit\(0\), and it is executed in this command's process",
}


@pytest.fixture
def study(tmp_path: Path) -> Callable[..., Study]:
    """Return a function: a net of NETS, changes -> a study in whose folder the net is."""
    (tmp_path / "nets_of_exits.py").write_text(NETS)
    (tmp_path / "exits_at_import.py").write_text(EXITS)

    def make(arch: str, **changes: Any) -> Study:
        tree = merged(TINY | {"storage": str(tmp_path / "store")}, {"model": {"arch": arch, "options": None}} | changes)
        (tmp_path / "study.yaml").write_text(yaml.safe_dump(tree))
        return load_study(tmp_path / "study.yaml")

    return make


@pytest.mark.parametrize("arch", REFUSED)
def test_a_net_that_ends_its_process_is_refused(arch: str, study):
    """Law: `generate` and `plan` go on, and say which net ends them, by which call, and where it is written."""
    made = study(arch)
    with pytest.raises(ModelError, match=REFUSED[arch]):
        open_job(made)
    checks = Checks(made.model_copy(update={"data": made.data.model_copy(update={"classes": 10})}))
    checks.before_torch()
    checks.with_torch()
    assert re.search("it calls|os._exit", "".join(checks.problems))


def test_a_net_that_ends_its_process_later_fails_its_runs(study):
    """Law: in this process, too, such a run is a failed one, and the command says so by its exit code."""
    summary = generate(study("nets_of_exits:ExitsLate"), backend="inline")
    assert (summary.made, summary.exit_code) == (0, 3), summary
    assert "os._exit(9)" in str(summary.failed)


def test_a_net_that_ends_its_process_in_a_pack_fails_the_packs_runs(monkeypatch: pytest.MonkeyPatch):
    """Law: the error is that of each run of the pack, not of the worker."""
    monkeypatch.setattr("ray_unlearn.run.packing.Pack.train", lambda pack: os._exit(0))
    runs = [Run(population="a", index=index) for index in range(2)]
    found = train_pack(runs, 2, lambda run: None, lambda *_: nn.Identity())  # type: ignore[arg-type, return-value]
    for run in runs:
        with pytest.raises(Exit, match=r"os\._exit\(0\)"):
            found[run].trained()


def test_a_net_that_starts_a_thread_ends_with_its_command(study, tmp_path: Path):
    """Law: a command ends when its work does, although a thread of the net goes on; processes that end are allowed."""
    study("nets_of_exits:StartsThreads")
    done = forks.run(["generate", str(tmp_path / "study.yaml"), "--backend", "inline"], timeout_s=60)
    assert done.returncode == 0, done.stderr
    assert "left a thread running (Thread-" in done.stderr
    assert "made 4 runs" in done.stdout


def test_an_exit_that_nothing_else_meets_is_an_error_of_the_command(study, tmp_path: Path, monkeypatch, capsys):
    """Law: no command ends with exit code 0 because a user's code ended Python."""
    study("nets_of_exits:Net")

    def leaves(*_: object) -> None:
        raise SystemExit(0)

    monkeypatch.setattr("ray_unlearn.generation.driver.check_files", leaves)
    assert main(["generate", str(tmp_path / "study.yaml")]) == 1
    assert "error: it calls sys.exit(0): code of a net, a method or a plugin" in capsys.readouterr().err


def test_a_crash_of_c_code_shows_the_line_of_the_net(study, tmp_path: Path):
    """Law: what Python cannot catch ends the command by its signal, and the net's line is on standard error."""
    study("nets_of_exits:Crashes")
    done = forks.run(["generate", str(tmp_path / "study.yaml"), "--backend", "inline"], timeout_s=60)
    assert done.returncode == -signal.SIGSEGV
    assert re.search(r'nets_of_exits\.py", line \d+ in act', done.stderr)


def test_a_copy_of_the_process_ends_where_the_block_does():
    """Law: a fork by C code, which Python does not see, does not get behind the block."""
    process, fork_of_c = os.getpid(), ctypes.PyDLL(None).fork
    with stays():
        copy = fork_of_c()
    if os.getpid() != process:
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(copy, 0)[1]) == 1


def test_processes_that_end_by_themselves_are_allowed(monkeypatch: pytest.MonkeyPatch):
    """Law: `os.spawn*` and pools may fork, also where a debugger has its own `os.fork`; an open pool is no thread."""
    fork = os.fork

    def of_debugger() -> int:
        return fork()

    monkeypatch.setattr("os.fork", of_debugger)
    with stays():
        assert os.spawnv(os.P_WAIT, "/bin/true", ["true"]) == 0  # noqa: S606
        pool = ProcessPoolExecutor(1, multiprocessing.get_context("fork"))
        assert pool.submit(abs, -1).result() == 1
        with pytest.raises(Exit, match=r"os\.fork\(\)"):
            os.fork()
    assert threads_left() == []
    pool.shutdown()


def test_outside_the_block_and_in_other_threads_a_process_may_end(monkeypatch: pytest.MonkeyPatch):
    """Law: what watches over a command ends it, and threads count that the block's own code started."""
    ended: list[int] = []
    monkeypatch.setattr("ray_unlearn.usercode.exits._EXIT", ended.append)
    over = threading.Event()
    other = threading.Thread(target=lambda: os._exit(143))
    own = threading.Thread(target=over.wait, name="own")
    with stays():
        own.start()
        with pytest.raises(Exit, match=r"os\._exit\(2\)"):
            os._exit(2)
        with pytest.raises(ModelError, match=r"net x: it calls os\._exit\(3\), and"), stays("net x"):
            os._exit(3)
        threading.Thread(target=over.wait, daemon=True).start()
        executor = ThreadPoolExecutor(1)
        executor.submit(int)
    other.start()
    other.join()
    os._exit(4)
    assert ended == [143, 4]
    assert threads_left() == ["own"]
    over.set()
    own.join()
    executor.shutdown()
    assert threads_left() == []
