"""How the everyday run is divided between its two processes: what shares a fixture stays together."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from conftest import TESTS, pytest_xdist_make_scheduler, uses_ray


def test_a_file_is_one_unit_and_all_files_of_ray_are_one():
    """Law: tests of a file share a process, so its fixtures are made once; so do all that use Ray: one cluster."""
    pytest.importorskip("xdist")
    option = SimpleNamespace(dist="loadfile", tx=["popen"] * 2)
    scheduler = pytest_xdist_make_scheduler(SimpleNamespace(option=option, getvalue=vars(option).get), None)
    ids = ["test_ray.py::test_a[x]", "test_ray_pool.py::test_b", "test_order.py::test_c[a::b]", "test_order.py::test_d"]
    assert [scheduler._split_scope(f"tests/{one}") for one in ids] == ["Ray", "Ray", *["tests/test_order.py"] * 2]


def test_files_of_ray_are_known_by_their_marks():
    """Law: a file with one test of Ray is one of them, others are not."""
    found = {file.name: uses_ray(file) for file in TESTS.glob("test_*.py")}
    assert found["test_cli_scores.py"]
    assert not found["test_order.py"]
    assert 10 < sum(found.values()) < 30
