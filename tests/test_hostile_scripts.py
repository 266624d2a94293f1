"""Scripts that do what they like: their runs fail or succeed with a reason, and nothing else is changed or left."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import hostile
import pytest
import torch
from conftest import payload_bytes

from ray_unlearn.generation import generate
from ray_unlearn.generation.summary import Summary
from ray_unlearn.study import Study
from ray_unlearn.usercode import fork_server

ORDINARY = {
    "finetune": {"count": 2},
    "retrained": {"method": "train", "on": "retain", "count": 2},
    "ascent": {"method": "gradient_ascent", "count": 2},
}
EXECUTION = {"max_attempts": 1, "run_timeout_s": hostile.LIMIT_S, "script_memory_gib": hostile.LIMIT_GIB}


def neighbours(folder: Path) -> dict[str, dict[str, object]]:
    """Return populations that no script may disturb: three of methods, and one of a script."""
    (folder / "draws.py").write_text(hostile.DRAWS)
    return ORDINARY | {"draws": {"method": f"{folder}/draws.py:unlearning", "count": 2}}


def ordinary(folder: Path) -> dict[str, bytes]:
    found = payload_bytes(folder / "tiny")
    return {name: data for name, data in found.items() if name.partition("/")[0] in {"original", "draws", *ORDINARY}}


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> dict[str, bytes]:
    """The payloads of the neighbours in a study of their own."""
    from conftest import TINY, merged

    from ray_unlearn.study import parse_study

    folder = tmp_path_factory.mktemp("alone")
    study = parse_study(merged(TINY | {"storage": str(folder)}, {"populations": neighbours(folder)}), where="alone")
    assert generate(study, backend="inline").made == 9
    return ordinary(folder)


def processes(temporary: Path | None = None) -> set[int]:
    """Return the processes of this Python that fork servers are, or that they forked.

    With a folder, those alone that began with temporary files below it: tests in other processes have servers, too.
    """
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().split(b"\0")
            environment = (folder / "environ").read_bytes()
        except OSError:
            continue
        if temporary and f"TMPDIR={temporary}".encode() not in environment:
            continue
        serves = words[0] == sys.executable.encode() and b"usercode.serving" in b"".join(words)
        if serves or words[:3] == [b"sleep", b"600", b""]:
            found.add(int(folder.name))
    return found


def folders(where: str) -> set[Path]:
    return set(Path(where).glob("ru-run-*"))


def surroundings() -> list[object]:
    """Return what a run could change in this process."""
    mask = os.umask(0o077)
    os.umask(mask)
    precision = torch.get_float32_matmul_precision(), bool(torch.backends.mkldnn.enabled)
    return [Path.cwd(), dict(os.environ), mask, torch.get_default_dtype(), torch.get_default_device(), precision]


def check(summary: Summary, made: int) -> None:
    """Check that every script's run ended as its table says."""
    errors = {run.population: error for run, error in summary.failed.items()}
    for name, (_, said) in hostile.SCRIPTS.items():
        assert bool(said) == (name in errors), f"{name}: {errors.get(name, 'it was made')}"
        assert said in errors.get(name, ""), name
    assert summary.made == made + len(hostile.SCRIPTS) - len(errors)


@pytest.fixture
def own_server(tmp_path, monkeypatch):
    """A fork server in an interpreter of its own, as outside of tests, whose folders are in one of the test's own."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    fork_server.stop()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(fork_server, "subprocess", subprocess)
    yield folder
    fork_server.stop()


def test_hostile_scripts_disturb_nothing(tiny: Callable[..., Study], tmp_path: Path, alone, own_server):
    """Law: after them, four populations have the bytes that they have alone; no process and no folder stays, and this
    process is as it was."""
    before = surroundings()
    populations = hostile.populations(tmp_path) | neighbours(tmp_path)  # which are made last
    summary = generate(tiny(populations=populations, execution=EXECUTION), backend="inline")
    check(summary, 9)
    assert ordinary(tmp_path / "store") == alone
    assert surroundings() == before
    assert not folders(str(own_server))
    assert processes(own_server)
    fork_server.stop()
    assert not processes(own_server)
    log = (tmp_path / "store/tiny/log/00000/log.txt").read_bytes()
    assert len(log) < 2**20 + 1
    assert b" bytes are missing here ...]" in log


@pytest.mark.long
@pytest.mark.ray
def test_hostile_scripts_disturb_nothing_on_ray(tiny, tmp_path: Path, alone, ray_cluster):
    """Law: the same on two workers; a worker that is killed takes the processes of its scripts with it.

    Every day, the test above has it for one process, and test_well_behaved_scripts.py has scripts on Ray.
    """
    before, there = processes(), folders(tempfile.gettempdir())
    populations = hostile.populations(tmp_path) | neighbours(tmp_path)  # which are made last
    summary = generate(tiny(populations=populations, execution=EXECUTION), backend="ray", workers=2)
    check(summary, 9)
    assert ordinary(tmp_path / "store") == alone
    fork_server.stop()
    ends_at = time.monotonic() + 30
    while (processes() - before or folders(tempfile.gettempdir()) - there) and time.monotonic() < ends_at:
        time.sleep(0.2)  # servers end when their workers have
    assert not processes() - before
    assert not folders(tempfile.gettempdir()) - there


@pytest.mark.long
def test_twenty_gigabytes_of_log_cost_neither_disk_nor_memory(tiny, tmp_path: Path):
    """Law: they are read and dropped as they come; the log says how many bytes are missing."""
    body = "line = b'x' * 2**24\n    for _ in range(20 * 2**6): os.write(1, line)"
    populations = {"finetune": None} | hostile.populations(tmp_path, {"log": (body, "")})
    assert generate(tiny(populations=populations), backend="inline").made == 2
    log = (tmp_path / "store/tiny/log/00000/log.txt").read_bytes()
    missing = int(log.partition(b"\n[... ")[2].split()[0])
    assert missing + 2**20 > 20 * 2**30 > missing
