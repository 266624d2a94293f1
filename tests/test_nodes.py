"""Clusters of two and three nodes: one joins, one is killed, one is drained; the bytes are one machine's."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from clusters import drain, generating, nodes
from conftest import merged, payload_bytes
from slow import hurry, records_in, slow_study

from ray_unlearn.generation import generate
from ray_unlearn.study import load_study

pytestmark = [pytest.mark.long, pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]  # which made a token

COUNT = 90
GPU_NODE = {"num_cpus": 2, "num_gpus": 1}  # no one looks at it: the device is the CPU, a worker only takes its GPU


@pytest.fixture(autouse=True)
def quick_to_see(monkeypatch: pytest.MonkeyPatch) -> None:
    """A node that is dead is known to be after a second."""
    monkeypatch.setenv("RAY_health_check_period_ms", "500")
    monkeypatch.setenv("RAY_health_check_failure_threshold", "2")


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The payloads of the same study, made in this process."""
    study = study_in(tmp_path_factory.mktemp("alone") / "study")
    hurry(study.parent)
    assert generate(load_study(study), backend="inline").made == COUNT + 1
    return payload_bytes(study.parent / "store/tiny")


def study_in(folder: Path, **execution: object) -> Path:
    """Write a study of COUNT runs of 0.3 s, a GPU for each worker; return its file."""
    tree = merged(slow_study(folder, COUNT), {"execution": {"gpus_per_worker": 1, "max_attempts": 1, **execution}})
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(tree))
    return path


def whole(study: Path, alone: dict[str, bytes]) -> bool:
    """Return whether every payload is there, and is what one process makes."""
    found = payload_bytes(study.parent / "store/tiny")
    return {name: data for name, data in found.items() if ".tmp-" not in name} == alone


def ready(said: str) -> int:
    return said.count("worker ready")


def rates(study: Path, joined_at: float) -> tuple[float, float]:
    """Return the runs per second before and after."""
    times = sorted(path.stat().st_mtime for path in study.parent.glob("store/tiny/mine/0*/record.json"))
    before, after = ([when for when in times if (when < joined_at) == early] for early in (True, False))
    return tuple((len(part) - 1) / (part[-1] - part[0]) for part in (before, after))  # type: ignore[return-value]


def test_a_node_that_joins_gets_a_worker_and_the_rate_goes_up(tmp_path: Path, alone: dict[str, bytes]):
    """Law: with no flag, a worker on the one GPU, then on two: half again as many runs per second and more."""
    study = study_in(tmp_path / "study")
    with nodes(GPU_NODE) as cluster, generating(study, cluster.address) as driver:
        driver.wait_for(lambda: records_in(study.parent) >= 6)
        assert ready(driver.said) == 1
        cluster.add_node(**GPU_NODE)
        driver.wait_for(lambda: ready(driver.said) == 2)
        joined_at = max(path.stat().st_mtime for path in study.parent.glob("store/tiny/mine/0*/record.json"))
        assert driver.finish() == 0, driver.said
    before, after = rates(study, joined_at)
    print(f"{before:.2f} runs/s with one node, {after:.2f} with two")
    assert after > 1.5 * before
    assert whole(study, alone)


def test_a_node_that_is_killed_is_no_runs_fault(tmp_path: Path, alone: dict[str, bytes]):
    """Law: with one attempt a run, two nodes of three die under them: all runs are made on what is left."""
    study = study_in(tmp_path / "study")
    with nodes(GPU_NODE, GPU_NODE, GPU_NODE) as cluster, generating(study, cluster.address) as driver:
        for count in (2, 12):
            driver.wait_for(lambda least=count: records_in(study.parent) >= least and ready(driver.said) == 3)
            victim = next(iter(cluster.worker_nodes))
            cluster.remove_node(victim, allow_graceful=False)
        assert driver.finish() == 0, driver.said
    assert f"{COUNT + 1} of {COUNT + 1} done, 0 failed" in driver.said
    assert "retrying mine/" in driver.said
    assert whole(study, alone)


def test_a_run_that_two_nodes_die_under_is_made(tmp_path: Path):
    """Law: with one attempt, a worker that dies twice with the same run costs it its chance; nodes that die do not."""
    study = study_in(tmp_path / "study", workers=1)
    waits_for(study, "go")
    with nodes(GPU_NODE, GPU_NODE, GPU_NODE) as cluster, generating(study, cluster.address) as driver:
        for number in (1, 2):
            driver.wait_for(lambda number=number: given(study, "mine/00000") == number)
            cluster.remove_node(node_of(cluster, driver.said), allow_graceful=False)
        driver.wait_for(lambda: given(study, "mine/00000") == 3)
        (study.parent / "go").touch()
        assert driver.finish() == 0, driver.said
    assert driver.said.count("retrying mine/00000") == 2
    assert f"{COUNT + 1} of {COUNT + 1} done, 0 failed" in driver.said


def waits_for(study: Path, name: str) -> None:
    """Let every run take 30 s, or none once there is a file of this name in the study's folder."""
    net = study.parent / "slow_net.py"
    net.write_text(net.read_text().replace("0.1", "10").replace('"quickly"', repr(name)))


def given(study: Path, run: str) -> int:
    """Return how often a run was given to a worker."""
    logs = "".join(path.read_text() for path in study.parent.glob("store/tiny/events/*"))
    return sum('"event":"given"' in line and f'"{run}"' in line.partition('"again"')[0] for line in logs.splitlines())


def node_of(cluster: Any, said: str) -> Any:
    """Return the node of the worker that was ready last: a worker's parent is its node's raylet."""
    pid = re.findall(r"worker ready: .*pid (\d+)", said)[-1]
    parent = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return next(node for node in cluster.worker_nodes if node.all_processes["raylet"][0].process.pid == parent)


def test_the_runs_of_a_node_that_drains_move(tmp_path: Path, alone: dict[str, bytes]):
    """Law: a notice of 60 s: its worker finishes its run, nothing is made twice; the other node has both workers."""
    study = study_in(tmp_path / "study", workers=2)
    with nodes(GPU_NODE) as cluster, generating(study, cluster.address) as driver:
        small = next(iter(cluster.worker_nodes))
        cluster.add_node(num_cpus=2, num_gpus=2)
        driver.wait_for(lambda: ready(driver.said) == 2 and records_in(study.parent) >= 4)
        drain(cluster.address, small.node_id, 60)
        driver.wait_for(lambda: "is drained and removed in" in driver.said and ready(driver.said) == 3)
        cluster.remove_node(small, allow_graceful=False)  # it has let its worker go already
        assert driver.finish() == 0, driver.said
    assert "again:" not in driver.said
    assert whole(study, alone)


def test_what_a_node_does_not_finish_before_it_goes_is_taken_back(tmp_path: Path):
    """Law: a notice of 8 s for a run of 30: it is taken back, and made elsewhere by a worker that waits for a place."""
    study = study_in(tmp_path / "study", workers=1)
    waits_for(study, "second")
    with nodes(GPU_NODE) as cluster, generating(study, cluster.address) as driver:
        driver.wait_for(lambda: records_in(study.parent) == 1 and ready(driver.said) == 1)
        first = next(iter(cluster.worker_nodes))
        drain(cluster.address, first.node_id, 8)
        (study.parent / "second").touch()
        driver.wait_for(lambda: "is removed now" in driver.said)
        cluster.remove_node(first, allow_graceful=False)
        cluster.add_node(**GPU_NODE)
        assert driver.finish() == 0, driver.said
    assert "retrying mine/00000 (attempt 1 of 1): node" in driver.said
    assert records_in(study.parent) == COUNT + 1
