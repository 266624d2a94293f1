"""The documents: what they ask people to type exists, and versions agree."""

from __future__ import annotations

import re
import runpy
import shlex
import tomllib
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from conftest import TINY, merged
from samples import digit_runs, same_weights
from test_floors import FLOORS

from ray_unlearn import __version__
from ray_unlearn.cli import app, main
from ray_unlearn.methods import METHODS

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = {
    str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
    for pattern in ("*.md", "jobs/*.md", "jobs/*/README.md", "tests/*/README.md", "ray_unlearn/*/README.md")
    for path in sorted(ROOT.glob(pattern))
    if path.name != "CHANGELOG.md"  # it names what was once
}
README = DOCUMENTS["README.md"]
TEST_COMMAND = "pip install uv && uv run pytest"


def commands_in(text: str) -> list[str]:
    """Return every `ray-unlearn ...` of the text: lines of its shell blocks and spans of inline code."""
    blocks = re.findall(r"```bash\n(.*?)```", text, re.DOTALL)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    spans = re.findall(r"`(ray-unlearn [^`]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
    found = [line[line.index("ray-unlearn ") :].split("  #")[0] for line in lines if "ray-unlearn " in line]
    return [command.strip() for command in (*found, *spans)]


def check(command: str) -> None:
    """Parse a command as the command line would, without running it."""
    _, name, *arguments = shlex.split(command)
    root: Any = typer.main.get_command(app)
    if name.startswith("--"):
        assert name in {option for parameter in root.params for option in parameter.opts}
        return
    root.commands[name].make_context(name, arguments)


def test_the_readme_has_commands():
    """Law: the tests below look at something."""
    assert len(commands_in(README)) >= 8


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_command_of_a_document_parses(document: str):
    """Law: subcommand, arguments and options of each command exist."""
    for command in commands_in(DOCUMENTS[document]):
        check(command)


@pytest.mark.parametrize(
    ("command", "complaint"),
    [
        ("ray-unlearn generat s.yaml", "generat"),
        ("ray-unlearn status s.yaml --plots x", "No such option: --plots"),
        ("ray-unlearn generate s.yaml --backend spark", "'spark' is not one of"),
        ("ray-unlearn export s.yaml", "Missing parameter: file"),
    ],
)
def test_a_wrong_command_would_be_noticed(command: str, complaint: str):
    """Law: the check above can fail."""
    with pytest.raises(Exception, match=complaint):
        check(command)


@pytest.mark.parametrize("command", ["pip install uv && uv run ray-unlearn quickstart", TEST_COMMAND])
def test_the_two_set_up_commands_are_there(command: str):
    """Law: one command from nothing to a result, one from nothing to the tests; each a shell block of its own."""
    assert f"```bash\n{command}\n```" in README


@pytest.mark.parametrize("file", [".ci/run", *(str(p.relative_to(ROOT)) for p in ROOT.glob(".github/workflows/*.yml"))])
def test_ci_runs_the_readmes_test_command(file: str):
    """Law: what CI runs is what the README asks people to run."""
    assert TEST_COMMAND in (ROOT / file).read_text(encoding="utf-8")


def test_there_is_a_workflow():
    """Law: the test above covers a workflow."""
    assert list(ROOT.glob(".github/workflows/*.yml"))


def test_versions_agree():
    """Law: the changelog's newest version, pyproject's and the package's are one."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    newest = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert newest is not None
    assert {newest[1], project["version"], __version__} == {__version__}


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_local_link_of_a_document_leads_somewhere(document: str):
    """Law: files that a document links to are in the repository."""
    folder = (ROOT / document).parent
    links = [link for link in re.findall(r"\]\(([^)#]+)", DOCUMENTS[document]) if "://" not in link]
    assert [link for link in links if not (folder / link).exists()] == []


def test_every_file_that_the_documents_name_is_there():
    """Law: a Python or YAML file in inline code, with its folder, exists: in the repository or in the package."""
    missing = []
    for document, text in DOCUMENTS.items():
        named = set(re.findall(r"`((?:[\w.]+/)+\w+\.(?:py|yaml|html|json))`", text))
        places = (ROOT, ROOT / "ray_unlearn", (ROOT / document).parent)
        missing += [f"{document}: {name}" for name in named if not any((place / name).exists() for place in places)]
    assert [one for one in missing if "NAME" not in one and "path/to" not in one] == []


def test_contributing_names_what_is_in_the_files_that_it_names():
    """Law: a function or value in a row of "Where do I change ..." is in one of the row's files or folders."""
    rows = re.findall(r"^\| ([^|`]+) \| (.*) \|$", DOCUMENTS["CONTRIBUTING.md"], re.MULTILINE)
    assert len(rows) > 15
    for what, where in rows:
        named = re.findall(r"`([^`]+)`", where)
        places = [place for one in named for place in (ROOT / one, ROOT / "ray_unlearn" / one) if place.exists()]
        files = [file for place in places for file in (place.rglob("*.py") if place.is_dir() else [place])]
        text = "".join(file.read_text() for file in files)
        assert {one for one in named if one.isidentifier() and one not in text} == set(), what


def test_the_floors_are_those_that_contributing_names():
    """Law: CONTRIBUTING's sentence about the floors is the table that the imports are held to."""
    sentence = re.search(r"^`errors`.*?`__main__`$", DOCUMENTS["CONTRIBUTING.md"], re.DOTALL | re.MULTILINE)
    assert sentence is not None
    assert [re.findall(r"`(\w+)`", floor) for floor in re.split(r"\s<\s", sentence[0])] == FLOORS


def python_blocks(start: str) -> list[str]:
    """Return the documents' Python blocks whose first line is the comment `start`."""
    blocks = [block for text in DOCUMENTS.values() for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL)]
    return [block for block in blocks if block.startswith(start)]


def test_the_readmes_own_method_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Law: the lines that the README shows are a method: its runs can be repeated, and differ from one another."""
    (source,) = python_blocks("# ray_unlearn/methods/shrink_and_repair.py")
    (tmp_path / "shrink_and_repair.py").write_text(source)
    method = runpy.run_path(str(tmp_path / "shrink_and_repair.py"))["METHOD"]
    assert len(source.splitlines()) <= 45
    monkeypatch.setattr("samples.METHODS", {**METHODS, method.name: method})
    first, again, second = digit_runs(tmp_path, method.name, lr=1e-2)
    assert same_weights(first, again)
    assert not same_weights(first, second)


def test_the_readmes_script_works(tmp_path: Path):
    """Law: the competition's form, as the README shows it, makes a population from a study file."""
    (source,) = python_blocks("# my_method.py")
    (tmp_path / "my_method.py").write_text(source)
    mine = {"mine": {"method": "my_method.py:unlearning", "count": 2}, "finetune": None}
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(merged(TINY, {"populations": mine})))
    assert main(["generate", str(tmp_path / "study.yaml"), "--backend", "inline"]) == 0
    assert main(["export", str(tmp_path / "study.yaml"), str(tmp_path / "out.zip"), "--population", "mine"]) == 0
