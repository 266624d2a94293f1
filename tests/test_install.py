"""What an installation brings: examples in the wheel, bounds that pip respects, help, completion, release files."""

from __future__ import annotations

import importlib.metadata
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import typer
import yaml
from packaging.requirements import Requirement
from test_readme import check

from ray_unlearn import __version__
from ray_unlearn.cli import app, main
from ray_unlearn.cli.epilogs import EXAMPLES
from ray_unlearn.cli.examples import example_files
from ray_unlearn.study import load_study

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
COMMANDS = sorted(typer.main.get_command(app).commands)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, unpacked."""
    pytest.importorskip("hatchling", reason="no hatchling, which builds the wheel: uv sync")
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True, timeout=100)
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as archive:
        archive.extractall(folder / "installed")
    return folder / "installed"


def test_the_wheel_brings_every_example(wheel: Path, tmp_path: Path):
    """Law: `examples` of an installation lists and writes the files of the checkout, byte for byte."""
    code = "import sys; sys.path.insert(0, sys.argv.pop(1)); from ray_unlearn.cli import run; run()"
    base = [sys.executable, "-I", "-c", code, str(wheel), "examples"]
    listed = subprocess.run(base, capture_output=True, text=True, check=True, cwd=tmp_path, timeout=60)
    names = listed.stdout.split()
    assert names == list(example_files())
    assert {"slurm/array.sbatch", "studies/faces.yaml", "rayjob.yaml", "cluster.yaml"} <= set(names)
    for name, path in example_files().items():
        assert (wheel / "ray_unlearn/examples" / name).read_bytes() == path.read_bytes()
    subprocess.run([*base, "slurm/ray.sbatch", "mine"], check=True, capture_output=True, cwd=tmp_path, timeout=60)
    assert (tmp_path / "mine").read_bytes() == (ROOT / "jobs/slurm/ray.sbatch").read_bytes()
    others = {path.parts[0] for path in (one.relative_to(wheel) for one in wheel.rglob("*") if one.is_file())}
    assert {name.partition("-")[0] for name in others} == {"ray_unlearn"}


def test_an_example_is_printed_or_written_once(tmp_path: Path, capsys):
    """Law: it is the file's text; an existing file is not overwritten; a wrong name gets a hint."""
    file = tmp_path / "digits.yaml"
    assert main(["examples", "studies/digits.yaml", str(file)]) == 0
    load_study(file)
    assert main(["examples", "studies/digits.yaml", str(file)]) == 2
    capsys.readouterr()
    assert main(["examples", "studies/digits.yaml"]) == 0
    assert capsys.readouterr().out.strip() == file.read_text().strip()
    assert main(["examples", "studies/digit.yaml"]) == 2
    assert "did you mean 'studies/digits.yaml'" in capsys.readouterr().err


@pytest.mark.parametrize("text", PROJECT["dependencies"])
def test_every_dependency_has_both_bounds(text: str):
    """Law: pip, which reads no tool's constraints, takes no major version that the tests did not see."""
    wanted = Requirement(text)
    assert {one.operator for one in wanted.specifier} == {">=", "<"}
    assert importlib.metadata.version(wanted.name) in wanted.specifier


def test_every_command_has_examples_that_parse(capsys):
    """Law: --help ends with them, each line as it is typed; -h is the same."""
    assert sorted(EXAMPLES) == COMMANDS
    for command, lines in EXAMPLES.items():
        for line in lines:
            check(line)
        printed = []
        for option in ("--help", "-h"):
            assert main([command, option]) == 0
            printed.append(capsys.readouterr().out)
        assert printed[0] == printed[1]
        assert all(f"\n    {line}\n" in printed[0] for line in lines)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_names_no_option_that_the_command_lacks(command: str):
    """Law: an option in a help text is the command's own; one of another command is in backquotes, with its command."""
    found = typer.main.get_command(app).commands[command]
    for one in getattr(found, "commands", {command: found}).values():
        texts = [one.help, *(getattr(each, "help", None) for each in one.params)]
        named = {name for text in texts for name in re.findall(r"--[a-z-]+", re.sub(r"`[^`]*`", "", text or ""))}
        assert named <= {name for each in one.params for name in each.opts}


@pytest.mark.parametrize(
    ("words", "found"), [("ray-unlearn pl", ["plan"]), ("ray-unlearn e", ["evaluate", "examples", "export"])]
)
def test_the_shell_completes(words: str, found: list[str]):
    """Law: bash is given the subcommands that begin so."""
    code = "from ray_unlearn.cli import run; run()"
    environment = os.environ | {"_RAY_UNLEARN_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert sorted(done.stdout.split()) == found


def test_completion_is_shown_without_an_error(capsys):
    """Law: --show-completion, after which the framework ends Python, succeeds."""
    assert main(["--show-completion", "bash"]) == 0
    shown = capsys.readouterr()
    assert "complete" in shown.out
    assert shown.err == ""


def test_release_files_name_this_version():
    """Law: CITATION.cff has the fields of its format and this version; the Dockerfile has cluster.yaml's Ray."""
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors"} <= set(citation)
    assert citation["version"] == __version__ == PROJECT["version"]
    assert citation["license"] == PROJECT["license"]
    base = next(line for line in (ROOT / "Dockerfile").read_text().splitlines() if line.startswith("ARG BASE="))
    ray = next(line for line in (ROOT / "cluster.yaml").read_text().splitlines() if "ray[default]==" in line)
    assert base.partition("ray:")[2].partition("-")[0] == ray.partition("==")[2].strip("' ").partition("'")[0]


def test_a_release_is_published_without_a_token():
    """Law: only the job that publishes may have an identity, in an environment; actions are pinned by commit."""
    workflow = yaml.safe_load((ROOT / ".github/workflows/release.yml").read_text())
    assert workflow["permissions"] == {"contents": "read"}
    assert workflow["jobs"]["publish"]["permissions"] == {"id-token": "write"}
    assert workflow["jobs"]["publish"]["environment"] == "pypi"
    used = [step["uses"] for job in workflow["jobs"].values() for step in job["steps"] if "uses" in step]
    assert all(len(one.partition("@")[2]) == 40 for one in used)
    assert "secrets." not in (ROOT / ".github/workflows/release.yml").read_text()
