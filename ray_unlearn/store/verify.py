"""Read everything that is recorded back, and say what is not what its record says.

    problems = verify(store, ["original", "finetune"])
    repair(store, problems)                      # the bad runs are pending again; `generate` makes them anew

Does not cover: whether the plan is complete (`ray-unlearn status`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from ray_unlearn.store.records import RECORD, Record, payload_of
from ray_unlearn.store.starts import is_of_original
from ray_unlearn.store.study_store import StudyStore
from ray_unlearn.study.plan import ORIGINAL, Run

_READERS = 4


@dataclass(frozen=True, slots=True)
class Problem:
    """One file of one run that is not what its record says."""

    run: Run
    file: str
    message: str

    def __str__(self) -> str:
        return f"{self.run}/{self.file}: {self.message}"


@dataclass(frozen=True, slots=True)
class Verification:
    """What `verify` read, and what it found wrong."""

    runs: int
    files: int
    size_bytes: int
    problems: tuple[Problem, ...]


def verify(store: StudyStore, populations: Iterable[str]) -> Verification:
    """Check the size and sha256 of every payload that a record names, and of the original that the run started from."""
    runs = [Run(population=name, index=index) for name in populations for index in store.indexes(name)]
    originals = store.made(ORIGINAL)
    with ThreadPoolExecutor(_READERS) as readers:
        checked = list(readers.map(lambda run: _verify_run(store, run, originals), runs))
    payloads = [payload for record, _ in checked if record for payload in record.payloads.values()]
    return Verification(
        runs=sum(record is not None for record, _ in checked),
        files=len(payloads),
        size_bytes=sum(payload.size_bytes for payload in payloads),
        problems=tuple(problem for _, found in checked for problem in found),
    )


def repair(store: StudyStore, problems: Iterable[Problem]) -> list[Run]:
    """Make every run with a problem pending again; return those runs."""
    runs = sorted({problem.run for problem in problems})
    for run in runs:
        store.discard(run)
    return runs


def _verify_run(store: StudyStore, run: Run, originals: Mapping[int, Record]) -> tuple[Record | None, list[Problem]]:
    if not store.storage.exists(store.layout.record(run)):
        return (
            None,
            [],
        )  # unfinished, as after a kill between payload and record on an object store: simply pending
    record = store.record(run)
    if record is None:
        return None, [Problem(run, RECORD, "cannot be read as a record, or was changed")]
    return record, list(_problems(store, run, record, originals))


def _problems(store: StudyStore, run: Run, record: Record, originals: Mapping[int, Record]) -> Iterator[Problem]:
    held = store.held(run.population) or {}
    if not record.is_of(run, str(held.get("digest"))):
        yield Problem(
            run,
            RECORD,
            f"is of {record.population}/{record.index:05d}, digest {record.digest[:12]}, not of this run",
        )
    if not is_of_original(record, originals):
        was = record.original_sha256[:12]
        yield Problem(run, RECORD, f"started from {ORIGINAL}/{record.original:05d} when it was sha256 {was}...")
    for file, expected in record.payloads.items():
        try:
            found = payload_of(store.stored(run, file, expected))
        except FileNotFoundError:
            yield Problem(run, file, f"missing; expected {expected.size_bytes} bytes")
            continue
        if found.size_bytes != expected.size_bytes:
            yield Problem(run, file, f"expected {expected.size_bytes} bytes, found {found.size_bytes}")
        elif found.sha256 != expected.sha256:
            yield Problem(run, file, f"expected sha256 {expected.sha256[:12]}..., found {found.sha256[:12]}...")
