"""Failed reads and writes: which are tried again, and advice for the user.

    attempt(lambda: path.write_bytes(data))      # tried again after what may pass
    advice(OSError(errno.ENOSPC, "..."))         # "free some space there, then run the same command again"

Network file systems and object stores fail for moments: a reset connection, a server that restarts, a 503. Those are
tried again after pauses, beyond what pyarrow's own S3 client does. A full disk, a missing permission and a wrong key
do not pass, so they fail at once.

Does not cover: a run that fails because its publication does (`schedule.scheduler` tries the whole run again).
"""

from __future__ import annotations

import errno
import time
from collections.abc import Callable
from typing import TypeVar

_T = TypeVar("_T")

_PAUSES_S = (0.5, 2.0, 5.0)
"""Pauses in seconds before the second, third and fourth try: a restarted server is back within seconds, or not soon."""

_PASSING = {
    errno.EAGAIN,
    errno.EBUSY,
    errno.ECONNABORTED,
    errno.ECONNREFUSED,
    errno.ECONNRESET,
    errno.EHOSTUNREACH,
    errno.EINTR,
    errno.EIO,
    errno.ENETUNREACH,
    errno.EPIPE,
    errno.ESTALE,
    errno.ETIMEDOUT,
}

_CHUNKED = "aws-chunked"
_REFUSALS = (
    "ACCESS_DENIED",
    "NO_SUCH_BUCKET",
    "INVALID_ACCESS_KEY_ID",
    "SIGNATURE_DOES_NOT_MATCH",
    "TOKEN",
    "Forbidden",
    "Content-MD5",
    _CHUNKED,
)
"""Parts of an object store's messages about permanent failures; any other failure may pass."""

_READ_ONLY = {errno.EACCES, errno.EPERM, errno.EROFS}
_FULL = {errno.ENOSPC, errno.EDQUOT}

_SPACE = "free some space there, then run the same command again"
_RIGHTS = "give this user the right to do it, or choose another storage"
_ADVICE = {
    errno.ENOSPC: _SPACE,
    errno.EDQUOT: _SPACE,
    errno.EFBIG: "a limit on the size of files is set (ulimit -f)",
    errno.EACCES: _RIGHTS,
    errno.EPERM: _RIGHTS,
    errno.EROFS: "it is mounted read-only: mount it writable, or choose another storage",
}


def attempt(act: Callable[[], _T], *, again: tuple[type[OSError], ...] = ()) -> _T:
    """Return what `act` returns, trying again after failures that may pass.

    Args:
        act: what to do; doing it twice must do no harm.
        again: errors that count as passing for every errno.

    Raises:
        OSError: the last one.

    """
    for pause in _PAUSES_S:
        try:
            return act()
        except OSError as error:
            if not (isinstance(error, again) or may_pass(error)):
                raise
        time.sleep(pause)
    return act()


def may_pass(error: OSError) -> bool:
    """Return whether the same thing may succeed a little later."""
    if error.errno is not None:
        return error.errno in _PASSING
    return not any(word in str(error) for word in _REFUSALS)


def is_read_only(error: BaseException) -> bool:
    """Return whether a write failed because this user may only read."""
    return getattr(error, "errno", None) in _READ_ONLY or "ACCESS_DENIED" in str(error)


def is_full(error: BaseException) -> bool:
    """Return whether a write failed because no space or quota is left."""
    return getattr(error, "errno", None) in _FULL


def advice(error: BaseException) -> str:
    """Return advice for a failure; empty where there is none."""
    if _CHUNKED in str(error):
        return "for an S3 service that does not know it: export AWS_REQUEST_CHECKSUM_CALCULATION=when_required"
    return _ADVICE.get(getattr(error, "errno", None) or 0, "")
