"""Records -> pandas tables.

    metrics_table(store)                         # one row per run: population, run, metrics, seconds, device, digest
    publish_metrics(store)                       # the same as <study>/metrics.parquet
    study_status(study, store)                   # planned, done, failed per population
    accuracy_table(store, ["finetune"])          # mean and standard deviation per population and split

Everything is rebuilt from records, so a lost or stale metrics.parquet costs nothing.

Does not cover: comparing populations (evaluation).
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ray_unlearn.store import FailedRecord, Record, StudyStore
from ray_unlearn.store.unfinished import epoch_of, unfinished
from ray_unlearn.study.plan import Run
from ray_unlearn.study.schema import Study

if TYPE_CHECKING:  # `status` needs no table, and the import takes half a second
    import pandas as pd


@dataclass(frozen=True, kw_only=True, slots=True)
class PopulationStatus:
    """Progress of one population, in numbers of runs."""

    population: str
    method: str
    planned: int
    done: int
    failed: dict[int, FailedRecord]
    """Failures of runs that are not made, by index."""
    more: int
    """Number of finished runs beyond the planned count, made when it was larger."""
    unfinished: tuple[int, ...] = ()
    """Indexes of planned runs that are not made and go on from a stored state."""
    epochs: Mapping[int, int] = field(default_factory=dict)
    """Number of epochs that their states have, by index, where it can be read."""


def study_status(study: Study, store: StudyStore) -> list[PopulationStatus]:
    """Return the progress of every population of the study, without opening its data."""
    found = []
    for name, spec in study.populations.items():
        indexes = list(store.made(name))
        done = [index for index in indexes if index < spec.planned]
        left = [index for index in unfinished(store, name) if index not in indexes and index < spec.planned]
        states = {index: epoch_of(store, Run(population=name, index=index)) for index in left}
        failures = {i: f for i, f in store.failures(name).items() if i not in indexes and i < spec.planned}
        found.append(
            PopulationStatus(
                population=name,
                method=spec.method_name,
                planned=spec.planned,
                done=len(done),
                failed=failures,
                more=len(indexes) - len(done),
                unfinished=tuple(left),
                epochs={index: epoch for index, epoch in states.items() if epoch is not None},
            )
        )
    return found


Known = Mapping[str, Mapping[int, Record]]
"""Records that were read before, by population and run."""


def metrics_table(store: StudyStore, known: Known | None = None) -> pd.DataFrame:
    """Return one row per finished run of every population in the store, by population and run."""
    import pandas as pd

    rows = []
    for name in store.populations():
        rows += [_row(record) for record in store.made(name, (known or {}).get(name)).values()]
    return pd.DataFrame(rows)


def _row(record: Record) -> dict[str, object]:
    row: dict[str, object] = {
        "population": record.population,
        "run": record.index,
        "original": record.original,
        "forget_set": record.forget_set,
        "method": record.method,
        "digest": record.digest,
        **record.metrics,
        **{f"seconds_{name}": value for name, value in record.seconds.items()},
        **{f"cpu_seconds_{name}": value for name, value in record.cpu_seconds.items()},
        "epochs": len(record.epoch_loss),
        "train_loss": record.epoch_loss[-1] if record.epoch_loss else float("nan"),
        "attempt": record.attempt,
        "device": record.device,
        "host": record.host,
        "started_at": record.started_at,
    }
    return row


def publish_metrics(store: StudyStore, known: Known | None = None) -> None:
    """Rebuild metrics.parquet from records; those in `known` are not read again."""
    buffer = io.BytesIO()
    metrics_table(store, known).to_parquet(buffer, index=False)
    store.storage.publish_file(store.layout.metrics, buffer.getvalue())


def accuracy_table(store: StudyStore, populations: list[str]) -> pd.DataFrame:
    """Return N and, for each split with outputs, mean and standard deviation of accuracy; one row per population."""
    import pandas as pd

    table = metrics_table(store)
    rows = []
    for name in populations:
        runs = table[table["population"] == name] if len(table) else table
        row: dict[str, object] = {"population": name, "N": len(runs)}
        for split in ("retain", "forget", "validation", "test"):
            column = f"{split}_accuracy"
            if column in runs and runs[column].notna().any():
                row[f"{split} mean"] = runs[column].mean()
                row[f"{split} sd"] = runs[column].std(ddof=1) if len(runs) > 1 else float("nan")
        rows.append(row)
    return pd.DataFrame(rows)
