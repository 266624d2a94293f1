"""A study's populations as a folder for a hub of data sets: few files, and a card that says what they are.

    export_hub(store, study, ["retrained", "scrub"], Path("hub"))    # then: hf upload NAME hub --repo-type dataset
    datasets.load_dataset("hub", "outputs", split="scrub")           # one row per run and image

    README.md                                    the card: N, null, digests, recipe, licence
    outputs/<population>/00000.parquet           run, split, image_id, label, logits (or margin)
    runs/runs.parquet                            a row per run: options, seeds, accuracies, seconds, sha256
    images/images.parquet                        image_id, split, label
    study/                                       identities, records, splits: the way back into a store (`packed`)
    checkpoints/<population>/00000.safetensors   tensors named <run>/<name>, where checkpoints are asked for

A study with several forget sets gives such a folder for each, `forget_set_0` and so on. Hubs limit commits and numbers
of files, so runs share files of about 256 MiB. Groups of images (persons) are left out;
ids of images are not.

Does not cover: the upload, and images.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import safetensors.torch

from ray_unlearn.errors import StoreError, first_line
from ray_unlearn.export import new_folder
from ray_unlearn.interchange.card import card
from ray_unlearn.interchange.packed import write_study
from ray_unlearn.interchange.sets import OfSet, by_forget_set
from ray_unlearn.store import Record, StudyStore
from ray_unlearn.store.arrow import ParquetWriter
from ray_unlearn.store.outputs import Margin, SplitLogits, SplitMargins, decode_margins, decode_outputs
from ray_unlearn.store.records import CHECKPOINT, OUTPUTS
from ray_unlearn.store.splits import ImageNames, read_image_names
from ray_unlearn.study.plan import Run
from ray_unlearn.study.schema import Study

SHARD_BYTES = 256 * 2**20
"""Bytes of numbers from which a new file begins."""


def export_hub(
    store: StudyStore,
    study: Study,
    populations: Sequence[str],
    folder: Path,
    *,
    licence: str = "unknown",
    checkpoints: bool = False,
) -> list[Path]:
    """Write the populations into a new folder, whole or not at all; return what is at its top.

    Args:
        store: the study's folder.
        study: for the recipe on the card.
        populations: which.
        folder: the folder, which must not exist.
        licence: identifier of the licence, for the card.
        checkpoints: whether to pack checkpoints, too.

    Raises:
        StudyError: the folder exists.
        StoreError: a population has no run, or outputs are missing or damaged.

    """
    sets = by_forget_set(store, populations)
    with new_folder(folder) as pending:
        for one in sets:
            (own := pending / one.folder).mkdir(exist_ok=True)
            _write_set(store, one, own, checkpoints=checkpoints)
            if one.sets == 1:
                write_study(store, study, one.records, own / "study")
            margins = {name: _margin_of(store, name, records) for name, records in one.records.items()}
            (own / "README.md").write_text(card(store, study, one, licence, margins), encoding="utf-8")
    return sorted(folder.iterdir())


def _write_set(store: StudyStore, one: OfSet, folder: Path, *, checkpoints: bool) -> None:
    """Write everything about one forget set but the card."""
    names = {name: read_image_names(store, digest) for name, digest in one.splits.items()}
    for name, records in one.records.items():
        _write_outputs(store, name, records, names[name], folder / "outputs" / name)
        if checkpoints:
            _write_checkpoints(store, name, records, folder / "checkpoints" / name)
    first = next(iter(one.records))
    _write_table(_runs(one.records), folder / "runs" / "runs.parquet")
    _write_table(_images(store, first, one.records[first], names[first]), folder / "images" / "images.parquet")


def _margin_of(store: StudyStore, name: str, records: Mapping[int, Record]) -> Margin | None:
    """Return the kind of a population's margins; None where it has logits."""
    index, record = next(iter(sorted(records.items())))
    found = decode_margins(store.payload(Run(population=name, index=index), OUTPUTS, record))
    return found[0] if found else None


