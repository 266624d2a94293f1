"""What is refused while Ray starts, what becomes of its start then, and imports that fail."""

from __future__ import annotations

import contextlib
import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest
import yaml
from conftest import TINY, merged
from samples import write_parquet

from ray_unlearn.errors import ClusterError, MethodError, RayUnlearnError
from ray_unlearn.generation import driver, generate
from ray_unlearn.generation.checks import Checks
from ray_unlearn.generation.preflight import import_what_runs_need
from ray_unlearn.store import StudyStore, open_storage
from ray_unlearn.usercode.memory import address_space

MISSING = {
    "a table": ({"data": {"train": "none.parquet"}}, "none.parquet: no such file"),
    "tables": ({"data": {"train": "none-*.parquet"}}, r"none-\*.parquet: no such file"),
    "a folder": ({"data": {"test": "none"}}, "none: no such folder"),
    "a name too long": ({"data": {"test": "x" * 5000}}, "File name too long"),
    "a script": ({"populations": {"mine": {"method": "none.py:unlearning"}}}, "none.py cannot be read"),
    "weights": ({"populations": {"original": {"method": None, "on": None, "weights": "none.pth"}}}, "none.pth"),
    "a function": (
        {"populations": {"mine": {"method": f"{Path(__file__).with_name('mounts.py')}:none"}}},
        "no function 'none' in ",
    ),
}
AT_ONCE = ("a script", "weights")
"""What is refused before Ray and torch, which take seconds."""


@pytest.fixture
def slow_ray(monkeypatch) -> list[str]:
    """Let Ray take a minute to start; return what became of that."""
    from ray_unlearn.cluster import backend as ray_backend

    said: list[str] = []

    def join(backend: ray_backend.RayBackend) -> None:
        said.append("began")
        try:
            for _ in range(6000):
                time.sleep(0.01)
        except BaseException:
            said.append("cancelled")
            raise

    monkeypatch.setattr(ray_backend.ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray_backend.ray, "shutdown", lambda: None)
    monkeypatch.setattr(ray_backend.RayBackend, "_join", join)
    return said


@pytest.mark.parametrize("what", MISSING)
def test_a_file_that_is_not_there_is_refused_while_ray_starts(tiny, tmp_path, slow_ray, what: str):
    """Law: the start is cancelled, not waited for; no folder, no thread; the words are those of the inline backend.
    For a path that can be checked at once there is no start.
    """
    changes, said = MISSING[what]
    before, threads = time.monotonic(), threading.active_count()
    for backend in ("ray", "inline"):
        with pytest.raises(RayUnlearnError, match=said):
            generate(tiny(**changes), backend=backend)
    assert slow_ray == ([] if what in AT_ONCE else ["began", "cancelled"])
    assert time.monotonic() - before < 20
    assert threading.active_count() == threads
    assert not list(tmp_path.glob("store/tiny"))


def test_a_start_that_no_one_needs_is_cancelled(tiny, tmp_path, slow_ray, monkeypatch):
    """Law: where the guess that something is pending was wrong, generate ends without a cluster."""
    generate(tiny(), backend="inline")
    store = StudyStore(open_storage(str(tmp_path / "store")), "tiny")
    monkeypatch.setattr(driver, "probably_pending", lambda *_: store)
    assert generate(tiny(), backend="ray").already == 4
    assert slow_ray == ["began", "cancelled"]


def test_a_cluster_that_cannot_be_had_is_an_error_of_the_command(tiny, monkeypatch, slow_ray):
    """Law: what the starting thread meets is raised where someone waits for it, and the thread ends."""

    def refuse(*_: object) -> None:
        raise ClusterError("no such cluster")

    monkeypatch.setattr("ray_unlearn.cluster.backend.RayBackend._join", refuse)
    with pytest.raises(ClusterError, match="no such cluster"):
        generate(tiny(), backend="ray")
    assert "start-ray" not in {thread.name for thread in threading.enumerate()}


def test_a_study_is_opened_once(tiny, tmp_path, monkeypatch):
    """Law: each source is opened once, each method resolved once, and sources before torch is needed."""
    from ray_unlearn.data import study_data
    from ray_unlearn.generation import job
    from ray_unlearn.methods import resolve

    happened: list[str] = []

    def noting(module: object, name: str) -> None:
        real = getattr(module, name)

        def noted(*given: object) -> object:
            happened.append(name)
            return real(*given)

        monkeypatch.setattr(module, name, noted)

    noting(study_data, "open_source")
    noting(job, "import_what_runs_need")
    noting(resolve, "resolve")
    write_parquet(tmp_path / "faces.parquet", [0, 1] * 60)
    assert generate(tiny(data={"train": str(tmp_path / "faces.parquet"), "test": None}), backend="inline").made == 4
    assert happened == ["open_source", "import_what_runs_need", "resolve", "resolve"]


