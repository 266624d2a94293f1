"""Keyword arguments of a script's function, as options of its populations.

    def unlearning(net, retain_loader, forget_loader, val_loader, lr: float = 1e-3, passes: int = 2): ...

    populations:
      slow: {method: my_method.py:unlearning, count: 8, lr: 1.0e-4}

    arguments = checked(method, source, {"lr": 1e-4})

Names, types and defaults are read from the script's text, which is not run for it. A type is the annotation's, or else
the default's; int, float, bool and str are checked, with None where either names it, and everything else is passed as
it is. A default is part of the text, and so of the population's identity; only arguments that are given are options.
An argument whose name is that of another key of a population is given as `arguments: {batch_size: 8}`.

Does not cover: functions that are not a `def` at the top of the script: their arguments cannot be given.
"""

from __future__ import annotations

import ast
import contextlib
from collections.abc import Collection, Mapping
from typing import Any

from ray_unlearn.errors import StudyError, did_you_mean

_LOADERS = 4
"""net, retain_loader, forget_loader, val_loader: what the challenge passes."""
_CHECKED: dict[str, tuple[type, ...]] = {"int": (int,), "float": (int, float), "bool": (bool,), "str": (str,)}


def keywords_in(method: str, source: str) -> dict[str, frozenset[str]] | None:
    """Return the names of the function's keyword arguments -> the names of types that fit; empty where any does.

    None where the script has no such function at its top.
    """
    found = _arguments(method, source)
    return None if found is None else {one.arg: _types(one.annotation, default) for one, default in found}


def literal_defaults(method: str, source: str) -> dict[str, Any]:
    """Return the function's keyword arguments whose defaults are written as plain values -> those values."""
    values: dict[str, Any] = {}
    for argument, default in _arguments(method, source) or ():
        with contextlib.suppress(ValueError):  # an expression, which only the script can compute
            values |= {argument.arg: ast.literal_eval(default)} if default else {}
    return values


def _arguments(method: str, source: str) -> list[tuple[ast.arg, ast.expr | None]] | None:
    """Return the function's keyword arguments and their defaults; None where the script has no such function."""
    name = method.rpartition(":")[2]
    found = [one for one in ast.parse(source).body if isinstance(one, ast.FunctionDef) and one.name == name]
    if not found:
        return None
    arguments = found[-1].args
    placed = [*arguments.posonlyargs, *arguments.args]
    defaults = dict(zip(reversed(placed), reversed(arguments.defaults), strict=False))
    kept = [one for place, one in enumerate(placed) if place >= _LOADERS and one not in arguments.posonlyargs]
    pairs: list[tuple[ast.arg, ast.expr | None]] = [(one, defaults.get(one)) for one in kept]
    return [*pairs, *zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)]


def _types(annotation: ast.expr | None, default: ast.expr | None) -> frozenset[str]:
    """Return the names of the types of an argument; empty where they are none that is checked."""
    kind = type(default.value).__name__ if isinstance(default, ast.Constant) else ""
    if isinstance(default, ast.UnaryOp) and isinstance(default.operand, ast.Constant):
        kind = type(default.operand.value).__name__
    names = {part.strip().strip("\"'") for part in ast.unparse(annotation).split("|")} if annotation else {kind}
    if annotation is not None and kind == "NoneType":
        names.add("None")
    return frozenset(names) if names <= {*_CHECKED, "None"} else frozenset()


def checked(
    where: str, method: str, source: str, given: Mapping[str, Any], options: Collection[str] = ()
) -> dict[str, Any]:
    """Return the arguments that a population gives to its script's function.

    Args:
        where: the population's key in the study, for the message.
        method: path/to/script.py:function.
        source: the script's text.
        given: the population's options that are not those of the loaders.
        options: names of the loaders' options, for the message about a misspelt one.

    Raises:
        StudyError: the function has no such argument, or one of another type.

    """
    if not given:
        return {}
    known = keywords_in(method, source)
    if known is None:
        first = next(iter(given))
        raise StudyError(f"{where}.{first}: unknown key: {method} is no plain `def` at the top of its script")
    for name, value in given.items():
        if name not in known:
            hint = did_you_mean(name, [*known, *options])
            if not known and "did you mean" not in hint:
                hint = "; its function has no keyword arguments"
            raise StudyError(f"{where}.{name}: unknown key{hint} (method {method})")
        _check_type(f"{where}.{name}", known[name], value)
    return dict(given)


def hidden(method: str, source: str, keys: Collection[str], arguments: Collection[str]) -> list[str]:
    """Return the function's arguments that keep their defaults, although the population has keys of their names.

    Args:
        method: path/to/script.py:function.
        source: the script's text.
        keys: the population's keys that have a meaning of their own, such as `batch_size`, which is the loaders'.
        arguments: names of the arguments that the population gives.

    """
    return sorted((keywords_in(method, source) or {}).keys() & set(keys) - set(arguments))


def _check_type(where: str, names: frozenset[str], value: Any) -> None:
    fits = not names or (value is None and "None" in names)
    for name in names - {"None"}:
        fits = fits or (isinstance(value, _CHECKED[name]) and (name == "bool" or not isinstance(value, bool)))
    if not fits:
        raise StudyError(f"{where}: expected {' or '.join(sorted(names))}, as the function says; found {value!r}")
