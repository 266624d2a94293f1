"""The pool of actors: room on nodes that come and go, shares of GPUs, and workers whose node is drained."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Iterator
from contextlib import closing
from types import SimpleNamespace
from typing import Any

import pytest

from ray_unlearn.errors import ClusterError, StudyError
from ray_unlearn.generation import generate, open_job
from ray_unlearn.schedule.pool import Leaving, Lost, Ready, Report

ray = pytest.importorskip("ray")
from ray_unlearn.cluster import nodes as ray_nodes  # noqa: E402 - they import Ray
from ray_unlearn.cluster import pool as ray_pool  # noqa: E402 - they import Ray
from ray_unlearn.cluster.nodes import Nodes  # noqa: E402
from ray_unlearn.cluster.pool import RayPool  # noqa: E402


def node(name: str, alive: bool = True, **resources: float) -> dict[str, Any]:
    return {"NodeID": name, "Alive": alive, "NodeManagerAddress": f"10.0.0.{name}", "Resources": resources}


def test_nodes_that_drain_or_are_gone_have_no_room(monkeypatch: pytest.MonkeyPatch):
    """Law: of three nodes one drains and one is gone; who is on either goes, and of an unknown node no one
    reports it.
    """
    table = [node("1", CPU=4), node("2", CPU=8), node("3", alive=False, CPU=16)]
    monkeypatch.setattr(ray, "nodes", lambda: table)
    monkeypatch.setattr(ray_nodes, "_draining", lambda: {"2": int((time.time() + 30) * 1000), "3": 0, "9": 0})
    nodes = Nodes()
    nodes.look()
    assert nodes.staying == [{"CPU": 4}]
    assert {name: notice.address for name, notice in nodes.leaving.items()} == {"2": "10.0.0.2"}
    assert nodes.leaving["2"].ends_at == pytest.approx(time.monotonic() + 30, abs=1)
    assert [nodes.is_going(name) for name in ("1", "2", "3", None)] == [False, True, True, False]
    table[1] = node("2", alive=False, CPU=8)
    nodes.look(now=True)
    assert (nodes.leaving, nodes.is_going("2")) == ({}, True)


def test_a_ray_that_cannot_state_who_drains_is_no_error(monkeypatch: pytest.MonkeyPatch):
    """Law: what we read there is private to Ray; without it, nodes go without notice."""
    from ray._private import state

    monkeypatch.delattr(state.GlobalState, "get_draining_nodes")
    assert ray_nodes._draining() == {}


@pytest.mark.parametrize("gpus", [-1.0, 1.5])
def test_shares_that_cannot_be_are_refused_before_anything_starts(tiny, gpus: float):
    """Law: on the command line and in the study alike; no cluster is asked for it."""
    with pytest.raises(StudyError, match=rf"--gpus-per-worker: {gpus:g}; expected 0, a share"):
        generate(tiny(), gpus_per_worker=gpus)


def test_inline_has_no_shares_of_gpus(tiny):
    """Law: what an option of Ray's would not do is refused, not ignored; a share of 0, too."""
    for gpus in (0.0, 0.5):
        with pytest.raises(StudyError, match="--gpus-per-worker are for --backend ray"):
            generate(tiny(), backend="inline", gpus_per_worker=gpus)


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize(
    ("gpus", "nodes", "expected"),
    [
        (None, [node("1", CPU=8, GPU=2)], "up to 2 workers on cuda, each with 1 CPU, 1 GPU"),
        (0.25, [node("1", CPU=8, GPU=2)], "up to 8 workers on cuda, each with 1 CPU, 0.25 GPU"),
        (0.6, [node("1", CPU=8, GPU=1), node("2", CPU=8, GPU=1)], "up to 2 workers on cuda, each with 1 CPU, 0.6 GPU"),
        (None, [node("1", CPU=64), node("2", CPU=4, GPU=8)], "up to 4 workers on cuda, each with 1 CPU, 1 GPU"),
        (
            None,
            [
                node("1", CPU=8, GPU=1, **{"accelerator_type:T4": 1}),
                node("2", CPU=8, GPU=1, **{"accelerator_type:L4": 1}),
            ],
            "up to 2 workers on cuda, each with 1 CPU, 1 GPU; GPUs of 2 kinds (L4, T4): a run's last bits depend on "
            "its own",
        ),
    ],
)
def test_all_gpus_are_used_with_no_flag(tiny, monkeypatch: pytest.MonkeyPatch, gpus, nodes, expected):
    """Law: a worker on every GPU, or on every share of one; CPU nodes hold none of them; CPUs limit, too."""
    monkeypatch.setattr(ray, "nodes", lambda: nodes)
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"GPU": sum(n["Resources"].get("GPU", 0) for n in nodes)})
    pool = RayPool(open_job(tiny(execution={"device": "auto"})), None, print, gpus)
    assert pool.describe() == expected
    assert pool.missing() == ""


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_what_no_node_has_is_reported_soon_and_again(tiny, monkeypatch: pytest.MonkeyPatch):
    """Law: a worker that needs a GPU on a cluster without one: the resource is named after 1, 2, 4, ... patiences."""
    monkeypatch.setattr(ray_pool, "_PATIENCE_S", 0.5)
    said: list[tuple[float, str]] = []
    pool = RayPool(
        open_job(tiny(execution={"gpus_per_worker": 1})), 2, lambda line: said.append((time.monotonic(), line))
    )
    began = time.monotonic()
    pool.start()
    while time.monotonic() - began < 2.6:
        assert pool.wait() == []
    pool.close()
    line = "waiting for room for 1 worker (each CPU 1, GPU 1): no node has GPU 1 (at most 0), so none can start until"
    assert all(text.startswith(line) for _, text in said), said
    assert 2 <= len(said) <= 3
    assert all(when - began > due for (when, _), due in zip(said, (0.5, 1, 2), strict=False))


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_a_worker_on_a_node_that_drains_is_warned_once_and_taken_back_before_the_end(tiny, monkeypatch):
    """Law: Leaving, once, and the user is informed; what is not done shortly before the end is lost to preemption."""
    ends: dict[str, int] = {}
    monkeypatch.setattr(ray_nodes, "_draining", lambda: ends)
    monkeypatch.setattr(ray_nodes, "_EVERY_S", 0.0)
    monkeypatch.setattr(ray_pool, "_MARGIN_S", 1.0)
    said: list[str] = []
    job = open_job(tiny())
    job.store.admit(job.plan)
    pool = RayPool(job, 1, said.append)

    def events(seconds: float) -> list[Report]:
        found, began = [], time.monotonic()
        while time.monotonic() - began < seconds and not found:
            found = pool.wait()
        return found

    worker = pool.start()
    assert isinstance(events(60)[0], Ready)
    ends |= {ray.nodes()[0]["NodeID"]: int((time.time() + 4) * 1000)}
    assert events(5) == [Leaving(worker)]
    assert events(1) == []
    address = ray.nodes()[0]["NodeManagerAddress"]
    assert events(5) == [Lost(worker, f"node {address} is removed now", preempted=True)]
    assert [re.sub(r"[34] s:", "T:", line) for line in said] == [
        f"node {address} is drained and removed in T: its 1 worker moves elsewhere"
    ]
    assert pool.wait() == []  # it is reported once, though its node still drains


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize("leaves", [False, True])
def test_a_process_that_dies_is_blamed_unless_its_node_goes(tiny, monkeypatch: pytest.MonkeyPatch, leaves: bool):
    """Law: a worker killed in its run is lost either way; it was preempted where its node drains at that moment."""
    job = open_job(tiny())
    job.store.admit(job.plan)
    pool = RayPool(job, 1, print)
    worker = pool.start()
    ready = next(event for event in iter_events(pool) if isinstance(event, Ready))
    pool.submit(worker, [(job.plan.runs[0], 1)], flush=True)
    monkeypatch.setattr(ray_nodes, "_EVERY_S", 60.0)  # the death is seen before the notice
    if leaves:
        monkeypatch.setattr(ray_nodes, "_draining", lambda: {ray.nodes()[0]["NodeID"]: 0})
    os.kill(ready.info.pid, signal.SIGKILL)
    lost = next(event for event in iter_events(pool) if isinstance(event, Lost))
    assert (lost.worker, lost.died, lost.preempted) == (worker, True, leaves)
    assert lost.cause.startswith("worker process died: ")


