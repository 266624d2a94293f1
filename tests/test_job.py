"""`ray job submit` runs jobs/generate.py on a cluster, as the README says."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from conftest import TINY, merged, payload_bytes
from slow import records_in, slow_study

from ray_unlearn.driver import generate
from ray_unlearn.errors import StudyError
from ray_unlearn.store import StudyStore, open_storage
from ray_unlearn.store.verify import verify
from ray_unlearn.study import load_study

ROOT = Path(__file__).resolve().parents[1]
RAY = str(Path(sys.executable).with_name("ray"))


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, dict[str, str]]]:
    """A head node of our own on loopback with token authentication; ended by its pid, and only it."""
    pytest.importorskip("ray")
    tmp_path = tmp_path_factory.mktemp("cluster")
    environment = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    environment |= {"HOME": str(tmp_path), "RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "token"}
    subprocess.run([RAY, "get-auth-token", "--generate"], env=environment, check=True, capture_output=True)
    dashboard = free_port()
    command = [
        RAY,
        "start",
        "--head",
        "--block",
        "--num-cpus=2",
        "--node-ip-address=127.0.0.1",
        f"--port={free_port()}",
    ]
    command += ["--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}"]
    command += [f"--dashboard-agent-listen-port={free_port()}", "--object-store-memory=200000000"]
    with (tmp_path / "head.log").open("wb") as log:
        head = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        yield f"http://127.0.0.1:{dashboard}", environment
    finally:
        head.send_signal(signal.SIGTERM)  # `ray start --block` ends the processes that it started
        head.wait(timeout=60)


def submit(address: str, environment: dict[str, str], study: Path, *how: str) -> subprocess.CompletedProcess[str]:
    """Submit the job; a dashboard that has only just started answers with 500 for a while, so try again."""
    command = [RAY, "job", "submit", "--address", address, "--working-dir", str(ROOT / "jobs"), *how]
    command += ["--", sys.executable, "generate.py", str(study), "--workers", "1"]
    deadline = time.monotonic() + 120
    while True:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
        started = "submitted successfully" in done.stdout
        if started or time.monotonic() > deadline:
            return done
        time.sleep(2)


def test_a_storage_that_ray_would_delete_is_refused(tiny):
    """Law: nothing is lost; a job's working_dir is a temporary copy, so results may not lie in it."""
    with pytest.raises(StudyError, match=r"storage: .*temporary copy.*--set storage="):
        generate(tiny(storage="/tmp/ray/s/runtime_resources/working_dir_files/_ray_pkg_1/studies"), backend="inline")


@pytest.mark.ray
@pytest.mark.timeout(360)
def test_a_submitted_job_succeeds_and_makes_the_same_bytes(cluster, tmp_path: Path):
    """Law: where a run executes does not change it; a job's bytes equal the inline backend's."""
    study = tmp_path / "study.yaml"
    study.write_text(yaml.safe_dump(merged(TINY, {"storage": "store"})))
    done = submit(*cluster, study)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "succeeded" in done.stdout
    assert "made 4 runs" in done.stdout
    generate(load_study(study, [f"storage={tmp_path / 'inline'}"]), backend="inline")
    made, expected = payload_bytes(tmp_path / "store" / "tiny"), payload_bytes(tmp_path / "inline" / "tiny")
    assert len(made) == 9
    assert made == expected


@pytest.mark.ray
@pytest.mark.timeout(360)
def test_a_job_that_is_stopped_is_resumed_by_submitting_it_again(cluster, tmp_path: Path):
    """Law: `ray job stop` ends the driver within its grace, what is recorded is whole; the same job makes the rest."""
    address, environment = cluster
    study, count = tmp_path / "study.yaml", 20
    study.write_text(yaml.safe_dump(slow_study(tmp_path, count)))
    grace = '{"env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": "30"}}'
    how = ("--submission-id", "stopped", "--no-wait", "--runtime-env-json", grace)
    assert submit(address, environment, study, *how).returncode == 0
    deadline = time.monotonic() + 120
    while records_in(tmp_path) < 3:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    stop = [RAY, "job", "stop", "--address", address, "stopped"]
    begun = time.monotonic()
    assert subprocess.run(stop, env=environment, capture_output=True, timeout=120).returncode == 0
    assert time.monotonic() - begun < 30
    made = records_in(tmp_path)
    assert 3 <= made < count + 1
    store = StudyStore(open_storage(str(tmp_path / "store")), "tiny")
    assert verify(store, store.populations()).problems == ()
    logs = subprocess.run([RAY, "job", "logs", "--address", address, "stopped"], env=environment, capture_output=True)
    assert b"the same command makes what is missing" in logs.stdout
    done = submit(address, environment, study)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"made {count + 1 - made} runs" in done.stdout
