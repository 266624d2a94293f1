"""ray_unlearn's side of tests/bench/benchmark.py: the same checkpoints as a study, made by `generate`.

    took = study_side(setting)                   # {"steady_s": 12.3, "accuracy": {...}, ...}

Does not cover: the other sides (`notebook_loop`).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from notebook_loop import Setting

from ray_unlearn.errors import RayUnlearnError
from ray_unlearn.generation import generate
from ray_unlearn.store import Record, StudyStore, open_storage
from ray_unlearn.store.records import CHECKPOINT
from ray_unlearn.study import Study, load_study
from ray_unlearn.study.plan import Run

POPULATION = "finetune"


def study_side(setting: Setting) -> dict[str, Any]:
    """Make the checkpoints (side d) with ray_unlearn and return the side's figures.

    Raises:
        RayUnlearnError: the study is refused, or a run failed.

    """
    study = study_of(setting)
    summary = generate(study, backend=setting.backend)
    if summary.exit_code:
        raise RayUnlearnError("; ".join(summary.lines()))
    store = StudyStore(open_storage(study.storage), study.name)
    records = store.made(POPULATION)
    return {
        "checkpoints": sum(CHECKPOINT in record.payloads for record in records.values()),
        "steady_s": _steady(store, records, study.storage),
        "phases": dict(summary.phases),
        "run_s": [sum(record.seconds.values()) for record in records.values()],
        "threads": study.execution.cpus_per_worker,
        "accuracy": {
            name: [record.metrics[f"{name}_accuracy"] for record in records.values()] for name in ("forget", "test")
        },
    }


def study_of(setting: Setting) -> Study:
    """Return the study that makes what the notebook's loop makes: same data, recipe, device and workers."""
    inline = setting.backend == "inline"
    gpu = {"gpus_per_worker": 1 / setting.workers} if setting.device == "cuda" else {}
    tree = {
        "name": "benchmark",
        "storage": f"{setting.out}/store",
        "data": {
            "train": f"{setting.folder}/train.parquet",
            "test": f"{setting.folder}/test.parquet",
            "image_size": setting.image_size,
            "classes": setting.classes,
            "normalize": "standard",
            "columns": {"id": "image_id"},
            "forget": {"ids": f"{setting.folder}/forget.csv"},
        },
        "model": {"arch": setting.arch},
        "training": {"batch_size": setting.batch_size, "precision": setting.precision},
        "populations": {
            "original": {"weights": f"{setting.folder}/original.pth"},
            POPULATION: {
                "method": "finetune",
                "count": setting.checkpoints,
                "epochs": setting.epochs,
                "lr": setting.lr,
                "momentum": 0.9,
                "weight_decay": 5e-4,
                "schedule": "constant",
            },
        },
        "outputs": {"splits": ["forget", "test"]},
        "execution": {
            "device": setting.device,
            "workers": setting.workers,
            "cpus_per_worker": setting.threads if inline else 1,
            **({} if inline else gpu),
        },
    }
    file = Path(setting.out) / "study.yaml"
    file.write_text(json.dumps(tree, indent=1))  # JSON is YAML
    return load_study(file, setting.overrides)


def _steady(store: StudyStore, records: dict[int, Record], storage: str) -> float:
    """Return the seconds from the first run's begin, when its original was published, to the last record."""
    original, *runs = (
        Path(storage, store.layout.record(run)).stat().st_mtime
        for run in (Run(population="original", index=0), *(Run(population=POPULATION, index=i) for i in records))
    )
    return max(runs) - original
