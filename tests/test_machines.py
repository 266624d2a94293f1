"""Three machines that share a network and nothing else: storage on S3, one drops off, the bytes are one process's."""

from __future__ import annotations

import sys
from pathlib import Path

import machines
import pytest
import yaml
from conftest import TINY, merged
from s3 import moto_server
from s3_cycle import payloads
from waiting import until

from ray_unlearn.generation import generate
from ray_unlearn.store import StudyStore, open_storage
from ray_unlearn.study import parse_study

COUNT = 120
RAY = (sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--object-store-memory", str(100 * 2**20))
ENVIRONMENT = {
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN": "0123456789abcdef" * 4,
    "HOME": "/tmp",
    "RAY_health_check_period_ms": "500",
    "RAY_health_check_failure_threshold": "4",
}


@pytest.mark.long
@pytest.mark.ray
@pytest.mark.skipif(not machines.possible(), reason="needs root, ip and nsenter, to make network namespaces")
def test_a_study_on_machines_that_share_nothing_but_the_network(tmp_path: Path):
    """Law: no shared disk; one of two working machines is unplugged: every run is made, and no byte is another."""
    tree = merged(TINY, {"populations": {"finetune": {"count": COUNT}}, "execution": {"max_attempts": 1}})
    with machines.machines(3, tmp_path) as (head, *others), moto_server(machines.gateway()) as server:
        server.make_bucket("bucket")
        tree["storage"] = server.uri("bucket/studies")
        (head.folder / "study.yaml").write_text(yaml.safe_dump(tree))
        at = f"{head.address}:6379"
        own = ("--node-ip-address", head.address, "--num-cpus", "0", "--include-dashboard", "false")
        head.start(*RAY, "--head", "--port", "6379", *own, **ENVIRONMENT)
        until(lambda: "Ray runtime started" in head.log(), said=head.log)
        for other in others:
            join = ("--address", at, "--node-ip-address", other.address, "--num-cpus", "1")
            other.start(*RAY, *join, **ENVIRONMENT)
        for other in others:
            until(lambda o=other: "Ray runtime started" in o.log(), said=other.log)
        command = (sys.executable, "-m", "ray_unlearn.cli", "generate", "/tmp/study.yaml", "--address", at)
        driver = head.run(*command, **ENVIRONMENT)
        store = StudyStore(open_storage(tree["storage"]), "tiny")
        until(lambda: len(store.indexes("finetune")) >= 10 or driver.poll() is not None, said=head.log)
        others[0].unplug()
        said, _ = driver.communicate(timeout=200)
        assert driver.returncode == 0, said
        assert said.count("worker ready") >= 2, said
        found = payloads(store)
    plain = parse_study(tree | {"storage": str(tmp_path / "plain")}, where="plain")
    assert generate(plain, backend="inline").made == COUNT + 1
    print("\n".join(line for line in said.splitlines() if "again" in line or "made" in line))
    assert found == payloads(StudyStore(open_storage(str(tmp_path / "plain")), "tiny"))
