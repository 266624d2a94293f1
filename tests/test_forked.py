"""Forked workers: the bytes of every backend; deaths, limits and signals as with Ray's pool; what `auto` chooses."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import forks
import pytest
import torch
import yaml
from conftest import payload_bytes
from slow import hurry, mixed_study_in, records_in, slow_study
from waiting import until

from ray_unlearn.errors import ClusterError, StudyError
from ray_unlearn.generation import Summary, backends, generate
from ray_unlearn.generation.auto import MOST_S, AutoBackend, workers_here
from ray_unlearn.generation.cores import cores
from ray_unlearn.generation.forked import ForkedPool
from ray_unlearn.generation.moving import Earlier, Left, MovingPool
from ray_unlearn.run.outcome import Outcome
from ray_unlearn.run.worker_process import working_folder
from ray_unlearn.schedule.pool import Finished, Leaving, Lost, Ready, Report
from ray_unlearn.study import parse_study
from ray_unlearn.study.places import Places
from ray_unlearn.study.plan import Run
from ray_unlearn.study.schema import Execution
from ray_unlearn.usercode import fork_server

SCRIPT = "def unlearning(net, *loaders):\n    net[-1].bias.data += 1\n"


class Made(NamedTuple):
    """A study made by two forked workers, one of which was killed on the way."""

    folder: Path
    summary: Summary
    reports: list[Report]


@pytest.fixture(scope="module")
def watched() -> Iterator[Callable[[Callable[[Report], object]], list[Report]]]:
    """Return a function that calls another with every report of every pool of forked workers, before the scheduler."""
    patch = pytest.MonkeyPatch()

    def watch(handle: Callable[[Report], object]) -> list[Report]:
        reports: list[Report] = []

        def wait(pool: ForkedPool, *most_s: float) -> list[Report]:
            found = original(pool, *most_s)
            for report in found:
                handle(report)
            reports.extend(found)
            return found

        patch.setattr(ForkedPool, "wait", wait)
        return reports

    original = ForkedPool.wait
    yield watch
    patch.undo()


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory, watched) -> Made:
    """Generate with two workers, and kill -9 one of them after four records."""
    folder = tmp_path_factory.mktemp("forked") / "study"
    pids: list[int] = []

    def kill(report: Report) -> None:
        if isinstance(report, Ready):
            pids.append(report.info.pid)
        if len(pids) == 2 and records_in(folder) >= 4:
            os.kill(pids.pop(), signal.SIGKILL)
            pids.clear()
            hurry(folder)

    reports = watched(kill)
    summary = generate(with_script(folder, 4), backend="inline", workers=2)
    return Made(folder, summary, reports)


def with_script(folder: Path, count: int) -> Any:
    """Return the study of `mixed_study_in`, with two runs of a script."""
    study = mixed_study_in(folder, count)  # test_ray makes such a one on Ray, to inline's bytes, too
    (folder / "script.py").write_text(SCRIPT)
    spec = study.populations["finetune"].model_validate({"method": f"{folder}/script.py:unlearning", "count": 2})
    return study.model_copy(update={"populations": {**study.populations, "script": spec}})


def test_a_worker_killed_in_the_middle_costs_nothing_and_the_bytes_are_inlines(killed: Made, tmp_path: Path):
    """Law: of two workers one is killed -9; what it had in hand is made anew, and every byte is inline's."""
    assert (killed.summary.made, killed.summary.failed, killed.summary.exit_code) == (10, {}, 0)
    (lost,) = [report for report in killed.reports if isinstance(report, Lost)]
    assert lost.died
    assert lost.cause == "worker process died: it was ended by signal SIGKILL (Killed)"
    folder = tmp_path / "study"
    study = with_script(folder, 4)
    hurry(folder)
    assert generate(study, backend="inline").made == 10
    found = {k: v for k, v in payload_bytes(killed.folder / "store/tiny").items() if ".tmp-" not in k}
    assert found == payload_bytes(folder / "store/tiny")


def test_status_shows_its_deaths_as_it_does_rays(killed: Made):
    """Law: the event log has what Ray's pool would report: the loss, the attempt that follows, the workers."""
    (log,) = list((killed.folder / "store/tiny").glob("events*/*")) or list((killed.folder / "store").rglob("*.jsonl"))
    said = log.read_text()
    assert "was ended by signal SIGKILL" in said
    assert "processes forked on this machine" in said


