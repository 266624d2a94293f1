"""The package as a notebook uses it: its functions, its tables, its progress; the examples of every document."""

from __future__ import annotations

import ast
import builtins
import json
import re
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml
from conftest import TINY, merged
from evaluated import evaluated_store
from plans import finetune
from test_floors import python
from test_readme import DOCUMENTS, ROOT

import ray_unlearn as ru
from ray_unlearn.errors import RayUnlearnError, StudyError
from ray_unlearn.evaluation.epsilon import example_epsilons
from ray_unlearn.evaluation.outputs import read_outputs
from ray_unlearn.monitor import TimeLeft, show_progress
from ray_unlearn.run.outcome import Outcome
from ray_unlearn.schedule.events import Made
from ray_unlearn.study.schema import Execution

NAMES = ["Study", "evaluate", "forget", "generate", "load_study", "parse_study", "report", "results"]


def test_names_are_imported_when_they_are_used(tmp_path: Path):
    """Law: `import ray_unlearn` brings nothing; `ru.report` is a function before and after its room is imported."""
    code = """if True:
        import sys
        import ray_unlearn as ru
        print(sorted({"torch", "ray", "pandas", "pydantic"} & set(sys.modules)))
        print(callable(ru.report), "ray_unlearn.report" in sys.modules)
        import ray_unlearn.report.table
        print(callable(ru.report), ray_unlearn.report.table.Table.__name__)
        print(set(sys.argv[1:]) <= set(dir(ru)))
    """
    lines = python(code, *NAMES, cwd=tmp_path).splitlines()
    assert lines == ["[]", "True True", "True Table", "True"]
    assert all(callable(getattr(ru, name)) for name in NAMES)
    with pytest.raises(AttributeError, match="no attribute 'forgett'"):
        ru.forgett  # noqa: B018


def test_results_are_tables_with_readable_forms(tmp_path: Path):
    """Law: runs, scores and images are DataFrames of what is stored; a notebook shows the ranking, escaped."""
    study, _ = evaluated_store(tmp_path / "store", {"retrained": 8, "again": 4, "shifted": 4})
    before = ru.results(study)
    assert before.scores.empty
    assert "<pre>" in before._repr_html_()
    assert "planned" in repr(before)
    found = ru.evaluate(study)
    assert "null F" in repr(found)
    assert "<strong>" in found._repr_html_()
    assert "<td>shifted</td>" in found._repr_html_()
    assert set(found.scores["population"]) == {"again", "shifted"}
    assert len(found.runs) == 17
    kept = ru.results(study).evaluation
    assert kept == found.evaluation


def test_every_forget_image_has_its_epsilon_by_name(tmp_path: Path):
    """Law: epsilon and confidence of an image are those of its column of the outputs, at the N of both sides."""
    study, store = evaluated_store(tmp_path / "store", {"retrained": 8, "again": 4, "few": 2})
    table = ru.results(study).images
    ours, theirs = (read_outputs(store, name, store.made(name)).splits["forget"] for name in ("again", "retrained"))
    rows = table[table["population"] == "again"]
    expected = example_epsilons(ours.phi_RN, theirs.phi_RN[:4])
    np.testing.assert_array_equal(rows["epsilon"], expected.epsilon_E)
    np.testing.assert_allclose(rows["confidence"], np.exp(-ours.loss_RN).mean(0))
    assert set(rows["epsilon_n"]) == {4}
    assert rows["image_id"].is_unique
    assert table[table["population"] == "few"]["epsilon"].isna().all()
    assert table[table["population"] == "retrained"]["epsilon"].isna().all()


def test_a_report_is_text_and_a_frame(tmp_path: Path):
    """Law: a table prints as itself; the page is shown in a frame, with its text escaped, and is in the store."""
    study, store = evaluated_store(tmp_path / "store", {"retrained": 8, "again": 4})
    ru.evaluate(study)
    table = ru.report(study, "latex", columns=["population", "N"], output=tmp_path / "a.tex")
    assert str(table) == (tmp_path / "a.tex").read_text()
    assert "again & 4" in str(table)
    page = ru.report(study, figures=tmp_path / "figures")
    assert store.storage.read(store.layout.report("html")).decode() == page.text
    assert page._repr_html_().startswith('<iframe srcdoc="&lt;!doctype html&gt;')
    assert (tmp_path / "figures/closeness.svg") in page.figures
    with pytest.raises(RayUnlearnError, match="columns are of a table"):
        ru.report(study, columns=["N"])
    with pytest.raises(RayUnlearnError, match=r"b\.tex: cannot be written"):
        ru.report(study, "latex", output=tmp_path / "nowhere" / "b.tex")