def iter_events(pool: RayPool) -> Iterator[Report]:
    """Yield what happens within a minute."""
    began = time.monotonic()
    while time.monotonic() - began < 60:
        yield from pool.wait()


class StubActor:
    """An actor of no cluster: each call's reference is its name, and all are done at once."""

    def __init__(self, *_: object) -> None: ...

    def __getattr__(self, call: str) -> Any:
        return SimpleNamespace(remote=lambda *_: call)


def stub_ray(monkeypatch: pytest.MonkeyPatch, answers: dict[str, Any]) -> None:
    """Let Ray answer the calls `node`, `open` and `work` with these values, or raise them."""

    def get(call: str) -> Any:
        if isinstance(answers[call], Exception):
            raise answers[call]
        return answers[call]

    stubs = {
        "cluster_resources": dict,
        "put": lambda value: value,
        "remote": lambda **_: lambda _: SimpleNamespace(remote=StubActor),
        "wait": lambda calls, **_: (calls, []),
        "get": get,
        "kill": lambda *_, **__: None,
    }
    for name, stub in stubs.items():
        monkeypatch.setattr(ray, name, stub)
    monkeypatch.setattr(ray_nodes, "_draining", dict)


@pytest.mark.parametrize("there", [True, False])
def test_no_matter_what_ray_states_a_node_that_is_gone_is_no_runs_fault(
    tiny, monkeypatch: pytest.MonkeyPatch, there: bool
):
    """Law: memory that ran out, and a dead actor, are the run's fault unless the node is gone; a dead node never is."""
    job = open_job(tiny())
    found: list[tuple[str, bool]] = []
    errors = [ray.exceptions.OutOfMemoryError("full"), ray.exceptions.ActorDiedError()]
    errors.append(ray.exceptions.NodeDiedError("unreachable"))
    for error in errors:
        stub_ray(monkeypatch, {"node": "1", "open": "info", "work": error})
        monkeypatch.setattr(ray, "nodes", lambda: [node("1", CPU=4)])
        pool = RayPool(job, 1, print)
        worker = pool.start()
        assert pool.wait() == [Ready(worker, "info")]  # type: ignore[arg-type]
        pool.submit(worker, [(job.plan.runs[0], 1)], flush=True)
        monkeypatch.setattr(ray, "nodes", lambda: [node("1", alive=there, CPU=4)])
        (lost,) = pool.wait()
        assert isinstance(lost, Lost)
        found.append((type(error).__name__, lost.preempted))
    kinds = ["OutOfMemoryError", "ActorDiedError", "NodeDiedError"]
    assert found == list(zip(kinds, [not there, not there, True], strict=True))


