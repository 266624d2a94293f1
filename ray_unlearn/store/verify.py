"""Read every recorded payload back, and report those that differ from their records.

    problems = verify(store, ["original", "finetune"])
    repair(store, problems)                      # the affected runs are pending; `generate` makes them again

Does not cover: whether the plan is complete (`ray-unlearn status`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from ray_unlearn.errors import DamagedFile, NewerFormat
from ray_unlearn.store.filesystem import Stamp
from ray_unlearn.store.forget_sets import splits_held, wrong_set
from ray_unlearn.store.leftovers import leftovers
from ray_unlearn.store.membership import compared_half, split_sizes
from ray_unlearn.store.reading import unowned
from ray_unlearn.store.records import RECORD, Record, payload_of
from ray_unlearn.store.starts import is_of_original, start_population
from ray_unlearn.store.study_store import StudyStore
from ray_unlearn.store.unfinished import read_state, remove_state, unfinished
from ray_unlearn.study.plan import Run

_READERS = 4


@dataclass(frozen=True, slots=True)
class Problem:
    """One file of one run that differs from its record, or the damaged record of its failure, or its damaged state."""

    run: Run
    file: str
    message: str

    @property
    def is_apart(self) -> bool:
        """Whether the file is outside the run's folder: the record of a failure, or the state of an unfinished run."""
        return self.file.startswith(("failed/", "unfinished/"))

    def __str__(self) -> str:
        folder = f"{self.run.population}/" if self.is_apart else f"{self.run}/"
        return f"{folder}{self.file}: {self.message}"


@dataclass(frozen=True, slots=True)
class Verification:
    """Counts of what `verify` read, and the problems that it found."""

    runs: int
    files: int
    size_bytes: int
    problems: tuple[Problem, ...]
    silent: tuple[Run, ...]
    """Runs whose records do not name the decoded images that they read: those of version 0.1."""
    leftovers: Mapping[str, Stamp] = field(default_factory=dict)
    """Stamps of payloads that no record names, by name; they are no problem (`leftovers`)."""


def verify(store: StudyStore, populations: Iterable[str], shards: Mapping[str, str] | None = None) -> Verification:
    """Check the size and sha256 of every payload that a record names, and what the run was made from.

    Args:
        store: the study's folder.
        populations: names of the populations to check.
        shards: hashes from the manifests of decoded images: {folder: one sha256 over its shards'}.

    Raises:
        NewerFormat: a later version wrote a file that this one cannot read; other files are not reported.
        DamagedFile: a population.json cannot be read, or states a digest that none of its runs has.
        StoreError: the splits file of a population of shadows cannot be read.

    """
    names = list(populations)
    runs = [Run(population=name, index=index) for name in names for index in store.indexes(name)]
    with ThreadPoolExecutor(_READERS) as readers:
        starts = {name: start_population(store, name) for name in names}
        originals = {name: _readable(store, name, readers) for name in set(starts.values())}
        held = {name: store.held(name) or {} for name in names}
        digests = {name: str(content.get("digest")) for name, content in held.items()}
        halved = {name: found for name, content in held.items() if (found := _halved(store, name, content))}
        sets = {name: len(splits_held(content)) for name, content in held.items()}
        known = _Known(digests, {name: originals[starts[name]] for name in names}, shards or {}, starts, halved, sets)
        checked = list(readers.map(lambda run: _verify_run(store, run, known), runs))
    _check_digests(store, digests, {run: record for run, (record, _) in zip(runs, checked, strict=True) if record})
    payloads = [payload for record, _ in checked if record for payload in record.payloads.values()]
    return Verification(
        runs=sum(record is not None for record, _ in checked),
        files=len(payloads),
        size_bytes=sum(payload.size_bytes for payload in payloads),
        silent=tuple(run for run, (record, _) in zip(runs, checked, strict=True) if record and not record.shards),
        problems=(
            *(problem for _, found in checked for problem in found),
            *_bad_failures(store, names),
            *_bad_states(store, names),
        ),
        leftovers=leftovers(store, {run: record for run, (record, bad) in zip(runs, checked, strict=True) if not bad}),
    )


def _check_digests(store: StudyStore, digests: Mapping[str, str], records: Mapping[Run, Record]) -> None:
    """Refuse a population.json of which every sound run differs: to repair would make good runs pending."""
    for name, digest in digests.items():
        own = [record for run, record in records.items() if run.population == name and record.is_of(run, record.digest)]
        if own and all(record.digest != digest for record in own):
            raise unowned(digest, own[0], f"{store.storage.uri}/{store.layout.population_json(name)}")


