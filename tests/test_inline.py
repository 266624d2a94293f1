"""The inline backend: the same plan in this process; resume, growth and `only`, which are every backend's."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
import torch
from conftest import payload_bytes

from ray_unlearn.errors import ModelError, PopulationChanged, StudyError
from ray_unlearn.generation import generate


def test_the_same_study_twice_gives_the_same_bytes(tiny, tmp_path: Path):
    """Law: a run's payloads are a function of the study alone."""
    for folder in ("a", "b"):
        summary = generate(tiny(storage=str(tmp_path / folder)), backend="inline")
        assert (summary.made, summary.exit_code) == (4, 0)
    first, second = payload_bytes(tmp_path / "a" / "tiny"), payload_bytes(tmp_path / "b" / "tiny")
    assert len(first) == 4 * 2 + 1
    assert first == second


def test_nothing_is_made_twice(tiny):
    """Law: planned minus recorded; a finished study has nothing to do."""
    generate(tiny(), backend="inline")
    again = generate(tiny(), backend="inline")
    assert (again.planned, again.already, again.made) == (4, 4, 0)


def test_raising_a_count_or_adding_a_population_makes_only_what_is_missing(tiny, tmp_path):
    """Law: every file that was there keeps its bytes and its time; the rest equals a study made at once."""
    generate(tiny(), backend="inline")
    folder = tmp_path / "store/tiny"
    before, times = payload_bytes(folder), {p: p.stat().st_mtime_ns for p in folder.rglob("0000*/*")}
    assert len(times) == 4 * 3
    more = {"finetune": {"count": 5}, "ngp": {"method": "negative_gradient_plus", "count": 2, "epochs": 1}}
    summary = generate(tiny(populations=more), backend="inline")
    assert (summary.planned, summary.already, summary.made) == (8, 4, 4)
    after = payload_bytes(folder)
    assert before.items() <= after.items()
    assert {p: p.stat().st_mtime_ns for p in times} == times
    generate(tiny(populations=more, storage=str(tmp_path / "at-once")), backend="inline")
    assert payload_bytes(tmp_path / "at-once/tiny") == after


def test_lowering_a_count_removes_nothing(tiny, tmp_path):
    """Law: fewer planned runs is no order to delete the others."""
    generate(tiny(), backend="inline")
    before = payload_bytes(tmp_path / "store/tiny")
    summary = generate(tiny(populations={"finetune": {"count": 1}}), backend="inline")
    assert (summary.planned, summary.made) == (2, 0)
    assert payload_bytes(tmp_path / "store/tiny") == before


def test_a_changed_rate_is_refused_and_another_seed_is_another_study(tiny, tmp_path):
    """Law: what changes results is refused with `key: old -> new`, and nothing is made."""
    generate(tiny(), backend="inline")
    before = payload_bytes(tmp_path / "store/tiny")
    with pytest.raises(PopulationChanged, match=r"(?m)^  options\.lr: 0\.001 -> 0\.01$"):
        generate(tiny(populations={"finetune": {"lr": 1e-2}}), backend="inline")
    with pytest.raises(PopulationChanged, match=r"(?m)^  seed: 0 -> 1$"):
        generate(tiny(seed=1), backend="inline")
    assert payload_bytes(tmp_path / "store/tiny") == before


def test_only_makes_a_population_and_the_originals_it_needs(tiny):
    """Law: of 3 originals, two runs that start from 2 of them need those 2 and nothing else."""
    populations = {
        "original": {"count": 3},
        "finetune": {"count": 5, "originals": 2},
        "retrained": {"method": "train", "on": "retain", "count": 2},
    }
    study = tiny(populations=populations)
    first = generate(study, backend="inline", only=["finetune"])
    assert (first.planned, first.made) == (7, 7)
    rest = generate(study, backend="inline")
    assert (rest.planned, rest.already, rest.made) == (10, 7, 3)
    with pytest.raises(
        StudyError, match=r"--only finetun: not a population of the study \(did you mean 'finetune'\?\)"
    ):
        generate(study, backend="inline", only=["finetun"])


def test_metrics_parquet_has_one_row_per_run(tiny, tmp_path):
    """Law: pandas reads it; rebuilt from records, so every run of the store is there exactly once."""
    generate(tiny(), backend="inline")
    table = pd.read_parquet(tmp_path / "store/tiny/metrics.parquet")
    assert list(zip(table["population"], table["run"], strict=True)) == [
        ("finetune", 0),
        ("finetune", 1),
        ("finetune", 2),
        ("original", 0),
    ]
    assert table["test_accuracy"].between(0, 1).all()
    assert (table["seconds_train"] > 0).all()


def test_threads_are_given_back(tiny):
    """Law: a library call leaves the process's thread count as it found it."""
    torch.set_num_threads(2)
    try:
        generate(tiny(execution={"cpus_per_worker": 1}), backend="inline")
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_device_that_is_not_there_ends_it(tiny, capsys):
    """Law: an error of the command before anything begins, not a fallback; inline has no workers that fail in a row."""
    with pytest.raises(ModelError, match=r"^device cuda: this machine has no GPU .*; set execution\.device: cpu$"):
        generate(tiny(execution={"device": "cuda"}), backend="inline")
    assert capsys.readouterr() == ("", "opening study tiny\n")
