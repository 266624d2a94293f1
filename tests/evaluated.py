"""Stores full of outputs drawn from known distributions, for tests of evaluation: no image, no model, no training."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import yaml
from conftest import TINY, merged

from ray_unlearn.store import Record, StudyStore, open_storage
from ray_unlearn.store.arrow import ipc_bytes
from ray_unlearn.store.outputs import SplitLogits, encode_outputs
from ray_unlearn.store.records import payload_of
from ray_unlearn.study import Run, Study, parse_study
from ray_unlearn.study.identity import digest

SIZES = {"retain": 30, "forget": 12, "test": 20}
CLASSES = 3
SPLITS_DIGEST = digest({split: [f"{split}-{i:03d}" for i in range(size)] for split, size in SIZES.items()})


def labels_of(split: str) -> np.ndarray:
    """Return the labels of a split: 0, 1, 2, 0, 1, 2, ..."""
    return np.arange(SIZES[split]) % CLASSES


def draw_logits(seed: int, *, shift: float = 0.0, spread: float = 1.0) -> dict[str, np.ndarray]:
    """Return one run's logits [N, 3] by split: the label's logit is 2 + shift + spread x noise above the others'."""
    rng = np.random.default_rng(seed)
    found = {}
    for split, size in SIZES.items():
        logits = 0.3 * spread * rng.normal(size=(size, CLASSES))
        moved = shift if split == "forget" else 0.0
        logits[np.arange(size), labels_of(split)] += 2 + moved + spread * rng.normal(size=size)
        found[split] = logits.astype(np.float32)
    return found


def outputs_bytes(logits: Mapping[str, np.ndarray]) -> bytes:
    """Return an outputs.arrow of these logits."""
    return encode_outputs({name: SplitLogits(np.arange(SIZES[name]), labels_of(name), z) for name, z in logits.items()})


def study_of(folder: Path, counts: Mapping[str, int], **changes: Any) -> Study:
    """Return a study with an original, these populations, and few resamples."""
    populations: dict[str, Any] = {"original": {"method": "train", "on": "train"}, "finetune": None}
    for name, count in counts.items():
        if name != "original":
            kind = {"method": "train", "on": "retain"} if name == "retrained" else {"method": "finetune"}
            populations[name] = {**kind, "count": count}
    tree = merged(TINY, {"storage": str(folder), "populations": populations, "outputs": {"splits": list(SIZES)}})
    return parse_study(merged(tree, {"evaluation": {"resamples": 10}, **changes}), where="a test")


def publish(
    store: StudyStore,
    name: str,
    index: int,
    logits: Mapping[str, np.ndarray] | bytes,
    identity: Mapping[str, Any] | None = None,
    **fields: Any,
) -> Record:
    """Publish one run with these logits, or this outputs.arrow, and its population's identity with these keys, too."""
    found = {"data": {"splits": SPLITS_DIGEST}, "outputs": {}, **(identity or {})}
    content = {"digest": fields.get("digest", f"digest of {name}"), "identity": found}
    store.storage.publish_file(store.layout.population_json(name), json.dumps(content).encode())
    payloads = {"outputs.arrow": logits if isinstance(logits, bytes) else outputs_bytes(logits)}
    scratch = name in ("original", "retrained")
    record = Record.model_validate(
        {
            "population": name,
            "index": index,
            "original": 0,
            "digest": f"digest of {name}",
            "method": "train" if scratch else "finetune",
            "options": {"lr": 1e-3},
            "seeds": {},
            "original_sha256": "" if scratch else "0" * 64,
            "payloads": {file: payload_of(data).model_dump() for file, data in payloads.items()},
            "metrics": {},
            "epoch_loss": [1.0],
            "stages": [],
            "seconds": {"train": 10.0 if scratch else 1.0, "predict": 0.1},
            "started_at": "2026-01-01T00:00:00+00:00",
            "device": "cpu",
            "threads": 1,
            "host": "here",
            "versions": {"python": "3"},
            "attempt": 1,
            "checksum": "",
        }
        | fields
    )
    store.publish(Run(population=name, index=index), payloads, record)
    return record


def publish_splits(store: StudyStore, group: str = "") -> None:
    """Publish the splits file that the populations name: ids forget-000, ...; classes young, middle, old."""
    rows = [(split, f"{split}-{i:03d}", int(labels_of(split)[i])) for split in SIZES for i in range(SIZES[split])]
    table = pa.table(
        {
            "split": pa.array([row[0] for row in rows]).dictionary_encode(),
            "image_id": [row[1] for row in rows],
            "label": [row[2] for row in rows],
            "group": [group and f"{group}{i % 2}" for i in range(len(rows))],
        }
    ).replace_schema_metadata({"class_names": json.dumps(["young", "middle", "old"])})
    store.storage.publish_file(store.layout.splits(SPLITS_DIGEST), ipc_bytes(table))


def evaluated_store(
    folder: Path, counts: Mapping[str, int], saved: Sequence[str] = tuple(SIZES), **changes: Any
) -> tuple[Study, StudyStore]:
    """Return a study and its store, with outputs of the `saved` splits.

    `retrained` and any other population are drawn alike, but for `shifted` and `same`, whose runs are all equal.
    """
    study = study_of(folder, counts, **changes)
    store = StudyStore(open_storage(str(folder)), study.name)
    publish_splits(store)
    store.storage.publish_file(store.layout.study_json, study.model_dump_json().encode())
    for number, (name, count) in enumerate({"original": 1, **counts}.items()):
        for index in range(count):
            how = {"shift": 4.0} if name in ("original", "shifted") else {}
            seed = 0 if name == "same" else index
            logits = draw_logits(1000 * number + seed, **how)
            publish(store, name, index, {split: logits[split] for split in saved})
    return study, store


def evaluated_study(folder: Path, counts: Mapping[str, int]) -> Path:
    """Return the file of a study whose store, next to it, has outputs of these populations."""
    study, _ = evaluated_store(folder / "store", counts)
    file, values = folder / "study.yaml", json.loads(study.model_dump_json(exclude_unset=True))
    file.write_text(yaml.safe_dump(values | {"storage": "store"}, sort_keys=False))
    return file


def leave_fits_out(patch: pytest.MonkeyPatch) -> None:
    """Leave the fits of the logistic attack out: they are nearly all of a small evaluation's time."""
    patch.setattr("ray_unlearn.evaluation.measures.logistic_attack.simple_attack", lambda *_, **__: 0.5)
