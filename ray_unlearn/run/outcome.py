"""Outcome of an attempt at a run, and description of the worker that made it, in plain values.

    success_of(run, record, work, publication, images=6400)
    failure_of(run, start, error)                # not made; whether another attempt would fail the same way

Does not cover: making a run (`worker`), the effect of a failure on the order of runs (`schedule`).
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ray_unlearn.errors import (
    DataError,
    Interrupted,
    MethodError,
    ModelError,
    RayUnlearnError,
    StoreError,
    StoreUnwritable,
    TrainingDiverged,
)
from ray_unlearn.store.records import OUTPUTS, Record
from ray_unlearn.study.plan import Run
from ray_unlearn.study.uris import without_keys
from ray_unlearn.usercode.imports import line_in_script

Span = tuple[float, float]
"""Start and end, in seconds."""

_MOST_CHARACTERS = 1000

# The same run would fail the same way again, so these are not retried.
_FINAL = (DataError, MethodError, ModelError, TrainingDiverged)


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkerInfo:
    """Host, process, device and arithmetic of a worker."""

    host: str
    pid: int
    device: str
    arithmetic: Mapping[str, str] = field(default_factory=dict)
    """Settings and instructions that the last bits of its runs depend on (`store.arithmetic`)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Spent:
    """Time, bytes and images of an attempt; for logs and meters only: no decision depends on them."""

    busy: tuple[Span, ...] = ()
    """Spans in seconds since the Unix epoch by the worker's clock: training and predicting; then publishing, which
    overlaps the next run."""
    seconds: Mapping[str, float] = field(default_factory=dict)
    """Part (train, predict) -> seconds; empty if the run was not made."""
    size_bytes: int = 0
    """Bytes of all payloads."""
    images: int = 0
    """Number of images trained on by `ray_unlearn.training`, counted once per epoch."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """Outcome of one attempt, in plain values, so that no exception of a method's own class is unpickled."""

    run: Run
    seconds: float
    """Worker seconds for this attempt; publication that overlapped the next run is not counted."""
    error: str = ""
    """One line; empty if the run was published."""
    traceback: str = ""
    final: bool = False
    """Whether another attempt would fail the same way."""
    poisoned: bool = False
    """Whether the worker must be replaced: a fault on a GPU stays with its process."""
    of_storage: bool = False
    """Whether the storage failed: another attempt, or another run, may succeed."""
    unwritable: bool = False
    """Whether the storage accepts no run until a person acts: it is full, or this user may not write there."""
    recycle: bool = False
    """Whether the worker should be replaced: its memory has grown by more than `execution.recycle_growth_gib`."""
    metrics: dict[str, float] = field(default_factory=dict)
    spent: Spent | None = None
    """Time, bytes and images; None if the worker died."""
    log: bytes = b""
    """Output that the run printed; for a published run, only if the job is verbose."""
    sha256: str = ""
    """sha256 of the outputs of a published run; empty in all other cases."""
    note: str = ""
    """What became of the run's stored state: where it went on, or why it began anew; empty if there was none."""


Attempt = tuple[Run, int]
"""A run, and the number of the attempt at it, from 1."""


def success_of(
    run: Run, record: Record, work: Span, publication: Span, *, images: int, log: bytes = b"", note: str = ""
) -> Outcome:
    """Return the outcome of an attempt that was published.

    Args:
        run: the run.
        record: the run's record.
        work: span of training and predicting, by `time.monotonic()`.
        publication: span of publishing, by the same clock.
        images: number of images that it was trained on.
        log: output that it printed, if the job is verbose.
        note: what became of its stored state.

    """
    took = Spent(
        busy=_since_epoch(work, publication),
        seconds=record.seconds,
        size_bytes=sum(payload.size_bytes for payload in record.payloads.values()),
        images=images,
    )
    seconds, sha256 = work[1] - work[0], outputs_sha256(record)
    return Outcome(run=run, seconds=seconds, metrics=record.metrics, spent=took, log=log, sha256=sha256, note=note)


def outputs_sha256(record: Record) -> str:
    """Return the sha256 of a run's outputs; empty where its record names none."""
    return record.payloads[OUTPUTS].sha256 if OUTPUTS in record.payloads else ""


class FailedApart(Exception):
    """A run failed in a process of its own; plain values, because no exception of a stranger's is unpickled."""

    def __init__(self, *, error: str, traceback: str = "", final: bool = False) -> None:
        super().__init__(error)
        self.error, self.traceback, self.final = error, traceback, final

    @classmethod
    def parse(cls, failure: Any) -> FailedApart:
        """Return the failure that a process wrote: what `failed_as` returns, or, from a stranger, anything."""
        found = failure if isinstance(failure, dict) else {}
        return cls(
            error=_printable(str(found.get("error") or "it failed without a reason"))[:_MOST_CHARACTERS],
            traceback=_printable(str(found.get("traceback") or "")),
            final=found.get("final") is True,
        )


def failed_as(error: BaseException) -> dict[str, Any]:
    """Return what an outcome says about an error: `error` (one line), `traceback`, `final`."""
    if isinstance(error, FailedApart):
        return {"error": error.error, "traceback": error.traceback, "final": error.final}
    text = _text(error)
    return {
        "error": _one_line(error, text) + line_in_script(error),
        "traceback": _printable(without_keys("".join(traceback.format_exception(error)))),
        "final": isinstance(error, _FINAL),
    }


def failure_of(run: Run, start: float, error: BaseException, *, poisoned: bool = False, log: bytes = b"") -> Outcome:
    """Return the outcome of the attempt that an error ended; call it where the error is handled."""
    return Outcome(
        run=run,
        seconds=time.monotonic() - start,
        **failed_as(error),
        of_storage=isinstance(error, StoreError),
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
    """Return an exception's text; making the text of a method's own exception may raise another one."""
    try:
        return _printable(without_keys(" ".join(str(error).split())))
    except Interrupted:
        raise
    except BaseException as another:  # a method's own class may raise anything
        return f"(making its text raised {type(another).__name__})"


def _printable(text: str) -> str:
    """Return the text without lone surrogates, which no record could hold."""
    return text.encode("utf-8", "backslashreplace").decode()


def _one_line(error: BaseException, text: str) -> str:
    known = isinstance(error, RayUnlearnError) and text
    return text[:500] if known else f"{type(error).__name__}: {text[:500]}{_out_of_memory(error, text)}"


def _out_of_memory(error: BaseException, text: str) -> str:
    """Return advice if memory ran out; torch has two exceptions for it, recognised by name without importing torch."""
    if type(error).__name__ == "OutOfMemoryError":
        return "; out of GPU memory: a smaller batch_size, fewer workers per GPU, or a smaller device_budget_gib helps"
    if isinstance(error, MemoryError) or "DefaultCPUAllocator" in text:
        return "; out of memory: a smaller batch_size or fewer workers per machine helps"
    return ""