def _write_table(table: pa.Table, file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with ParquetWriter(str(file), table.schema) as writer:
        writer.write_table(table)


def _write_outputs(
    store: StudyStore, name: str, records: Mapping[int, Record], images: ImageNames, folder: Path
) -> None:
    """Write a row per run and image, a row group per run."""
    folder.mkdir(parents=True)
    tables = (_outputs_of(store, name, index, record, images) for index, record in sorted(records.items()))
    for number, shard in enumerate(_shards(tables)):
        with ParquetWriter(str(folder / f"{number:05d}.parquet"), shard[0].schema) as writer:
            for table in shard:
                writer.write_table(table)


def _shards(tables: Iterator[pa.Table]) -> Iterator[list[pa.Table]]:
    """Yield tables that make a file together."""
    shard: list[pa.Table] = []
    for table in tables:
        if shard and sum(one.nbytes for one in shard) + table.nbytes > SHARD_BYTES:
            yield shard
            shard = []
        shard.append(table)
    yield shard


def _outputs_of(store: StudyStore, name: str, index: int, record: Record, images: ImageNames) -> pa.Table:
    data = store.payload(Run(population=name, index=index), OUTPUTS, record)
    margins = decode_margins(data)
    splits: Mapping[str, SplitLogits | SplitMargins] = margins[1] if margins else decode_outputs(data)
    sizes = [len(split.labels_N) for split in splits.values()]
    ids = [images.ids[one][place] for one, split in splits.items() for place in split.positions_N.tolist()]
    values = np.concatenate([s.margins_N if isinstance(s, SplitMargins) else s.logits_NC for s in splits.values()])
    column = (
        pa.array(values) if margins else pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), values.shape[1])
    )
    columns = {
        "run": pa.array(np.full(sum(sizes), index, np.int32)),
        "split": pa.array(np.repeat(list(splits), sizes).tolist()),
        "image_id": pa.array(ids, pa.string()),
        "label": pa.array(np.concatenate([split.labels_N for split in splits.values()]).astype(np.int32)),
        "margin" if margins else "logits": column if margins else column.cast(pa.list_(pa.float32())),
    }
    return pa.table(columns)


def _runs(made: Mapping[str, Mapping[int, Record]]) -> pa.Table:
    rows = [
        {
            "population": name,
            "run": index,
            "original": record.original if record.original_sha256 else None,
            "method": record.method,
            "options": json.dumps(record.options, sort_keys=True),
            "seeds": json.dumps(record.seeds, sort_keys=True),
            "digest": record.digest,
            **{
                f"{split}_{what}": record.metrics.get(f"{split}_{what}")
                for split in _SPLITS
                for what in ("accuracy", "loss")
            },
            "train_seconds": record.seconds.get("train"),
            "device": record.device or None,
            "versions": json.dumps(record.versions, sort_keys=True),
            "outputs_sha256": record.payloads[OUTPUTS].sha256,
        }
        for name, records in made.items()
        for index, record in sorted(records.items())
    ]
    kinds = {"original": pa.int32(), "run": pa.int32(), "device": pa.string()}
    numbers = {key: pa.float64() for key in rows[0] if key.endswith(("_accuracy", "_loss", "_seconds"))}
    texts = {key: pa.string() for key in rows[0] if key not in {**kinds, **numbers}}
    schema = pa.schema([(key, {**kinds, **numbers, **texts}[key]) for key in rows[0]])
    return pa.Table.from_pylist(rows, schema=schema)


_SPLITS = ("retain", "forget", "validation", "test")


def _images(store: StudyStore, name: str, records: Mapping[int, Record], names: ImageNames) -> pa.Table:
    """Return the images of a population's outputs."""
    index, record = next(iter(sorted(records.items())))
    return _outputs_of(store, name, index, record, names).select(["image_id", "split", "label"])


def _write_checkpoints(store: StudyStore, name: str, records: Mapping[int, Record], folder: Path) -> None:
    """Pack checkpoints of several runs into each file."""
    folder.mkdir(parents=True)
    shard: dict[str, object] = {}
    size = number = 0
    for index, record in sorted(records.items()):
        data = store.payload(Run(population=name, index=index), CHECKPOINT, record)
        if shard and size + len(data) > SHARD_BYTES:
            _save(shard, folder / f"{number:05d}.safetensors")
            shard, size, number = {}, 0, number + 1
        shard |= {f"{index:05d}/{tensor}": value for tensor, value in safetensors.torch.load(data).items()}
        size += len(data)
    _save(shard, folder / f"{number:05d}.safetensors")


def _save(shard: dict[str, object], file: Path) -> None:
    try:
        safetensors.torch.save_file(shard, str(file))  # type: ignore[arg-type]
    except safetensors.SafetensorError as error:  # also where the disk is full
        raise StoreError(f"{file.name}: cannot be written: {first_line(error)}") from error