def test_a_study_from_python_values(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Law: relative paths are relative to the current folder, as a file's are to the file's; errors name the key."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(TINY))
    assert ru.parse_study(TINY) == ru.load_study("study.yaml")
    assert ru.Study.model_validate(TINY).populations == ru.parse_study(TINY).populations
    with pytest.raises(StudyError, match=r"the study: training.epoch: unknown key \(did you mean 'epochs'"):
        ru.parse_study(merged(TINY, {"training": {"epoch": 2}}))


def made(index: int) -> Made:
    return Made(Outcome(run=finetune(index), seconds=1.0), 1, 1)


def test_a_notebook_s_cell_shows_a_bar_that_moves(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture):
    """Law: one output, replaced; it counts runs, shows the last lines escaped, and prints nothing beside it."""
    shown: list[str] = []

    class Handle:
        def update(self, one: str) -> None:
            shown.append(one)

    def display(one: str, *, display_id: bool) -> Handle:
        assert display_id
        return Handle()

    modules: dict[str, Any] = {"IPython": ModuleType("IPython"), "IPython.display": SimpleNamespace(HTML=str)}
    modules["IPython.display"].display = display
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    shell = type("ZMQInteractiveShell", (), {})()
    monkeypatch.setattr(builtins, "get_ipython", lambda: shell, raising=False)
    with show_progress(2, 0, Execution(), TimeLeft({"finetune": 2})) as bar:
        bar.log("<b>2 runs</b>")
        bar(made(0))
        bar(made(1))
    assert '<progress value="2" max="2"' in shown[-1]
    assert "&lt;b&gt;2 runs&lt;/b&gt;" in shown[-1]
    assert capsys.readouterr() == ("", "")


# The examples of the documents


def examples() -> dict[str, str]:
    """Return every Python example of the documents, and of the package's docstring, by its place."""
    found = {}
    for document, text in DOCUMENTS.items():
        for number, block in enumerate(re.findall(r"```python\n(.*?)```", text, re.DOTALL)):
            if not block.startswith("# "):  # a file of its own, which test_readme runs
                found[f"{document} {number}"] = block
    docstring = ru.__doc__ or ""
    found["the package"] = "\n".join(line[4:] for line in docstring.splitlines() if line.startswith("    "))
    return found


@pytest.fixture
def in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder has the study that the documents' examples use, not made yet."""
    populations = {"retrained": {"method": "train", "on": "retain", "count": 8}, "finetune": {"count": 8}}
    changes = {"outputs": {"splits": ["forget", "test", "retain"]}, "evaluation": {"resamples": 10}}
    study = merged(TINY, changes | {"populations": populations})
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(study | {"name": "faces", "storage": "studies"}))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("place", examples())
def test_the_examples_of_documents_run(in_a_folder: Path, place: str, capsys: pytest.CaptureFixture):
    """Law: what a document shows works as it stands, beside a study file."""
    source = examples()[place]
    if "studies/faces" in source:
        ru.generate(ru.load_study("study.yaml"), backend="inline")
    exec(compile(source, place, "exec"), {"__name__": "__main__"})  # noqa: S102


def test_there_are_examples():
    """Law: the test above looks at the README, at the store's document and at the package's docstring."""
    assert {"README.md", "ray_unlearn/store/README.md", "the package"} <= {
        place.rpartition(" ")[0] if place[-1].isdigit() else place for place in examples()
    }


# The notebooks


NOTEBOOKS = sorted((ROOT / "jobs/notebooks").glob("*.ipynb"))
QUICKER = {'"epochs": 10': '"epochs": 1', '"outputs": {': '"evaluation": {"resamples": 10}, "outputs": {'}
"""What a notebook's study says -> what it says in the test, in a third of the time."""


def run_cells(notebook: Path, folder: Path, namespace: dict[str, Any]) -> list[str]:
    """Execute the code cells of a notebook in a folder as its kernel would; return the last expressions' forms."""
    shown = []
    for cell in json.loads(notebook.read_text())["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] != "code":
            continue
        if source.startswith("%%writefile "):
            first, _, rest = source.partition("\n")
            (folder / first.split()[1]).write_text(rest)
            continue
        if "parse_study" in source:
            assert all(source.count(long) == 1 for long in QUICKER)
            for long, quick in QUICKER.items():
                source = source.replace(long, quick)
        tree = ast.parse(source)
        last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
        exec(compile(tree, notebook.name, "exec"), namespace)  # noqa: S102
        if last is not None:
            value = eval(ast.unparse(last), namespace)  # noqa: S307
            html: Callable[[], str] | None = getattr(value, "_repr_html_", None)
            shown.append(html() if html else repr(value))
    return shown


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda one: one.stem)
def test_the_notebooks_run_from_start_to_end(notebook: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Law: every cell works in an empty folder; scores and the page are shown."""
    monkeypatch.chdir(tmp_path)
    shown = run_cells(notebook, tmp_path, {"__name__": "__main__"})
    assert any("<strong>" in one for one in shown)
    assert len(shown) >= 4


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda one: one.stem)
def test_a_notebook_is_committed_without_outputs(notebook: Path):
    """Law: no output, and so no path of a machine, is in the repository."""
    content = json.loads(notebook.read_text())
    assert all(cell.get("outputs", []) == [] for cell in content["cells"])


def badge(notebook: Path) -> str:
    """Return the line with which a notebook opens in Colab; empty where pyproject.toml names no repository."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    repository = project.get("urls", {}).get("Repository", "")
    place = f"{repository.removeprefix('https://github.com/')}/blob/main/{notebook.relative_to(ROOT).as_posix()}"
    image = "![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)"
    return f"[{image}](https://colab.research.google.com/github/{place})" if repository else ""


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda one: one.stem)
def test_a_notebook_s_badge_is_of_the_repository_that_pyproject_names(notebook: Path):
    """Law: no badge leads to another place, and none is there before the repository has one."""
    first = "".join(json.loads(notebook.read_text())["cells"][0]["source"])
    assert re.findall(r"^\[!\[Open in Colab.*$", first, re.MULTILINE) == [badge(notebook)] * bool(badge(notebook))


def test_there_are_two_notebooks():
    """Law: the tests above run something."""
    assert [one.stem for one in NOTEBOOKS] == ["quickstart", "your_method"]
