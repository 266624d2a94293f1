"""A user's code, imported from a folder and forgotten: `package.module:factory`, and `path/to/script.py:function`.

    factory = find_factory("mynet:tiny", folder="/home/me/faces")    # in faces/mynet.py, if no mynet is installed
    factory_identity("mynet:tiny", folder=...)                       # sha256 of its module and of those it imports
    with script_function("/home/me/mine.py:unlearning", source) as function:
        function(...)                        # may import modules of /home/me

For both, `add_folder` puts one folder on `sys.path`, and `remove_folder` takes it away with all modules that were
imported from it. They differ in two ways, on purpose:

- A script's folder comes first, as Python does where it runs the script itself; a study's comes last, because a factory
  is an installed package's before it is a file of the study's folder: the README promises it, and digests hold the
  source of the module that is found in this order.
- A script's folder leaves with the block, so that two scripts may each have a `helper.py`; a study's stays until this
  process opens another study, because a factory may import modules of its folder when it is called, too.

Does not cover: which files the code is made of (`sources`), calling a factory (`models`), the processes
of scripts (`serving`), code that travels to a cluster (`submit.bundle`).
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib
import itertools
import linecache
import re
import sys
import sysconfig
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from ray_unlearn.errors import MethodError, ModelError, did_you_mean
from ray_unlearn.usercode.exits import stays
from ray_unlearn.usercode.offline import offline
from ray_unlearn.usercode.sources import module_identity, sha256_of, text_of

SCRIPT_PREFIX = "ray_unlearn_script_"
"""Prefix of the names of modules that are made of scripts; the rest is a hash of the text."""
_LIBRARIES = {*sys.stdlib_module_names, "torch"}
"""Packages that are no packages of architectures, torch.nn apart; torch.hub downloads code and runs it."""
_read: dict[str, tuple[ModuleType, str]] = {}
"""Modules of factories that this process imported, by name, with the sha256 of each file at that time."""


# One folder on sys.path


@dataclass(frozen=True)
class Folder:
    """A folder that was put on `sys.path`."""

    path: str
    first: bool
    mark: str
    """Name of an empty module among those that are imported: all behind it were imported since."""


_numbers = itertools.count()
_studies: list[Folder] = []
"""Folders of studies that are on the path: one, unless another study is being opened."""


def add_folder(path: str, *, first: bool) -> Folder:
    """Put a folder on `sys.path`, before all others or behind them."""
    sys.path.insert(0 if first else len(sys.path), path)
    sys.path_importer_cache.pop(path, None)  # files may have come since the folder was listed
    mark = f"{__name__}.mark{next(_numbers)}"
    sys.modules[mark] = ModuleType(mark)
    return Folder(path, first, mark)


def remove_folder(folder: Folder) -> None:
    """Take a folder from `sys.path`, and forget the modules that were imported from it since it was added."""
    places = [place for place, entry in enumerate(sys.path) if entry == folder.path]
    if places:  # the code may have removed it
        del sys.path[places[0 if folder.first else -1]]
    # From the end up to the mark, without a look at the thousands of names before: to touch one copies its memory page
    # in a forked process. Nothing here runs Python code, so that no other thread can import meanwhile.
    for name in list(itertools.takewhile(folder.mark.__ne__, reversed(sys.modules))):
        if is_own(name, folder.path):
            del sys.modules[name]
    sys.modules.pop(folder.mark, None)


def is_own(module: str, folder: str) -> bool:
    """Return whether an imported module is a user's own: this package, Python and environments may be in the folder.

    Modules that are made of scripts are not: what they define stays importable, and a name belongs to one text.
    """
    file = Path(getattr(sys.modules[module], "__file__", None) or "")
    ours = module.partition(".")[0] == __name__.partition(".")[0] or module.startswith(SCRIPT_PREFIX)
    installed = not {"site-packages", "dist-packages"}.isdisjoint(file.parts)
    pythons = {Path(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib")}
    return Path(folder) in file.parents and not (ours or installed or not pythons.isdisjoint(file.parents))


def forget(but: str = "") -> None:
    """Take the folders of other studies from the path, and forget their modules: this one may use the same names."""
    for folder in [one for one in _studies if one.path != but or but not in sys.path]:
        _studies.remove(folder)
        remove_folder(folder)


# Factories


def find_factory(arch: str, folder: str = "") -> Callable[..., Any]:
    """Import a factory, without a network; `folder` is the study's, empty where the study comes from no file.

    Raises:
        ModelError: it cannot be imported, is not callable, or comes from Python's library or torch.

    """
    module_name, _, name = arch.partition(":")
    _check_no_library(arch, module_name)
    forget(but=folder)
    if folder and folder not in sys.path:
        _studies.append(add_folder(folder, first=False))
    try:
        with offline(f"model.arch: {arch!r}"), stays():
            found = getattr(importlib.import_module(module_name), name)
    except (Exception, SystemExit) as error:  # a module may raise anything on import, and a script ends
        where = f", installed on every node or in {folder}" if folder else ""
        raise ModelError(
            f"model.arch: {arch!r} cannot be imported ({error}); expected package.module:factory{where}"
            f"{magic_of(error)}"
        ) from error
    if not callable(found):
        raise ModelError(f"model.arch: {arch!r} is not callable")
    _check_no_library(arch, _home(found))
    module = sys.modules[module_name]
    if _read.get(module_name, (None,))[0] is not module:
        _read[module_name] = module, sha256_of(getattr(module, "__file__", None))
    return found  # type: ignore[no-any-return]


def _home(function: Callable[..., Any]) -> str:
    """Return the module in which a function was defined, of a partial one the function that it calls."""
    while isinstance(function, functools.partial):
        function = function.func
    return str(getattr(function, "__module__", None) or "")


def _check_no_library(arch: str, module: str) -> None:
    """Refuse functions of Python's library and of torch: they fetch or run what their arguments name.

    Raises:
        ModelError: the module is one of theirs.

    """
    if module.partition(".")[0] in _LIBRARIES and not f"{module}.".startswith("torch.nn."):
        raise ModelError(
            f"model.arch: {arch!r} is of {module}, whose functions may fetch or run what model.options name; expected "
            "a function of an installed package of architectures, or of a module in the study's folder"
        )


def factory_identity(arch: str, folder: str = "") -> dict[str, Any]:
    """Return what identifies the source of a factory that was found: see `sources.module_identity`.

    Raises:
        ModelError: the module was edited since this process imported it.
        MethodError: a module that it imports from the study's folder is not Python.

    """
    name = arch.partition(":")[0]
    module, was = _read[name]
    file = getattr(module, "__file__", None)
    if sha256_of(file) != was:
        raise ModelError(f"model.arch: {file} was edited since this process imported it; start the process again")
    return module_identity(name, file, folder)


# Scripts


def is_script(method: str) -> bool:
    """Return whether a method's name means a function in a script."""
    return ".py:" in method