def test_a_machine_that_can_never_hold_a_worker_is_an_error(tiny, monkeypatch: pytest.MonkeyPatch):
    """Law: on a cluster of our own nothing can join: the command ends with what is missing; elsewhere it waits."""
    from ray_unlearn.cluster import backend as ray_backend

    class NoCluster:
        def start(self, *_: object, **__: object) -> None: ...

        def end(self, *, keep_logs: bool) -> None: ...

    class Unwatched:
        lost = False

        def __init__(self, **_: object) -> None: ...

        def check(self) -> None: ...

        def stop(self) -> None: ...

    class Never:
        def __init__(self, *_: object, **__: object) -> None: ...

        def missing(self) -> str:
            return "no node has CPU 64 (at most 2)"

        def close(self) -> None: ...

    for name, stub in {"RayPool": Never, "LocalCluster": NoCluster, "RayWatch": Unwatched}.items():
        monkeypatch.setattr(ray_backend, name, stub)
    for name, there in (("is_initialized", False), ("init", None), ("shutdown", None)):
        monkeypatch.setattr(ray, name, lambda *_, there=there, **__: there)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    for address in ("10.0.0.1:6379", None):
        with closing(ray_backend.RayBackend(address=address, workers=None)) as backend:
            if address:
                assert backend.pool(None).missing()  # type: ignore[arg-type]
            else:
                with pytest.raises(ClusterError, match="this machine: no node has CPU 64"):
                    backend.pool(None)  # type: ignore[arg-type]


@pytest.mark.long
@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_workers_that_grow_are_replaced_and_their_runs_are_made(tiny, tmp_path, capsys: pytest.CaptureFixture[str]):
    """Law: every run keeps 100 MB and 0.25 GiB may stay: of ten runs no worker makes more than four, and none fails.

    It is the net that keeps them, in each of the four batches that a run's worker predicts.
    """
    (tmp_path / "leaking.py").write_text(
        "import torch\nfrom ray_unlearn.models import small_cnn\n\n\ndef leak(net, images):\n"
        "    if not net.training:\n        torch.leaked = [*getattr(torch, 'leaked', []), torch.ones(6_000_000)]\n\n\n"
        "def make(num_classes):\n    net = small_cnn(num_classes, 4)\n    net.register_forward_pre_hook(leak)\n"
        "    return net\n"
    )
    execution = {"recycle_growth_gib": 0.25, "workers": 1, "max_attempts": 1}
    model = {"arch": "leaking:make", "options": None}
    study = tiny(model=model, populations={"finetune": {"count": 10}}, execution=execution)
    summary = generate(study.model_copy(update={"model": study.model.with_folder(str(tmp_path))}))
    assert (summary.made, summary.failed) == (11, {})
    assert 3 <= len(set(re.findall(r"worker ready: .*pid (\d+)", capsys.readouterr().err))) <= 6
