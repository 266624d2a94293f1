"""Every name in a study's folder; a run's payloads are named in `records` and `artefacts`.

    <storage>/data-cache/<source>/               decoded shards, shared by all studies of the storage
    <storage>/<study>/study.json                 the study as it was last generated, defaults filled in
    <storage>/<study>/splits/<digest>.arrow      image ids of retain, forget, validation and test
    <storage>/<study>/metrics.parquet            one row per run, rebuilt from records
    <storage>/<study>/scores.json, .parquet      the last evaluation; report.html shows it
    <storage>/<study>/scores/<mode>/*.json       its parts, one per population, computed again only when runs change
    <storage>/<study>/looks.json                 how much of the 5 % of all tests evaluations have spent
    <storage>/<study>/scores/memorisation/*.csv  memorisation of every train image, one file per population of shadows
    <storage>/<study>/events/<log>-000.jsonl      events of making runs; a log per `generate`, in parts
    <storage>/<study>/<population>/population.json           digest and readable identity
    <storage>/<study>/<population>/records.jsonl             a copy of its records, read at once; large ones only
    <storage>/<study>/<population>/00007/record.json         with model.safetensors, outputs.arrow, log.txt, stages
    <storage>/<study>/<population>/failed/00007.json         the last failure of a run not yet made, with 00007.log.txt
    <storage>/<study>/<population>/unfinished/00007.state    what a run not yet made goes on from; of long runs only

On an object store, a payload's object has its sha256 in its name (model-0123456789abcdef.safetensors), so that drivers
whose bytes differ never write over each other's, and a record names exactly what its own driver wrote. Stores of
versions before this one have plain names there; both are read.

Does not cover: how files are written (`filesystem`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePosixPath

from ray_unlearn.store.records import COMPACTED, LOG, RECORD
from ray_unlearn.study.plan import Run

DATA_CACHE = "data-cache"
_ADDRESSED = re.compile(r"-[0-9a-f]{16}\.[A-Za-z0-9]+$")


@dataclass(frozen=True, slots=True)
class Layout:
    """Names of one study's files, relative to its storage."""

    study: str

    @property
    def study_json(self) -> str:
        """The study as it was last generated."""
        return f"{self.study}/study.json"

    @property
    def metrics(self) -> str:
        """One row per run."""
        return f"{self.study}/metrics.parquet"

    @property
    def scores_json(self) -> str:
        """The last evaluation."""
        return f"{self.study}/scores.json"

    @property
    def scores_parquet(self) -> str:
        """The last evaluation's measures, one row per population and measure."""
        return f"{self.study}/scores.parquet"

    @property
    def looks(self) -> str:
        """Evaluations of a growing study, and what each spent of the 5 % of its tests."""
        return f"{self.study}/looks.json"

    def scores_part(self, mode: str, part: str) -> str:
        """One part of an evaluation."""
        return f"{self.study}/scores/{mode}/{part}.json"

    def memorisation(self, population: str) -> str:
        """Memorisation of every train image by a population of shadows."""
        return f"{self.study}/scores/memorisation/{population}.csv"

    def report(self, ending: str) -> str:
        """Page that shows the last evaluation."""
        return f"{self.study}/report.{ending}"

    @property
    def events_folder(self) -> str:
        """Folder of the event logs."""
        return f"{self.study}/events"

    def events(self, log: str, part: int) -> str:
        """One part of the event log of one `generate`."""
        return f"{self.events_folder}/{log}-{part:03d}.jsonl"

    def splits(self, digest: str) -> str:
        """Image ids by split."""
        return f"{self.study}/splits/{digest[:16]}.arrow"

    def population(self, name: str) -> str:
        """Folder of a population."""
        return f"{self.study}/{name}"

    def population_json(self, name: str) -> str:
        """Digest and readable identity of a population."""
        return f"{self.study}/{name}/population.json"

    def compacted(self, name: str) -> str:
        """Copy of all records of a population in one file; it does not prove that they exist."""
        return f"{self.study}/{name}/{COMPACTED}"

    def run(self, run: Run) -> str:
        """Folder of a finished run."""
        return f"{self.study}/{run.population}/{run.index:05d}"

    def record(self, run: Run) -> str:
        """Record of a finished run."""
        return f"{self.run(run)}/{RECORD}"

    def failures(self, population: str) -> str:
        """Folder of a population's failed runs."""
        return f"{self.study}/{population}/failed"

    def failure(self, run: Run) -> str:
        """Record of a failed run."""
        return f"{self.failures(run.population)}/{run.index:05d}.json"

    def failed_log(self, run: Run) -> str:
        """Log of a failed run; absent where it printed nothing."""
        return f"{self.failures(run.population)}/{run.index:05d}.{LOG}"

    def unfinished_folder(self, population: str) -> str:
        """Folder of the states of a population's unfinished runs."""
        return f"{self.study}/{population}/unfinished"

    def unfinished(self, run: Run) -> str:
        """State that an unfinished run goes on from."""
        return f"{self.unfinished_folder(run.population)}/{run.index:05d}.state"


def addressed(file: str, sha256: str) -> str:
    """Return the name of a payload's object on an object store: the file's, with the content's hash in it."""
    path = PurePosixPath(file)
    return f"{path.stem}-{sha256[:16]}{path.suffix}"


def is_addressed(name: str) -> bool:
    """Return whether a name may be one that `addressed` returns."""
    return _ADDRESSED.search(name) is not None


def event_log_of(file: str) -> str | None:
    """Return the log that a file of the events' folder is a part of, or None for any other file."""
    log, _, part = file.removesuffix(".jsonl").rpartition("-")
    return log if file.endswith(".jsonl") and log and part.isdigit() else None


def run_index(folder: str) -> int | None:
    """Return the run index in a folder's name, or None for any other folder."""
    return int(folder) if len(folder) == 5 and folder.isdigit() else None


def run_indexes(names: Iterable[str], ending: str = "") -> list[int]:
    """Return the run indexes in the names that end so, sorted; other names are left out."""
    found = (run_index(name.removesuffix(ending)) for name in names if name.endswith(ending))
    return sorted(index for index in found if index is not None)
