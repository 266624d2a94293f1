"""The methods there are: the package's own, and those of installed distributions.

    METHODS["finetune"]
    METHODS["theirs"]                            # a distribution has an entry point of this name; loaded when asked for

A distribution adds a method by an entry point in its pyproject.toml; `METHOD` is a `Method` of that name:

    [project.entry-points."ray_unlearn.methods"]
    theirs = "their_package.their_module:METHOD"

Such a method is treated as the package's own, its aliases included, but its identity holds the distribution's name and
version; of an editable installation (`pip install -e`), the digest of its files, too.

Does not cover: scripts (`script`), whose text is their identity.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from ray_unlearn.errors import MethodError, first_line
from ray_unlearn.methods.method import Method
from ray_unlearn.usercode.exits import stays
from ray_unlearn.usercode.sources import is_editable, name_and_version, package_sha256

GROUP = "ray_unlearn.methods"


class Registry(Mapping[str, Method]):
    """Methods by name; installed ones are looked for where a name is not the package's, and loaded when asked for."""

    def __init__(self) -> None:
        self.own: dict[str, Method] = {}
        """The package's own methods."""
        self._loaded: dict[str, Method] = {}
        self._entries: dict[str, importlib.metadata.EntryPoint] | None = None

    def add(self, method: Method) -> None:
        """Add one of the package's own methods, before any installed one is looked for."""
        self.own[method.name] = method

    def __getitem__(self, name: str) -> Method:
        if name in self.own:
            return self.own[name]
        if name not in self._loaded:
            self._loaded[name] = _loaded(self._installed()[name], self.own)
        return self._loaded[name]

    def __iter__(self) -> Iterator[str]:
        return iter([*self.own, *self._installed()])

    def __len__(self) -> int:
        return len(self.own) + len(self._installed())

    def __contains__(self, name: object) -> bool:
        return name in self.own or name in self._installed()

    def called(self, name: str) -> tuple[str, Mapping[str, Any]]:
        """Return the name of the method that is called so, and the options that this name of it implies.

        A name that is no method's and not one of the package's aliases may be an alias of an installed method, so these
        are loaded; those that cannot be loaded are passed over.
        """
        if name in self:
            return name, {}
        return aliases_of(self.own).get(name) or aliases_of(dict(self._loadable())).get(name, (name, {}))

    def names(self) -> list[str]:
        """Return the names that a study may have, aliases included."""
        return [*self, *aliases_of({**self.own, **dict(self._loadable())})]

    def _loadable(self) -> Iterator[tuple[str, Method]]:
        for name in self._installed():
            with contextlib.suppress(MethodError):
                yield name, self[name]

    def _installed(self) -> dict[str, importlib.metadata.EntryPoint]:
        """Return the entry points by name; nothing is loaded."""
        if self._entries is None:
            found = importlib.metadata.entry_points(group=GROUP)
            self._entries = {entry.name: entry for entry in sorted(found, key=lambda entry: entry.name)}
            for name in self._entries.keys() & {*self.own, *aliases_of(self.own)}:
                raise MethodError(f"{_of(self._entries[name])} has a method {name!r}, which is a name of ray_unlearn's")
        return self._entries


METHODS = Registry()
"""Every method by name; `ray_unlearn.methods` adds the package's own on import."""


def aliases_of(methods: Mapping[str, Method]) -> dict[str, tuple[str, Mapping[str, Any]]]:
    """Return other names of methods: alias -> the method's name and the options that the alias implies."""
    return {alias: (m.name, implied) for m in methods.values() for alias, implied in m.aliases.items()}


def _loaded(entry: importlib.metadata.EntryPoint, own: Mapping[str, Method]) -> Method:
    """Return an installed method, with its distribution.

    Raises:
        MethodError: it cannot be imported, is no `Method` of the entry point's name, or has an alias of the package's.

    """
    try:
        with stays():
            method = entry.load()
    except (Exception, SystemExit) as error:  # a module may raise anything on import
        reason = f"{type(error).__name__}: {first_line(error)}"
        raise MethodError(f"method {entry.name!r} of {_of(entry)} cannot be imported: {reason}") from error
    if isinstance(method, Method) and (taken := method.aliases.keys() & {*own, *aliases_of(own)}):
        raise MethodError(f"{_of(entry)} has a method {min(taken)!r}, which is a name of ray_unlearn's")
    if not isinstance(method, Method) or method.name != entry.name:
        found = f"a Method named {method.name!r}" if isinstance(method, Method) else type(method).__name__
        raise MethodError(
            f"method {entry.name!r} of {_of(entry)}: {entry.value}: expected a Method of that name; found {found}"
        )
    return replace(method, distribution=_distribution(entry) | _files_of(entry))


def _of(entry: importlib.metadata.EntryPoint) -> str:
    distribution = _distribution(entry)
    return f"the distribution {distribution['name']} {distribution['version']}"


def _distribution(entry: importlib.metadata.EntryPoint) -> dict[str, str]:
    return name_and_version(entry.dist) if entry.dist else {"name": entry.value, "version": "unknown"}


def _files_of(entry: importlib.metadata.EntryPoint) -> dict[str, str]:
    """Return the digest of an editable installation's files, which are edited under one version; else nothing."""
    file = sys.modules[entry.module].__file__
    return (
        {"files_sha256": package_sha256(entry.module, file)} if file and entry.dist and is_editable(entry.dist) else {}
    )
