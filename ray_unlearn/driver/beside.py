"""A script -> the Python files of its folder that it imports, and that those import.

    modules_beside(Path("methods/mine.py"))      # [methods/shared.py, methods/nets/__init__.py, ...]

Does not cover: imports by a computed name (`importlib.import_module(name)`), folders without `__init__.py`.
"""

from __future__ import annotations

import ast
from pathlib import Path

from ray_unlearn.errors import MethodError


def modules_beside(script: Path) -> list[Path]:
    """Return the files, a package whole, the script itself left out.

    Raises:
        MethodError: one of them is not Python, or cannot be read.

    """
    found: dict[Path, None] = {}
    pending = [script]
    while pending:
        for name in sorted(_imported(pending.pop())):
            module, package = script.parent / f"{name}.py", script.parent / name
            files = sorted(package.rglob("*.py")) if (package / "__init__.py").is_file() else [module]
            new = [path for path in files if path.is_file() and path not in found and path != script]
            found |= dict.fromkeys(new)
            pending += new
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