def test_a_run_that_takes_too_long_is_ended_whatever_its_method(tmp_path: Path):
    """Law: run_timeout_s holds for every run, as on Ray: its worker is ended, the run fails with that reason."""
    tree = slow_study(tmp_path, 1)
    tree["populations"]["mine"]["epochs"] = 30  # 9 s
    tree["execution"] |= {"run_timeout_s": 0.5, "max_attempts": 1}
    study = parse_study(tree, where="slow").with_file(Places(), str(tmp_path))
    summary = generate(study, backend="inline", workers=1)
    assert summary.failed == {Run(population="mine", index=0): "took longer than execution.run_timeout_s: 0.5"}


def test_a_removed_working_folder_is_no_obstacle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Law: a worker begins where its command is, and at the root where that folder is gone, as inline runs work on."""
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    assert working_folder() == str(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert working_folder() == "/"


def test_what_forked_workers_cannot_do_is_refused(tiny):
    """Law: a GPU, a cluster, a share of a GPU: one line that names the way."""
    with pytest.raises(
        StudyError, match=r"--backend inline with --workers forks processes, .*: cuda is cuda here; use"
    ):
        generate(tiny(execution={"device": "cuda"}), backend="inline", workers=2)
    for given in ({"address": "10.0.0.1:6379"}, {"gpus_per_worker": 0.5}):
        with pytest.raises(StudyError, match="--address and --gpus-per-worker are for --backend ray; inline"):
            generate(tiny(), backend="inline", workers=2, **given)


def test_a_driver_that_is_killed_takes_its_workers_with_it(tmp_path: Path):
    """Law: kill -9 of the command: its workers and their servers are gone; another one makes what is missing."""
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(slow_study(tmp_path, 6)))
    command = ["generate", str(tmp_path / "study.yaml"), "--backend", "inline", "--workers", "2"]
    process = forks.start(command, tmp_path / "said")
    until(lambda: records_in(tmp_path) >= 2 or not process.is_alive(), 60)
    workers = [int(line.split("pid ")[1].split(",")[0]) for line in said_in(tmp_path) if "worker ready" in line]
    servers = [parent_of(worker) for worker in workers]
    assert len(workers) == 2
    assert all(map(lives, [*workers, *servers]))
    os.kill(process.pid or 0, signal.SIGKILL)
    process.join(10)
    until(lambda: not any(map(lives, [*workers, *servers])), 10)
    hurry(tmp_path)
    made = records_in(tmp_path)
    again = forks.run(command)
    assert again.returncode == 0
    assert f"made {7 - made} runs" in again.stdout


@pytest.mark.parametrize("number", [pytest.param(signal.SIGINT, marks=pytest.mark.long), signal.SIGTERM])
def test_a_signal_ends_the_workers_within_the_grace(tmp_path: Path, number: signal.Signals):
    """Law: 128 + the signal, one last line, no worker left."""
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(slow_study(tmp_path, 9)))
    command = ["generate", str(tmp_path / "study.yaml"), "--backend", "inline", "--workers", "2"]
    process = forks.start(command, tmp_path / "said")
    until(lambda: records_in(tmp_path) >= 1 or not process.is_alive(), 60)
    workers = [int(line.split("pid ")[1].split(",")[0]) for line in said_in(tmp_path) if "worker ready" in line]
    os.kill(process.pid or 0, number)
    process.join(10)
    assert process.exitcode == 128 + number
    assert said_in(tmp_path)[-1].startswith(f"interrupted by {number.name}; nothing is lost")
    assert workers
    until(lambda: not any(map(lives, workers)), 2)


def said_in(folder: Path) -> list[str]:
    return (folder / "said").read_text().splitlines()


def status_of(pid: int) -> dict[str, str]:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return {"State": "Z"}
    return {line.partition(":")[0]: line.partition(":")[2].strip() for line in lines}


def lives(pid: int) -> bool:
    return not status_of(pid)["State"].startswith("Z")


def parent_of(pid: int) -> int:
    return int(status_of(pid)["PPid"])


def test_a_clone_outlives_what_its_server_ends(tmp_path: Path):
    """Law: a server that ends all that a call started ends no clone; each serves calls of its own at once."""
    with fork_server.fork_server() as server:
        clones = [server.clone() for _ in range(2)]
        for clone in clones:
            clone.begin_fork("time:sleep", 30, [])  # type: ignore[arg-type]
        ended = server.fork("ray_unlearn.run.child:prepare", {}, [], log=lambda data: None)
        assert ended.status == 0  # and the server has ended all that it forked for it
        assert all(lives(clone._pid) for clone in clones)
        for clone in clones:
            clone.close()
        until(lambda: not any(lives(clone._pid) for clone in clones), 5)


# auto


def work(pending: int, **seconds: float) -> Any:
    runs = [Run(population="finetune", index=index) for index in range(pending)]
    return SimpleNamespace(pending=runs, seconds=lambda: seconds)


def job(**execution: Any) -> Any:
    populations: dict[str, Any] = {}
    study = SimpleNamespace(execution=Execution(**execution))
    plan = SimpleNamespace(study=study, populations=populations, pack_size=lambda run: 1)
    return SimpleNamespace(plan=plan)


@pytest.fixture
def two_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1}, raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.mark.usefixtures("two_cpus")
@pytest.mark.parametrize(
    ("execution", "done", "why"),
    [
        ({}, work(100), "without Ray, because the first run shows how much work it is"),
        ({}, work(100, finetune=2.0), "without Ray, because about 1 min 40 s of work are left"),
        ({}, work(100, original=2.0), "without Ray, because about 1 min 40 s of work are left"),
        ({"workers": 1}, work(100, finetune=4.0), "on Ray, because about 6 min 40 s of work are left"),
        ({"workers": 8}, work(100, finetune=8.0), "on Ray, because about 6 min 40 s of work are left"),
        ({"device": "cuda"}, work(1), "on Ray, because runs are on cuda"),
        (
            {"cpus_per_worker": 3},
            work(1),
            "on Ray, because this machine has 2 CPUs, and execution.cpus_per_worker is 3",
        ),
    ],
)
def test_auto_takes_ray_where_a_machine_is_not_enough_and_where_its_start_is_little(
    execution: dict[str, Any], done: Any, why: str
):
    """Law: of 2 CPUs, at most 2 workers; by records, a population's mean, else the slowest one's; limit 5 minutes."""
    ray = SimpleNamespace(why="", close=lambda: None)
    place = AutoBackend(None, lambda: ray).chosen(job(**execution), done)  # type: ignore[arg-type,return-value]
    assert MOST_S == 300
    assert place.why == why
    assert (place is ray) == ("on Ray" in why)


@pytest.mark.usefixtures("two_cpus")
def test_without_ray_auto_stays_here_unless_it_cannot():
    """Law: where Ray is not installed, long work is done here; what needs Ray is refused."""

    def missing() -> Any:
        raise ClusterError("the ray backend needs Ray")

    assert "without Ray" in AutoBackend(None, missing).chosen(job(), work(100, finetune=100.0)).why
    with pytest.raises(ClusterError, match="needs Ray"):
        AutoBackend(None, missing).chosen(job(device="cuda"), work(1))


@pytest.mark.usefixtures("two_cpus")
def test_workers_here_are_no_more_than_cores():
    """Law: what was asked for on the command line, else the study's, else all that fit; two cores each: one."""
    found = [workers_here(Execution(workers=each), None) for each in ("auto", 1, 8)]
    assert found == [2, 1, 2]
    assert workers_here(Execution(workers=2), 1) == 1
    assert workers_here(Execution(cpus_per_worker=2), None) == 1


