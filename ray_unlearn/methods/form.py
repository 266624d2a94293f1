"""A script's form, checked before any work, in a process of its own: to look at its function, its text is executed.

    check_script_form("mine.py:unlearning", source)          # MethodError: it does not run, or has another form

Does not cover: what is checked (`script.check_form`), the script's runs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ray_unlearn.errors import MethodError
from ray_unlearn.methods.script import check_form
from ray_unlearn.usercode.apart import EndedApart, result_of
from ray_unlearn.usercode.fork_server import fork_server
from ray_unlearn.usercode.imports import script_function
from ray_unlearn.usercode.wire import write_result

_LIMIT_S = 600.0
"""Seconds that the import of a script may take."""


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
