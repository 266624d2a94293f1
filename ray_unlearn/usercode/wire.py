"""Messages between this process and its fork server: JSON, with open files beside it. No pickle on either side.

    here, there = socket.socketpair()
    send(here, {"call": "package.module:function"}, [file])
    message, files = receive(there)              # EOFError where the other side is gone

What a stranger's process sends comes as a file of two parts: a report in JSON, and tensors in the format safetensors.

    write_result(descriptor, {"error": ""}, tensors)
    report, tensors = read_result(descriptor, most_bytes)        # ValueError where it is anything else

Does not cover: what the messages mean (`fork_server`, `serving`).
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import select
import socket
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

_LENGTH = 8  # bytes of a number, big-endian
_MOST_FILES = 8
_MOST_REPORT_BYTES = 2**22


def send(connection: socket.socket, message: Mapping[str, Any], files: Sequence[int] = ()) -> None:
    """Send a message, and file descriptors with it."""
    data = json.dumps(message).encode()
    socket.send_fds(connection, [len(data).to_bytes(_LENGTH, "big")], list(files))
    connection.sendall(data)


def receive(connection: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """Wait for a message; return it with the descriptors of its files, which the caller closes.

    Raises:
        EOFError: the other side has ended.

    """
    head, files, _, _ = socket.recv_fds(connection, _LENGTH, _MOST_FILES)
    head += _exactly(connection, _LENGTH - len(head)) if head else b""
    if not head:
        raise EOFError("the other side has ended")
    return json.loads(_exactly(connection, int.from_bytes(head, "big"))), files


def _exactly(connection: socket.socket, count: int) -> bytes:
    parts = bytearray()
    while len(parts) < count:
        part = connection.recv(min(count - len(parts), 2**20))
        if not part:
            raise EOFError("the other side has ended in the middle of a message")
        parts += part
    return bytes(parts)


def ready(descriptors: Iterable[int], timeout_s: float | None = None) -> set[int]:
    """Wait until one of these files can be read, or is closed on its other side; return those that are."""
    poll = select.poll()  # any number of files, unlike select
    for descriptor in descriptors:
        poll.register(descriptor, select.POLLIN)
    return {descriptor for descriptor, _ in poll.poll(None if timeout_s is None else math.ceil(1000 * timeout_s))}


# Files


def open_nameless() -> int:
    """Return the descriptor of a new file without a name: in memory where the kernel has that, else on the disk."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("ray-unlearn")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


@contextlib.contextmanager
def open_file_of(data: bytes) -> Iterator[int]:
    """Yield the descriptor of a file without a name that holds these bytes."""
    descriptor = open_nameless()
    try:
        write_all(descriptor, data)
        yield descriptor
    finally:
        os.close(descriptor)


def write_all(descriptor: int, *parts: bytes) -> None:
    """Write bytes at the beginning of a file."""
    offset = 0
    for part in parts:
        view = memoryview(part)
        while view:
            written = os.pwrite(descriptor, view, offset)
            offset, view = offset + written, view[written:]


def read_all(descriptor: int, most_bytes: int) -> bytes:
    """Return a file's bytes.

    Raises:
        ValueError: it is larger.

    """
    size = os.fstat(descriptor).st_size
    if size > most_bytes:
        raise ValueError(f"{size:,} bytes, where at most {most_bytes:,} were expected")
    parts, offset = [], 0
    while offset < size and (part := os.pread(descriptor, size - offset, offset)):
        parts.append(part)
        offset += len(part)
    return b"".join(parts)


def write_result(descriptor: int, report: Mapping[str, Any], tensors: bytes = b"") -> None:
    """Write a report and the bytes of a safetensors file."""
    data = json.dumps(report).encode()
    write_all(descriptor, len(data).to_bytes(_LENGTH, "big"), data, tensors)


def read_result(descriptor: int, most_bytes: int) -> tuple[dict[str, Any], bytes]:
    """Return the report, and the bytes of tensors, that the process of a user's code wrote; it must have ended.

    Raises:
        ValueError: the file is not of this form, or is larger.

    """
    data = read_all(descriptor, most_bytes + _MOST_REPORT_BYTES)
    end = _LENGTH + int.from_bytes(data[:_LENGTH], "big")
    if len(data) < _LENGTH or end > len(data):
        raise ValueError("no result")
    try:
        report = json.loads(data[_LENGTH:end])
    except RecursionError as error:
        raise ValueError("the report is nested without end") from error
    if not isinstance(report, dict):
        raise ValueError("the report is no mapping")
    return report, data[end:]
