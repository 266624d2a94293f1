"""The codec of outputs.arrow: one run's logits by split, written and read in one place.

    data = encode_outputs({"forget": SplitLogits(positions_N, labels_N, logits_NC), ...})
    decode_outputs(data)["forget"].logits_NC     # float32 [N, C]

One row per image: `split` (dictionary), `position` int32 (of the image in its split, as the splits file lists it),
`label` int32, `logits` fixed_size_list<float32, C>. Every metric can be computed from it later, without a model.

Does not cover: measures of logits (`ray_unlearn.evaluation`), and whether a file is the one that its record
names (`study_store`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from ray_unlearn.store.arrow import read_table
from ray_unlearn.store.formats import check_format
from ray_unlearn.store.records import OUTPUTS


@dataclass(frozen=True)
class SplitLogits:
    """One split of one run, as it is saved."""

    positions_N: np.ndarray
    """int64 [N]: position of each image in its split, as the splits file lists it."""
    labels_N: np.ndarray
    """int64 [N]: class of each image."""
    logits_NC: np.ndarray
    """float32 [N, C]."""


def encode_outputs(splits: Mapping[str, SplitLogits]) -> bytes:
    """Return the splits, at least one, as one Arrow IPC file: the same values give the same bytes."""
    found = list(splits.values())
    logits_NC = np.concatenate([each.logits_NC for each in found]).astype(np.float32)
    codes = np.concatenate([np.full(len(each.labels_N), code, np.int8) for code, each in enumerate(found)])
    columns = {
        "split": pa.DictionaryArray.from_arrays(pa.array(codes), pa.array(list(splits), pa.string())),
        "position": pa.array(np.concatenate([each.positions_N for each in found]).astype(np.int32)),
        "label": pa.array(np.concatenate([each.labels_N for each in found]).astype(np.int32)),
        "logits": pa.FixedSizeListArray.from_arrays(pa.array(logits_NC.ravel()), logits_NC.shape[1]),
    }
    batch = pa.record_batch(list(columns.values()), names=list(columns))
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return bytes(sink.getvalue())


def decode_outputs(data: bytes, where: str = OUTPUTS) -> dict[str, SplitLogits]:
    """Return the splits of one run's outputs.arrow; Arrow and NumPy raise their own errors on other files.

    Raises:
        NewerFormat: it is of a format that a later version wrote.

    """
    table = read_table(data)
    check_format("outputs", table.schema.metadata or {}, where)
    table = table.combine_chunks()
    logits_NC = table.column("logits").chunk(0).flatten().to_numpy().reshape(len(table), -1)
    labels_N = table.column("label").to_numpy().astype(np.int64)
    positions_N = table.column("position").to_numpy().astype(np.int64)
    split = table.column("split").chunk(0)
    rows = {name: split.indices.to_numpy() == code for code, name in enumerate(split.dictionary.to_pylist())}
    return {name: SplitLogits(positions_N[own], labels_N[own], logits_NC[own]) for name, own in rows.items()}
