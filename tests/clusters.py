"""Clusters of several nodes on this machine, and the command that makes a study on one.

    with nodes(head, {"num_cpus": 1}) as cluster:
        with generating(study, cluster.address) as driver:
            ...                                  # nodes join, die, drain
        driver.returncode, driver.said

Needs Ray's token, which the fixture `ray_cluster` has made.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

SMALL = {"object_store_memory": 100 * 2**20}


@contextmanager
def nodes(*resources: dict[str, Any]) -> Iterator[Any]:
    """Start a head that holds no worker, and a node with each of the resources."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False, **SMALL})
    try:
        for each in resources:
            cluster.add_node(wait=False, **each, **SMALL)
        cluster.wait_for_nodes()
        yield cluster
    finally:
        cluster.shutdown()


class Driver:
    """A `generate` of its own process."""

    def __init__(self, study: Path, address: str, *options: str) -> None:
        self._log = study.with_suffix(".log")
        with self._log.open("w") as log:
            command = [sys.executable, "-m", "ray_unlearn.cli", "generate", str(study), "--address", address, *options]
            self._process = subprocess.Popen(command, stdout=log, stderr=log)

    @property
    def said(self) -> str:
        """All that it has printed so far."""
        return self._log.read_text()

    def wait_for(self, condition: Callable[[], bool], limit_s: float = 120.0) -> None:
        """Wait until something is so, while the driver lives."""
        end = time.monotonic() + limit_s
        while not condition():
            assert time.monotonic() < end, f"not within {limit_s:g} s:\n{self.said}"
            assert self._process.poll() is None, f"the driver has ended:\n{self.said}"
            time.sleep(0.05)

    def finish(self, limit_s: float = 200.0) -> int:
        """Return the exit code."""
        return self._process.wait(limit_s)

    def kill(self) -> None:
        """End it, if it has not ended."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()


@contextmanager
def generating(study: Path, address: str, *options: str) -> Iterator[Driver]:
    """Make a study on a cluster meanwhile."""
    driver = Driver(study, address, *options)
    try:
        yield driver
    finally:
        driver.kill()


def drain(address: str, node_id: str, seconds: float) -> None:
    """Announce to the cluster that a node leaves, as `ray drain-node` does for a spot market's notice."""
    import ray
    from ray.core.generated import autoscaler_pb2

    reason = autoscaler_pb2.DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
    deadline_ms = int((time.time() + seconds) * 1000)
    accepted, why = ray._raylet.GcsClient(address=address).drain_node(node_id, reason, "a test", deadline_ms)
    assert accepted, why
