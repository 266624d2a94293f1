"""A script is the file and every module of its folder that it imports: one edited is another population, by name."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import payload_bytes

from ray_unlearn import models
from ray_unlearn.errors import PopulationChanged
from ray_unlearn.generation import generate
from ray_unlearn.generation.job import open_job
from ray_unlearn.run.worker import Worker
from ray_unlearn.store import StudyStore, open_storage
from ray_unlearn.study import Run, Study
from ray_unlearn.study.schema import Model
from ray_unlearn.usercode.sources import distribution_of, script_identity, script_modules

SCRIPT = """
import torch
from helper import RATE

def unlearning(net, retain_loader, forget_loader, val_loader):
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(RATE)
"""
HELPER = "from deep.rates import RATE\n"


def written(folder: Path) -> str:
    """Write a script whose helper imports from a folder without `__init__.py`; return the method's name."""
    (folder / "deep").mkdir(parents=True)
    (folder / "mine.py").write_text(SCRIPT)
    (folder / "helper.py").write_text(HELPER)
    (folder / "deep" / "rates.py").write_text("RATE = 0.5\n")
    (folder / "deep" / "unused.py").write_text("RATE = 9\n")
    return f"{folder}/mine.py:unlearning"


@pytest.fixture
def study(tiny: Callable[..., Study], tmp_path: Path) -> Callable[..., Study]:
    """Return a function: count -> a study of one original and that many runs of the script."""
    method = written(tmp_path / "code")

    def make(count: int) -> Study:
        return tiny(populations={"finetune": None, "mine": {"method": method, "count": count}})

    return make


def edit(tmp_path: Path) -> None:
    (tmp_path / "code" / "helper.py").write_text(HELPER + "RATE = 0.25\n")


def test_an_edited_helper_is_refused_by_name(study: Callable[..., Study], tmp_path: Path):
    """Law: run 0 is made, the helper edited, the count raised (reproduction b): no run of other code joins; the lines
    of the edit are shown, because the store keeps the text of what the script imports from beside it.
    """
    assert generate(study(1), backend="inline").exit_code == 0
    before = payload_bytes(tmp_path / "store")
    edit(tmp_path)
    with pytest.raises(PopulationChanged) as caught:
        generate(study(2), backend="inline")
    first, second, *details, last = str(caught.value).splitlines()
    assert first.startswith("population mine in ")
    assert second.startswith('  method.modules.helper.py: "')
    assert last.endswith("or change it back.")
    at = details.index("  helper.py was edited:")
    assert details[at + 1 : at + 4] == ["    @@ -1 +1,2 @@", "     from deep.rates import RATE", "    +RATE = 0.25"]
    assert not [line for line in details if "mine.py was edited" in line or "rates.py was edited" in line]
    assert payload_bytes(tmp_path / "store") == before
    (tmp_path / "code" / "helper.py").write_text(HELPER)
    assert generate(study(2), backend="inline").made == 1


def test_a_helper_edited_while_the_study_runs_fails_the_run(study: Callable[..., Study], tmp_path: Path):
    """Law: a worker runs what was planned, or nothing; the failure names the file, and is final."""
    job = open_job(study(2))
    job.store.admit(job.plan)
    worker = Worker(job, "cpu")
    worker.open()
    for population in ("original", "mine"):
        (outcome,) = worker.work([(Run(population=population, index=0), 1)], flush=True)
        assert outcome.error == ""
    edit(tmp_path)
    (outcome,) = worker.work([(Run(population="mine", index=1), 1)], flush=True)
    worker.close()
    assert "what it imports is not what the study was planned with (modules.helper.py: " in outcome.error
    assert outcome.final
    assert StudyStore(open_storage(job.plan.study.storage), "tiny").record(Run(population="mine", index=1)) is None


def test_what_is_hashed(tmp_path: Path):
    """Law: every module that is imported from the folder, however deep, by content and by its place in the folder."""
    method = written(tmp_path / "a")
    found = script_identity(method, SCRIPT)
    assert found["modules"] == {
        "deep/rates.py": hashlib.sha256(b"RATE = 0.5\n").hexdigest(),
        "helper.py": hashlib.sha256(HELPER.encode()).hexdigest(),
    }
    assert script_identity(written(tmp_path / "moved"), SCRIPT) == found
    assert "modules" not in script_identity(method, "import torch\n")


def test_relative_imports_of_a_folder_without_init(tmp_path: Path):
    """Law: `from . import x`, `from .x import y` and `import a.b` mean the files that Python would read."""
    (tmp_path / "nets" / "parts").mkdir(parents=True)
    (tmp_path / "mine.py").write_text("import nets.one\nimport mine\nimport ray_unlearn\n")
    (tmp_path / "nets" / "one.py").write_text("from . import two\nfrom .parts.three import x\nfrom ... import mine\n")
    (tmp_path / "nets" / "two.py").write_text("from .one import y\n")
    (tmp_path / "nets" / "parts" / "three.py").write_text("")
    (tmp_path / "ray_unlearn").mkdir()
    (tmp_path / "ray_unlearn" / "__init__.py").write_text("")
    found = [path.relative_to(tmp_path).as_posix() for path in script_modules(tmp_path / "mine.py")]
    assert found == ["nets/one.py", "nets/parts/three.py", "nets/two.py"]


def installed(folder: Path, version: str) -> Path:
    """Lay out an installed distribution `nets-of-tests` with one module; return the module."""
    site = folder / "site-packages"
    info = site / "nets_of_tests-1.0.dist-info"
    info.mkdir(parents=True, exist_ok=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: nets-of-tests\nVersion: {version}\n")
    (info / "RECORD").write_text("method_of_tests.py,,\nnets_of_tests-1.0.dist-info/METADATA,,\n")
    (site / "method_of_tests.py").write_text(SCRIPT.replace("from helper import RATE", "RATE = 1"))
    return site / "method_of_tests.py"


def test_an_installed_script_is_of_its_distribution(tmp_path: Path):
    """Law: name and version of the distribution are part of the identity; what names the build is not."""
    old, new = installed(tmp_path / "old", "1.0"), installed(tmp_path / "new", "1.1+cu126")
    one, other = (script_identity(f"{path}:unlearning", path.read_text()) for path in (old, new))
    assert one["distribution"] == {"name": "nets-of-tests", "version": "1.0"}
    assert other == one | {"distribution": {"name": "nets-of-tests", "version": "1.1"}}
    assert distribution_of(tmp_path / "old" / "site-packages" / "stray.py") == {}
    assert distribution_of(Path(__file__)) == {}


def test_an_installed_factory_is_of_its_distribution(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Law: the version of what a factory was installed from is part of the model's identity."""
    module = installed(tmp_path, "1.0")
    module.write_text("def tiny(num_classes):\n    pass\n")
    monkeypatch.syspath_prepend(module.parent)
    found: dict[str, Any] = models.identity(Model(arch="method_of_tests:tiny"))
    assert found["distribution"] == {"name": "nets-of-tests", "version": "1.0"}
    assert os.fspath(tmp_path) not in str(found)
