"""A call of a user's code in a process of its own, and its result, or the reason why there is none.

    with fork_server() as server:
        report, tensors = result_of(server, "ray_unlearn.run.child:make", {...}, log=log.write)    # EndedApart

The process writes its result with `wire.write_result` into the first of its files. What comes back is a stranger's:
JSON and the bytes of a safetensors file, nothing that executes.

Does not cover: what the report says; checks of the tensors (`run.taken_back`).
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Mapping
from typing import Any

from ray_unlearn.usercode.fork_server import Ended, ForkServer, ServerLost
from ray_unlearn.usercode.processes import how_it_ended
from ray_unlearn.usercode.serving import NO_RESULT
from ray_unlearn.usercode.wire import open_file_of, open_nameless, read_result

_GIB = 2**30


class EndedApart(Exception):
    """The process ended without a result; the text says how."""


def result_of(
    server: ForkServer,
    call: str,
    arguments: Mapping[str, Any],
    *,
    log: Callable[[bytes], object],
    most_bytes: int = 0,
    limit_s: float | None = None,
    limit_bytes: float | None = None,
    ended: Callable[[Ended], object] = lambda ended: None,
    given: bytes | None = None,
) -> tuple[dict[str, Any], bytes]:
    """Return the report of a call, and its tensors.

    Args:
        server: the server that forks the process.
        call: package.module:function, which gets the arguments and one file, for its result.
        arguments: values that JSON can hold.
        log: takes what the process prints.
        most_bytes: size of the tensors above which they are refused unread.
        limit_s: seconds after which the process is ended.
        limit_bytes: memory above which it is ended.
        ended: called with how it ended.
        given: bytes of a second file, for the call; None for no such file.

    Raises:
        EndedApart: it ended without a result.

    """
    result = open_nameless()
    try:
        with contextlib.nullcontext() if given is None else open_file_of(given) as more:
            files = [result] if more is None else [result, more]
            end = server.fork(call, arguments, files, log=log, limit_s=limit_s, limit_bytes=limit_bytes)
        ended(end)
        if reason := _without_result(end, os.fstat(result).st_size, limit_s, limit_bytes):
            raise EndedApart(reason)
        return read_result(result, most_bytes)
    except ServerLost as error:
        raise EndedApart(f"{error}; the code may have killed it, or memory ran out") from error
    except ValueError as error:
        raise EndedApart(f"what its process wrote as its result cannot be read: {error}") from error
    finally:
        os.close(result)


def _without_result(ended: Ended, size: int, limit_s: float | None, limit_bytes: float | None) -> str:
    """Return why a process has no result; empty where it should have one."""
    if ended.why == "time":
        return f"took longer than execution.run_timeout_s: {limit_s:g}"
    if ended.why == "memory":
        return (
            f"its processes held more than {(limit_bytes or 0) / _GIB:.3g} GiB of memory; a smaller batch_size or "
            "fewer loader workers help, or another execution.script_memory_gib"
        )
    code = os.waitstatus_to_exitcode(ended.status)
    if code == NO_RESULT:
        return "its process could not write its result: its file descriptors were closed, or memory ran out"
    if code == -signal.SIGKILL:
        return f"its process {how_it_ended(ended.status)}: by the kernel where memory ran out, else by its own code"
    middle = " in the middle of the function" + " (os._exit, or C code that exits)" * (code >= 0)
    return f"its process {how_it_ended(ended.status)}{middle}" if code or not size else ""
