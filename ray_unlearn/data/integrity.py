"""Read every decoded shard of a storage back, and compare it with its manifest.

    for problem in damaged(storage):
        print(problem)
    prepare_again(storage, problems)             # the next `prepare` or `generate` decodes those sources anew

Does not cover: runs (`ray_unlearn.store.verify`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from ray_unlearn.data.decode import ShardInfo, remove_notes
from ray_unlearn.data.prepare import MANIFEST, Manifest, Prepared, read_manifest
from ray_unlearn.store.filesystem import Storage
from ray_unlearn.store.layout import DATA_CACHE
from ray_unlearn.study.identity import digest


@dataclass(frozen=True, slots=True)
class ShardProblem:
    """A shard that differs from its manifest, or a manifest whose digest of all images is not that of its shards."""

    folder: str
    message: str

    def __str__(self) -> str:
        return f"{self.folder}/{self.message}"


def damaged(storage: Storage) -> list[ShardProblem]:
    """Check size and sha256 of every shard that a manifest below `data-cache/` lists, and what it says of them all."""
    return [problem for folder, one in _manifests(storage).items() for problem in _damaged(storage, folder, one)]


def is_any(storage: Storage) -> bool:
    """Return whether the storage holds decoded images of any study."""
    return bool(storage.folders(DATA_CACHE))


def shards_sha256(storage: Storage) -> dict[str, str]:
    """Return {folder of a prepared source: one sha256 over its shards'} for every source in the storage."""
    return {folder: manifest.shards_sha256 for folder, manifest in _manifests(storage).items()}


def prepare_again(storage: Storage, problems: Iterable[ShardProblem]) -> None:
    """Remove the manifests of damaged sources, so that they are decoded again.

    Notes of slices are removed, too: a kill just after the manifest may have left some, and they hold sizes only.
    """
    for folder in sorted({problem.folder for problem in problems}):
        remove_notes(storage, folder)
        storage.remove(f"{folder}/{MANIFEST}")


def _manifests(storage: Storage) -> dict[str, Manifest]:
    folders = [f"{DATA_CACHE}/{name}" for name in storage.folders(DATA_CACHE)]
    return {folder: manifest for folder in folders if (manifest := read_manifest(storage, folder))}


def _damaged(storage: Storage, folder: str, manifest: Manifest) -> Iterator[ShardProblem]:
    bad = [shard for shard in manifest.shards if _sha256(storage, f"{folder}/{shard.name}") != shard.sha256]
    yield from (ShardProblem(folder, _message(shard)) for shard in bad)
    if not bad and _content(Prepared(storage, folder, manifest)) != manifest.content:
        yield ShardProblem(folder, f"{MANIFEST}: its digest of the images is not that of its shards")


def _content(prepared: Prepared) -> str:
    """Return the digest of all images, from the digest of each that the shards hold."""
    columns = [shard.column("digest").to_pylist() for shard in prepared.columns()]
    return digest([each.hex() for column in columns for each in column])


def _message(shard: ShardInfo) -> str:
    return f"{shard.name}: expected {shard.size_bytes} bytes of sha256 {shard.sha256[:12]}...; found other bytes"


def _sha256(storage: Storage, name: str) -> str:
    try:
        return hashlib.sha256(storage.read(name)).hexdigest()
    except FileNotFoundError:
        return "missing"