@pytest.mark.usefixtures("two_cpus")
@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, 2),
        ({"cpu.max": "max 100000"}, 2),
        ({"cpu.max": "150000 100000"}, 1),
        ({"cpu.max": "50000 100000"}, 1),
        ({"cpu.max": "800000 100000"}, 2),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 2),
        ({"cpu/cpu.cfs_quota_us": "100000", "cpu/cpu.cfs_period_us": "100000"}, 1),
    ],
)
def test_a_container_has_the_cores_of_its_quota(tmp_path: Path, files: dict[str, str], expected: int):
    """Law: a quota of a control group counts as Ray counts it, rounded down; 64 workers would share two cores."""
    (tmp_path / "cpu").mkdir()
    for name, text in files.items():
        (tmp_path / name).write_text(f"{text}\n")
    assert cores(tmp_path) == expected


def test_a_cluster_that_is_named_is_taken(monkeypatch: pytest.MonkeyPatch):
    """Law: an address, RAY_ADDRESS and a share of GPUs mean Ray; nothing of them means a look at the work."""
    assert backends.ray_is_named("auto", None) == "a cluster's address is given"
    assert backends.ray_is_named(None, 0.5) == "--gpus-per-worker is given"
    monkeypatch.setitem(__import__("sys").modules, "ray", SimpleNamespace(is_initialized=lambda: True))
    assert backends.ray_is_named(None, None) == "this process is connected to Ray"
    monkeypatch.setitem(__import__("sys").modules, "ray", SimpleNamespace(is_initialized=lambda: False))
    assert backends.ray_is_named(None, None) == ""
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert backends.ray_is_named(None, None) == "a cluster's address is given"


