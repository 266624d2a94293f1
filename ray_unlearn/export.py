"""A population in the competition's format: exactly N `unlearned_checkpoint_{i}.pth` in one zip.

    export_competition(store, "finetune", count=512, file=Path("submission.zip"))

The only module that writes a pickle, because the competition's evaluator reads nothing else: each file is
`torch.save` of a state dict in fp32, and loads with `torch.load(..., weights_only=True)`.

Does not cover: scoring (`ray_unlearn.evaluation`).
"""

from __future__ import annotations

import io
import os
import uuid
import zipfile
from pathlib import Path

import torch

from ray_unlearn.errors import StoreError
from ray_unlearn.models import parse_weights
from ray_unlearn.store import StudyStore
from ray_unlearn.store.records import CHECKPOINT
from ray_unlearn.store.starts import check_starts
from ray_unlearn.study.plan import Run

_SAME_TIME = (1980, 1, 1, 0, 0, 0)  # the zip's own zero: the same checkpoints give the same file


def export_competition(store: StudyStore, population: str, count: int, file: Path) -> int:
    """Write the zip, whole or not at all; return its size in bytes.

    Raises:
        StoreError: a checkpoint is missing or damaged, a run started from another original than the store holds, or the
            file cannot be written.

    """
    if store.held(population) is None:
        raise StoreError(f"{store.uri} has no population {population}; run `ray-unlearn generate` first")
    records = store.made(population)
    check_starts(store, population, records)
    missing = [index for index in range(count) if index not in records]
    if missing:
        shown = ", ".join(map(str, missing[:8])) + (", ..." if len(missing) > 8 else "")
        raise StoreError(
            f"population {population}: {len(missing)} of {count} checkpoints are missing (runs {shown}); "
            "run `ray-unlearn generate` first: the competition expects exactly N"
        )
    temporary = file.with_name(f".tmp-{os.getpid()}-{uuid.uuid4().hex[:8]}-{file.name}")
    try:
        with zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
            for index in range(count):
                run = Run(population=population, index=index)
                data = store.payload(run, CHECKPOINT)
                archive.writestr(zipfile.ZipInfo(f"unlearned_checkpoint_{index}.pth", _SAME_TIME), _as_pth(data))
        temporary.replace(file)
    except OSError as error:
        raise StoreError(f"{file}: cannot be written: {error.strerror or error}") from error
    finally:
        temporary.unlink(missing_ok=True)
    return file.stat().st_size


def _as_pth(data: bytes) -> bytes:
    state = {
        name: tensor.float() if tensor.is_floating_point() else tensor
        for name, tensor in sorted(parse_weights(data, CHECKPOINT).items())  # safetensors' own order is random
    }
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()
