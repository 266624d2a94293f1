"""Subsets of runs that are computed at once: the same numbers, and how many a part takes."""

from __future__ import annotations

import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from evaluated import evaluated_store

from ray_unlearn.cli.evaluate import threads_of
from ray_unlearn.cluster import scoring
from ray_unlearn.cluster.scoring import threads_of_a_part
from ray_unlearn.evaluation import resampling
from ray_unlearn.evaluation.cache import in_this_process
from ray_unlearn.evaluation.evaluate import evaluate
from ray_unlearn.evaluation.measures.measure import Pair


def test_subsets_are_computed_at_once_and_no_number_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Law: two threads meet in two subsets of one part, and scores.json is that of one thread."""
    counts = {"retrained": 16, "finetune": 8}
    study, store = evaluated_store(tmp_path, counts, ("forget",), evaluation={"mode": "exact", "resamples": 10})
    alone = evaluate(study, store)
    for part in Path(store.uri).rglob("scores/exact/*"):
        part.unlink()
    both, compute, pairs = threading.Barrier(2), resampling._on_rows, list[Pair]()

    def met(pair: Pair, for_interval: bool) -> resampling._OnRows:
        pairs.append(pair)
        if len(pairs) <= 2:
            both.wait(60)  # one thread alone would wait here for ever
        return compute(pair, for_interval)

    monkeypatch.setattr(resampling, "_on_rows", met)
    assert evaluate(study, store, execute=lambda tasks: in_this_process(tasks, threads=2)) == alone
    assert len(pairs) > 10


@pytest.mark.parametrize(
    ("parts", "jobs", "cpus", "threads"),
    [
        (2, None, [8.0, 8.0], 8),  # both nodes, a part each
        (2, 6, [8.0, 8.0], 3),  # six CPUs were asked for
        (1, None, [16.0, 4.0], 4),  # a part may land on the smaller node
        (1, 2, [16.0], 2),
        (20, None, [8.0], 1),  # more parts than CPUs
        (3, None, [0.0, 8.0], 2),  # a head node without CPUs computes nothing
        (1, None, [], 1),
    ],
)
def test_a_part_takes_its_share_of_the_cpus(parts: int, jobs: int | None, cpus: list[float], threads: int) -> None:
    """And never more than any node has, where Ray would wait for ever."""
    assert threads_of_a_part(parts, jobs, cpus) == threads


def test_a_part_waits_for_no_cpu_that_workers_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    """Law: parts share what is free on the nodes that stay, so that runs are scored while others are made."""
    monkeypatch.setattr("ray.nodes", lambda: [{"NodeID": "a", "Alive": True, "Resources": {"CPU": 8.0}}])
    monkeypatch.setattr("ray_unlearn.cluster.nodes._draining", dict)
    monkeypatch.setattr("ray_unlearn.cluster.nodes._free", lambda: {"a": {"CPU": 3.0}, "gone": {"CPU": 1.0}})
    monkeypatch.setattr(scoring, "_results", lambda compute, waiting, running, limits, check: [limits])
    tasks: list[Any] = [SimpleNamespace(expected_s=1.0)]
    assert list(scoring._execute(tasks, None, lambda: None)) == [(1, 3)]


def test_an_evaluation_of_seconds_takes_one_core_and_a_longer_one_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Counting cores imports what takes half a second."""
    monkeypatch.setattr("ray_unlearn.generation.cores.cores", lambda: 7)
    assert [threads_of(seconds) for seconds in (4.9, 5.0, 200.0)] == [1, 7, 7]
