"""The record of a finished run and of a failed one: their schema, beside the code that reads and writes them.

    record = Record(population="finetune", index=7, payloads={"model.safetensors": payload_of(data)}, ...)
    store.publish(run, payloads, record)
    Record.model_validate_json(text).is_intact()

Does not cover: when a record is written (`StudyStore.publish`: after its payloads).
"""

from __future__ import annotations

import hashlib
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from ray_unlearn.study.plan import Run

RECORD = "record.json"
CHECKPOINT = "model.safetensors"
OUTPUTS = "outputs.arrow"
LOG = "log.txt"
"""What the run's code printed; absent where it printed nothing."""


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Payload(_Value):
    """Size and hash of one payload file."""

    size_bytes: int = Field(ge=0)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


def payload_of(data: bytes) -> Payload:
    """Return what a record says about these bytes."""
    return Payload(size_bytes=len(data), sha256=hashlib.sha256(data).hexdigest())


class Record(_Value):
    """What is known about a finished run. Identical runs give identical payloads, but not identical times."""

    population: str
    index: int
    original: int
    digest: str
    """The population's digest when the run was made."""
    method: str
    options: dict[str, Any]
    seeds: dict[str, int]
    """Study seed, original and run: with the population's name, the key of every random stream of the run."""
    original_sha256: str
    """The checkpoint that the run started from; empty for runs from scratch."""
    payloads: dict[Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")], Payload]
    """By file name in the run's folder: a name that leads elsewhere makes no record."""
    metrics: dict[str, float]
    """`<split>_accuracy` (0..1) and `<split>_loss` (nats) for each split with outputs."""
    epoch_loss: list[float]
    """Mean training loss of every epoch; empty for methods that bring their own loop."""
    stages: list[dict[str, float]]
    """Per-epoch metrics, where the study asks for them."""
    seconds: dict[str, float]
    """Wall time by part: train, predict."""
    started_at: str
    """UTC, ISO 8601; evidence only, nothing depends on it."""
    device: str
    threads: int
    host: str
    versions: dict[str, str]
    attempt: int
    checksum: str
    """sha256 of the record itself without this field; empty until it is sealed."""

    def sealed(self) -> Record:
        """Return the record with its checksum."""
        return self.model_copy(update={"checksum": self._digest()})

    def is_intact(self) -> bool:
        """Return whether the record is as it was sealed."""
        return self.checksum == self._digest()

    def _digest(self) -> str:
        return hashlib.sha256(self.model_dump_json(exclude={"checksum"}).encode()).hexdigest()

    def is_of(self, run: Run, digest: str) -> bool:
        """Return whether it is this run's: a record copied here from elsewhere makes no run."""
        return (self.population, self.index, self.digest) == (run.population, run.index, digest)


class FailedRecord(_Value):
    """Why a run failed; kept beside the runs until the run succeeds."""

    population: str
    index: int
    digest: str
    error: str
    """One line."""
    traceback: str
    attempts: int
    host: str
    failed_at: str
