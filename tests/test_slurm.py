"""jobs/slurm on a real Slurm of this machine: shards and Ray, requeued and interrupted; nothing lost, equal bytes."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from conftest import payload_bytes
from slow import records_in, slow_study
from slurm import Slurm, missing, slurm
from waiting import until

from ray_unlearn.cli import main
from ray_unlearn.generation import generate
from ray_unlearn.study import load_study

pytestmark = [
    pytest.mark.long,
    pytest.mark.timeout(900),
    pytest.mark.skipif(bool(missing()), reason=missing() or "there is one"),
]
JOBS = Path(__file__).resolve().parents[1] / "jobs" / "slurm"
RUNS = 60


@pytest.fixture(scope="module")
def cluster() -> Iterator[Slurm]:
    """A Slurm, in which `ray-unlearn` and `ray` are those of this environment."""
    folder = Path(tempfile.mkdtemp(prefix="slurm", dir="/tmp"))
    folder.chmod(0o755)
    patch = pytest.MonkeyPatch()
    patch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    patch.delenv("RAY_TMPDIR", raising=False)
    with slurm(folder) as running:
        yield running
    patch.undo()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """An imported original and 59 runs of 0.3 s."""
    file = tmp_path / "study.yaml"
    file.write_text(yaml.safe_dump(slow_study(tmp_path, RUNS - 1)))
    return file


def reference(study: Path, tmp_path: Path) -> dict[str, bytes]:
    """Return the payloads of the same study, made inline without interruption."""
    generate(load_study(study, [f"storage={tmp_path / 'inline'}"]), backend="inline")
    return payload_bytes(tmp_path / "inline" / "tiny")


def log_of(study: Path) -> str:
    """Return all logs of a study's jobs."""
    return "".join(path.read_text() for path in sorted(study.parent.glob("*.log")))


def checked(study: Path, tmp_path: Path) -> None:
    """Fail unless every run is made, with the bytes of the inline backend, and none was made twice."""
    assert records_in(study.parent) == RUNS
    assert payload_bytes(study.parent / "store" / "tiny") == reference(study, tmp_path)
    assert main(["verify", str(study)]) == 0


def test_three_shards_share_a_store(cluster: Slurm, study: Path, tmp_path: Path):
    """Law: the array's tasks make each run once, but for the original; a task requeued in the middle goes on."""
    job = cluster.submit("--mem=1G", str(JOBS / "array.sbatch"), study.name, cwd=study.parent)
    until(lambda: records_in(study.parent) >= 20, 200, lambda: log_of(study))
    cluster.says("scontrol", "requeue", f"{job}_2")
    assert cluster.wait(job) == ["COMPLETED"] * 3, log_of(study)
    checked(study, tmp_path)
    assert log_of(study).count("interrupted by SIGTERM") == 1


def test_thirty_seconds_before_its_end_a_shard_queues_itself_again(cluster: Slurm, study: Path, tmp_path: Path):
    """Law: SIGTERM with 30 s of grace, as at the end of a job's time: the driver ends in 10 s, and its task goes on."""
    job = cluster.submit("--array=1-1", "--mem=1G", str(JOBS / "array.sbatch"), study.name, cwd=study.parent)
    until(lambda: records_in(study.parent) >= 10, 200, lambda: log_of(study))
    cluster.says("scancel", "--batch", "--signal=TERM", f"{job}_1")  # what --signal=B:TERM@30 sends
    assert cluster.wait(job) == ["COMPLETED"], log_of(study)
    checked(study, tmp_path)
    assert "interrupted by SIGTERM" in log_of(study)


def test_ray_in_one_job_is_requeued_and_interrupted(cluster: Slurm, study: Path, tmp_path: Path):
    """Law: `ray symmetric-run` beside other Rays of the machine, which it neither joins nor stops; twice broken off."""
    wanted = ["--nodes=1", "--cpus-per-task=2", "--mem=4G", str(JOBS / "ray.sbatch"), study.name, "--workers", "2"]
    job = cluster.submit(*wanted, cwd=study.parent)
    until(lambda: records_in(study.parent) >= 15, 200, lambda: log_of(study))
    cluster.says("scontrol", "requeue", job)
    until(lambda: records_in(study.parent) >= 30, 400, lambda: log_of(study))
    cluster.says("scancel", "--batch", "--signal=TERM", job)
    assert cluster.wait(job, 400) == ["COMPLETED"], log_of(study)
    checked(study, tmp_path)
    assert not Path(f"/tmp/ru{job}").exists()
