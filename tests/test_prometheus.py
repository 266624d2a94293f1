"""What the driver counts, on the Prometheus endpoint of a real node."""

from __future__ import annotations

import json
import re
import time
import urllib.request
from pathlib import Path

import pytest
from conftest import TINY

from ray_unlearn.errors import ClusterError
from ray_unlearn.run.outcome import Outcome, Spent, WorkerInfo
from ray_unlearn.schedule.events import Failed, Made, Stopped
from ray_unlearn.schedule.pool import Ready
from ray_unlearn.study import Run, parse_study


@pytest.mark.ray
@pytest.mark.long
def test_counts_are_on_the_nodes_prometheus_endpoint(ray_cluster: None):
    """Law: 3 runs of 10 bytes and 1 failure are these numbers; every series has a study, and no run or worker as tag.

    Ray's agent on the node learns of them every ten seconds.
    """
    import ray

    from ray_unlearn.cluster.backend import RayBackend

    study = parse_study({**TINY, "name": "counted", "storage": "."}, where="a test")
    here = WorkerInfo(host="here", pid=1, device="cpu")
    earlier = [(time.monotonic() - 5, Ready(worker, here)) for worker in (1, 2)]
    (meters,) = RayBackend(address=None, workers=None).sinks(study, earlier)
    spent = Spent(seconds={"train": 1.5, "predict": 1.0}, size_bytes=10)
    for index in range(3):
        meters(Made(Outcome(run=Run(population="finetune", index=index), seconds=1.5, spent=spent), 1, 1))
    meters(Failed(Outcome(run=Run(population="finetune", index=3), seconds=1.0, error="no"), 2, 1))
    meters(Stopped(1))  # the last counts are reported
    node = ray.nodes()[0]
    url = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    found: dict[str, float] = {}
    end = time.monotonic() + 60
    while "runs_failed_total" not in found and time.monotonic() < end:
        time.sleep(1)
        with urllib.request.urlopen(url, timeout=10) as answer:
            text = answer.read().decode()
        ours = [line for line in text.splitlines() if line.startswith("ray_unlearn_") and 'study="counted"' in line]
        found = {line.partition("{")[0].removeprefix("ray_unlearn_"): float(line.split()[-1]) for line in ours}
    expected = {"runs_made_total": 3, "runs_failed_total": 1, "bytes_written_total": 30, "workers": 1}
    assert found.items() >= (expected | {"run_seconds_count": 3}).items()
    assert all('population="finetune"' in line or re.match(r"ray_unlearn_(workers|images)", line) for line in ours)
    assert not any("00000" in line for line in ours if "population" in line and "WorkerId" not in line)


def test_the_dashboard_shows_series_that_are_exported():
    """Law: every series of Grafana's panels is one of RayMeters, as Prometheus names it, or Ray's own; tags exist."""
    dashboard = json.loads((Path(__file__).parents[1] / "jobs" / "grafana.json").read_text())
    expressions = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    shown = {name for text in expressions for name in re.findall(r"ray_unlearn_\w+", text)}
    source = (Path(__file__).parents[1] / "ray_unlearn/cluster/prometheus.py").read_text()
    kinds = re.findall(r'metrics\.(\w+)\(\s*"(\w+)"', source)
    suffix = {"Counter": "_total", "Histogram": "_bucket", "Gauge": ""}
    assert shown == {f"ray_{name}{suffix[kind]}" for kind, name in kinds}
    assert {tag for text in expressions for tag in re.findall(r"(\w+)=~", text)} == {"study"}
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in dashboard["panels"]]
    assert len(set(places)) == len(places)
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(places)


def test_the_port_of_a_local_cluster_can_be_fixed(monkeypatch: pytest.MonkeyPatch):
    """Law: the variable's port, no port without it, and an error for what is none."""
    from ray_unlearn.cluster.backend import metrics_port

    monkeypatch.delenv("RAY_UNLEARN_METRICS_PORT", raising=False)
    assert metrics_port() is None
    monkeypatch.setenv("RAY_UNLEARN_METRICS_PORT", "8080")
    assert metrics_port() == 8080
    for wrong in ("80", "70000", "eighty", "-1"):
        monkeypatch.setenv("RAY_UNLEARN_METRICS_PORT", wrong)
        with pytest.raises(ClusterError, match="expected a port from 1024 to 65535"):
            metrics_port()
