"""A file of code -> the installed distribution that it is of.

    distribution_of(Path(".../site-packages/nets/tiny.py"))      # {"name": "nets", "version": "1.2.0"}

The part of a version after `+` is left out: it names a build (`+cpu`, `+cu126`), not other code.

Does not cover: editable installations, whose files are a user's own and are hashed as such.
"""

from __future__ import annotations

import functools
import importlib.metadata
from pathlib import Path

_FOLDERS = ("site-packages", "dist-packages")


def distribution_of(file: Path) -> dict[str, str]:
    """Return name and version of the distribution that a file is of; empty where it is of none."""
    folder = next((parent for parent in file.absolute().parents if parent.name in _FOLDERS), None)
    if folder is None:
        return {}
    return dict(_owner(str(folder), file.absolute().relative_to(folder).as_posix()))


@functools.cache
def _owner(folder: str, name: str) -> tuple[tuple[str, str], ...]:
    top = name.partition("/")[0].removesuffix(".py")
    found = list(importlib.metadata.distributions(path=[folder]))
    found.sort(key=lambda one: (_plain(one.name) != _plain(top), one.name))  # most are called as their package
    for one in found:
        if any(path.as_posix() == name for path in one.files or ()):
            return ("name", one.name), ("version", one.version.partition("+")[0])
    return ()


def _plain(name: str | None) -> str:
    return (name or "").lower().replace("-", "_")
