"""A block of code that opens no connection: what a model's factory does must not depend on a network.

    with offline("model.arch: 'nets:make'"):
        model = factory(num_classes=9)           # ModelError where it tries to download weights

Python reports every connection before it is made (PEP 578); in the block, and in its thread alone, the report is
answered with an error. Not a sandbox: a factory is code of its author's, and C code makes its connections unseen.

Does not cover: which modules a factory may come from (`imports`).
"""

from __future__ import annotations

import functools
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from ray_unlearn.errors import ModelError

_CONNECTIONS = frozenset(
    ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr", "socket.sendto")
)
_blocked = threading.local()


@contextmanager
def offline(where: str) -> Iterator[None]:
    """Refuse connections of this thread inside the block.

    Args:
        where: opens the message of the `ModelError` that a connection becomes.

    """
    _listen()
    before = getattr(_blocked, "where", "")
    _blocked.where = where
    try:
        yield
    finally:
        _blocked.where = before


@functools.cache
def _listen() -> None:
    sys.addaudithook(_refuse)


def _refuse(event: str, arguments: tuple[object, ...]) -> None:
    where = getattr(_blocked, "where", "") if event in _CONNECTIONS else ""
    if where:
        raise ModelError(
            f"{where} opens a connection ({event}); expected a factory that needs no network: download weights before, "
            "and name the file in the population's weights"
        )
