"""`package.module:factory` -> the callable: among all that is installed, else beside the study file.

    factory = find_factory("mynet:tiny", beside="/home/me/faces")    # in faces/mynet.py, if no mynet is installed
    source_sha256("mynet:tiny")                  # of the module that it was found in

The study's folder goes to the end of `sys.path`, behind every installed package, and stays there, so that a factory may
import what lies beside it when it is called, too. One study at a time: where another study of this process looked
before, its folder and what was imported from there are forgotten.

Does not cover: calling the factory (`models`), factories that travel to a cluster (`driver.parcel`).
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ray_unlearn.errors import ModelError


class _Folder(str):
    """An entry of `sys.path` that was put there here, and which modules there were before it."""

    before: frozenset[str]

    def __new__(cls, path: str) -> _Folder:
        entry = super().__new__(cls, path)
        entry.before = frozenset(sys.modules)
        return entry


def find_factory(arch: str, beside: str = "") -> Callable[..., Any]:
    """Import a factory; `beside` is the study's folder, empty where the study comes from no file.

    Raises:
        ModelError: it cannot be imported, or is not callable.

    """
    module_name, _, name = arch.partition(":")
    forget(but=beside)
    if beside and beside not in sys.path:
        sys.path.append(_Folder(beside))
        importlib.invalidate_caches()
    try:
        found = getattr(importlib.import_module(module_name), name)
    except Exception as error:  # a module may raise anything on import
        where = f", installed on every node or in {beside}" if beside else ""
        raise ModelError(
            f"model.arch: {arch!r} cannot be imported ({error}); expected package.module:factory{where}"
        ) from error
    if not callable(found):
        raise ModelError(f"model.arch: {arch!r} is not callable")
    return found  # type: ignore[no-any-return]


def source_sha256(arch: str) -> str | None:
    """Return the sha256 of the source that a factory was found in; None where its module has no file."""
    module = importlib.util.find_spec(arch.partition(":")[0])
    if module is None or module.origin is None:
        return None
    return hashlib.sha256(Path(module.origin).read_bytes()).hexdigest()


def forget(but: str = "") -> None:
    """Take studies' folders from the path, and what was imported from them: another may use the same names."""
    for entry in _ours():
        if entry != but:
            sys.path[:] = [other for other in sys.path if other is not entry]
            for module in [name for name in sys.modules if name not in entry.before and _lies_in(name, entry)]:
                del sys.modules[module]


def _ours() -> list[_Folder]:
    return [entry for entry in sys.path if isinstance(entry, _Folder)]


def _lies_in(module: str, folder: str) -> bool:
    """Return whether a module is a study's own: this package, and an environment, may lie in the same folder."""
    path = Path(getattr(sys.modules[module], "__file__", None) or "")
    package = __name__.partition(".")[0]
    return Path(folder) in path.parents and "site-packages" not in path.parts and not module.startswith(package)
