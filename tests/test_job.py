"""Studies as Ray jobs: `ray-unlearn submit`, the line that it prints, and `ray job submit` with jobs/study.py."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import forks
import pytest
from conftest import TINY, merged, payload_bytes
from slow import hurry, records_in, slow_study
from waiting import free_port, listens, until

from ray_unlearn.errors import StudyError
from ray_unlearn.generation import generate
from ray_unlearn.store import StudyStore, open_storage
from ray_unlearn.store.verify import verify
from ray_unlearn.study import load_study

ROOT = Path(__file__).resolve().parents[1]
RAY = str(Path(sys.executable).with_name("ray"))


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, dict[str, str]]]:
    """A head node of our own on loopback with token authentication; ended by its pid, and only it."""
    pytest.importorskip("ray")
    tmp_path = tmp_path_factory.mktemp("cluster")
    environment = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    environment |= {"HOME": str(tmp_path), "RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "token"}
    # Ray's jobs join the cluster that a file in here names: the machine's own may name someone else's by then.
    environment["RAY_TMPDIR"] = tempfile.mkdtemp(prefix="ru", dir="/tmp")  # short: sockets are below it
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # `python` is this one
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
        until(lambda: listens(dashboard))
        yield f"http://127.0.0.1:{dashboard}", environment
    finally:
        head.send_signal(signal.SIGTERM)  # `ray start --block` ends the processes that it started
        head.wait(timeout=60)
        shutil.rmtree(environment["RAY_TMPDIR"], ignore_errors=True)


@pytest.fixture(scope="module")
def user(cluster: tuple[str, dict[str, str]]) -> dict[str, str]:
    """The environment of someone with the cluster's token at home, who has set nothing about it."""
    return {key: value for key, value in cluster[1].items() if key != "RAY_AUTH_MODE"}


def submit(cluster: tuple[str, dict[str, str]], user: dict[str, str], study: Path, *how: str):
    """Run `ray-unlearn submit`."""
    return forks.run(["submit", str(study), "--address", cluster[0], *how], timeout_s=300, environment=user)


def pasted(user: dict[str, str], line: str):
    """Run a line in a shell."""
    return subprocess.run(line, shell=True, env=user, capture_output=True, text=True, timeout=240)  # noqa: S602


def write(folder: Path, tree: dict[str, Any]) -> Path:
    """Write a study with one worker."""
    study = folder / "study.yaml"
    study.write_text(json.dumps(merged(tree, {"storage": str(folder / "store"), "execution": {"workers": 1}})))
    return study


def test_a_storage_that_ray_would_delete_is_refused(tiny):
    """Law: nothing is lost; a job's working_dir is a temporary copy, so results may not be in it."""
    with pytest.raises(StudyError, match=r"storage: .*temporary copy.*--set storage="):
        generate(tiny(storage="/tmp/ray/s/runtime_resources/working_dir_files/_ray_pkg_1/studies"), backend="inline")


def with_a_factory(folder: Path, count: int) -> Path:
    """Write a study of an original, slow runs and a script's, `count` of both; its net is in its folder alone."""
    study = slow_study(folder, count - 1)
    (folder / "mine.py").write_text("def unlearning(net, *loaders):\n    net[-1].bias.data += 1\n")
    scripted = {"scripted": {"method": f"{folder}/mine.py:unlearning", "count": 1}}
    return write(folder, merged(study, {"populations": scripted}))


def made_inline(study: Path) -> dict[str, bytes]:
    """Return the payloads of the same study as this process makes them."""
    hurry(study.parent)
    generate(load_study(study, [f"storage={study.parent / 'inline'}"]), backend="inline")
    return payload_bytes(study.parent / "inline" / "tiny")


@pytest.mark.ray
@pytest.mark.timeout(360)
def test_a_study_is_submitted_and_followed_to_its_end(cluster, user, tmp_path: Path):
    """Law: submitted while it runs, a study is attached to; the job makes it to the bytes of the inline backend. A
    factory in the study's folder travels with it.
    """
    study = with_a_factory(tmp_path, 2)
    started = submit(cluster, user, study)
    assert started.returncode == 0, started.stdout + started.stderr
    found = re.match(r"submitted (tiny-[0-9a-f]{8}-a1) to \S+ \(3 files, ", started.stdout)
    assert found, started.stdout
    done = submit(cluster, user, study, "--wait")
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{found[1]} runs already on {cluster[0]}; attached to it, nothing submitted\n" in done.stdout
    assert "made 3 runs" in done.stdout
    assert done.stderr.endswith(f"{found[1]} succeeded\n")
    assert " INFO " not in done.stderr  # Ray's client stays silent
    assert payload_bytes(tmp_path / "store" / "tiny") == made_inline(study)


