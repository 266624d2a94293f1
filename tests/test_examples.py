"""The examples that no other test runs: studies in documents, docstrings, and the scripts that documents call.

`test_commands` runs the `ray-unlearn` commands, `test_notebook` every Python example and both notebooks.
"""

from __future__ import annotations

import ast
import builtins
import doctest
import functools
import importlib
import re
from typing import Any

import pytest
from conftest import TINY
from test_floors import parsed
from test_readme import DOCUMENTS, ROOT

from ray_unlearn.methods.resolve import resolve
from ray_unlearn.study import parse_study
from ray_unlearn.study.yaml12 import parse_yaml

MODULES = {path.relative_to(ROOT).as_posix(): path.read_text("utf-8") for path in ROOT.glob("ray_unlearn/**/*.py")}
TREES = {name: parsed(text) for name, text in MODULES.items()}


@functools.cache
def studies() -> dict[str, dict[str, Any]]:
    """Return every study, or part of one, that a document or a module's docstring shows, by its place."""
    blocks = {name: re.findall(r"```yaml\n(.*?)```", text, re.DOTALL) for name, text in DOCUMENTS.items()}
    for name, tree in TREES.items():
        docstring = ast.get_docstring(tree) or ""
        blocks[name] = re.findall(r"^    populations:\n(?:      .*\n?)+", docstring, re.MULTILINE)
    return {f"{name} {place}": parse_yaml(text) for name, found in blocks.items() for place, text in enumerate(found)}


@pytest.mark.parametrize("place", studies())
def test_the_studies_of_documents_are_valid(place: str):
    """Law: each is a study, or a part that a small study takes in, and its methods take the options."""
    shown = studies()[place]
    populations = {"populations": {**TINY["populations"], **shown.get("populations", {})}}
    study = parse_study(shown if "data" in shown else {**TINY, **shown, **populations}, where=place)
    for name, spec in study.populations.items():
        if ".py:" not in spec.method_name and not spec.weights:  # test_readme runs the script
            resolve(study, name)


@pytest.mark.parametrize("name", [name for name, text in MODULES.items() if ">>> " in text])
def test_the_examples_with_results_give_them(name: str):
    """Law: what stands below a `>>>` is what the line gives."""
    module = importlib.import_module(name.removesuffix(".py").removesuffix("/__init__").replace("/", "."))
    failed, tried = doctest.testmod(module)
    assert (failed, tried > 0) == (0, True)


def unknown_calls() -> list[str]:
    """Return the calls in modules' docstrings of names that neither the package nor the example defines."""
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    defined = {node.name for tree in TREES.values() for node in ast.walk(tree) if isinstance(node, kinds)}
    defined |= {*dir(builtins), "Counter", "Field", "Path", "log", "partial"}  # of libraries that everyone knows
    defined |= {"factory", "method", "unlearning"}  # a user's own
    return [
        f"{module}: {name}"
        for module, tree in TREES.items()
        for name in _called(_example(ast.get_docstring(tree) or ""))
        if name not in defined
    ]


def _example(docstring: str) -> list[ast.AST]:
    """Return the nodes of the indented lines that are Python, each for itself."""
    nodes: list[ast.AST] = []
    for line in docstring.splitlines():
        text = line.strip().removesuffix(":") + ": ..." if line.rstrip().endswith(":") else line.strip()
        try:
            nodes += ast.walk(ast.parse(text)) if line.startswith("    ") else ()
        except SyntaxError:
            continue
    return nodes


def _called(nodes: list[ast.AST]) -> set[str]:
    bound = {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    calls = [node.func for node in nodes if isinstance(node, ast.Call)]
    return {func.id for func in calls if isinstance(func, ast.Name)} - bound


def test_the_examples_of_docstrings_call_what_there_is():
    """Law: a function that a module's docstring calls exists, or the example says what it is."""
    assert unknown_calls() == []


def scripts() -> list[tuple[str, str, list[str]]]:
    """Return (document, script, options) of every call of a Python script that a document or a script shows.

    Options after a lone `--` are those of another command.
    """
    texts = DOCUMENTS | {
        path.relative_to(ROOT).as_posix(): ast.get_docstring(ast.parse(path.read_text("utf-8"))) or ""
        for pattern in ("jobs/**/*.py", "tests/bench/*.py", "tests/stress/*.py", ".ci/*.py")
        for path in ROOT.glob(pattern)
    }
    return [
        (document, call[1], re.findall(r"(?<= )--[a-z][a-z-]*", call[2].partition(" -- ")[0]))
        for document, text in texts.items()
        for call in re.finditer(r"python ((?:\w|\.ci|/|-)+\.py)([^`#\n]*)", text.replace("\\\n", " "))
    ]


def test_the_scripts_of_documents_have_their_options():
    """Law: each script that is called is there, and reads each option that it is called with."""
    assert len(scripts()) > 20
    for document, script, options in scripts():
        (file,) = [path for path in (ROOT / script, ROOT / "jobs" / script) if path.is_file()]  # jobs: a working folder
        source = file.read_text("utf-8")
        unread = [option for option in options if f'"{option.replace("--no-", "--")}"' not in source]
        assert unread == [] or file.name == "study.py", f"{document}: {script}"  # it hands them on: `test_job`
