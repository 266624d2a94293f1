"""Checkpoints for other programs: a population as the competition's zip, or one model as a file; new folders.

    export_competition(store, "finetune", count=512, file=Path("submission.zip"))
    export_model(store, Run(population="finetune", index=0), Path("model.pth"))        # or model.safetensors
    with new_folder(Path("hub")) as pending: ...                                       # appears whole, or not at all

The zip holds exactly N `unlearned_checkpoint_{i}.pth`. The only module that writes a pickle, because the competition's
evaluator and much serving code read nothing else: a `.pth` is `torch.save` of a state dict in fp32, and loads with
`torch.load(..., weights_only=True)`. A `.safetensors` file has the bytes that the run published.

Does not cover: scoring (`ray_unlearn.evaluation`).
"""

from __future__ import annotations

import io
import os
import shutil
import uuid
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

from ray_unlearn.errors import StoreError, check_new, replacing, write_file, writing
from ray_unlearn.models import parse_weights
from ray_unlearn.store import StudyStore
from ray_unlearn.store.forget_sets import splits_held
from ray_unlearn.store.records import CHECKPOINT, Payload, payload_of
from ray_unlearn.store.starts import check_starts
from ray_unlearn.study.plan import ORIGINAL, Run
from ray_unlearn.wording import first_of

_PTH = ".pth"
_SAME_TIME = (1980, 1, 1, 0, 0, 0)  # the zip's own zero: the same checkpoints give the same file


def export_competition(store: StudyStore, population: str, count: int, file: Path) -> int:
    """Write the zip, whole or not at all; return its size in bytes.

    Raises:
        StoreError: a checkpoint is missing or damaged, a run started from another original than the store holds, the
            runs are about several forget sets, or the file cannot be written.

    """
    if store.held(population) is None:
        raise StoreError(f"{store.uri} has no population {population}; run `ray-unlearn generate` first")
    check_one_set(store, population, "the competition's zip is of one; export single runs with --run N")
    records = store.made(population)
    check_starts(store, population, records)
    missing = [index for index in range(count) if index not in records]
    if missing:
        raise StoreError(
            f"population {population}: {len(missing)} of {count} checkpoints are missing (runs {first_of(missing)}); "
            "run `ray-unlearn generate` first: the competition expects exactly N"
        )
    with replacing(file) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
        for index in range(count):
            data = store.payload(Run(population=population, index=index), CHECKPOINT)
            archive.writestr(zipfile.ZipInfo(f"unlearned_checkpoint_{index}.pth", _SAME_TIME), _as_pth(data))
    return file.stat().st_size


def export_model(store: StudyStore, run: Run, file: Path) -> Payload:
    """Write one run's checkpoint, whole or not at all, in the format of the file's ending; return its size and hash.

    Raises:
        StoreError: the checkpoint is missing or damaged, the run started from another original than the store holds, or
            the file cannot be written.

    """
    content = model_content(store, run, file.suffix)
    write_file(file, content)
    return payload_of(content)


def model_content(store: StudyStore, run: Run, ending: str) -> bytes:
    """Return one run's checkpoint in the format of an ending, `.pth` or `.safetensors`; errors as `export_model`."""
    record = store.made(run.population).get(run.index)
    if record is not None:
        check_starts(store, run.population, {run.index: record})
    data = store.payload(run, CHECKPOINT, record)
    return _as_pth(data) if ending.lower() == _PTH else data


def check_one_set(store: StudyStore, population: str, why: str) -> None:
    """Refuse a population whose runs are about several forget sets.

    Raises:
        StoreError: they are; `why` ends the message.

    """
    if (sets := len(splits_held(store.held(population) or {}))) > 1 and population != ORIGINAL:
        raise StoreError(f"population {population}: its runs are about {sets} forget sets, and {why}")


def save_pth(values: np.ndarray, file: Path) -> None:
    """Write an array as a tensor, as `torch.save` does."""
    torch.save(torch.from_numpy(np.ascontiguousarray(values)), file)


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """Yield a folder beside `folder`, which takes its name once the block is done, and is removed where it fails.

    Raises:
        StudyError: the folder exists.
        StoreError: it cannot be written.

    """
    check_new(folder)
    pending = folder.with_name(f".tmp-{os.getpid()}-{uuid.uuid4().hex[:8]}-{folder.name}")
    try:
        with writing(folder):
            pending.mkdir(parents=True)
            yield pending
            pending.rename(folder)
    finally:
        shutil.rmtree(pending, ignore_errors=True)


def _as_pth(data: bytes) -> bytes:
    state = {
        name: tensor.float() if tensor.is_floating_point() else tensor
        for name, tensor in sorted(parse_weights(data, CHECKPOINT).items())  # safetensors' own order is random
    }
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()
