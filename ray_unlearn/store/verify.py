"""Read everything that is recorded back, and say what is not what its record says.

    problems = verify(store, ["original", "finetune"])
    repair(store, problems)                      # the bad runs are pending again; `generate` makes them anew

Does not cover: whether the plan is complete (`ray-unlearn status`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from ray_unlearn.errors import DamagedFile
from ray_unlearn.store.records import RECORD, Record, payload_of
from ray_unlearn.store.starts import is_of_original
from ray_unlearn.store.study_store import StudyStore
from ray_unlearn.study.plan import ORIGINAL, Run

_READERS = 4


@dataclass(frozen=True, slots=True)
class Problem:
    """One file of one run that is not what its record says, or the damaged record of its failure."""

    run: Run
    file: str
    message: str

    def __str__(self) -> str:
        folder = f"{self.run.population}/" if self.file.startswith("failed/") else f"{self.run}/"
        return f"{folder}{self.file}: {self.message}"


@dataclass(frozen=True, slots=True)
class Verification:
    """What `verify` read, and what it found wrong."""

    runs: int
    files: int
    size_bytes: int
    problems: tuple[Problem, ...]


def verify(store: StudyStore, populations: Iterable[str]) -> Verification:
    """Check the size and sha256 of every payload that a record names, and of the original that the run started from.

    Raises:
        NewerFormat: a later version wrote a file that this one cannot read; nothing is said of the others.
        DamagedFile: a population.json cannot be read.

    """
    names = list(populations)
    runs = [Run(population=name, index=index) for name in names for index in store.indexes(name)]
    with ThreadPoolExecutor(_READERS) as readers:
        originals = _readable(store, readers)
        digests = {name: str((store.held(name) or {}).get("digest")) for name in names}
        checked = list(readers.map(lambda run: _verify_run(store, run, digests[run.population], originals), runs))
    payloads = [payload for record, _ in checked if record for payload in record.payloads.values()]
    return Verification(
        runs=sum(record is not None for record, _ in checked),
        files=len(payloads),
        size_bytes=sum(payload.size_bytes for payload in payloads),
        problems=(*(problem for _, found in checked for problem in found), *_bad_failures(store, names)),
    )


def repair(store: StudyStore, problems: Iterable[Problem]) -> list[Run]:
    """Make every run with a problem pending again; return those runs. A damaged record of a failure is removed."""
    problems = list(problems)
    failures = {problem.run for problem in problems if problem.file.startswith("failed/")}
    for run in failures:
        store.storage.remove(store.layout.failure(run))
    runs = sorted({problem.run for problem in problems if not problem.file.startswith("failed/")})
    for run in runs:
        store.discard(run)
    return sorted({*runs, *failures})


def _readable(store: StudyStore, readers: ThreadPoolExecutor) -> dict[int, Record]:
    """Return the records of the originals that are whole, by index."""
    runs = [Run(population=ORIGINAL, index=index) for index in store.indexes(ORIGINAL)]
    digest = str((store.held(ORIGINAL) or {}).get("digest"))
    records = dict(zip(runs, readers.map(lambda run: _read(store, run)[0], runs), strict=True))
    return {run.index: record for run, record in records.items() if record and record.is_of(run, digest)}


def _read(store: StudyStore, run: Run) -> tuple[Record | None, str]:
    """Return a run's record, and what is wrong with it where it is damaged; neither where there is none."""
    try:
        return store.record(run), ""
    except DamagedFile as error:
        return None, str(error)


def _bad_failures(store: StudyStore, populations: Iterable[str]) -> Iterator[Problem]:
    for name in populations:
        for index in store.failed_indexes(name):
            run = Run(population=name, index=index)
            try:
                store.failed(run)
            except DamagedFile:
                yield Problem(run, f"failed/{index:05d}.json", "cannot be read as the record of a failure")


def _verify_run(
    store: StudyStore, run: Run, digest: str, originals: Mapping[int, Record]
) -> tuple[Record | None, list[Problem]]:
    record, damage = _read(store, run)  # neither: killed between payload and record on an object store, so pending
    if damage:
        return None, [Problem(run, RECORD, "cannot be read as a record, or was changed")]
    return record, list(_problems(store, run, record, digest, originals)) if record else []


def _problems(
    store: StudyStore, run: Run, record: Record, digest: str, originals: Mapping[int, Record]
) -> Iterator[Problem]:
    if not record.is_of(run, digest):
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
            found = payload_of(store.storage.read(f"{store.layout.run(run)}/{file}"))
        except FileNotFoundError:
            yield Problem(run, file, f"missing; expected {expected.size_bytes} bytes")
            continue
        if found.size_bytes != expected.size_bytes:
            yield Problem(run, file, f"expected {expected.size_bytes} bytes, found {found.size_bytes}")
        elif found.sha256 != expected.sha256:
            yield Problem(run, file, f"expected sha256 {expected.sha256[:12]}..., found {found.sha256[:12]}...")
