"""The records of finished and of failed runs: their schema, and the code that reads and writes them.

    record = Record(population="finetune", index=7, payloads={"model.safetensors": payload_of(data)}, ...)
    store.publish(run, payloads, record)
    record = parse_record(data, where="faces/finetune/00007/record.json")

A record's checksum is the sha256 of its JSON as it is stored, without the spaces between the tokens and without the
checksum, which is its last member. So it covers keys that this version does not know, and comparing it needs no
new serialisation. Format 1 (version 0.1.0) is read in the same way.

Does not cover: when a record is written (`StudyStore.publish`: after its payloads).
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationError

from ray_unlearn.errors import DamagedFile
from ray_unlearn.store.formats import FORMATS, first_complaint, minified, parse_object, stamped
from ray_unlearn.study.plan import Run

RECORD = "record.json"
CHECKPOINT = "model.safetensors"
OUTPUTS = "outputs.arrow"
IMPORTED = "imported"
"""Method of runs whose outputs another program made; such a record has no seeds, no recipe, no times."""
COMPACTED = "records.jsonl"
"""Copy of a population's records (`reading`)."""
LOG = "log.txt"
"""Output of the run's code; absent where it printed nothing."""

_CHECKSUM_CHARS = len(',"checksum":""}') + 64
_CHECKSUM = re.compile(r',"checksum":"([0-9a-f]{64})"\}')


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Payload(_Value):
    """Size and hash of one payload file."""

    size_bytes: int = Field(ge=0)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


def payload_of(data: bytes) -> Payload:
    """Return the size and hash of these bytes, as a record holds them."""
    return Payload(size_bytes=len(data), sha256=hashlib.sha256(data).hexdigest())


class Record(_Value):
    """The record of a finished run. Identical runs give identical payloads, but not identical times.

    A field that a later version adds has a default, and is placed before `checksum`.
    """

    format: int = 1
    """Format of the record; absent in format 1. `sealed` sets it."""
    population: str
    index: int
    original: int
    digest: str
    """Digest of the population when the run was made."""
    method: str
    options: dict[str, Any]
    seeds: dict[str, int]
    """Study seed, original and run: with the population's name, the key of every random stream of the run."""
    original_sha256: str
    """sha256 of the checkpoint that the run started from; empty for runs from scratch."""
    shards: dict[str, str] = Field(default_factory=dict)
    """Decoded images that the run read: {folder in the storage: one sha256 over its shards'}; empty before 0.2."""
    membership: str = ""
    """Fingerprint of the half of the train split that the run was limited to (`membership`); empty for all of it."""
    forget_set: int = 0
    """Number of the forget set that the run is about; 0 where the study has one, and for originals."""
    payloads: dict[Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")], Payload]
    """Payloads by file name in the run's folder; names with a path are not valid."""
    metrics: dict[str, float]
    """`<split>_accuracy` (0..1) and `<split>_loss` (nats) for each split with outputs."""
    epoch_loss: list[float]
    """Mean training loss of every epoch; empty for methods that bring their own loop."""
    stages: list[dict[str, float]]
    """Metrics of every epoch, where the study asks for them."""
    seconds: dict[str, float]
    """Wall time in seconds by part: train, predict."""
    cpu_seconds: dict[str, float] = Field(default_factory=dict)
    """CPU time in seconds by part, of all threads that trained; other load of the machine hardly changes it. Of a run
    on a GPU, only what the CPU did for it. Empty in records of earlier versions."""
    started_at: str
    """Start time in UTC, ISO 8601; for information only."""
    device: str
    """Device: `cpu`, or the GPU's name."""
    threads: int
    arithmetic: dict[str, str] = Field(default_factory=dict)
    """Other conditions of the last bits that no digest covers, such as `cpu_capability`; empty before 0.2."""
    host: str
    versions: dict[str, str]
    attempt: int
    checksum: str
    """sha256 of the record itself without this field; empty until it is sealed."""

    _text: str = PrivateAttr("")

    @property
    def text(self) -> str:
        """The JSON that is stored, without spaces, with keys that this version does not know; empty until sealed."""
        return self._text

    def naming(self, payloads: Mapping[str, bytes]) -> Record:
        """Return the record with these payloads, by file name."""
        return self.model_copy(update={"payloads": {name: payload_of(each) for name, each in sorted(payloads.items())}})

    def sealed(self) -> Record:
        """Return the record in the newest format, with its checksum."""
        record = self.model_copy(update={"format": FORMATS["record"]})
        body = record.model_dump_json(exclude={"checksum"})
        record = record.model_copy(update={"checksum": hashlib.sha256(body.encode()).hexdigest()})
        record._text = record.model_dump_json()
        return record

    def is_of(self, run: Run, digest: str) -> bool:
        """Return whether the record belongs to this run; one copied from elsewhere does not."""
        return (self.population, self.index, self.digest) == (run.population, run.index, digest)


def parse_record(data: bytes | str, where: str) -> Record:
    """Return the record that a file holds.

    Args:
        data: the file's bytes, or the text of a record.
        where: the file, for the message.

    Raises:
        NewerFormat: it is of a format that a later version wrote.
        DamagedFile: it is no record, or was changed since it was sealed.

    """
    try:
        text = data if isinstance(data, str) else data.decode()
    except UnicodeDecodeError as error:
        raise DamagedFile(f"{where}: not JSON ({error})") from error
    parse_object("record", text, where)
    text = minified(text)
    sealed = _CHECKSUM.fullmatch(text, max(0, len(text) - _CHECKSUM_CHARS))
    if sealed is None or hashlib.sha256(f"{text[: sealed.start()]}}}".encode()).hexdigest() != sealed[1]:
        raise DamagedFile(f"{where}: changed since it was written (its checksum does not match)")
    try:
        record = Record.model_validate_json(text)
    except ValidationError as error:
        raise DamagedFile(f"{where}: {first_complaint(error)}") from error
    record._text = text
    return record


class FailedRecord(_Value):
    """Why a run failed; kept in the folder `failed` until the run succeeds. Its file states its format, too."""

    population: str
    index: int
    digest: str
    error: str
    """Error, as one line."""
    traceback: str
    attempts: int
    host: str
    failed_at: str


def failure_bytes(failure: FailedRecord) -> bytes:
    """Return the file of a failed run."""
    return json.dumps(stamped("failed record", failure.model_dump(mode="json")), indent=1).encode()


def parse_failure(data: bytes, where: str) -> FailedRecord:
    """Return the record of a failed run; errors as `parse_record`."""
    value = parse_object("failed record", data, where)
    try:
        return FailedRecord.model_validate(value)
    except ValidationError as error:
        raise DamagedFile(f"{where}: {first_complaint(error)}") from error
