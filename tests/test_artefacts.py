"""What a run leaves behind: outputs in the order of the saved splits, metrics that follow from them, stages."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from ray_unlearn.errors import StudyError
from ray_unlearn.generation import generate, open_job
from ray_unlearn.store import Record, StudyStore
from ray_unlearn.study import Run, Study

RUN = Run(population="finetune", index=1)
ALL = ["retain", "forget", "validation", "test"]


def made(study: Study) -> StudyStore:
    """Generate a study in this process and return its store."""
    assert generate(study, backend="inline").exit_code == 0
    return open_job(study).store


def table_of(store: StudyStore, run: Run = RUN, file: str = "outputs.arrow") -> pa.Table:
    return pa.ipc.open_file(store.storage.read(f"{store.layout.run(run)}/{file}")).read_all()


def splits_of(store: StudyStore) -> pa.Table:
    (name,) = store.storage.sizes("tiny/splits")
    return pa.ipc.open_file(store.storage.read(f"tiny/splits/{name}")).read_all()


def record_of(store: StudyStore, run: Run = RUN) -> Record:
    record = store.record(run)
    assert record is not None
    return record


def logits_of(table: pa.Table) -> np.ndarray:
    """float32 [N, C]."""
    column = table.column("logits").combine_chunks()
    return column.flatten().to_numpy().reshape(len(table), column.type.list_size)


def metrics_by_hand(table: pa.Table, split: str) -> tuple[float, float]:
    """Return accuracy, and the mean of log(sum(exp(logits))) - logit of the label, in float64."""
    chosen = np.array(table.column("split").to_pylist()) == split
    logits, labels = logits_of(table)[chosen].astype(np.float64), table.column("label").to_numpy()[chosen]
    losses = np.log(np.exp(logits).sum(1)) - logits[np.arange(len(labels)), labels]
    return float((logits.argmax(1) == labels).mean()), float(losses.mean())


def test_outputs_have_the_documented_schema_and_the_splits_order(tiny):
    """Law: split, label int32, logits float32[C]; rows are those of the saved splits, in their order."""
    store = made(tiny(outputs={"splits": ALL}))
    table, splits = table_of(store), splits_of(store)
    assert table.schema.names == ["split", "position", "label", "logits"]
    assert table.schema.field("position").type == pa.int32()
    counts = [
        table.column("split").to_pylist().count(name) for name in dict.fromkeys(table.column("split").to_pylist())
    ]
    assert table.column("position").to_pylist() == [i for count in counts for i in range(count)]
    assert pa.types.is_dictionary(table.schema.field("split").type)
    assert table.schema.field("split").type.value_type == pa.string()
    assert table.schema.field("label").type == pa.int32()
    assert table.schema.field("logits").type == pa.list_(pa.float32(), 10)
    for column in ("split", "label"):
        assert table.column(column).to_pylist() == splits.column(column).to_pylist()
    # 100 digits: 10 validation, then a tenth of the 90 left to forget; 360 test images
    counts = {one["values"]: one["counts"] for one in table.column("split").value_counts().to_pylist()}
    assert counts == {"retain": 81, "forget": 9, "validation": 10, "test": 360}


def test_only_named_splits_are_saved(tiny):
    """Law: by default forget and test; the label column follows."""
    table = table_of(made(tiny()))
    assert table.column("split").to_pylist() == ["forget"] * 9 + ["test"] * 360


def test_metrics_follow_from_outputs(tiny):
    """Law: accuracy and loss in the record are computable from outputs.arrow alone, and name its splits exactly."""
    store = made(tiny(outputs={"splits": ALL}))
    record, table = record_of(store), table_of(store)
    assert record.metrics.keys() == {f"{split}_{what}" for split in ALL for what in ("accuracy", "loss")}
    for split in ALL:
        accuracy, loss = metrics_by_hand(table, split)
        assert record.metrics[f"{split}_accuracy"] == accuracy
        assert record.metrics[f"{split}_loss"] == pytest.approx(loss, rel=1e-12)


def test_every_payload_is_in_the_record(tiny):
    """Law: the run's folder holds the record and the files that it names, with their sizes; nothing else."""
    store = made(tiny())
    sizes = store.storage.sizes(store.layout.run(RUN))
    sizes.pop("record.json")
    assert sizes == {name: payload.size_bytes for name, payload in record_of(store).payloads.items()}
    assert sizes.keys() == {"model.safetensors", "outputs.arrow"}


