"""Differences between a study file and the study that its store was made from, found without data and torch.

    differences = disagreements(study, store)    # ["training.lr: 0.003 -> 0.01"]; empty where all agree

`generate` compares digests, which cover all; this compares the values of the files. Paths are left out, because data
and scripts may have moved, and so are keys that change no result: counts, evaluation, execution.

Does not cover: changed data or scripts under the same values; `generate` detects those.
"""

from __future__ import annotations

from pathlib import PurePath
from typing import Any

from ray_unlearn.store import StudyStore
from ray_unlearn.study.identity import diff
from ray_unlearn.study.schema import Study
from ray_unlearn.study.uris import labelled


def disagreements(study: Study, store: StudyStore) -> list[str]:
    """Return one line `key: made -> study` for each value that differs; none where nothing was made.

    Raises:
        StoreError: study.json cannot be read.

    """
    made = store.study()
    if made is None:
        return []
    both = set(study.populations) & set(made.populations)
    return diff(labelled(_values(made, both)), labelled(_values(study, both)))


def _values(study: Study, populations: set[str]) -> dict[str, Any]:
    values = study.model_dump(mode="json", include={"seed", "data", "model", "training", "outputs", "checkpoint_dtype"})
    for role in ("train", "test", "validation"):
        if isinstance(values["data"][role], dict):
            del values["data"][role]
    values["data"]["forget"].pop("ids")
    return values | {"populations": {name: _population(study, name) for name in sorted(populations)}}


def _population(study: Study, name: str) -> dict[str, Any]:
    spec = study.populations[name]
    values = spec.model_dump(mode="json", exclude={"count", "keep_checkpoints", "weights"})
    return values | {"method": PurePath(spec.method_name).name}
