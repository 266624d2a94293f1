"""What a user's code is made of: the files of its folder that it imports, their hashes, its installed distribution.

    script_identity("methods/mine.py:unlearning", source)        # sha256 of the text, and of each module it imports
    module_identity("mynet", "/home/me/faces/mynet.py", "/home/me/faces")
    module_texts("methods/mine.py:unlearning", source)           # {"shared.py": "import torch...", ...}
    script_modules(Path("methods/mine.py"))      # [methods/shared.py, methods/nets/__init__.py, ...]
    module_files(Path("methods"), "nets")        # [methods/nets/__init__.py, ...]; empty where it is not there
    distribution_of(Path(".../site-packages/nets/tiny.py"))      # {"name": "nets", "version": "1.2.0"}
    package_sha256("nets.tiny", "/home/me/nets/src/nets/tiny.py")       # of an editable installation

No path is in an identity but those inside the folder. Of an installed module, its own file is hashed alone; its
distribution's name and version identify the rest. This package itself is no user's code: a study may be next to its
source.

Does not cover: imports by a computed name (`importlib.import_module(name)`); of a factory, folders without
`__init__.py`, which no digest of a factory ever held; editable installations, whose files are hashed as a user's own.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import hashlib
import importlib.metadata
import json
import socket
import tokenize
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ray_unlearn.errors import MethodError
from ray_unlearn.study.identity import diff, digest

_OURS = "ray_unlearn"
_FOLDERS = ("site-packages", "dist-packages")


# Text


def text_of(path: Path) -> str:
    """Return a source file's text, decoded as Python does: by its mark or its first lines, else UTF-8.

    Raises:
        OSError: the file cannot be read.
        UnicodeDecodeError: it is of another encoding than it says.
        SyntaxError: it names an encoding that does not exist.

    """
    with tokenize.open(path) as file:
        return file.read()


# Identities


def sha256_of(file: str | Path | None) -> str:
    """Return a file's SHA-256 in hexadecimal; empty where there is no such file."""
    return hashlib.sha256(Path(file).read_bytes()).hexdigest() if file and Path(file).is_file() else ""


def script_identity(method: str, source: str) -> dict[str, Any]:
    """Return what identifies a script: text, function, the modules of its folder that it imports, its distribution.

    Raises:
        MethodError: a module is not Python, or cannot be read.

    """
    path, _, function = method.rpartition(":")
    script = Path(path)
    found: dict[str, Any] = {"script_sha256": hashlib.sha256(source.encode()).hexdigest(), "function": function}
    if modules := script_modules(script, source):
        found["modules"] = {module.relative_to(script.parent).as_posix(): sha256_of(module) for module in modules}
    if distribution := distribution_of(script):
        found["distribution"] = distribution
    return found


def module_texts(method: str, source: str) -> dict[str, str]:
    """Return the text of the modules that a script imports from its folder, by their path in it.

    Raises:
        MethodError: a module is not Python, or cannot be read.

    """
    script = Path(method.rpartition(":")[0])
    return {module.relative_to(script.parent).as_posix(): text_of(module) for module in script_modules(script, source)}


def check_script(method: str, source: str, planned: Mapping[str, Any]) -> None:
    """Check that a script imports the modules that the study was planned with.

    Raises:
        MethodError: one of them was edited meanwhile, or is another one on this machine.

    """
    if planned and (lines := diff(dict(planned), script_identity(method, source))):
        raise MethodError(
            f"method {method}: what it imports is not what the study was planned with ({'; '.join(lines)}) on "
            f"{socket.gethostname()}; restore it, or generate again: the population is then another one"
        )


def module_identity(name: str, file: str | None, folder: str) -> dict[str, Any]:
    """Return what identifies an imported module, each key only where there is such a file.

    `source_sha256` of its file; `distribution` of an installed one; `beside_sha256` of the modules that it imports from
    the study's folder, where it is of that folder.

    Raises:
        MethodError: a module of the folder is not Python.

    """
    sha256 = sha256_of(file)
    found: dict[str, Any] = {"source_sha256": sha256} if sha256 else {}
    if file and (distribution := distribution_of(Path(file))):
        found["distribution"] = distribution
    root = Path(folder)
    if folder and file and root in Path(file).parents:
        others = sorted(path for path in module_files(root, name.partition(".")[0]) if path != Path(file))
        if others:
            found["beside_sha256"] = digest([[path.relative_to(root).as_posix(), sha256_of(path)] for path in others])
    return found


def package_sha256(name: str, file: str) -> str:
    """Return the digest of all files of an imported module's package, and of what they import from beside it.

    Of a folder without `__init__.py` it covers the module and what it imports.

    Args:
        name: the module's full name.
        file: its file.

    Raises:
        MethodError: one of the files is not Python.

    """
    path = Path(file)
    root = path.parents[name.count(".") + (path.name == "__init__.py")]
    found = sorted({path, *_closure(_files(root, name, namespaces=True), root, namespaces=True)})
    return digest([[one.relative_to(root).as_posix(), sha256_of(one)] for one in found])


