"""A script's form, checked before any work, in a process of its own: to look at its function, its text is executed.

    check_script_form("mine.py:unlearning", source)          # MethodError: it does not run, or has another form

Does not cover: the script's runs (`script`), its keyword arguments (`keywords`).
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ray_unlearn.errors import MethodError
from ray_unlearn.usercode.apart import EndedApart, result_of
from ray_unlearn.usercode.fork_server import fork_server
from ray_unlearn.usercode.imports import script_function
from ray_unlearn.usercode.wire import write_result

_FORM = ("net", "retain_loader", "forget_loader", "val_loader")
_LIMIT_S = 600.0
"""Seconds that the import of a script may take."""
_KINDS = {
    "net": ("model", "net", "network", "student"),
    "retain": ("retain*", "remain*", "rem", "keep", "kept", "rest", "dr"),
    "forget": ("forget*", "unlearn*", "erase", "erased", "delete", "deleted", "remove", "removed", "df"),
    "val": ("val", "valid*", "dev", "dv"),
}
"""Argument -> words by which functions name it, between underlines or capitals; with a star, any part of a name."""


def check_script_form(method: str, source: str) -> None:
    """Execute a script's text and check its function.

    Args:
        method: path/to/script.py:function.
        source: the script's text.

    Raises:
        MethodError: the text does not run, or its function has another form.

    """
    arguments = {"method": method, "source": source}
    try:
        with fork_server() as server:
            call = f"{__name__}:answer"
            report, _ = result_of(server, call, arguments, log=lambda output: None, limit_s=_LIMIT_S)
    except EndedApart as error:
        raise MethodError(f"method {method}: the script fails on import: {error}") from error
    if refused := report.get("refused"):
        raise MethodError(str(refused))


def answer(arguments: Mapping[str, Any], files: Sequence[int]) -> None:
    """Write what is wrong with a script's form into a file; in a forked process."""
    method, refused = arguments["method"], ""
    try:
        with script_function(method, arguments["source"]) as function:
            check_form(method, function)
    except MethodError as error:
        refused = str(error)
    except BaseException as error:  # a KeyboardInterrupt of the script's own
        refused = f"method {method}: the script fails on import: {type(error).__name__}"
    write_result(files[0], {"refused": refused})


def check_form(method: str, function: Callable[..., Any]) -> None:
    """Check that a function can be called as the competition calls it, and takes the loaders in its order.

    Raises:
        MethodError: it takes another number of arguments, names them in another order, or is a generator or async.

    """
    if (
        inspect.isgeneratorfunction(function)
        or inspect.iscoroutinefunction(function)
        or inspect.isasyncgenfunction(function)
    ):
        raise MethodError(f"method {method}: expected a plain function; found a generator or async function")
    if inspect.isclass(function):
        raise MethodError(
            f"method {method}: expected a function that takes ({', '.join(_FORM)}); found a class; write a "
            "function that makes one and calls its method"
        )
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # some callables of C have none
        return
    try:
        bound = signature.bind(*_FORM).arguments
    except TypeError as error:
        more = "; parameters after these four need defaults" if "missing" in str(error) else ""
        raise MethodError(
            f"method {method}: expected a function that takes ({', '.join(_FORM)}); found {signature} ({error}){more}"
        ) from error
    for name, value in bound.items():
        kinds = _kinds_of(name)
        if isinstance(value, str) and kinds and value.partition("_")[0] not in kinds:
            raise MethodError(
                f"method {method}: the arguments come in the order ({', '.join(_FORM)}); found {signature}, whose "
                f"{name} would get the {value}; change the order of its parameters, or their names"
            )


def _kinds_of(name: str) -> set[str]:
    """Return the arguments that a parameter's name means: none for most names, several for some."""
    words = {word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+", name)} | {name.replace("_", "").lower()}
    found = {
        kind
        for kind, signs in _KINDS.items()
        if any(sign in words or (sign.endswith("*") and sign[:-1] in name.lower()) for sign in signs)
    }
    return {"net"} if "net" in found else found  # unlearned_model