def processes_below(folder: Path) -> list[str]:
    """Return the processes that name a folder on their command line."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            found.append(path.read_bytes().replace(b"\0", b" ").decode("utf-8", "replace"))
    return [line for line in found if str(folder) in line and "ray_unlearn" not in line]


@pytest.mark.ray
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for processes in /proc")
@pytest.mark.parametrize("what", ["a table", pytest.param("a function", marks=pytest.mark.long)])
def test_a_refusal_leaves_no_cluster_behind(tmp_path, what: str):
    """Law: a wrong path is one line and code 1; of the local cluster that was starting, no process is left. A table is
    looked for before Ray does anything, a script is executed while it starts."""
    folder = Path(tempfile.mkdtemp(prefix="ray"))  # a socket's path must be short
    changes, said = MISSING[what]
    study = merged(TINY, {**changes, "storage": str(tmp_path / "store")})
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(study))
    command = [sys.executable, "-m", "ray_unlearn.cli", "generate", str(tmp_path / "study.yaml"), "--backend", "ray"]
    done = subprocess.run(
        command, env=os.environ | {"RAY_TMPDIR": str(folder)}, capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 1
    assert re.fullmatch(rf"(opening study tiny\n)?error: .*{said}.*\n", done.stderr)
    assert what == "a table" or any(folder.iterdir()), "Ray had not begun to start"
    end = time.monotonic() + 10
    while processes_below(folder) and time.monotonic() < end:
        time.sleep(0.1)
    assert processes_below(folder) == []
    shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.parametrize("backend", ["ray", "inline"])
def test_an_environment_that_is_not_whole_is_one_line(tiny, monkeypatch, backend, request):
    """Law: a damaged torch next to the start of Ray is one error of the command, no thread's traceback."""
    if backend == "ray":
        request.getfixturevalue("ray_cluster")
    monkeypatch.setitem(sys.modules, "ray_unlearn.run.worker", None)
    with pytest.raises(
        RayUnlearnError, match=r"cannot be imported: (ModuleNotFound|Import)Error: .*not whole: `uv sync"
    ):
        generate(tiny(), backend=backend)


class Unmapped:
    """An importer of this process, to which the kernel gives no more addresses."""

    @staticmethod
    def find_spec(name: str, *_: object) -> None:
        if name == "ray_unlearn.run.worker":
            raise ImportError("libtorch_cpu.so: failed to map segment from shared object")


def test_a_limit_of_addresses_that_the_libraries_leave_nothing_of_is_named(tiny, monkeypatch):
    """Law: under `ulimit -v`, where threads would not start and libraries abort or hang, one error says what to do."""
    (soft, hard), more = resource.getrlimit(resource.RLIMIT_AS), 2**30
    import_what_runs_need()
    try:
        resource.setrlimit(resource.RLIMIT_AS, (address_space() + more // 2, hard))
        with pytest.raises(RayUnlearnError, match=r"limited to \d+\.\d GiB .* its libraries take .*`ulimit -v unlim"):
            import_what_runs_need()
        monkeypatch.delitem(sys.modules, "ray_unlearn.run.worker")
        monkeypatch.setattr(sys, "meta_path", [Unmapped(), *sys.meta_path])
        with pytest.raises(RayUnlearnError, match=r"limited to .*failed to map segment .*`ulimit -v unlimited"):
            import_what_runs_need()
        checks = Checks(tiny())
        checks.with_torch()
        assert "failed to map segment" in "".join(checks.problems)
        monkeypatch.undo()
        resource.setrlimit(resource.RLIMIT_AS, (address_space() + 2 * more, hard))
        import_what_runs_need()
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def test_tf32_on_a_cpu_is_refused_once_before_any_run(tiny, tmp_path):
    """Law: not run by run: one error that names the population, nothing made; bf16 and other populations go on."""
    study = tiny(populations={"sharp": {"method": "finetune", "precision": "tf32", "count": 5}})
    with pytest.raises(MethodError, match=r"^populations\.sharp: precision tf32: a CPU has no TensorFloat-32"):
        generate(study, backend="inline")
    assert not list(tmp_path.glob("store/tiny/*/0*"))
    assert generate(study, backend="inline", only=["original"]).made == TINY["populations"]["original"].get("count", 1)


def test_a_mistyped_path_is_answered_before_torch_is_imported(tmp_path):
    """Law: a script or a weights file that does not exist costs no import of torch or Ray."""
    code = """if True:
        import sys
        from ray_unlearn.cli import main
        for population in sys.argv[2:]:
            assert main(["generate", sys.argv[1], "--set", f"populations.mine={population}"]) == 1
        assert not {"torch", "ray"} & set(sys.modules)
    """
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(TINY | {"storage": "store"}))
    command = [sys.executable, "-c", code, str(tmp_path / "study.yaml"), "{method: none.py:f}", "{weights: none.pth}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    errors = [line for line in done.stderr.splitlines() if line != "opening study tiny"]
    assert re.fullmatch(r"error: .*none\.py cannot be read .*\nerror: .*none\.pth: no such file; .*", "\n".join(errors))