# Files


def script_modules(script: Path, source: str | None = None) -> list[Path]:
    """Return the files that a script imports from its folder, and that those import, sorted; the script left out.

    A package is taken whole; of a folder without `__init__.py`, what is imported from it.

    Args:
        script: the script.
        source: its text, where that is known; else it is read.

    Raises:
        MethodError: one of them is not Python, or cannot be read.

    """
    root = script.parent
    pending = _targets(script, _parsed(script, source), root, namespaces=True)
    return sorted(set(_closure(pending, root, script, namespaces=True)))


def module_files(folder: Path, name: str) -> list[Path]:
    """Return the files of a top-level module or package of a folder, and of what they import from there.

    Raises:
        MethodError: one of them is not Python, or cannot be read.

    """
    return _closure(_files(folder, name, namespaces=False), folder)


def _closure(pending: list[Path], root: Path, script: Path | None = None, *, namespaces: bool = False) -> list[Path]:
    """Return files and those of a folder that they import, in turn, the script left out.

    With `namespaces` imports are followed into folders without `__init__.py`, too.
    """
    found: dict[Path, None] = {}
    while pending:
        path = pending.pop(0)
        if path != script and path not in found:
            found[path] = None
            pending += _targets(path, _parsed(path), root, namespaces=namespaces)
    return list(found)


def _targets(path: Path, nodes: Iterable[ast.AST], root: Path, *, namespaces: bool) -> list[Path]:
    """Return the files of a folder that a source's imports name; relative imports start from the source's own place.

    Without `namespaces` relative imports are left out: they stay inside a package, which is taken whole.
    """
    found: list[Path] = []
    for node in nodes:
        if isinstance(node, ast.Import):
            names = [(root, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and (namespaces or not node.level):
            base = path.parents[node.level - 1] if 0 < node.level <= len(path.parents) else root
            names = [(base, f"{node.module or ''}.{alias.name}".lstrip(".")) for alias in node.names]
        else:
            continue
        files = (file for base, name in names for file in _files(base, name, namespaces=namespaces))
        found += [file for file in files if root in file.parents]
    return found


def _files(folder: Path, name: str, *, namespaces: bool) -> list[Path]:
    """Return the files that a dotted name means in a folder: a module, or a package whole; none if it is not there."""
    parts = name.split(".")
    for part in parts[: None if namespaces else 1] if parts[0] != _OURS else ():
        package, module = folder / part, folder / f"{part}.py"
        if (package / "__init__.py").is_file():
            return sorted(path for path in package.rglob("*.py") if path.is_file())
        if module.is_file():
            return [module]
        folder = package
    return []


def _parsed(path: Path, source: str | None = None) -> list[ast.AST]:
    try:
        return list(ast.walk(ast.parse(text_of(path) if source is None else source)))
    except (OSError, UnicodeDecodeError, SyntaxError, ValueError) as error:
        raise MethodError(f"{path}: not Python that can be read: {error}") from error


# Distributions


def distribution_of(file: Path) -> dict[str, str]:
    """Return name and version of the distribution that a file is of; empty where it is of none."""
    folder = next((parent for parent in file.absolute().parents if parent.name in _FOLDERS), None)
    if folder is None:
        return {}
    owner = _owner(str(folder), file.absolute().relative_to(folder).as_posix())
    return name_and_version(owner) if owner else {}


def name_and_version(distribution: importlib.metadata.Distribution) -> dict[str, str]:
    """Return what identifies a distribution.

    The part of a version after `+` is left out: it names a build (`+cpu`, `+cu126`), not other code.
    """
    return {"name": distribution.name, "version": distribution.version.partition("+")[0]}


def is_editable(distribution: importlib.metadata.Distribution) -> bool:
    """Return whether a distribution is its author's folder: files may change while name and version do not."""
    with contextlib.suppress(ValueError, AttributeError):  # no file, or one of another form
        return bool(json.loads(distribution.read_text("direct_url.json") or "{}").get("dir_info", {}).get("editable"))
    return False


@functools.cache
def _owner(folder: str, name: str) -> importlib.metadata.Distribution | None:
    top = name.partition("/")[0].removesuffix(".py")
    found = list(importlib.metadata.distributions(path=[folder]))
    found.sort(key=lambda one: (_plain(one.name) != _plain(top), one.name))  # most are called as their package
    for one in found:
        if any(path.as_posix() == name for path in one.files or ()):
            return one
    return None


def _plain(name: str | None) -> str:
    return (name or "").lower().replace("-", "_")
