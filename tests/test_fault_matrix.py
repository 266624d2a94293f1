"""The fault matrix, short form: every named point x worker, driver, node; nothing is lost or false after it.

The long form, with random kills in addition, is tests/stress/chaos.py.
"""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from conftest import TINY, merged, payload_bytes
from forks import forked
from safetensors.torch import save_file

from ray_unlearn.generation import generate
from ray_unlearn.models import small_cnn
from ray_unlearn.store import StudyStore, open_storage
from ray_unlearn.store.verify import verify
from ray_unlearn.study import load_study

STRESS = Path(__file__).resolve().parent / "stress"
sys.path.insert(0, str(STRESS))
import faults  # noqa: E402 - these are scripts, not a package

COUNT = 5


def write_study(folder: Path, **execution: Any) -> Path:
    """Write a study of one imported original and COUNT runs that obey orders; return its file."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(STRESS / "faults.py", folder)
    shutil.copy(STRESS / "chaos_net.py", folder / "obeying.py")  # chaos_net is on this process's path already
    with torch.random.fork_rng():
        torch.manual_seed(0)
        save_file(small_cnn(10, width=4).state_dict(), folder / "original.safetensors")
    populations = {
        "original": {"weights": str(folder / "original.safetensors")},
        "mine": {"method": "finetune", "count": COUNT, "noise_std": 0.01},
    }
    model = {"arch": "obeying:make", "options": {"width": 4}}
    changes = {"storage": str(folder / "store"), "model": model, "execution": {"max_attempts": 9, **execution}}
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(merged(TINY, changes) | {"populations": populations}))
    return path


def made(folder: Path) -> set[str]:
    """Return the runs that are recorded."""
    return {str(path.parent) for path in folder.glob("store/tiny/*/0*/record.json")}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Return the payloads of a study that no one disturbed."""
    folder = tmp_path_factory.mktemp("undisturbed") / "study"
    assert generate(load_study(write_study(folder)), backend="inline").made == COUNT + 1
    return payload_bytes(folder / "store/tiny")


def assert_whole(folder: Path, before: set[str], undisturbed: dict[str, bytes]) -> None:
    """Nothing that was recorded is lost, every payload is what its record states, and the bytes are the undisturbed."""
    assert before <= made(folder)
    assert len(made(folder)) == COUNT + 1
    store = StudyStore(open_storage(str(folder / "store")), "tiny")
    checked = verify(store, store.populations())
    assert (checked.runs, checked.problems) == (COUNT + 1, ())
    assert payload_bytes(folder / "store/tiny") == undisturbed


def test_what_ray_lost_is_read_from_its_logs(tmp_path: Path):
    """Law: requests and replies are distinguished; a log without an injection counts nothing."""
    import chaos

    said = "[2026-11-24 15:00:00,000 I 1 1] rpc_chaos.cc:1: Inject RPC {} failure for CoreWorkerService.PushTask\n"
    (tmp_path / "python-core-driver-01_1.log").write_text(said.format("request") * 2 + said.format("response"))
    (tmp_path / "python-core-worker-01_2.log").write_text("Injection-Date\n" + said.format("request"))
    (tmp_path / "gcs_server.out").write_text(said.format("response"))
    (tmp_path / "raylet.out").write_text("nothing\n")
    assert chaos.lost_calls(tmp_path) == {"request": 3, "response": 2}


