"""What every object store must be good for: the whole life of a study, and the same bytes as on a disk."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

from conftest import TINY, merged

from ray_unlearn.evaluation.evaluate import evaluate, read_scores
from ray_unlearn.export import export_competition
from ray_unlearn.generation import generate
from ray_unlearn.store import StudyStore, open_storage
from ray_unlearn.store.metrics import study_status
from ray_unlearn.store.verify import repair, verify
from ray_unlearn.study import Run, Study, parse_study

FINETUNED = 3
RETRAINED = 2
PLANNED = 1 + FINETUNED + RETRAINED


def study_on(uri: str, finetuned: int = FINETUNED) -> Study:
    """Return a study whose storage is `uri`."""
    retrained = {"method": "train", "on": "retain", "count": RETRAINED}
    changes: dict[str, Any] = {
        "storage": uri,
        "populations": {"retrained": retrained, "finetune": {"count": finetuned}},
        "evaluation": {"reference": "retrained", "resamples": 10},
    }
    return parse_study(merged(TINY, changes), where="a test")


def payloads(store: StudyStore) -> dict[str, bytes]:
    """Return every payload of every finished run, compared with its record."""
    found = {}
    for name in store.populations():
        for index, record in store.made(name).items():
            run = Run(population=name, index=index)
            found |= {f"{run}/{file}": store.payload(run, file, record) for file in record.payloads}
    return found


def made_on_a_disk(folder: Path) -> dict[str, bytes]:
    """Return the payloads of the study on a disk."""
    study = study_on(str(folder))
    generate(study, backend="inline")
    return payloads(StudyStore(open_storage(study.storage), study.name))


def live(uri: str, folder: Path, expected: dict[str, bytes]) -> None:
    """Generate, resume, look, verify, repair, evaluate and export; fail where anything differs from a disk."""
    assert generate(study_on(uri, 1), backend="inline").made == 1 + 1 + RETRAINED
    study = study_on(uri)
    summary = generate(study, backend="inline")
    assert (summary.already, summary.made, summary.failed) == (2 + RETRAINED, FINETUNED - 1, {})
    store = StudyStore(open_storage(uri), study.name)
    status = {one.population: (one.done, one.failed, one.more) for one in study_status(study, store)}
    assert status == {"original": (1, {}, 0), "retrained": (RETRAINED, {}, 0), "finetune": (FINETUNED, {}, 0)}
    assert payloads(store) == expected
    checked = verify(store, store.populations())
    assert (checked.runs, checked.problems) == (PLANNED, ())

    run, record = Run(population="finetune", index=1), store.made("finetune")[1]
    name = store.stored_as("outputs.arrow", record.payloads["outputs.arrow"])
    store.storage.publish_file(f"{store.layout.run(run)}/{name}", b"damaged")
    assert repair(store, verify(store, store.populations()).problems) == [run]
    assert study_status(study, store)[1].done + study_status(study, store)[2].done == PLANNED - 2
    assert generate(study, backend="inline").made == 1
    assert payloads(store) == expected

    scores = evaluate(study, store)
    assert scores.saved
    assert read_scores(store) == scores
    export_competition(store, "finetune", FINETUNED, folder / "checkpoints.zip")
    with zipfile.ZipFile(folder / "checkpoints.zip") as archive:
        assert len(archive.namelist()) == FINETUNED
    assert not [name for name in store.storage.sizes("", recursive=True) if ".tmp-" in name]
