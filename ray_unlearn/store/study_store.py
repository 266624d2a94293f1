"""One study's folder: admit a plan, publish runs, read records back.

    store = StudyStore.of(study)
    store.admit(plan)
    store.publish(run, payloads, record)
    records = store.made("finetune")             # {index: Record}

Does not cover: the order of work (`schedule`), nor reading payloads back (`verify`, and evaluation from outputs).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import PurePosixPath
from typing import Any, TypeVar

from ray_unlearn.errors import DamagedFile, PopulationChanged, StoreError, StudyError
from ray_unlearn.store.claims import create_once
from ray_unlearn.store.filesystem import Storage, open_storage
from ray_unlearn.store.formats import parse_object, stamped
from ray_unlearn.store.layout import Layout, addressed, run_indexes
from ray_unlearn.store.reading import Found, encode, find_records
from ray_unlearn.store.records import (
    CHECKPOINT,
    LOG,
    RECORD,
    FailedRecord,
    Payload,
    Record,
    failure_bytes,
    parse_failure,
    parse_record,
    payload_of,
)
from ray_unlearn.study.changes import edits, refusal
from ray_unlearn.study.loading import parse_stored
from ray_unlearn.study.plan import MethodUse, Plan, Population, Run
from ray_unlearn.study.schema import Study
from ray_unlearn.study.uris import labelled, without_keys

T = TypeVar("T")

_WORTH_COMPACTING = 256  # fewer records are read one by one in too little time to notice
_SETTLES_NS = 2 * 10**9


@dataclass(frozen=True, slots=True)
class StudyStore:
    """The folder of one study."""

    storage: Storage
    name: str

    @classmethod
    def of(cls, study: Study) -> StudyStore:
        """Return the store of a study; no file is created."""
        return cls(open_storage(study.storage), study.name)

    @property
    def layout(self) -> Layout:
        """Names of the study's files."""
        return Layout(self.name)

    @property
    def uri(self) -> str:
        """Address of the study's folder, for messages."""
        return f"{self.storage.uri.rstrip('/')}/{self.name}"

    def admit(self, plan: Plan, differences: Sequence[str] = ()) -> None:
        """Admit a plan's populations, all or none.

        Args:
            plan: the plan.
            differences: lines for the refusal, one per difference between the study and the one generated before.

        Raises:
            PopulationChanged: the folder holds one of them, made from something else.
            StoreError: the folder cannot be written, or lacks the population.json of runs that it holds.

        """
        new = self.check(plan, differences)
        for population in new:
            identity = labelled(population.identity)
            script = _kept_script(population.method)
            content = stamped("population", {"digest": population.digest, "identity": identity, **script})
            name = self.layout.population_json(population.name)
            data = json.dumps(content, indent=2, sort_keys=True).encode()
            held = self.held(population.name) or {}  # another driver of the same study may have begun anew meanwhile
            if held.get("digest") != population.digest and self.is_given_up(population.name):
                self.storage.remove(self.layout.population(population.name))
            create_once(self.storage, name, data, population.digest[:16])
        for population in new:
            self._is_new(population, differences)  # another driver may have been quicker, with other values
        study = labelled(plan.study.model_dump(mode="json")) | {"storage": self.storage.uri}
        self.storage.publish_file(self.layout.study_json, json.dumps(stamped("study", study), indent=2).encode())
        self.sweep(plan)

    def check(self, plan: Plan, differences: Sequence[str] = ()) -> list[Population]:
        """Return the populations that are new to the folder; raise what `admit` raises, and write nothing."""
        return [p for p in plan.populations.values() if self._is_new(p, differences)]

    def sweep(self, plan: Plan) -> None:
        """Remove temporary files of dead processes; the stamp of study.json, just written, gives the storage's time."""
        stamp = self.storage.stamps(self.name).get(PurePosixPath(self.layout.study_json).name)
        folders = [self.name]
        if self.storage.local is not None:  # nothing is renamed on an object store, so nothing is left there
            populations = [self.layout.population(name) for name in plan.populations]
            further = (self.layout.failures, self.layout.unfinished_folder)
            folders += [*populations, *(each(name) for name in plan.populations for each in further)]
        for folder in folders:
            self.storage.sweep(folder, stamp.mtime_ns if stamp else None)

    def _is_new(self, population: Population, differences: Sequence[str]) -> bool:
        held = self.held(population.name)
        if held is None:
            if self.indexes(population.name):
                name = self.layout.population_json(population.name)
                raise StoreError(
                    f"{self.storage.uri}/{name}: missing, but there are runs; restore it, or move them away"
                )
            return True
        if held.get("digest") == population.digest:
            return False
        if self.is_given_up(population.name):
            return True
        use = population.method
        script = _script_file(use)
        *lines, made_by, advice = refusal(held, population.identity, use.corrections, script)
        before = {script: held.get("script"), **(held.get("modules") or {})}
        edited = [
            line
            for file, text in use.texts(script).items()
            for line in edits(str(before.get(file) or ""), without_keys(text), file)
        ]
        details = [*lines, *edited, *(f"  in the study: {line}" for line in differences), made_by, advice]
        raise PopulationChanged(
            f"population {population.name} in {self.uri} was made differently and will not be overwritten:\n"
            + "\n".join(details)
        )

    def held(self, population: str) -> dict[str, Any] | None:
        """Return the content of population.json: digest, identity, a script's text; None where there is none."""
        name, advice = self.layout.population_json(population), "restore it, or remove the population"
        content, where = self._read(name, partial(parse_object, "population"), advice), f"{self.storage.uri}/{name}"
        if content is None:
            return None
        if not isinstance(content.get("digest"), str) or not isinstance(content.get("identity"), dict):
            raise DamagedFile(f"{where}: lacks the digest or the identity of its runs; {advice}")
        if (owner := content["identity"].get("name", population)) != population:
            raise DamagedFile(f"{where}: is that of population {owner}; {advice}")
        return content

    def _read(self, name: str, parse: Callable[[bytes, str], T], advice: str) -> T | None:
        """Return what a file holds; None where there is none.

        Raises:
            DamagedFile: it cannot be read, or was changed; `advice` ends the message.
            NewerFormat: it is of a format that a later version wrote.

        """
        try:
            return parse(self.storage.read(name), f"{self.storage.uri}/{name}")
        except FileNotFoundError:
            return None
        except DamagedFile as error:
            raise DamagedFile(f"{error}; {advice}") from error

    def study(self) -> Study | None:
        """Return the study as it was last generated; None where none was.

        Raises:
            DamagedFile: study.json cannot be read.
            NewerFormat: it is of a format that a later version wrote.

        """

        def parse(data: bytes, where: str) -> Study:
            tree = parse_object("study", data, where)
            try:
                return parse_stored({key: value for key, value in tree.items() if key not in ("format", "made_by")})
            except StudyError as error:
                raise DamagedFile(f"{where}: {error}") from error

        return self._read(self.layout.study_json, parse, "`ray-unlearn generate` writes it again")

    def publish(self, run: Run, payloads: Mapping[str, bytes], record: Record) -> None:
        """Publish a finished run: the payloads that its record names, then the record; then forget its earlier failure.

        A run that another driver published meanwhile stays as it is. Payloads without a record are no run: on a disk
        they are replaced. On an object store each payload's name holds its sha256, so two drivers at the same run whose
        bytes differ (a GPU that does not repeat itself) do not overwrite each other's payloads, and a record names
        exactly the payloads of its own driver. Where both find no record at the same moment, the last record stays, and
        the payloads of the other are left for `verify --repair`.

        Raises:
            PopulationChanged: the run is made of another definition, which took this one's place meanwhile.
            StoreError: the folder cannot be written.

        """
        there = self.storage.exists(self.layout.record(run))
        held = self.record(run) if there else None
        if held is None or not held.is_of(run, record.digest):
            if there:  # the record of another run or population, copied here; its payloads are replaced
                self._check_current(run.population, record.digest)
                self.storage.remove(self.layout.record(run))
            last = (RECORD, record.sealed().model_dump_json(indent=1).encode())
            files = {self.stored_as(file, record.payloads[file]): data for file, data in payloads.items()}
            self.storage.publish_folder(self.layout.run(run), files, last)
        if self.storage.exists(self.layout.failure(run)):
            self.storage.remove(self.layout.failed_log(run))
            self.storage.remove(self.layout.failure(run))

    def _check_current(self, population: str, digest: str) -> None:
        held = self.held(population)
        if held is not None and held["digest"] != digest:
            raise PopulationChanged(
                f"population {population} in {self.uri} was begun anew from another definition while this run was "
                "made; what is made of that stays"
            )

    def discard(self, run: Run) -> None:
        """Make a run pending again: its record is removed first, so that no half-removed run counts as finished."""
        self.storage.remove(self.layout.record(run))
        self.storage.remove(self.layout.run(run))
        self.storage.remove(self.layout.unfinished(run))

    def publish_failure(self, run: Run, failure: FailedRecord, log: bytes = b"") -> None:
        """Publish a failed run's log, then the record of its failure; the run stays pending."""
        if log:
            self.storage.publish_file(self.layout.failed_log(run), log)
        else:
            self.storage.remove(self.layout.failed_log(run))
        self.storage.publish_file(self.layout.failure(run), failure_bytes(failure))

    def records(self, population: str, digest: str, known: Mapping[int, Record] | None = None) -> dict[int, Record]:
        """Return the records of a population's finished runs by index; those of other populations are left out.

        Records are taken from the compacted copy where the listing shows that they are the same.

        Args:
            population: its name.
            digest: its digest.
            known: records read before, which are not read again, because records never change.

        Raises:
            DamagedFile: a record cannot be read, or was changed; only `verify --repair` makes its run pending.
            NewerFormat: a later version wrote a record that this one cannot read.

        """
        return self._find(population, digest, known).records

    def compact(self, population: str, digest: str, known: Mapping[int, Record] | None = None) -> dict[int, Record]:
        """Return the same as `records`; write the compacted copy again where it lacks more than 256 of them.

        The copy saves time only, so a store that refuses it is no error. An object store reports times of change in
        seconds, and two drivers may both have written a record within one: there, the copy leaves out records newer
        than two seconds, and is made of records read after the listing.
        """
        remote = self.storage.local is None
        found = self._find(population, digest, None if remote else known)
        if found.lacking > _WORTH_COMPACTING:
            with suppress(StoreError):
                entries = found.settled(_SETTLES_NS) if remote else found.entries
                self.storage.publish_file(self.layout.compacted(population), encode(entries))
        return found.records

    def _find(self, population: str, digest: str, known: Mapping[int, Record] | None) -> Found:
        def read(run: Run) -> Record | None:
            return (known or {}).get(run.index) or self.record(run)

        return find_records(self.storage, self.layout, population, digest, read)

    def made(self, population: str, known: Mapping[int, Record] | None = None) -> dict[int, Record]:
        """Return the records of the population that the folder holds, by index; empty where it holds none."""
        if (held := self.held(population)) is None:
            return {}
        found = self._find(population, held["digest"], known)
        found.check_digest(held["digest"], f"{self.storage.uri}/{self.layout.population_json(population)}")
        return found.records

    def record(self, run: Run) -> Record | None:
        """Return a run's record, or None where there is none.

        Raises:
            DamagedFile: it cannot be read, or was changed; only `verify --repair` makes the run pending.
            NewerFormat: it is of a format that a later version wrote.

        """
        advice = "`ray-unlearn verify STUDY --repair` makes the run pending again"
        return self._read(self.layout.record(run), parse_record, advice)

    def indexes(self, population: str) -> list[int]:
        """Return the run indexes that have a folder, finished or not, sorted."""
        return run_indexes(self.storage.folders(self.layout.population(population)))

    def is_given_up(self, population: str) -> bool:
        """Return whether runs of a population failed and none is made: another definition of it then takes its place.

        A driver that still makes the old one replaces no run of the new one (`publish`).
        """
        return bool(self.failed_indexes(population)) and not self.indexes(population)

    def populations(self) -> list[str]:
        """Return the names of all populations that the folder holds, sorted."""
        names = self.storage.folders(self.name)
        return [name for name in names if self.storage.exists(self.layout.population_json(name))]

    def failures(self, population: str) -> dict[int, FailedRecord]:
        """Return the failures of runs not yet made, by index.

        Raises:
            DamagedFile: one of them cannot be read.
            NewerFormat: one of them is of a format that a later version wrote.

        """
        runs = [Run(population=population, index=index) for index in self.failed_indexes(population)]
        return {run.index: failure for run in runs if (failure := self.failed(run))}

    def failed(self, run: Run) -> FailedRecord | None:
        """Return why a run failed, or None where it did not; errors as `failures`."""
        return self._read(self.layout.failure(run), parse_failure, "`ray-unlearn verify STUDY --repair` removes it")

    def failed_indexes(self, population: str) -> list[int]:
        """Return the run indexes that have a failure, sorted; failures are not read, and the run may be made since."""
        return run_indexes(self.storage.sizes(self.layout.failures(population)), ".json")

    def log(self, run: Run) -> bytes:
        """Return the output of a finished or failed run; empty where it printed nothing.

        Raises:
            StoreError: the run is neither finished nor failed, or its log differs from its record.

        """
        if record := self.record(run):
            return self.payload(run, LOG, record) if LOG in record.payloads else b""
        try:
            return self.storage.read(self.layout.failed_log(run))
        except FileNotFoundError:
            if self.storage.exists(self.layout.failure(run)):
                return b""
        raise StoreError(f"{self.uri}: run {run} has no log: it is neither made nor failed yet")

    def payload(self, run: Run, file: str, record: Record | None = None) -> bytes:
        """Return a payload of a finished run, after comparing it with its record.

        Args:
            run: the run.
            file: the payload's name.
            record: the run's record, if already read.

        Raises:
            StoreError: the run is not finished, has no such payload, or has one that differs from its record.

        """
        record = record or self.record(run)
        expected = record.payloads.get(file) if record else None
        if expected is None:
            hint = ", or keep_checkpoints: false" if file == CHECKPOINT else ""
            raise StoreError(f"{self.uri}: run {run} has no {file} (not made{hint})")
        data = b""
        with suppress(FileNotFoundError):
            data = self.stored(run, file, expected)
        if payload_of(data) != expected:
            raise StoreError(
                f"{self.uri}: run {run}: {file} differs from its record; run `ray-unlearn verify STUDY --repair`"
            )
        return data

    def stored(self, run: Run, file: str, payload: Payload) -> bytes:
        """Return a payload's bytes without comparing them with the record.

        Raises:
            FileNotFoundError: there is no such file.

        """
        folder, name = self.layout.run(run), self.stored_as(file, payload)
        try:
            return self.storage.read(f"{folder}/{name}")
        except FileNotFoundError:  # a store of an earlier version, or one that was copied from a bucket to a disk
            other = file if name != file else addressed(file, payload.sha256)
            return self.storage.read(f"{folder}/{other}")

    def stored_as(self, file: str, payload: Payload) -> str:
        """Return the name in the run's folder that a payload is written under."""
        return file if self.storage.local is not None else addressed(file, payload.sha256)


def _script_file(use: MethodUse) -> str:
    return PurePosixPath(use.name.rpartition(":")[0]).name


def _kept_script(use: MethodUse) -> dict[str, Any]:
    """Return what population.json keeps of a script: its text, and that of each module that it imports from beside."""
    modules = {file: without_keys(text) for file, text in use.modules.items()}
    return {**({"script": without_keys(use.source)} if use.source else {}), **({"modules": modules} if modules else {})}