@pytest.mark.long
@pytest.mark.ray
@pytest.mark.timeout(360)
def test_a_study_is_submitted_stopped_and_submitted_again(cluster, user, tmp_path: Path):
    """Law: the printed `ray job submit` line starts it; submitted while it runs, it is attached to; stopped within its
    grace, what is recorded is whole; then the rest is made, to the bytes of the inline backend.
    """
    count = 12
    study = with_a_factory(tmp_path, count)
    line = submit(cluster, user, study, "--dry-run")
    assert line.returncode == 0, line.stdout + line.stderr
    while "No available agent" in (started := pasted(user, line.stdout)).stdout + started.stderr:
        time.sleep(2)  # the dashboard has only just started
    assert started.returncode == 0, started.stdout + started.stderr
    attached = submit(cluster, user, study)
    said = re.match(r"(tiny-[0-9a-f]{8}-a)1 runs already on \S+; attached to it, nothing submitted\n", attached.stdout)
    assert said, attached.stdout + attached.stderr
    follow, stop = (line[8:] for line in attached.stdout.splitlines()[-2:])
    until(lambda: records_in(tmp_path) >= 2)
    begun = time.monotonic()
    assert pasted(user, stop).returncode == 0
    assert time.monotonic() - begun < 30
    made = records_in(tmp_path)
    assert 2 <= made < count + 1
    store = StudyStore(open_storage(str(tmp_path / "store")), "tiny")
    assert verify(store, store.populations()).problems == ()
    assert "the same command makes what is missing" in pasted(user, follow).stdout
    rest = submit(cluster, user, study, "--wait")
    assert rest.returncode == 0, rest.stdout + rest.stderr
    assert rest.stdout.startswith(f"submitted {said[1]}2 to {cluster[0]} (3 files, ")
    assert f"made {count + 1 - made} runs" in rest.stdout
    assert rest.stderr.endswith(f"{said[1]}2 succeeded\n")
    assert payload_bytes(tmp_path / "store" / "tiny") == made_inline(study)


@pytest.mark.long
@pytest.mark.ray
@pytest.mark.timeout(600)
def test_an_adaptive_study_is_decided_in_a_job(cluster, user, tmp_path: Path):
    """Law: as a job, a study with until: decided looks at its scores and ends early, to the bytes of `all` here."""
    count = {"up_to": 64, "until": "decided", "width": 1.5}
    populations = {"retrained": {"method": "train", "on": "retain", "count": count}, "finetune": {"count": count}}
    changes = {"populations": populations, "outputs": {"splits": ["retain", "forget", "test"]}}
    study = write(tmp_path, merged(TINY, changes | {"evaluation": {"reference": "retrained", "resamples": 10}}))
    done = submit(cluster, user, study, "--wait", "--ship-code")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "look 1 of 3, at 16 runs of every population: every interval of the score is at most 1.5 wide" in done.stdout
    assert len(list((tmp_path / "store/tiny/finetune").glob("0*"))) == 16
    here = ["all", str(study), "--backend", "inline", "--set", f"storage={tmp_path}/inline"]
    assert forks.run(here, timeout_s=300, environment=user).returncode == 0
    assert payload_bytes(tmp_path / "store" / "tiny") == payload_bytes(tmp_path / "inline" / "tiny")


@pytest.mark.long
@pytest.mark.ray
@pytest.mark.timeout(600)
def test_anyone_who_waits_ends_with_the_drivers_code(cluster, user, tmp_path: Path):
    """Law: 3 where runs failed, what was made being scored; 1 where the driver refuses; 130 after Ctrl-C, which ends
    the waiting and not the job; 0 where all is made, and where nothing was left to do.
    """
    hot = {"method": "finetune", "lr": 1e9, "epochs": 3, "weight_decay": 1.0}
    populations = {"retrained": {"method": "train", "on": "retain", "count": 4}, "hot": hot}
    some = {"populations": populations, "evaluation": {"reference": "retrained", "resamples": 10}}
    study = write(tmp_path, merged(TINY, some))
    done = submit(cluster, user, study, "--wait", "--ship-code")
    assert done.returncode == 3, done.stdout + done.stderr
    assert "not made: hot/00000" in done.stdout
    assert (tmp_path / "store/tiny/report.html").is_file()
    absent = submit(cluster, user, study, "--wait", "--set", "data.train=/absent.parquet", "--set", "name=absent")
    assert absent.returncode == 1
    assert "error: /absent.parquet" in absent.stdout
    slow = write(tmp_path / "slow", slow_study(tmp_path / "slow", 30))
    command = [sys.executable, "-m", "ray_unlearn", "submit", str(slow), "--address", cluster[0], "--wait"]
    waiting = subprocess.Popen(command, env=user, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    until(lambda: records_in(tmp_path / "slow") >= 2)
    waiting.send_signal(signal.SIGINT)
    _, err = waiting.communicate(timeout=60)
    assert waiting.returncode == 130, err
    assert "goes on" in err
    attached = submit(cluster, user, slow, "--wait")
    assert "attached to it" in attached.stdout
    assert "runs/min" in attached.stdout  # progress, in the job's log
    assert attached.returncode == 0, attached.stderr
    again = submit(cluster, user, slow, "--wait")
    assert re.match(r"submitted tiny-[0-9a-f]{8}-a2 to ", again.stdout)
    assert f"nothing to do: all 31 runs in {tmp_path}/slow/store/tiny are made\n" in again.stdout


@pytest.mark.long
@pytest.mark.ray
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("stage", "said"),
    [
        ("prepare", "retain 81, forget 9"),
        ("generate", "made 4 runs"),
        ("all", "stages evaluate and report left out"),
        ("evaluate", "error: the study has no population 'retrained'"),
        ("report", "no evaluation yet"),
    ],
)
def test_the_entry_points_are_commands_of_ours(cluster, tmp_path_factory, stage: str, said: str):
    """Law: jobs/study.py, submitted as its docstring states, does what the stage's subcommand does."""
    address, environment = cluster
    folder = tmp_path_factory.getbasetemp() / "entry"
    folder.mkdir(exist_ok=True)
    command = [
        RAY,
        "job",
        "submit",
        "--address",
        address,
        "--working-dir",
        str(ROOT / "jobs"),
        "--",
        "python",
        "study.py",
    ]
    done = subprocess.run(
        [*command, "--stage", stage, str(write(folder, TINY))],
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert said in done.stdout, done.stdout + done.stderr
    assert (done.returncode == 0) is not said.startswith(("error", "no evaluation"))
