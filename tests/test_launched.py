"""cluster.yaml, launched: `ray up` over ssh, a study submitted through its tunnel, a node that dies, `ray down`."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
import urllib.request
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import launched
import pytest
import yaml
from conftest import merged, payload_bytes
from slow import records_in, slow_study, unhurt
from test_cluster import variant
from waiting import until

ROOT = Path(__file__).resolve().parents[1]
COUNT = 300


def cluster_of(head: launched.Host, *workers: launched.Host) -> dict[str, Any]:
    """Return cluster.yaml's variant for machines of one's own, with these, without docker."""
    found = variant("local")
    del found["docker"]
    found["provider"] |= {"head_ip": head.address, "worker_ips": [worker.address for worker in workers]}
    found["auth"]["ssh_user"] = "root"
    return found


def copy_checkout(target: Path) -> None:
    """Copy this checkout's files, without those that git ignores."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, target / name)


def series(host: launched.Host) -> set[str]:
    """Return the names of all series on a host's Prometheus endpoint; none where it does not answer."""
    with suppress(OSError), urllib.request.urlopen(f"http://{host.address}:8080/metrics", timeout=5) as answer:
        return set(re.findall(r"^\w+", answer.read().decode(), re.MULTILINE))
    return set()


def shown() -> set[str]:
    """Return the names of all series that the Grafana dashboard asks for, but those of failed runs."""
    dashboard = json.loads((ROOT / "jobs/grafana.json").read_text())
    asked = " ".join(target["expr"] for panel in dashboard["panels"] for target in panel["targets"])
    return set(re.findall(r"ray_\w+", asked)) - {"ray_unlearn_runs_failed_total"}


@pytest.mark.long
@pytest.mark.ray
@pytest.mark.timeout(900)
@pytest.mark.skipif(bool(launched.missing()), reason=launched.missing())
def test_the_cluster_is_launched_loses_a_node_and_makes_the_study(tmp_path: Path) -> None:
    """Law: the commands of cluster.yaml's header, as they stand: every run is made, and its bytes are one process's.

    The dashboard's series are all exported meanwhile; after `ray down`, no Ray runs on the nodes that are left.
    """
    folder, shared = tmp_path / "study", tmp_path / "shared"
    shared.mkdir()
    tree = merged(slow_study(folder, COUNT), {"execution": {"workers": 3, "max_attempts": 1}})
    sent = tree | {"storage": f"{launched.STUDIES}/store"}
    seen: set[str] = set()
    with launched.hosts(4, tmp_path, shared) as (laptop, head, *workers):
        for host in (head, *workers):
            host.serve_ssh()
        copy_checkout(laptop.home / "ray_unlearn")
        (laptop.home / "ray_unlearn/cluster.yaml").write_text(yaml.safe_dump(cluster_of(head, *workers)))
        shutil.copytree(folder, laptop.home / "mine")
        (laptop.home / "mine/study.yaml").write_text(yaml.safe_dump(sent).replace(f"{folder}/", ""))
        laptop.says("(umask 077; ray get-auth-token --generate); pip install -q ~/ray_unlearn")
        print(laptop.says("cd ~/ray_unlearn && ray up -y cluster.yaml", 400)[-1500:])
        until(lambda: all(host.processes("raylet/raylet") for host in workers), 240, lambda: monitor(head))
        with laptop.running("cd ~/ray_unlearn && ray dashboard cluster.yaml") as tunnel:
            until(lambda: laptop.sh("curl -s http://127.0.0.1:8265").returncode == 0, 60, lambda: tunnel.said)
            submit = "cd mine && ray-unlearn submit study.yaml --stage generate --address http://127.0.0.1:8265 --wait"
            with laptop.running(submit) as driver:
                begun = partial(works, driver, shared)
                until(lambda: begun() or driver.ended, 120, lambda: driver.said)
                workers[0].power_off()
                while not driver.ended:
                    seen |= series(head)
                    time.sleep(1)
            print(driver.said)
        assert driver.process.returncode == 0
        print(laptop.says("cd ~/ray_unlearn && ray down -y cluster.yaml")[-1500:])
        # `ray down` stops the head's Ray; without docker, the nodes' ends when it has missed the head for a minute.
        until(lambda: not any(host.processes("raylet/raylet") for host in (head, workers[1])), 120)
    assert driver.said.count("worker ready") >= 3
    assert shown() <= seen
    assert payload_bytes(shared / "store/tiny") == unhurt(tmp_path / "plain", COUNT)


def works(driver: launched.Running, shared: Path) -> bool:
    """Return whether ten runs are made, and the node that will be lost has a worker."""
    return "worker ready: host2" in driver.said and records_in(shared) >= 10


def monitor(head: launched.Host) -> str:
    """Return the end of the autoscaler's log."""
    return head.sh("tail -n 40 /tmp/ray/session_latest/logs/monitor*").stdout
