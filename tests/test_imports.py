"""A user's code: what is found first, on every worker, what is forgotten, and no path in an identity."""

from __future__ import annotations

import json
import pickle
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from conftest import payload_bytes, write_study

from ray_unlearn import models
from ray_unlearn.errors import ModelError
from ray_unlearn.generation import generate
from ray_unlearn.generation.job import open_job
from ray_unlearn.run.worker import Worker
from ray_unlearn.seeds import Seeds
from ray_unlearn.study import Study, load_study
from ray_unlearn.usercode import imports

NET = """
import torch

def tiny(num_classes):
    from studys_parts import BIAS, flat
    return torch.nn.Sequential(flat(), torch.nn.Linear(192, num_classes, bias=BIAS))
"""
PARTS = "import torch\nBIAS = {}\n\ndef flat():\n    return torch.nn.Flatten()\n"


@pytest.fixture(autouse=True)
def _no_folder() -> Iterator[None]:
    """Leave the path as it was, without the folder of a study that another test looked at."""
    imports.forget()
    before = list(sys.path)
    yield
    imports.forget()
    assert sys.path == before


def written(folder: Path, arch: str = "studys_net:tiny", bias: bool = True) -> Path:
    """Write a study, its net, and what the net imports when it is called, into one folder."""
    folder.mkdir()
    (folder / "studys_net.py").write_text(NET)
    (folder / "studys_parts.py").write_text(PARTS.format(bias))
    return write_study(folder, model={"arch": arch, "options": None})


def parameters(study: Study) -> int:
    """Return how many tensors the study's model has."""
    return len(list(models.build(study.model, 3, Seeds(study=0)).parameters()))


def test_a_study_and_its_net_move_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Law: from another folder than the study's, inline; in a second place the same identity and the same bytes."""
    monkeypatch.chdir(tmp_path)
    studies = [load_study(written(tmp_path / name)) for name in ("a", "b")]
    assert [generate(study, backend="inline").exit_code for study in studies] == [0, 0]
    first, second = (payload_bytes(tmp_path / name / "store" / "tiny") for name in ("a", "b"))
    assert first == second
    assert len(first) == 4 * 2 + 1
    assert str(tmp_path) not in str(models.identity(studies[0].model))
    assert "folder" not in str(studies[0].model_dump())


def test_a_net_of_another_study_is_another_net(tmp_path: Path):
    """Law: modules of one name next to two studies do not stand in for each other; an edited file is read again."""
    one, other = load_study(written(tmp_path / "one")), load_study(written(tmp_path / "other", bias=False))
    assert [parameters(study) for study in (one, other, one)] == [2, 1, 2]
    before = models.identity(one.model)
    (tmp_path / "one" / "studys_net.py").write_text(NET.replace("BIAS)", "False)") + "\n# edited\n")
    assert models.identity(one.model)["source_sha256"] != before["source_sha256"]
    assert parameters(one) == 1


def test_what_is_next_to_the_net_is_part_of_its_identity(tmp_path: Path):
    """Law: a module that it imports from the study's folder, edited, makes another identity."""
    study = load_study(written(tmp_path / "a"))
    before = models.identity(study.model)
    (tmp_path / "a" / "studys_parts.py").write_text(PARTS.format(False))
    after = models.identity(study.model)
    assert before["source_sha256"] == after["source_sha256"]
    assert before["beside_sha256"] != after["beside_sha256"]
    assert parameters(study) == 1


def test_a_worker_with_another_net_refuses_to_work(tmp_path: Path):
    """Law: edited while the study runs, or hidden by a namesake: no run is made of another net than was hashed."""
    study = load_study(written(tmp_path / "a"))
    job = open_job(study)
    Worker(job, "cpu").open()
    (tmp_path / "a" / "studys_net.py").write_text(NET + "# edited\n")
    with pytest.raises(ModelError, match=r"studys_net\.py changed since the study was planned \(source_sha256: "):
        Worker(job, "cpu").open()


