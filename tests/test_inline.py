"""The inline backend: the same plan in this process."""

from __future__ import annotations

from pathlib import Path

from conftest import payload_bytes

from ray_unlearn.driver import generate


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
