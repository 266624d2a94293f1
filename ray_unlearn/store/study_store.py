"""One study's folder: admit a plan, publish runs, read records back.

    store = StudyStore(open_storage(study.storage), study.name)
    store.admit(plan)
    store.publish(run, payloads, record)
    records = store.made("finetune")             # {index: Record}

Does not cover: the order of work (`driver`), nor reading payloads back (`verify`, and evaluation from outputs).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from pydantic import ValidationError

from ray_unlearn.errors import PopulationChanged, StoreError
from ray_unlearn.store.compaction import encode
from ray_unlearn.store.filesystem import Storage
from ray_unlearn.store.layout import Layout, run_index
from ray_unlearn.store.reading import Found, find_records
from ray_unlearn.store.records import CHECKPOINT, RECORD, FailedRecord, Record, payload_of
from ray_unlearn.study.identity import difference
from ray_unlearn.study.plan import Plan, Population, Run
from ray_unlearn.study.uris import labelled

_WORTH_COMPACTING = 256  # records, read one by one, take less time than people notice


@dataclass(frozen=True, slots=True)
class StudyStore:
    """The folder of one study."""

    storage: Storage
    name: str

    @property
    def layout(self) -> Layout:
        """Names of the study's files."""
        return Layout(self.name)

    @property
    def uri(self) -> str:
        """Where the study lies, for people."""
        return f"{self.storage.uri.rstrip('/')}/{self.name}"

    def admit(self, plan: Plan, differences: Sequence[str] = ()) -> None:
        """Take a plan's populations in, all or none.

        Args:
            plan: whose populations they are.
            differences: between the study and the one that was here before, for the refusal: a line each.

        Raises:
            PopulationChanged: the folder holds one of them, made from something else.
            StoreError: the folder cannot be written, or lacks the population.json of runs that it holds.

        """
        new = [p for p in plan.populations.values() if self._is_new(p, differences)]
        for population in new:
            content = {"digest": population.digest, "identity": labelled(population.identity)}
            name = self.layout.population_json(population.name)
            self.storage.create_file(name, json.dumps(content, indent=2, sort_keys=True).encode())
        for population in new:
            self._is_new(population, differences)  # another driver may have been quicker, with other values
        study = json.dumps(labelled(plan.study.model_dump(mode="json")) | {"storage": self.storage.uri}, indent=2)
        self.storage.publish_file(self.layout.study_json, study.encode())
        self.sweep(plan)

    def sweep(self, plan: Plan) -> None:
        """Remove what dead processes left; the storage's clock is that of study.json, written a moment ago."""
        stamp = self.storage.stamps(self.name).get(PurePosixPath(self.layout.study_json).name)
        folders = [self.name]
        if self.storage.local is not None:  # nothing is renamed on an object store, so nothing is left there
            populations = [self.layout.population(name) for name in plan.populations]
            folders += [*populations, *(self.layout.failures(name) for name in plan.populations)]
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
        lines = difference(held.get("identity"), json.loads(json.dumps(population.identity)))
        lines = lines or ["(its population.json was edited)"]
        raise PopulationChanged(
            f"population {population.name} in {self.uri} was made differently and will not be overwritten:\n  "
            + "\n  ".join([*lines, *(f"in the study: {line}" for line in differences)])
            + "\nGive the changed population another name, the study another name, or change it back."
        )

    def held(self, population: str) -> dict[str, Any] | None:
        """Return what the folder says about a population: {digest, identity}; None where it has none."""
        name = self.layout.population_json(population)
        try:
            content = json.loads(self.storage.read(name))
        except FileNotFoundError:
            return None
        except (ValueError, RecursionError) as error:
            raise StoreError(
                f"{self.storage.uri}/{name}: not JSON ({error}); restore it, or remove the population"
            ) from error
        whole = isinstance(content, dict) and isinstance(content.get("digest"), str)
        if not whole or not isinstance(content.get("identity"), dict):
            raise StoreError(
                f"{self.storage.uri}/{name}: does not say what the runs were made from (digest, identity); "
                "restore it, or remove the population"
            )
        return dict(content)

    def publish(self, run: Run, payloads: Mapping[str, bytes], record: Record) -> None:
        """Publish a finished run: payloads, then its record; then forget its earlier failure.

        A run that somebody published meanwhile stays as it is: the same run has the same bytes. Payloads without a
        record are no run: on a disk they make way, on an object store they are written over. There, two drivers at
        the same run whose bytes differ (a GPU that does not repeat itself) may leave the payload of one beside the
        record of the other: `verify` finds it, and evaluation refuses what is not as recorded.
        """
        there = self.storage.exists(self.layout.record(run))
        held = self.record(run) if there else None
        if held is None or not held.is_of(run, record.digest):
            if there:
                self.discard(run)  # a torn record, or one of something else
            last = (RECORD, record.sealed().model_dump_json(indent=1).encode())
            self.storage.publish_folder(self.layout.run(run), payloads, last)
        self.storage.remove(self.layout.failure(run))

    def discard(self, run: Run) -> None:
        """Make a run pending again: its record goes first, so that no half-removed run ever counts as finished."""
        self.storage.remove(self.layout.record(run))
        self.storage.remove(self.layout.run(run))

    def publish_failure(self, run: Run, failure: FailedRecord) -> None:
        """Record why a run failed; the run stays to be made."""
        self.storage.publish_file(self.layout.failure(run), failure.model_dump_json(indent=1).encode())

    def records(self, population: str, digest: str, known: Mapping[int, Record] | None = None) -> dict[int, Record]:
        """Return the records of a population's finished runs by index; unreadable and foreign ones are left out.

        Records that the compacted copy holds are taken from there, where the listing says that they are the same.

        Args:
            population: whose.
            digest: the population's.
            known: records read before, which are not read again: a record that is there never changes.

        """
        return self._find(population, digest, known).records

    def compact(self, population: str, digest: str, known: Mapping[int, Record] | None = None) -> dict[int, Record]:
        """Return what `records` does; write the compacted copy anew where it lacks more than 256 of them.

        The copy saves time only, so a store that does not take it is no error.
        """
        found = self._find(population, digest, known)
        if found.lacking > _WORTH_COMPACTING:
            with suppress(StoreError):
                self.storage.publish_file(self.layout.compacted(population), encode(found.entries))
        return found.records

    def _find(self, population: str, digest: str, known: Mapping[int, Record] | None) -> Found:
        def read(run: Run) -> Record | None:
            return (known or {}).get(run.index) or self.record(run)

        return find_records(self.storage, self.layout, population, digest, read)

    def made(self, population: str, known: Mapping[int, Record] | None = None) -> dict[int, Record]:
        """Return the records of the population that the folder holds, by index; empty where it holds none."""
        held = self.held(population)
        return self.records(population, str(held.get("digest")), known) if held else {}

    def record(self, run: Run) -> Record | None:
        """Return a run's record, or None where there is none that can be read."""
        try:
            record = Record.model_validate_json(self.storage.read(self.layout.record(run)))
        except (FileNotFoundError, ValidationError):
            return None
        return record if record.is_intact() else None

    def indexes(self, population: str) -> list[int]:
        """Return the run indexes that have a folder, finished or not, sorted."""
        found = (run_index(name) for name in self.storage.folders(self.layout.population(population)))
        return sorted(index for index in found if index is not None)

    def populations(self) -> list[str]:
        """Return the names of all populations that the folder holds, sorted."""
        names = self.storage.folders(self.name)
        return [name for name in names if self.storage.exists(self.layout.population_json(name))]

    def failures(self, population: str) -> dict[int, FailedRecord]:
        """Return the failures of runs not yet made, by index."""
        folder = self.layout.failures(population)
        failed = {}
        for name in sorted(self.storage.sizes(folder)):
            try:
                failure = FailedRecord.model_validate_json(self.storage.read(f"{folder}/{name}"))
            except (FileNotFoundError, ValidationError):
                continue
            failed[failure.index] = failure
        return failed

    def failed_indexes(self, population: str) -> list[int]:
        """Return the run indexes that have a failure, sorted; it is not read, nor whether the run was made since."""
        names = self.storage.sizes(self.layout.failures(population))
        found = (run_index(name.removesuffix(".json")) for name in names)
        return sorted(index for index in found if index is not None)

    def payload(self, run: Run, file: str, record: Record | None = None) -> bytes:
        """Return a payload of a finished run, after comparing it with its record.

        Args:
            run: whose.
            file: its name.
            record: the run's, where it is at hand; else it is read.

        Raises:
            StoreError: the run is not finished, has no such payload, or has one that is not what its record says.

        """
        record = record or self.record(run)
        expected = record.payloads.get(file) if record else None
        if expected is None:
            hint = ", or keep_checkpoints: false" if file == CHECKPOINT else ""
            raise StoreError(f"{self.uri}: run {run} has no {file} (not made{hint})")
        try:
            data = self.storage.read(f"{self.layout.run(run)}/{file}")
        except FileNotFoundError:
            data = b""
        if payload_of(data) != expected:
            raise StoreError(
                f"{self.uri}: run {run}: {file} is not what its record says; run `ray-unlearn verify --repair`"
            )
        return data