def repair(store: StudyStore, problems: Iterable[Problem]) -> list[Run]:
    """Make every run with a problem pending again; return those runs.

    A damaged record of a failure is removed, and so is the damaged state of an unfinished run, which then begins anew.
    """
    problems = list(problems)
    apart = {problem.run for problem in problems if problem.is_apart}
    for problem in problems:
        if problem.file.startswith("failed/"):
            store.storage.remove(store.layout.failed_log(problem.run))
            store.storage.remove(store.layout.failure(problem.run))
        elif problem.is_apart:
            remove_state(store, problem.run)
    runs = sorted({problem.run for problem in problems if not problem.is_apart})
    for run in runs:
        store.discard(run)
    return sorted({*runs, *apart})


def _readable(store: StudyStore, population: str, readers: ThreadPoolExecutor) -> dict[int, Record]:
    """Return the records of a population's runs that are whole, by index."""
    runs = [Run(population=population, index=index) for index in store.indexes(population)]
    digest = str((store.held(population) or {}).get("digest"))
    records = dict(zip(runs, readers.map(lambda run: _read(store, run)[0], runs), strict=True))
    return {run.index: record for run, record in records.items() if record and record.is_of(run, digest)}


@dataclass(frozen=True, slots=True)
class _Halved:
    """A population whose runs are limited to halves of the train split."""

    shadows: str
    """Name of the population whose halves they are."""
    sizes: Mapping[str, int]
    """Images by split."""


def _halved(store: StudyStore, name: str, content: Mapping[str, Any]) -> _Halved | None:
    identity = content.get("identity") or {}
    if not isinstance((identity.get("options") or {}).get("on"), Mapping) and "starts_from" not in identity:
        return None
    splits = str((identity.get("data") or {}).get("splits"))
    return _Halved(str(identity.get("starts_from", name)), split_sizes(store, splits))


def _read(store: StudyStore, run: Run) -> tuple[Record | None, str]:
    """Return a run's record, or None and the damage; None and an empty text where it does not exist."""
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


def _bad_states(store: StudyStore, populations: Iterable[str]) -> Iterator[Problem]:
    for name in populations:
        for index in unfinished(store, name):
            run = Run(population=name, index=index)
            file = store.layout.unfinished(run).removeprefix(f"{store.layout.population(name)}/")
            try:
                read_state(store, run)
            except DamagedFile:
                yield Problem(run, file, "is damaged; the run would begin anew")
            except NewerFormat:
                yield Problem(run, file, "was saved by a later version; with this one, the run would begin anew")


@dataclass(frozen=True, slots=True)
class _Known:
    """Digests, originals and shards that runs are compared with."""

    digests: Mapping[str, str]
    """Digests by population."""
    originals: Mapping[str, Mapping[int, Record]]
    """Records of the runs that a population starts from, by population and index."""
    shards: Mapping[str, str]
    starts: Mapping[str, str]
    """Name of the population that each one starts from, if it starts from one."""
    halved: Mapping[str, _Halved]
    """Populations of which each run is limited to a half of the train split."""
    forget_sets: Mapping[str, int]
    """Number of forget sets that each population's runs are about."""


def _verify_run(store: StudyStore, run: Run, known: _Known) -> tuple[Record | None, list[Problem]]:
    record, damage = _read(store, run)  # neither: killed between payload and record on an object store, so pending
    if damage:
        return None, [Problem(run, RECORD, "cannot be read as a record, or was changed")]
    return record, [*_wrong_start(run, record, known), *_wrong_payloads(store, run, record)] if record else []


def _wrong_start(run: Run, record: Record, known: _Known) -> Iterator[Problem]:
    if not record.is_of(run, known.digests[run.population]):
        yield Problem(
            run, RECORD, f"is of {record.population}/{record.index:05d}, digest {record.digest[:12]}, not of this run"
        )
    if not is_of_original(record, known.originals[run.population]):
        was, start = record.original_sha256[:12], known.starts[run.population]
        yield Problem(run, RECORD, f"started from {start}/{record.original:05d} when it was sha256 {was}...")
    yield from _wrong_half(run, record, known.halved.get(run.population))
    if problem := wrong_set(record, known.forget_sets[run.population]):
        yield Problem(run, RECORD, problem)
    for folder, sha256 in record.shards.items():
        if known.shards.get(folder, sha256) != sha256:
            yield Problem(run, RECORD, f"was made from other shards of {folder} than its manifest lists now")


def _wrong_half(run: Run, record: Record, halved: _Halved | None) -> Iterator[Problem]:
    """Compare a record's fingerprint with the half of the train split that its run has."""
    if halved is None:
        return
    _, problem = compared_half(record, halved.shadows, halved.sizes)
    if problem:
        yield Problem(run, RECORD, problem)


def _wrong_payloads(store: StudyStore, run: Run, record: Record) -> Iterator[Problem]:
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
