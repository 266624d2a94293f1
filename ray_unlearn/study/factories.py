"""`package.module:factory` -> the callable: among all that is installed, else beside the study file.

    factory = find_factory("mynet:tiny", beside="/home/me/faces")    # in faces/mynet.py, if no mynet is installed
    sources("mynet:tiny", beside=...)            # sha256 of the module that it was found in, and of what lies beside

The study's folder goes to the end of `sys.path`, behind every installed package, and stays there, so that a factory may
import what lies beside it when it is called, too. One study at a time: where another study of this process looked
before, its folder and what was imported from there are forgotten. Of an installed module, its own file is hashed alone;
its distribution's name and version say the rest.

Does not cover: calling the factory (`models`), factories that travel to a cluster (`submit.bundle`).
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from ray_unlearn.errors import ModelError
from ray_unlearn.study.beside import module_in
from ray_unlearn.study.identity import digest
from ray_unlearn.study.installed import distribution_of
from ray_unlearn.study.offline import offline

_LIBRARIES = {*sys.stdlib_module_names, "torch"}
"""Packages that are no packages of architectures, torch.nn apart; torch.hub downloads code and runs it."""
_read: dict[str, tuple[ModuleType, str]] = {}
"""By name, the modules of factories that this process imported, and the sha256 of each one's file then."""


class _Folder(str):
    """An entry of `sys.path` that was put there here, and which modules there were before it."""

    before: frozenset[str]

    def __new__(cls, path: str) -> _Folder:
        entry = super().__new__(cls, path)
        entry.before = frozenset(sys.modules)
        return entry


def find_factory(arch: str, beside: str = "") -> Callable[..., Any]:
    """Import a factory, without a network; `beside` is the study's folder, empty where the study comes from no file.

    Raises:
        ModelError: it cannot be imported, is not callable, or comes from Python's library or torch.

    """
    module_name, _, name = arch.partition(":")
    _refuse_library(arch, module_name)
    forget(but=beside)
    if beside and beside not in sys.path:
        sys.path.append(_Folder(beside))
        importlib.invalidate_caches()
    try:
        with offline(f"model.arch: {arch!r}"):
            found = getattr(importlib.import_module(module_name), name)
    except (Exception, SystemExit) as error:  # a module may raise anything on import, and a script ends
        where = f", installed on every node or in {beside}" if beside else ""
        raise ModelError(
            f"model.arch: {arch!r} cannot be imported ({error}); expected package.module:factory{where}"
        ) from error
    if not callable(found):
        raise ModelError(f"model.arch: {arch!r} is not callable")
    _refuse_library(arch, _home(found))
    module = sys.modules[module_name]
    if _read.get(module_name, (None,))[0] is not module:
        _read[module_name] = module, _sha256(getattr(module, "__file__", None))
    return found  # type: ignore[no-any-return]


def _home(function: Callable[..., Any]) -> str:
    """Return the module in which a function was defined, of a partial one the function that it calls."""
    while isinstance(function, functools.partial):
        function = function.func
    return str(getattr(function, "__module__", None) or "")


def _refuse_library(arch: str, module: str) -> None:
    """Refuse functions of Python's library and of torch: they fetch or run what their arguments say.

    Raises:
        ModelError: the module is one of theirs.

    """
    if module.partition(".")[0] in _LIBRARIES and not f"{module}.".startswith("torch.nn."):
        raise ModelError(
            f"model.arch: {arch!r} is of {module}, whose functions may fetch or run what model.options say; expected a "
            "function of an installed package of architectures, or of a module beside the study"
        )


def sources(arch: str, beside: str = "") -> dict[str, Any]:
    """Return `source_sha256` of a found factory's module, and `beside_sha256` of what it imports from beside the study.

    Of an installed one, its `distribution`, too. Each only where there is such a file. No path is in them but those
    inside the folder.

    Raises:
        ModelError: the module was edited since this process imported it.
        MethodError: a module beside it is not Python.

    """
    name = arch.partition(":")[0]
    module, was = _read[name]
    file = getattr(module, "__file__", None)
    if (now := _sha256(file)) != was:
        raise ModelError(f"model.arch: {file} was edited since this process imported it; start the process again")
    found: dict[str, Any] = {"source_sha256": now} if now else {}
    if file and (distribution := distribution_of(Path(file))):
        found["distribution"] = distribution
    folder = Path(beside)
    if beside and file and folder in Path(file).parents:
        others = sorted(path for path in module_in(folder, name.partition(".")[0]) if path != Path(file))
        if others:
            found["beside_sha256"] = digest([[path.relative_to(folder).as_posix(), _sha256(path)] for path in others])
    return found


def _sha256(file: str | Path | None) -> str:
    return hashlib.sha256(Path(file).read_bytes()).hexdigest() if file and Path(file).is_file() else ""


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
    """Return whether a module is a study's own: this package, Python and environments may lie in the same folder."""
    path = Path(getattr(sys.modules[module], "__file__", None) or "")
    pythons = {Path(sys.prefix), Path(sys.base_prefix), Path(sysconfig.get_path("stdlib"))}
    ours = module.partition(".")[0] == __name__.partition(".")[0]
    foreign = ours or "site-packages" in path.parts or not pythons.isdisjoint(path.parents)
    return Path(folder) in path.parents and not foreign