def test_a_net_edited_under_a_notebook_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Law: where the folder is on the path anyway, nothing is forgotten; a changed file is then an error."""
    monkeypatch.syspath_prepend(tmp_path / "a")
    study = load_study(written(tmp_path / "a"))
    models.identity(study.model)
    (tmp_path / "a" / "studys_net.py").write_text(NET + "# edited\n")
    with pytest.raises(ModelError, match=r"studys_net\.py was edited since this process imported it"):
        models.identity(study.model)
    for name in ("studys_net", "studys_parts"):
        sys.modules.pop(name, None)


def test_a_script_that_ends_on_import_is_refused(tmp_path: Path):
    """Law: a file that calls sys.exit ends no command in silence."""
    file = written(tmp_path / "a")
    (tmp_path / "a" / "studys_net.py").write_text("raise SystemExit(0)")
    with pytest.raises(ModelError, match="cannot be imported"):
        parameters(load_study(file))


def test_pythons_own_modules_are_not_forgotten(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Law: where Python is below the study's folder, its modules stay; a package whose name begins as ours goes."""
    monkeypatch.setitem(sys.modules, "ray_unlearn_nets", ModuleType("ray_unlearn_nets"))
    sys.modules["ray_unlearn_nets"].__file__ = str(tmp_path / "ray_unlearn_nets.py")
    assert imports.is_own("ray_unlearn_nets", str(tmp_path))
    assert not imports.is_own("json", str(Path(json.__file__).parents[2]))


def test_a_script_forgets_its_own_modules_and_no_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Law: a script's helper is not found by the next one; an environment in the same folder stays imported."""
    for name in ("beside_script.py", ".venv/lib/site-packages/installed_package.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("value = 1\n")
    monkeypatch.syspath_prepend(tmp_path / ".venv/lib/site-packages")
    source = "import beside_script, installed_package\ndef use(): return beside_script.value, installed_package.value"
    with imports.script_function(f"{tmp_path}/mine.py:use", source) as function:
        assert function() == (1, 1)
        found = sys.modules["installed_package"]
        assert "beside_script" in sys.modules
    assert "beside_script" not in sys.modules
    assert sys.modules.pop("installed_package") is found
    assert str(tmp_path) not in sys.path


def test_a_script_sees_its_own_folder_first(tmp_path: Path):
    """Law: as where Python runs the script itself; of a namesake that is installed, the script's own is taken."""
    (tmp_path / "torchvision.py").write_text("here = True\n")
    installed = {name: module for name, module in sys.modules.items() if name.partition(".")[0] == "torchvision"}
    for name in installed:
        del sys.modules[name]
    try:
        source = "import torchvision\ndef use(): return torchvision.here"
        with imports.script_function(f"{tmp_path}/mine.py:use", source) as function:
            assert function() is True
        assert "torchvision" not in sys.modules
    finally:
        sys.modules.update(installed)


def test_a_script_in_a_studys_folder_leaves_the_studys_entry(tmp_path: Path):
    """Law: a study's folder stays on the path behind all others, after a script of the same folder has run."""
    study = load_study(written(tmp_path / "a"))
    assert parameters(study) == 2
    folder, before = str(tmp_path / "a"), list(sys.path)
    with imports.script_function(f"{folder}/mine.py:use", "def use(): pass"):
        assert sys.path == [folder, *before]
    assert sys.path == before
    assert before[-1] == folder


def test_a_prefix_of_python_hides_no_users_module(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Law: below Python's prefix (/usr/src/app below /usr), a user's module is a user's all the same, and forgotten."""
    monkeypatch.setattr(sys, "base_prefix", str(tmp_path))
    (tmp_path / "helper_of_tests.py").write_text("")
    with imports.script_function(f"{tmp_path}/mine.py:use", "import helper_of_tests\ndef use(): pass"):
        assert "helper_of_tests" in sys.modules
    assert "helper_of_tests" not in sys.modules


def test_what_is_installed_comes_first(tmp_path: Path):
    """Law: a file in the study's folder that is called as an installed package does not take its place."""
    file = written(tmp_path / "a", arch="torchvision.models:resnet18")
    (tmp_path / "a" / "torchvision.py").write_text("raise SystemExit")
    assert parameters(load_study(file)) == 62


def test_a_worker_of_another_process_finds_it(tmp_path: Path):
    """Law: the folder travels with the study, as it is pickled to workers."""
    study = pickle.loads(pickle.dumps(load_study(written(tmp_path / "a"))))  # noqa: S301 - ours
    assert parameters(study) == 2
    assert study.model.folder == str(tmp_path / "a")


def test_a_factory_that_is_nowhere_is_refused(tmp_path: Path):
    """Law: the line states where it was looked for."""
    study = load_study(written(tmp_path / "a", arch="studys_nit:tiny"))
    with pytest.raises(ModelError) as caught:
        parameters(study)
    expected = f"expected package.module:factory, installed on every node or in {tmp_path / 'a'}"
    assert str(caught.value) == (
        f"model.arch: 'studys_nit:tiny' cannot be imported (No module named 'studys_nit'); {expected}"
    )


def test_ray_workers_find_it(tmp_path: Path, ray_cluster: None):
    """Law: actors of a cluster import it from the study's folder, too."""
    summary = generate(load_study(written(tmp_path / "a")), workers=1, only=["original"])
    assert (summary.made, summary.exit_code) == (1, 0)
