"""A script, or a module's name -> the Python files of its folder that it imports, and that those import.

    modules_beside(Path("methods/mine.py"))      # [methods/shared.py, methods/nets/__init__.py, ...]
    module_in(Path("methods"), "nets")           # [methods/nets/__init__.py, ...]; empty where it is not there

This package itself is none of them: a study may lie beside its source.

Does not cover: imports by a computed name (`importlib.import_module(name)`), folders without `__init__.py`.
"""

from __future__ import annotations

import ast
from pathlib import Path

from ray_unlearn.errors import MethodError

_OURS = "ray_unlearn"


def modules_beside(script: Path) -> list[Path]:
    """Return the files, a package whole, the script itself left out.

    Raises:
        MethodError: one of them is not Python, or cannot be read.

    """
    return [path for path in _found(script.parent, _imported(script)) if path != script]


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


def _imported(path: Path) -> set[str]:
    """Return the top-level names that a source imports, wherever the statement stands; relative ones stay inside."""
    try:
        nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    except (OSError, UnicodeDecodeError, SyntaxError, ValueError) as error:
        raise MethodError(f"{path}: not Python that can be read: {error}") from error
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module and not node.level}
    return {name.partition(".")[0] for name in names}
