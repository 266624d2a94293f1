"""Subsets of runs that are computed at once: the same numbers, and how many a part takes."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from evaluated import evaluated_store

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

    def met(pair: Pair) -> resampling._OnRows:
        pairs.append(pair)
        if len(pairs) <= 2:
            both.wait(60)  # one thread alone would wait here for ever
        return compute(pair)

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
