"""A script, or a module's name -> the Python files of its folder that it imports, and that those import.

    modules_beside(Path("methods/mine.py"))      # [methods/shared.py, methods/nets/__init__.py, ...]
    module_in(Path("methods"), "nets")           # [methods/nets/__init__.py, ...]; empty where it is not there

This package itself is none of them: a study may lie beside its source.

Does not cover: imports by a computed name (`importlib.import_module(name)`); for a module's name, folders without
`__init__.py`.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable
from pathlib import Path

from ray_unlearn.errors import MethodError

_OURS = "ray_unlearn"


def modules_beside(script: Path, source: str | None = None) -> list[Path]:
    """Return the files that a script imports from its folder, and that those import, sorted; the script left out.

    A package is taken whole; of a folder without `__init__.py`, what is imported from it.

    Args:
        script: the script.
        source: its text, where that is known; else it is read.

    Raises:
        MethodError: one of them is not Python, or cannot be read.

    """
    found: dict[Path, None] = {}
    pending = _targets(script, _parsed(script, source), script.parent)
    while pending:
        path = pending.pop()
        if path != script and path not in found:
            found[path] = None
            pending += _targets(path, _parsed(path), script.parent)
    return sorted(found)


def module_in(folder: Path, name: str) -> list[Path]:
    """Return the files of a top-level module or package of a folder, and of what they import from there.

    Raises:
        MethodError: one of them is not Python, or cannot be read.

    """
    return _found(folder, {name})


def _found(folder: Path, names: set[str]) -> list[Path]:
    found: dict[Path, None] = {}
    pending = sorted(names)
    while pending:
        name = pending.pop(0)
        module, package = folder / f"{name}.py", folder / name
        files = sorted(package.rglob("*.py")) if (package / "__init__.py").is_file() else [module]
        new = [path for path in files if name != _OURS and path.is_file() and path not in found]
        found |= dict.fromkeys(new)
        pending += sorted(set[str]().union(*map(_imported, new)))
    return list(found)


def _targets(path: Path, nodes: Iterable[ast.AST], root: Path) -> list[Path]:
    """Return the files of a folder that a source's imports name; relative imports start from the source's own place."""
    found: list[Path] = []
    for node in nodes:
        if isinstance(node, ast.Import):
            names = [(root, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = path.parents[node.level - 1] if 0 < node.level <= len(path.parents) else root
            names = [(base, f"{node.module or ''}.{alias.name}".lstrip(".")) for alias in node.names]
        else:
            continue
        found += [file for base, name in names for file in _files(base, name) if root in file.parents]
    return found


def _files(folder: Path, name: str) -> list[Path]:
    """Return the files that a dotted name means in a folder: a module, or a package whole; none if it is not there."""
    parts = name.split(".")
    for part in parts if parts[0] != _OURS else ():
        package, module = folder / part, folder / f"{part}.py"
        if (package / "__init__.py").is_file():
            return sorted(package.rglob("*.py"))
        if module.is_file():
            return [module]
        folder = package
    return []


def _imported(path: Path) -> set[str]:
    """Return the top-level names that a source imports, wherever the statement stands; relative ones stay inside."""
    nodes = _parsed(path)
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module and not node.level}
    return {name.partition(".")[0] for name in names}


def _parsed(path: Path, source: str | None = None) -> list[ast.AST]:
    try:
        return list(ast.walk(ast.parse(path.read_text(encoding="utf-8") if source is None else source)))
    except (OSError, UnicodeDecodeError, SyntaxError, ValueError) as error:
        raise MethodError(f"{path}: not Python that can be read: {error}") from error
