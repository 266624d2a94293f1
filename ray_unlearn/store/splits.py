"""The codec of a splits file, <study>/splits/<digest>.arrow: the images of every split, written and read in one place.

    data = encode_splits({"retain": [0, 2], "forget": [1]}, ids, labels_N, groups, ("cat", "dog"))
    store.storage.publish_file(store.layout.splits(digest), with_warnings(data, ["data.train: ..."]))
    names = read_image_names(store, digest)      # names.ids["forget"]: in the order of the images' positions

One row per image: `split` (dictionary), `image_id`, `label` int64, `group`. The schema's metadata hold `format`,
`made_by` and, where there are some, JSON lists `class_names` and `warnings`.

Does not cover: drawing the sets, and the digest, which is over the ids of every set (`data.splits`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from ray_unlearn.errors import StoreError
from ray_unlearn.store.arrow import ipc_bytes, read_table
from ray_unlearn.store.formats import check_format, stamped
from ray_unlearn.store.records import payload_of
from ray_unlearn.store.study_store import StudyStore

UNREADABLE = (pa.ArrowException, OSError, KeyError, IndexError, AttributeError, TypeError, ValueError, OverflowError)
"""Errors of Arrow, JSON and NumPy for a file that is not ours, although what names it agrees with it."""


@dataclass(frozen=True)
class ImageNames:
    """Content of the splits file: ids and groups of the images, in the order of their positions; class names."""

    ids: Mapping[str, Sequence[str]]
    groups: Mapping[str, Sequence[str]]
    """Empty text where an image has none."""
    class_names: tuple[str, ...]
    """Empty where the source has none."""


def encode_splits(
    sets: Mapping[str, np.ndarray],
    ids: Sequence[str],
    labels_N: np.ndarray,
    groups: Sequence[str],
    class_names: Sequence[str] | None,
) -> bytes:
    """Return the file of index sets over a study's images; the other arguments are of each image, by index."""
    names = [name for name, indexes in sets.items() for _ in indexes]
    order = np.concatenate(list(sets.values()))
    table = pa.table(
        {
            "split": pa.array(names).dictionary_encode(),
            "image_id": pa.array([ids[i] for i in order], pa.string()),
            "label": pa.array(labels_N[order], pa.int64()),
            "group": pa.array([groups[i] for i in order], pa.string()),
        }
    )
    stated = stamped("splits", {"class_names": json.dumps(class_names)} if class_names else {})
    return ipc_bytes(table.replace_schema_metadata({key: str(value) for key, value in stated.items()}))


def with_warnings(data: bytes, warnings: Sequence[str]) -> bytes:
    """Return a splits file with warnings about the images in its metadata; the same bytes for none."""
    if not warnings:
        return data
    table = read_table(data)
    metadata = {**(table.schema.metadata or {}), b"warnings": json.dumps(warnings).encode()}
    return ipc_bytes(table.replace_schema_metadata(metadata))


def without_groups(data: bytes) -> bytes:
    """Return a splits file whose groups are empty texts: a group is a person. Files of older versions may have none."""
    table = read_table(data)
    place = table.schema.get_field_index("group")
    if place < 0:
        return data
    return ipc_bytes(table.set_column(place, "group", pa.array([""] * len(table), pa.string())))


def decode_ids(data: bytes) -> dict[str, list[str]]:
    """Return the image ids by split, without empty splits; raises `UNREADABLE` for what is no splits file."""
    return _by_split(read_table(data), "image_id")


def read_image_names(store: StudyStore, digest: str) -> ImageNames:
    """Read the splits file that a population's identity names.

    Raises:
        StoreError: it is missing or cannot be read.

    """
    try:
        table = read_table(_file(store, digest))
        check_format("splits", table.schema.metadata or {}, f"{store.storage.uri}/{store.layout.splits(digest)}")
        return ImageNames(
            ids=_by_split(table, "image_id"),
            groups=_by_split(table, "group"),
            class_names=tuple(map(str, _listed(table, b"class_names"))),
        )
    except UNREADABLE as error:
        raise _damaged(store, digest) from error


def image_names_sha256(store: StudyStore, digest: str) -> str:
    """Return the hash of the splits file, which changes with groups and class names; its digest is of the ids alone.

    Raises:
        StoreError: it is missing.

    """
    return payload_of(_file(store, digest)).sha256


def data_warnings(store: StudyStore, digest: str) -> list[str]:
    """Return what `generate` warned of the images of a splits file; none of a file of an earlier version.

    Raises:
        StoreError: it is missing or cannot be read.

    """
    try:
        return [str(line) for line in _listed(read_table(_file(store, digest)), b"warnings")]
    except UNREADABLE as error:
        raise _damaged(store, digest) from error


def _by_split(table: pa.Table, column: str) -> dict[str, list[str]]:
    """Return a column's values by split; empty texts for groups, which files of older versions may lack."""
    values = table[column].to_pylist() if column in table.column_names or column != "group" else [""] * len(table)
    found: dict[str, list[str]] = {}
    for split, value in zip(table["split"].to_pylist(), values, strict=True):
        found.setdefault(split, []).append(value)
    return found


def _listed(table: pa.Table, key: bytes) -> list[object]:
    return list(json.loads((table.schema.metadata or {}).get(key, b"[]")))


def _file(store: StudyStore, digest: str) -> bytes:
    name = store.layout.splits(digest)
    try:
        return store.storage.read(name)
    except FileNotFoundError:
        raise StoreError(f"{store.uri}: {name} is missing; `ray-unlearn generate` writes it again") from None


def _damaged(store: StudyStore, digest: str) -> StoreError:
    return StoreError(f"{store.uri}: {store.layout.splits(digest)} is damaged; `ray-unlearn generate` writes it again")