def read_script(method: str) -> str:
    """Return the script's source text.

    Raises:
        MethodError: it cannot be read.

    """
    path = method.rpartition(":")[0]
    try:
        return text_of(Path(path))
    except (OSError, UnicodeDecodeError, SyntaxError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        if isinstance(error, SyntaxError):
            reason = "not UTF-8, and its first two lines name no encoding that it is in: save it as UTF-8"
        raise MethodError(f"method {method}: {path} cannot be read ({reason})") from error


@contextlib.contextmanager
def script_function(method: str, source: str) -> Iterator[Callable[..., Any]]:
    """Execute a script's text as a module and yield its function; its folder is on the path inside the block.

    The command line that it may parse there is that of a script without arguments.

    Raises:
        MethodError: the text does not run, or defines no such function.

    """
    path = method.rpartition(":")[0]
    folder, arguments = add_folder(str(Path(path).parent), first=True), sys.argv
    sys.argv = [path]
    try:
        yield _load(method, source)
    finally:
        sys.argv = arguments
        remove_folder(folder)


def _module_name(source: str) -> str:
    return f"{SCRIPT_PREFIX}{hashlib.sha256(source.encode()).hexdigest()[:12]}"


def let_spawned_import(method: str, source: str, folder: Path) -> None:
    """Make a folder with a module, and put it on the path: Python processes that a script spawns find the script there.

    A process of `multiprocessing.get_context("spawn")` inherits the path, and imports the modules of the functions that
    it is to call. Without this, a pool of such processes starts one after another for ever.
    """
    folder.mkdir()
    copy = folder / "script.txt"
    copy.write_text(source, encoding="utf-8")
    (folder / f"{_module_name(source)}.py").write_text(
        f"__file__ = {method.rpartition(':')[0]!r}\n"
        f"with open({str(copy)!r}, encoding='utf-8') as source:\n"
        "    exec(compile(source.read(), __file__, 'exec'), globals())\n",
        encoding="utf-8",
    )
    sys.path.append(str(folder))


def _load(method: str, source: str) -> Callable[..., Any]:
    path, _, name = method.rpartition(":")
    module = ModuleType(_module_name(source))
    module.__file__ = path
    sys.modules[module.__name__] = module  # what the script defines can be pickled to a DataLoader's workers
    linecache.cache[path] = (len(source), None, source.splitlines(keepends=True), path)  # tracebacks show its lines
    try:
        exec(compile(source, path, "exec"), module.__dict__)  # noqa: S102 - running the user's own method is the point
    except (Exception, SystemExit) as error:
        reason = f"{type(error).__name__}: {error}{line_in_script(error)}{_hint_of(error)}"
        raise MethodError(f"method {method}: the script fails on import: {reason}") from error
    function = getattr(module, name, None)
    if not callable(function):
        names = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        hint = did_you_mean(name, names)
        if re.search(rf"(?m)^[ \t]+def {re.escape(name)}\b", source):
            hint = "; it is defined, but not at the top of the file: `if __name__ == '__main__':` is false in a run"
        raise MethodError(f"method {method}: no function {name!r} in {path}{hint}")
    return function  # type: ignore[no-any-return]


def _hint_of(error: BaseException) -> str:
    """Return what to do about an error of a script's import; empty where nothing is known."""
    if isinstance(error, SystemExit):
        return (
            "; it ends Python when it is imported: put that under `if __name__ == '__main__':`, and give arguments of "
            "a command line, which a run has none of, defaults"
        )
    if isinstance(error, ModuleNotFoundError):
        return f"; install {error.name!r} on every node, or put it beside the script"
    if isinstance(error, ImportError) and "relative import" in str(error):
        return "; a script is no part of a package: import what is beside it by its name, without dots"
    return magic_of(error)


def magic_of(error: BaseException) -> str:
    """Return what to do about a line of a notebook's own language (%magic, !command, help?); else nothing."""
    if isinstance(error, NameError) and error.name == "get_ipython":
        return "; get_ipython exists in notebooks only: remove the line"
    line = (error.text or "").strip() if isinstance(error, SyntaxError) else ""
    if not (line.startswith(("%", "!", "?")) or line.endswith("?")):
        return ""
    return f"; {line!r} is a notebook's magic, which Python does not know: remove the line, or put # before it"


def line_in_script(error: BaseException) -> str:
    """Return ` (script.py:12)`: the innermost line of a script that an error came through; else nothing."""
    found = ""
    for frame, line in traceback.walk_tb(error.__traceback__):
        if str(frame.f_globals.get("__name__", "")).startswith(SCRIPT_PREFIX):
            found = f" ({Path(frame.f_code.co_filename).name}:{line})"
    return found