class Fake:
    """A pool whose reports the test makes."""

    device = "cpu"

    def __init__(self, name: str, room: int) -> None:
        self.name, self.room, self.reports, self.stopped, self.started = name, room, list[Report](), list[int](), 0
        self.waited_s: list[float] = []

    def describe(self) -> str:
        return self.name

    def capacity(self) -> int:
        return self.room

    def start(self) -> int:
        self.started += 1
        return self.started

    def submit(self, worker: int, attempts: Any, *, flush: bool) -> None:
        self.reports.append(Finished(worker, [Outcome(run=run, seconds=10.0) for run, _ in attempts]))

    def wait(self, most_s: float = 1.0) -> list[Report]:
        self.waited_s.append(most_s)
        found, self.reports = self.reports, []
        return found

    def stop(self, worker: int) -> None:
        self.stopped.append(worker)


def test_after_the_first_run_long_work_goes_over_to_ray():
    """Law: 100 runs of 10 s for 2 workers are over the limit: Ray starts, its workers are added, and with its first
    ready one those of this machine leave; every report has a number of its own.
    """
    runs = [Run(population="finetune", index=index) for index in range(100)]
    here, ray = Fake("here", 2), Fake("ray", 3)
    there: list[Any] = []
    begun: list[float] = []
    pool = MovingPool(
        here, Left(runs, {}), begin=lambda s: begun.append(s) or (lambda: there[0] if there else None), most_s=300.0
    )
    assert (pool.describe(), pool.start(), pool.start(), pool.wait()) == ("here", 1, 2, [])
    pool.submit(1, [(runs[0], 1)], flush=True)
    assert isinstance(pool.wait()[0], Finished)
    assert begun == []
    assert (pool.wait(), pool.capacity(), begun) == ([], 2, [495.0])
    there.append(ray)
    assert (pool.wait(), pool.capacity()) == ([], 5)
    assert pool.start() == 3
    ray.reports.append(Ready(1, None))  # type: ignore[arg-type]
    assert pool.wait() == [Ready(3, None), Leaving(1), Leaving(2)]  # type: ignore[arg-type]
    assert pool.capacity() == 3
    pool.submit(2, [(runs[1], 1)], flush=True)
    assert pool.wait()[0].worker == 2
    for worker in (1, 2, 3):
        pool.stop(worker)
    assert (here.stopped, ray.stopped, begun) == ([1, 2], [1], [495.0])
    assert here.waited_s[0] == 1.0
    assert {*ray.waited_s} == {0.05}  # one that waited for a second would keep the other's reports for as long


@pytest.mark.usefixtures("two_cpus")
def test_rays_counters_have_the_events_from_before_the_move(monkeypatch: pytest.MonkeyPatch):
    """Law: the sinks of Ray are opened once its pool is, and given every earlier event with its time; then each new."""
    counted: list[str] = []

    def sinks(study: object, earlier: Earlier) -> list[Any]:
        assert all(at_s <= time.monotonic() for at_s, _ in earlier)
        counted.extend(str(event) for _, event in earlier)
        return [counted.append]

    ray = SimpleNamespace(why="", begin=lambda: None, has_begun=False, pool=lambda job: Fake("ray", 1), sinks=sinks)
    monkeypatch.setattr(ForkedPool, "wait", lambda pool, most_s: [])
    place = AutoBackend(None, lambda: ray, lambda line: None).chosen(job(), work(100, finetune=2.0))  # type: ignore
    monkeypatch.setattr("ray_unlearn.generation.auto.MOST_S", 10.0)
    pool, (sink,) = place.pool(job()), place.sinks(None)  # type: ignore[arg-type]
    for event, begun, expected in (
        ("ready", False, []),
        ("made 0", True, ["ready", "made 0"]),
        ("made 1", True, ["ready", "made 0", "made 1"]),
    ):
        ray.has_begun = begun
        pool.wait()
        sink(event)  # type: ignore[arg-type]
        assert counted == expected


def test_a_worker_that_died_here_is_not_waited_for_after_the_move():
    """Law: the first pool is asked for reports, which may take a second, only while it has workers."""
    here, ray = Fake("here", 1), Fake("ray", 1)
    left = Left([Run(population="finetune", index=0)], {"finetune": 400.0})
    pool = MovingPool(here, left, begin=lambda s: lambda: ray, most_s=300.0)
    assert pool.start() == 1
    here.reports.append(Lost(1, "it died", died=True))
    assert pool.wait() == [Lost(1, "it died", died=True)]
    here.reports.append(Ready(1, None))  # type: ignore[arg-type]
    assert pool.wait() == []