def test_the_minutes_alone_decide_how_long_chaos_kills(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any):
    """Law: 1 minute of steps of 4 s are 15, no matter what is killed in them; `--kills 20` at one a step are 20
    steps, 80 s.

    A line states how far it is, every 15 s: after 16, 32 and 48 of the first 60.
    """
    import chaos

    now = [0.0]
    monkeypatch.setattr(chaos.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(sys, "argv", ["chaos.py", "--minutes", "1"])

    def steps(kills: int) -> int:
        disturbed = chaos.Chaos.__new__(chaos.Chaos)
        disturbed.kills, disturbed.ordered = Counter[str](), []
        disturbed.study = SimpleNamespace(lost=set, seen=set("ab"))

        def step() -> None:
            now[0] += 4
            disturbed.kills["node, at random"] += 1

        disturbed.step = step
        chaos.disturb(disturbed, chaos.parse().minutes, kills)
        return disturbed.died().total()

    assert steps(chaos.parse().kills) == 15
    lines = capsys.readouterr().err.splitlines()
    assert lines == [f"{m} min: {n} kills ({n} nodes), 2 runs made" for m, n in ((0.3, 4), (0.5, 8), (0.8, 12))]
    assert steps(20) == 20


def test_the_dead_are_counted_by_victim_and_point(tmp_path: Path):
    """Law: who died at random and who died on order are added up; an order that no one met is none."""
    import chaos

    disturbed = chaos.Chaos.__new__(chaos.Chaos)
    disturbed.kills = Counter({"node, at random": 2})
    disturbed.ordered = [tmp_path / "met", tmp_path / "not"]
    disturbed.ordered[0].write_text("worker after record")
    assert disturbed.died() == {"node, at random": 2, "worker, after record": 1}
    assert chaos.progress(0.25, disturbed.died(), 7) == "0.2 min: 3 kills (2 nodes, 1 worker), 7 runs made"


@pytest.mark.parametrize("alive", [[False, False], [True, False]])
def test_a_driver_may_give_up_only_where_no_node_is_alive(alive: list[bool], tmp_path: Path):
    """Law: workers that cannot start are excused by nodes that are gone; with one of two alive they are an error."""
    import chaos

    def process(is_alive: bool) -> Any:
        return SimpleNamespace(poll=lambda: None if is_alive else -9)

    nodes = [SimpleNamespace(all_processes={"raylet": [SimpleNamespace(process=process(one))]}) for one in alive]
    disturbed = chaos.Chaos.__new__(chaos.Chaos)
    disturbed.nodes = nodes
    disturbed.log = SimpleNamespace(name=tmp_path / "driver.log")
    disturbed.log.name.write_text("error: 10 workers in a row could not start: died\n")
    assert disturbed.had_no_nodes() is not any(alive)
    disturbed.log.name.write_text("error: something else\n")
    assert not disturbed.had_no_nodes()


# The driver: inline, so that it is the worker, too


def _in_a_process(point: str, arguments: list[str]) -> None:
    sys.exit(faults.main([point, "--", *arguments]))


def die(point: str, *arguments: str) -> None:
    """Run a command in a process that is killed at `point`."""
    process = forked(_in_a_process, point, list(arguments))
    process.join(120)
    assert process.exitcode == -signal.SIGKILL, f"never came to {point!r}: exit code {process.exitcode}"


@pytest.mark.parametrize("point", faults.PUBLICATION)
def test_the_driver_dies_while_a_run_is_published(point, tmp_path, undisturbed):
    """Law: no matter what the point, the same command makes what is missing, and the bytes are an undisturbed
    study's.
    """
    study = write_study(tmp_path / "study")
    die(point, "generate", str(study), "--backend", "inline")
    before = made(study.parent)
    assert len(before) == (1 if point == "after record" else 0)
    summary = generate(load_study(study), backend="inline")
    assert (summary.already, summary.made) == (len(before), COUNT + 1 - len(before))
    assert_whole(study.parent, before, undisturbed)
    assert not list(study.parent.rglob(".tmp-*"))


@pytest.mark.parametrize("point", faults.DRIVER_ALONE)
def test_the_driver_dies_at_its_own_work(point, tmp_path, undisturbed):
    """Law: a resume, a compaction or a repair that is cut short costs time and nothing else."""
    study = write_study(tmp_path / "study")
    if point == "during compaction":
        die(point, "generate", str(study), "--backend", "inline")
        assert len(made(study.parent)) == COUNT + 1
    else:
        assert generate(load_study(study), backend="inline").made == COUNT + 1
    before = made(study.parent)
    if point == "during resume":
        die(point, "generate", str(study), "--backend", "inline")
    elif point == "during verify --repair":
        damaged = study.parent / "store/tiny/mine/00003/model.safetensors"
        damaged.write_bytes(damaged.read_bytes()[:-1])
        before.discard(str(damaged.parent))
        die(point, "verify", str(study), "--repair")
        assert str(damaged.parent) not in made(study.parent)
    assert generate(load_study(study), backend="inline").made == COUNT + 1 - len(before)
    assert_whole(study.parent, before, undisturbed)


# Workers and nodes: through Ray


@pytest.mark.long
def test_workers_die_while_runs_are_published(tmp_path, ray_cluster, undisturbed):
    """Law: a worker that dies at any point is replaced, and what it had in hand is made again, to the same bytes.

    test_ray.py has it for a worker that is killed between two points, every day.
    """
    study, points = write_study(tmp_path / "study"), faults.PUBLICATION
    done = [faults.order(study.parent, point, "worker") for point in points]
    summary = generate(load_study(study), backend="ray", workers=2)
    assert summary.exit_code == 0
    assert [path.read_text() for path in done] == [f"worker {point}" for point in points]
    assert_whole(study.parent, set(), undisturbed)


@pytest.mark.long
def test_nodes_die_while_runs_are_published(tmp_path, ray_cluster, undisturbed, monkeypatch):  # which made a token
    """Law: a node that dies takes its workers along; the others go on, to the same bytes."""
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("RAY_health_check_period_ms", "500")
    monkeypatch.setenv("RAY_health_check_failure_threshold", "2")
    study, points = write_study(tmp_path / "study", workers=2), faults.PUBLICATION
    done = [faults.order(study.parent, point, "node") for point in points]
    small = {"object_store_memory": 100 * 2**20}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False, **small})
    try:
        for _ in range(len(done) + 1):
            cluster.add_node(wait=False, num_cpus=1, **small)
        cluster.wait_for_nodes()
        command = [sys.executable, "-m", "ray_unlearn.cli", "generate", str(study), "--address", cluster.address]
        finished = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    finally:
        cluster.shutdown()
    assert finished.returncode == 0, finished.stderr
    assert [path.read_text() for path in done] == [f"node {point}" for point in points]
    assert_whole(study.parent, set(), undisturbed)
