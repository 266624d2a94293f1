"""An autoscaler's nodes appear for a study's workers, work, and go when they are idle."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import launched
import pytest
import yaml
from conftest import merged, payload_bytes
from slow import slow_study, unhurt
from waiting import until

ROOT = Path(__file__).resolve().parents[1]
COUNT, WORKERS, CPUS = 400, 6, 2
HEAD = "f" * 51 + "00000"
PROVIDER = "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider"
LISTS = (
    *(f"{whose}setup_commands" for whose in ("", "head_", "worker_")),
    *("initialization_commands", "cluster_synced_files", "rsync_exclude", "rsync_filter"),
    *("head_start_ray_commands", "worker_start_ray_commands"),
)
CLUSTER: dict[str, Any] = {
    "cluster_name": "fake",
    "max_workers": WORKERS,
    "idle_timeout_minutes": 0.2,
    "upscaling_speed": 100.0,
    # Ray's AutoscalingCluster wants a file that is not in its wheel; the provider it would use is.
    "provider": {
        "type": "external",
        "module": PROVIDER,
        "use_node_id_as_ip": True,  # all nodes have one address
        "disable_node_updaters": True,  # and no ssh server
        "disable_launch_config_check": True,
        "launch_multiple": True,
        "head_node_id": HEAD,
    },
    "available_node_types": {
        "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
        "cpu": {"resources": {"CPU": CPUS, "object_store_memory": 10**8}, "node_config": {}, "max_workers": WORKERS},
    },
    "head_node_type": "ray.head.default",
    "file_mounts": {},
    "auth": {},
    "docker": {},
    **{name: [] for name in LISTS},
}


START = (
    "ray start --head --num-cpus=0 --include-dashboard=false --object-store-memory=100000000 "
    "--autoscaling-config=$HOME/cluster.yaml"
)
VERSIONS = {
    "v1": {},  # cluster.yaml's for machines of one's own
    "v2": {  # the launcher's on a cloud
        "RAY_enable_autoscaler_v2": "1",
        "RAY_CLOUD_INSTANCE_ID": HEAD,
        "RAY_OVERRIDE_NODE_ID_FOR_TESTING": HEAD,
    },
}


class Nodes:
    """Counts the nodes of a host's cluster, the head too, until it is left."""

    def __init__(self, host: launched.Host) -> None:
        self._host = host
        self.seen: list[tuple[float, int]] = []
        """(seconds since the beginning, nodes), one for each change."""
        self._left = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def count(self) -> int:
        return len(self._host.processes("raylet/raylet"))

    def _watch(self) -> None:
        began, last = time.monotonic(), False
        while not last:
            last, now = self._left.wait(1), self.count()
            if not self.seen or self.seen[-1][1] != now:
                self.seen.append((round(time.monotonic() - began, 1), now))

    def __enter__(self) -> Nodes:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._left.set()
        self._thread.join()


@pytest.mark.long
@pytest.mark.ray
@pytest.mark.timeout(600)
@pytest.mark.skipif(bool(launched.missing()), reason=launched.missing())
@pytest.mark.parametrize("version", VERSIONS)
def test_nodes_appear_for_six_workers_and_go_when_they_are_idle(version: str, tmp_path: Path) -> None:
    """Law: a head without room gets the nodes for six workers and no more; all work; none stays; bytes as inline."""
    shared = tmp_path / "shared"
    tree = merged(slow_study(shared, COUNT), {"execution": {"workers": WORKERS, "max_attempts": 1}})
    there = yaml.safe_dump(tree).replace(str(shared), launched.STUDIES)
    with launched.hosts(1, tmp_path, shared) as (host,):
        (shared / "study.yaml").write_text(there)
        (host.home / "cluster.yaml").write_text(yaml.safe_dump(CLUSTER))
        with (host.home / ".bashrc").open("a") as profile:
            profile.write(f"export PYTHONPATH={ROOT} RAY_AUTH_MODE=token\n")
        variables = {"RAY_FAKE_CLUSTER": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "1", **VERSIONS[version]}
        set_up = " ".join(f"{name}={value}" for name, value in variables.items())
        host.says(f"(umask 077; ray get-auth-token --generate) && {set_up} {START}")
        with Nodes(host) as nodes:
            said = host.says(f"python -m ray_unlearn.cli generate {launched.STUDIES}/study.yaml --address auto")
            until(lambda: nodes.count() == 1, 90)
        print(said, nodes.seen, sep="\n")
    assert said.count("worker ready") == WORKERS
    assert max(count for _, count in nodes.seen) == 1 + WORKERS // CPUS
    assert nodes.seen[-1][1] == 1
    assert payload_bytes(shared / "store/tiny") == unhurt(tmp_path / "plain", COUNT)
