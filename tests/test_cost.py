"""Cost against retraining: CPU times on CPUs, where every record has them; else wall times."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from ray_unlearn.evaluation.slices import cost


def record(wall: float, cpu: float | None, device: str = "cpu") -> SimpleNamespace:
    """Return what `cost` reads of a record."""
    return SimpleNamespace(seconds={"train": wall}, cpu_seconds={} if cpu is None else {"train": cpu}, device=device)


@pytest.mark.parametrize(
    ("ours", "theirs", "relative"),
    [
        ([record(9.0, 1.0)], [record(10.0, 10.0)], 0.1),  # beside a noisy neighbour
        ([record(9.0, None)], [record(10.0, 10.0)], 0.9),  # a record of an earlier version
        ([record(9.0, 1.0, "H200")], [record(10.0, 10.0, "H200")], 0.9),
        ([record(9.0, 0.0)], [record(10.0, 10.0)], 0.9),
    ],
)
def test_cost_is_of_cpu_time_where_all_have_it(ours, theirs, relative):
    """Law: medians of one kind of time over the other side's; the seconds that are shown are wall time."""
    found = cost(ours, theirs)
    assert found.relative == pytest.approx(relative)
    assert found.efficient is (relative <= 0.2)
    assert found.seconds.mean == 9.0
