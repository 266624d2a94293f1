"""What tests share: an isolated home, one Ray cluster per session, and a study small enough to run in a second."""

from __future__ import annotations

import copy
import functools
import os
import re
import secrets
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from ray_unlearn.study import Study, parse_study

TESTS = Path(__file__).resolve().parent
SHARED = TESTS.parents[1] / "shared"

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ["RAY_ENABLE_UV_RUN_RUNTIME_ENV"] = "0"  # workers share this environment, also under `uv run pytest`
os.environ.pop("RAY_ADDRESS", None)
# Processes that tests start may keep their bytecode: to compile torch anew costs each of them 5 s.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)


SLOWEST = (
    "test_hostile_scripts.py",
    "test_apart.py",
    "test_fuzz.py",
    "test_evaluation_evaluate.py",
    "test_notebook.py",
)
"""Files of Ray, which are one unit of work, and these begin first: no process waits for one of them at the end."""


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """Let the whole everyday run use two processes, where pytest-xdist is installed and nothing else was asked for."""
    if "PYTEST_XDIST_WORKER" in os.environ:  # one of the two, or a pytest that a test starts: it would start two more
        return
    option, everyday = config.option, config.getini("addopts")[-1]
    chosen = option.markexpr != everyday or option.keyword or option.collectonly
    whole = config.args == config.getini("testpaths") and not chosen
    if whole and config.pluginmanager.hasplugin("xdist") and option.numprocesses is None and not option.usepdb:
        option.numprocesses, option.dist, option.loadscopereorder = 2, "loadfile", False
        os.environ.setdefault("PYTHONHASHSEED", str(secrets.randbelow(2**32)))  # both name a set in one order


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Keep a file's tests in one process, which share its fixtures; and all files of Ray, which share its cluster."""
    if config.option.dist != "loadfile":
        return None
    from xdist.scheduler import LoadFileScheduling

    class Units(LoadFileScheduling):  # type: ignore[misc, unused-ignore]
        def _split_scope(self, nodeid: str) -> str:
            file = super()._split_scope(nodeid)
            return "Ray" if uses_ray(TESTS / Path(file).name) else file

    return Units(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let the slowest files begin first where processes share the run; both collect in one order."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        items.sort(key=lambda item: (not uses_ray(item.path), item.path.name not in SLOWEST))


@functools.cache
def uses_ray(file: Path) -> bool:
    """Return whether a file has tests that drive Ray, the long ones, too."""
    return re.search(r"mark\.ray\b|ray_cluster", file.read_text()) is not None


TINY: dict[str, Any] = {
    "name": "tiny",
    "data": {
        "train": "digits",
        "test": "digits",
        "image_size": 8,
        "limit": 100,
        "validation": 0.1,
        "forget": {"fraction": 0.1},
    },
    "model": {"arch": "small_cnn", "options": {"width": 4}},
    "training": {"epochs": 1, "optimizer": "adam", "lr": 3e-3, "batch_size": 32},
    "populations": {
        "original": {"method": "train", "on": "train"},
        "finetune": {"method": "finetune", "count": 3, "noise_std": 0.01},
    },
    "execution": {"device": "cpu"},
}
"""One original and three fine-tuned runs on 100 digits."""


def merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Return a deep copy of `base` with `changes` merged in; a None removes the key."""
    result = copy.deepcopy(base)
    for key, value in changes.items():
        if isinstance(value, dict) and isinstance(result.get(key), dict):
            result[key] = merged(result[key], value)
        elif value is None:
            result.pop(key, None)
        else:
            result[key] = value
    return result


def write_study(folder: Path, **changes: Any) -> Path:
    """Write TINY with changes as `folder`/study.yaml, in the order of its keys; it stores below `folder`."""
    file = folder / "study.yaml"
    file.write_text(yaml.safe_dump(merged(TINY | {"storage": "store"}, changes), sort_keys=False))
    return file


@pytest.fixture(scope="session", autouse=True)
def isolated_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Ray's token and our caches go into a home of the session's own."""
    home = tmp_path_factory.mktemp("home")
    patch = pytest.MonkeyPatch()
    patch.setenv("HOME", str(home))
    yield home
    patch.undo()


@pytest.fixture(scope="session", autouse=True)
def disks_are_not_waited_for() -> Iterator[None]:
    """Thousands of files are written, and none has to outlive the machine: `os.fsync` returns at once.

    Where it is called, and what follows its failure, is tested with functions in its place (test_filesystem.py).
    """
    patch = pytest.MonkeyPatch()
    patch.setattr(os, "fsync", lambda descriptor: None)
    yield
    patch.undo()


@pytest.fixture(scope="session", autouse=True)
def fork_servers_import_nothing() -> Iterator[None]:
    """The process that forks scripts' runs is forked, too (forks.py): a new interpreter imports torch for 4 s.

    A new interpreter starts it in test_hostile_scripts.py, and on Ray's workers.
    """
    import forks

    from ray_unlearn.usercode import fork_server

    stands_for = SimpleNamespace(Popen=forks.Server, DEVNULL=None, TimeoutExpired=subprocess.TimeoutExpired)
    patch = pytest.MonkeyPatch()
    patch.setattr(fork_server, "subprocess", stands_for)
    yield
    fork_server.stop()
    patch.undo()


@pytest.fixture
def tiny(tmp_path: Path) -> Callable[..., Study]:
    """Return a function: changes to TINY -> a study that stores below the test's own folder."""

    def make(**changes: Any) -> Study:
        return parse_study(merged(TINY | {"storage": str(tmp_path / "store")}, changes), where="tiny")

    return make


@pytest.fixture
def scripted(tiny: Callable[..., Study], tmp_path: Path) -> Callable[..., Study]:
    """Return a function: the body of a script's `unlearning` -> a study with one original and a population `mine`."""

    def make(body: str, count: int = 1, folder: str = "store", **changes: Any) -> Study:
        (tmp_path / folder).mkdir(exist_ok=True)
        script = tmp_path / folder / "script.py"
        lines = "\n    ".join(body.splitlines())
        imports = "import logging, sys, warnings\nimport torch"
        script.write_text(f"{imports}\n\n\ndef unlearning(net, retain, forget, val):\n    {lines}\n")
        mine = {"method": f"{script}:unlearning", "count": count, **changes.pop("mine", {})}
        populations = {"finetune": None, "mine": mine, **changes.pop("populations", {})}
        return tiny(storage=str(tmp_path / folder), populations=populations, **changes)

    return make


@pytest.fixture(scope="session")
def ray_cluster(isolated_home: Path) -> Iterator[None]:
    """One Ray cluster of two CPUs for the whole session, connected to from this process."""
    ray = pytest.importorskip("ray")
    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        object_store_memory=200 * 2**20,
        log_to_driver=False,
        logging_level="error",
    )
    yield
    ray.shutdown()


@pytest.fixture
def shared() -> Path:
    """The development data next to the checkout; the test is skipped where it is absent."""
    if not SHARED.is_dir():
        pytest.skip(f"development data not found at {SHARED}")
    return SHARED


def payload_bytes(folder: Path) -> dict[str, bytes]:
    """Return every payload below a study's folder by its relative path; records hold times and are left out."""
    files = sorted(p for p in folder.rglob("*") if p.suffix in {".safetensors", ".arrow"})
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}
