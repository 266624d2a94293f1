"""The documents: what they tell people to type exists, and versions agree."""

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

from ray_unlearn import __version__
from ray_unlearn.cli import app, main
from ray_unlearn.methods import METHODS

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
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


@pytest.mark.parametrize("command", commands_in(README))
def test_every_command_of_the_readme_parses(command: str):
    """Law: subcommand, arguments and options of each command exist."""
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
    """Law: what CI runs is what the README tells people to run."""
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


@pytest.mark.parametrize("link", re.findall(r"\]\(([^)#:]+)\)", README))
def test_every_local_link_of_the_readme_leads_somewhere(link: str):
    """Law: files that the README links to are in the repository."""
    assert (ROOT / link).exists()


def test_every_module_named_in_the_architecture_exists():
    """Law: the tree in the README is the tree in the repository."""
    tree = re.search(r"```\nray_unlearn/\n(.*?)jobs/", README, re.DOTALL)
    assert tree is not None
    named = set(re.findall(r"^  (\S+)", tree[1], re.MULTILINE))
    package = ROOT / "ray_unlearn"
    there = {p.name for p in package.glob("*.py")} | {f"{p.parent.name}/" for p in package.glob("*/__init__.py")}
    assert named == there - {"__init__.py", "__main__.py"}


def python_blocks(start: str) -> list[str]:
    """Return the README's Python blocks whose first line is the comment `start`."""
    return [block for block in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if block.startswith(start)]


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