def test_stages_are_off_by_default(tiny):
    """Law: without `stages` a record has the training loss of every epoch, and nothing more."""
    store = made(tiny(populations={"finetune": {"epochs": 3}}))
    record = record_of(store)
    assert len(record.epoch_loss) == 3
    assert record.stages == []


def test_stages_publish_what_is_asked_and_change_no_bytes(tiny, tmp_path):
    """Law: watching a run does not change it; its last stage is its end."""
    populations = {"finetune": {"epochs": 3, "noise_std": 0.0}}
    stages = {"metrics": True, "outputs": [1, 3], "checkpoints": [3, 9]}
    plain = made(tiny(storage=str(tmp_path / "plain"), populations=populations))
    staged = made(tiny(storage=str(tmp_path / "staged"), populations=populations, stages=stages))
    plain_record, record = record_of(plain), record_of(staged)
    assert record.payloads.keys() - plain_record.payloads.keys() == {
        "stage-0001.arrow",
        "stage-0003.arrow",
        "stage-0003.safetensors",
    }
    assert plain_record.payloads.items() <= record.payloads.items()
    assert record.payloads["stage-0003.arrow"] == record.payloads["outputs.arrow"]
    assert record.payloads["stage-0003.safetensors"] == record.payloads["model.safetensors"]
    assert record.payloads["stage-0001.arrow"] != record.payloads["outputs.arrow"]


def test_stage_metrics_are_those_of_the_stages_outputs(tiny):
    """Law: after every epoch, accuracy and loss on all four splits; epoch 1's are those of its saved outputs."""
    stages = {"metrics": True, "outputs": [1]}
    store = made(tiny(stages=stages, outputs={"splits": ALL}, populations={"finetune": {"epochs": 2}}))
    record = record_of(store)
    assert [stage["epoch"] for stage in record.stages] == [1, 2]
    assert [stage["train_loss"] for stage in record.stages] == record.epoch_loss
    for split in ALL:
        accuracy, loss = metrics_by_hand(table_of(store, file="stage-0001.arrow"), split)
        assert record.stages[0][f"{split}_accuracy"] == accuracy
        assert record.stages[0][f"{split}_loss"] == pytest.approx(loss, rel=1e-12)
    assert {name: record.stages[-1][name] for name in record.metrics} == record.metrics


def test_retain_sample_is_the_same_for_every_run(tiny):
    """Law: so many retain images, in the splits' order, one sample for the whole study; metrics are the sample's."""
    store = made(tiny(outputs={"splits": ["retain", "test"], "retain_sample": 20}))
    tables = [table_of(store, run) for run in (RUN, Run(population="original", index=0))]
    for table in tables:
        assert table.column("split").to_pylist() == ["retain"] * 20 + ["test"] * 360
        assert table.column("label").equals(tables[0].column("label"))
    accuracy, _ = metrics_by_hand(tables[0], "retain")
    assert record_of(store).metrics["retain_accuracy"] == accuracy
    whole = made(tiny(storage=str(Path(store.storage.uri) / "whole"), outputs={"splits": ["retain"]}))
    rows = {row.tobytes() for row in np.round(logits_of(table_of(whole)), 4)}
    sampled = [row.tobytes() for row in np.round(logits_of(tables[0])[:20], 4)]
    assert set(sampled) <= rows


def test_a_retain_sample_larger_than_retain_is_all_of_it(tiny):
    """Law: a sample never repeats an image."""
    table = table_of(made(tiny(outputs={"splits": ["retain"], "retain_sample": 1000})))
    assert len(table) == 81


def test_a_split_that_the_data_lack_is_refused_only_where_named(tiny):
    """Law: `outputs.splits` names what must be there; the default takes what there is."""
    assert made(tiny(data={"test": None})).populations() == ["finetune", "original"]
    with pytest.raises(StudyError, match=r"outputs\.splits: test has no images in this study; leave it out"):
        open_job(tiny(data={"test": None}, outputs={"splits": ["forget", "test"]}))
