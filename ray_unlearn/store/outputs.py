"""The codec of outputs.arrow: one run's logits by split, written and read in one place.

    data = encode_outputs({"forget": SplitLogits(positions_N, labels_N, logits_NC), ...})
    decode_outputs(data)["forget"].logits_NC     # float32 [N, C]
    data = encode_margins({"forget": SplitMargins(positions_N, labels_N, margins_N)}, "log_odds")
    kind, splits = decode_margins(data)

One row per image: `split` (dictionary), `position` int32 (of the image in its split, as the splits file lists it),
`label` int32, `logits` fixed_size_list<float32, C>. Every metric can be computed from it later, without a model.

Runs that other programs made may have left one number per image. Such a file is of format 2: instead of `logits` it has
`margin`, of the floating type that it was written with, and the schema's metadata say which margin it is; a label of -1
is not known.

Does not cover: measures of logits (`ray_unlearn.evaluation`), and whether a file is the one that its record
names (`study_store`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import pyarrow as pa

from ray_unlearn.store.arrow import ipc_bytes, read_table
from ray_unlearn.store.formats import check_format, stamped
from ray_unlearn.store.records import OUTPUTS

Margin = Literal["log_odds", "top_two"]
"""log_odds: the label's logit minus the logarithm of the summed exponentials of the others, which is phi (KLOM,
EasyDUB); top_two: the label's logit minus the largest of the others (datamodels)."""
UNKNOWN = -1
"""Label of an image whose class is not known."""


@dataclass(frozen=True)
class SplitLogits:
    """One split of one run, as it is saved."""

    positions_N: np.ndarray
    """int64 [N]: position of each image in its split, as the splits file lists it."""
    labels_N: np.ndarray
    """int64 [N]: class of each image."""
    logits_NC: np.ndarray
    """float32 [N, C]."""


@dataclass(frozen=True)
class SplitMargins:
    """One split of one run of which margins alone are known."""

    positions_N: np.ndarray
    """int64 [N]: position of each image in its split, as the splits file lists it."""
    labels_N: np.ndarray
    """int64 [N]: class of each image; `UNKNOWN` where it is not known."""
    margins_N: np.ndarray
    """Floating type [N]."""


def encode_outputs(splits: Mapping[str, SplitLogits]) -> bytes:
    """Return the splits, at least one, as one Arrow IPC file: the same values give the same bytes."""
    logits_NC = np.concatenate([each.logits_NC for each in splits.values()]).astype(np.float32)
    logits = pa.FixedSizeListArray.from_arrays(pa.array(logits_NC.ravel()), logits_NC.shape[1])
    return _encoded(splits, {"logits": logits})


def encode_margins(splits: Mapping[str, SplitMargins], kind: Margin) -> bytes:
    """Return the margins of the splits, at least one, all of one floating type, as one Arrow IPC file."""
    margins_N = np.concatenate([each.margins_N for each in splits.values()])
    metadata = {key: str(value) for key, value in stamped("outputs", {"margin": kind}).items()}
    return _encoded(splits, {"margin": pa.array(margins_N)}, metadata)


def _encoded(
    splits: Mapping[str, SplitLogits] | Mapping[str, SplitMargins],
    values: Mapping[str, pa.Array],
    metadata: Mapping[str, str] | None = None,
) -> bytes:
    found: list[SplitLogits | SplitMargins] = list(splits.values())
    codes = np.concatenate([np.full(len(each.labels_N), code, np.int8) for code, each in enumerate(found)])
    columns = {
        "split": pa.DictionaryArray.from_arrays(pa.array(codes), pa.array(list(splits), pa.string())),
        "position": pa.array(np.concatenate([each.positions_N for each in found]).astype(np.int32)),
        "label": pa.array(np.concatenate([each.labels_N for each in found]).astype(np.int32)),
        **values,
    }
    batch = pa.record_batch(list(columns.values()), names=list(columns), metadata=metadata)
    return ipc_bytes(batch)


def decode_outputs(data: bytes, where: str = OUTPUTS) -> dict[str, SplitLogits]:
    """Return the splits of one run's outputs.arrow; Arrow and NumPy raise their own errors on other files.

    Raises:
        NewerFormat: it is of a format that a later version wrote.

    """
    table, _ = _read(data, where)
    logits_NC = table.column("logits").chunk(0).flatten().to_numpy().reshape(len(table), -1)
    return {name: SplitLogits(*images, logits_NC[own]) for name, images, own in _rows(table)}


def decode_margins(data: bytes, where: str = OUTPUTS) -> tuple[Margin, dict[str, SplitMargins]] | None:
    """Return the kind and the splits of a run of which margins are known; None where the file holds logits.

    Errors as `decode_outputs`.
    """
    table, stated = _read(data, where)
    kind: Margin | None = next((one for one in get_args(Margin) if one == stated), None)
    if kind is None:
        return None
    margins_N = table.column("margin").to_numpy()
    return kind, {name: SplitMargins(*images, margins_N[own]) for name, images, own in _rows(table)}


def _read(data: bytes, where: str) -> tuple[pa.Table, str]:
    """Return the table in one piece, and the kind of its margins; empty where it holds logits."""
    table = read_table(data)
    metadata = table.schema.metadata or {}
    check_format("outputs", metadata, where)
    return table.combine_chunks(), metadata.get(b"margin", b"").decode()


def _rows(table: pa.Table) -> Iterator[tuple[str, tuple[np.ndarray, np.ndarray], np.ndarray]]:
    """Yield (split, (positions, labels), mask of its rows) of each split."""
    labels_N = table.column("label").to_numpy().astype(np.int64)
    positions_N = table.column("position").to_numpy().astype(np.int64)
    split = table.column("split").chunk(0)
    for code, name in enumerate(split.dictionary.to_pylist()):
        own = split.indices.to_numpy() == code
        yield name, (positions_N[own], labels_N[own]), own
