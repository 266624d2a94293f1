"""What is refused before Ray starts, and imports that fail beside its start."""

from __future__ import annotations

import sys

import pytest
from conftest import TINY

from ray_unlearn.driver import generate
from ray_unlearn.driver.early import refuse_early
from ray_unlearn.errors import MethodError, RayUnlearnError

MISSING = {
    "a table": ({"data": {"train": "none.parquet"}}, "none.parquet: no such file"),
    "tables": ({"data": {"train": "none-*.parquet"}}, r"none-\*.parquet: no such file"),
    "a folder": ({"data": {"test": "none"}}, "none: no such folder"),
    "a name too long": ({"data": {"test": "x" * 5000}}, "File name too long"),
    "a script": ({"populations": {"mine": {"method": "none.py:unlearning"}}}, "none.py cannot be read"),
    "weights": ({"populations": {"original": {"method": None, "on": None, "weights": "none.pth"}}}, "none.pth"),
}


@pytest.mark.parametrize("what", MISSING)
def test_a_file_that_is_not_there_is_refused_before_ray_starts(tiny, tmp_path, monkeypatch, what: str):
    """Law: no cluster, no folder, the same words as ever."""
    changes, said = MISSING[what]
    monkeypatch.setattr("ray_unlearn.driver.ray_backend.RayBackend.begin", lambda self: pytest.fail("Ray starts"))
    for backend in ("ray", "inline"):
        with pytest.raises(RayUnlearnError, match=said):
            generate(tiny(**changes), backend=backend)
    assert not list(tmp_path.glob("store/tiny"))


def test_what_is_there_or_elsewhere_is_not_refused(tiny, tmp_path):
    """Law: embedded sets, files, globs that match, and URIs pass; nothing is opened."""
    (tmp_path / "a.parquet").touch()
    (tmp_path / "mine.py").touch()
    for train in ("digits", f"{tmp_path}/a.parquet", f"{tmp_path}/*.parquet", "s3://bucket/none.parquet"):
        refuse_early(tiny(data={"train": train}, populations={"mine": {"method": f"{tmp_path}/mine.py:f"}}))


@pytest.mark.parametrize("backend", ["ray", "inline"])
def test_an_environment_that_is_not_whole_is_one_line(tiny, monkeypatch, backend, request):
    """Law: a damaged torch beside the start of Ray is one error of the command, no thread's traceback."""
    if backend == "ray":
        request.getfixturevalue("ray_cluster")
    monkeypatch.setitem(sys.modules, "ray_unlearn.driver.opening", None)
    with pytest.raises(
        RayUnlearnError, match=r"cannot be imported: (ModuleNotFound|Import)Error: .*not whole: `uv sync"
    ):
        generate(tiny(), backend=backend)


def test_tf32_on_a_cpu_is_refused_once_before_any_run(tiny, tmp_path):
    """Law: not run by run: one error that names the population, nothing made; bf16 and other populations go on."""
    study = tiny(populations={"sharp": {"method": "finetune", "precision": "tf32", "count": 5}})
    with pytest.raises(MethodError, match=r"^populations\.sharp: precision tf32: a CPU has no TensorFloat-32"):
        generate(study, backend="inline")
    assert not list(tmp_path.glob("store/tiny/*/0*"))
    assert generate(study, backend="inline", only=["original"]).made == TINY["populations"]["original"].get("count", 1)
