"""What became of an attempt at a run, in plain values, and where it was made.

    success_of(run, record, work, publication, images=6400)
    failure_of(run, start, error)                # not made; whether another attempt would fail the same way

Does not cover: how a run is made (`worker`), nor what a failure changes in the order of work (`schedule`).
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field

from ray_unlearn.errors import (
    DataError,
    Interrupted,
    MethodError,
    ModelError,
    RayUnlearnError,
    StoreUnwritable,
    TrainingDiverged,
)
from ray_unlearn.store.records import Record
from ray_unlearn.study.plan import Run
from ray_unlearn.study.uris import without_keys
from ray_unlearn.usercode.imports import line_in_script

Span = tuple[float, float]
"""From, to; in seconds."""

# The same run would fail the same way again, so these are not retried.
_FINAL = (DataError, MethodError, ModelError, TrainingDiverged)


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkerInfo:
    """Where a worker lives."""

    host: str
    pid: int
    device: str
    arithmetic: Mapping[str, str] = field(default_factory=dict)
    """What the last bits of its runs depend on (`store.arithmetic`)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Spent:
    """What an attempt took; evidence for people who watch, on which nothing depends."""

    busy: tuple[Span, ...] = ()
    """(from, to) in seconds since the epoch by the worker's clock: training and predicting; then publishing, which
    overlaps the next run."""
    seconds: Mapping[str, float] = field(default_factory=dict)
    """By part: train, predict; empty where the run was not made."""
    size_bytes: int = 0
    """Of all payloads."""
    images: int = 0
    """Trained on, every epoch counted, as far as `training` saw them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What became of one attempt; plain values, so that no exception of a stranger's class is unpickled."""

    run: Run
    seconds: float
    """Worker seconds for this attempt; publication that overlapped the next run is not counted."""
    error: str = ""
    """One line; empty where the run was published."""
    traceback: str = ""
    final: bool = False
    """Whether another attempt would fail the same way."""
    poisoned: bool = False
    """Whether the worker must go: a fault on a GPU stays with its process."""
    unwritable: bool = False
    """Whether the storage takes no run at all until a person acts: it is full, or this user may not write there."""
    recycle: bool = False
    """Whether the worker should go: it holds more memory than `execution.recycle_growth_gib` allows."""
    metrics: dict[str, float] = field(default_factory=dict)
    spent: Spent | None = None
    """None where the worker died."""
    log: bytes = b""
    """What the run printed; of a run that was published, only where the job is verbose."""


Attempt = tuple[Run, int]
"""A run, and which attempt at it this is, from 1."""


def success_of(run: Run, record: Record, work: Span, publication: Span, *, images: int, log: bytes = b"") -> Outcome:
    """Return the outcome of an attempt that was published.

    Args:
        run: which.
        record: its.
        work: when it was trained and predicted, by `time.monotonic()`.
        publication: when it was published.
        images: that it was trained on.
        log: what it printed, where somebody wants to see it at once.

    """
    took = Spent(
        busy=_since_epoch(work, publication),
        seconds=record.seconds,
        size_bytes=sum(payload.size_bytes for payload in record.payloads.values()),
        images=images,
    )
    return Outcome(run=run, seconds=work[1] - work[0], metrics=record.metrics, spent=took, log=log)


def failure_of(run: Run, start: float, error: BaseException, *, poisoned: bool = False, log: bytes = b"") -> Outcome:
    """Return the outcome of the attempt that an error ended; call it where the error is handled."""
    text = _text(error)
    return Outcome(
        run=run,
        seconds=time.monotonic() - start,
        error=_one_line(error, text) + line_in_script(error),
        traceback=_printable(without_keys("".join(traceback.format_exception(error)))),
        final=isinstance(error, _FINAL),
        unwritable=isinstance(error, StoreUnwritable),
        poisoned=poisoned,
        spent=Spent(busy=_since_epoch((start, time.monotonic()))),
        log=log,
    )


def _since_epoch(*spans: Span) -> tuple[Span, ...]:
    """Return spans of this process's monotonic clock in seconds since the epoch, to the millisecond."""
    epoch = time.time() - time.monotonic()
    return tuple((round(epoch + start, 3), round(epoch + end, 3)) for start, end in spans)


def _text(error: BaseException) -> str:
    """Return an exception's text; its class may be a stranger's, and its text raise in its turn."""
    try:
        return _printable(without_keys(" ".join(str(error).split())))
    except Interrupted:
        raise
    except BaseException as another:  # a method's own class, which may raise anything
        return f"(its text cannot be had: {type(another).__name__})"


def _printable(text: str) -> str:
    """Return the text without half characters, which no record could hold."""
    return text.encode("utf-8", "backslashreplace").decode()


def _one_line(error: BaseException, text: str) -> str:
    known = isinstance(error, RayUnlearnError) and text
    return text[:500] if known else f"{type(error).__name__}: {text[:500]}{_out_of_memory(error, text)}"


def _out_of_memory(error: BaseException, text: str) -> str:
    """Return what helps where memory ran out; torch says so in two ways, known here by their names alone."""
    if type(error).__name__ == "OutOfMemoryError":
        return "; out of GPU memory: a smaller batch_size, fewer workers per GPU, or a smaller device_budget_gib helps"
    if isinstance(error, MemoryError) or "DefaultCPUAllocator" in text:
        return "; out of memory: a smaller batch_size or fewer workers per machine helps"
    return ""
