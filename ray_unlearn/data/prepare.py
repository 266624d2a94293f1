"""A source -> its decoded shards, made once and then only mapped.

    prepared = prepare_source(source, storage, image_size=32, decode_all=in_place)
    prepared.manifest.content                    # digest of the decoded content: what identities use
    prepared.folder                              # data-cache/<key>: content-addressed

The manifest is published last, so shards without one are simply decoded again.

Does not cover: who runs the decoding. `in_place` is a plain loop; the driver passes a Ray Data job for large sources.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from ray_unlearn.data.decode import DecodedSlice, DecodeJob, ShardInfo, decode_slice
from ray_unlearn.data.node_cache import NodeCache
from ray_unlearn.data.rows import OpenSource, Slice
from ray_unlearn.data.shards import Shard, map_shard
from ray_unlearn.errors import DataError
from ray_unlearn.store.filesystem import Storage
from ray_unlearn.store.layout import DATA_CACHE
from ray_unlearn.study.identity import digest

_FORMAT = 2
_AT_ONCE = 4  # shards that are fetched at the same time
MANIFEST = "manifest.json"

DecodeAll = Callable[[Sequence[Slice], DecodeJob], Iterable[DecodedSlice]]
"""Decodes every slice, yielding in the slices' order."""


class Manifest(BaseModel):
    """What a prepared source holds."""

    model_config = ConfigDict(frozen=True)

    source: str
    image_size: int
    shards: tuple[ShardInfo, ...]
    class_names: tuple[str, ...] | None
    max_label: int
    num_images: int
    content: str
    """sha256 over every example's digest, in order: identifies the decoded images wherever they came from."""
    skipped: tuple[dict[str, str], ...]
    """Each image that `on_bad_image: skip` left out: where, image_id, reason."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A decoded source on a storage."""

    storage: Storage
    folder: str
    manifest: Manifest

    def map(self, cache: Path | None = None) -> list[Shard]:
        """Memory-map every shard; from a storage that is not local, copy it into the node's `cache` first.

        Raises:
            DataError: a shard is missing or damaged, or the cache is full.

        """
        shards = self.manifest.shards
        with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="fetch") as threads:
            paths = list(threads.map(lambda shard: self._local(shard, cache), shards))
        return [map_shard(str(path)) for path in paths]

    def _local(self, shard: ShardInfo, cache: Path | None) -> Path:
        if self.storage.local is not None:
            return self.storage.local / self.folder / shard.name
        if cache is None:
            raise DataError(f"{self.storage.uri}: shards on an object store need a local cache folder")
        name = f"{self.folder}/{shard.name}"

        def fetch(path: Path) -> str:
            fetched = self.storage.copy_to(name, path)
            if fetched != shard.sha256:
                raise DataError(f"{self.storage.uri}/{name}: damaged; remove the folder and prepare again")
            return fetched

        return NodeCache.of(cache).get(shard.sha256, shard.size_bytes, fetch)


def in_place(slices: Sequence[Slice], job: DecodeJob) -> Iterator[DecodedSlice]:
    """Decode in this process, one slice after another."""
    for number, part in enumerate(slices):
        yield decode_slice(part, number, job)


def prepare_source(
    source: OpenSource,
    storage: Storage,
    *,
    image_size: int,
    class_names: tuple[str, ...] | None = None,
    num_classes: int | None = None,
    skip_bad: bool = False,
    decode_all: DecodeAll = in_place,
) -> Prepared:
    """Decode a source into `storage`, unless it is there already.

    Args:
        source: what to decode.
        storage: where the shards go, below `data-cache/`.
        image_size: pixels per side.
        class_names: names that string labels mean; default the source's own.
        num_classes: how many classes there are; None takes any label.
        skip_bad: skip and record images that cannot be decoded instead of refusing.
        decode_all: runs the decoding.

    Raises:
        DataError: an image or label is refused, an id occurs twice, or nothing is left.

    """
    names = class_names or source.class_names
    limit = num_classes if num_classes is not None else (len(names) if names else None)
    key = digest([_FORMAT, source.fingerprint, image_size, names, limit, skip_bad])
    folder = f"{DATA_CACHE}/{key[:16]}-{image_size}px"
    manifest = _whole_manifest(storage, folder)
    if manifest is None:
        job = DecodeJob(
            storage=storage,
            folder=folder,
            image_size=image_size,
            class_names=names,
            num_classes=limit,
            skip_bad=skip_bad,
        )
        storage.sweep(folder)
        manifest = _decode_source(source, job, decode_all)
        storage.publish_file(f"{folder}/{MANIFEST}", manifest.model_dump_json(indent=1).encode())
    return Prepared(storage, folder, manifest)


def read_manifest(storage: Storage, folder: str) -> Manifest | None:
    """Return a prepared source's manifest, or None where there is none that can be read."""
    try:
        return Manifest.model_validate_json(storage.read(f"{folder}/{MANIFEST}"))
    except (FileNotFoundError, ValidationError):
        return None


def _whole_manifest(storage: Storage, folder: str) -> Manifest | None:
    """Return the manifest, or None where a shard that it lists is not there with its size."""
    manifest = read_manifest(storage, folder)
    if manifest is None:
        return None
    sizes = storage.sizes(folder)
    return manifest if all(sizes.get(shard.name) == shard.size_bytes for shard in manifest.shards) else None


def _decode_source(source: OpenSource, job: DecodeJob, decode_all: DecodeAll) -> Manifest:
    done: list[DecodedSlice] = []
    for part in decode_all(source.slices, job):
        if part.error:
            raise DataError(part.error)
        done.append(part)
    _refuse_duplicates(done)
    shards = tuple(shard for part in done for shard in part.shards)
    if not shards:
        raise DataError(f"{source.name}: no images" + (" that can be decoded" if source.num_rows else ""))
    return Manifest(
        source=source.name,
        image_size=job.image_size,
        shards=shards,
        class_names=job.class_names,
        max_label=max(part.max_label for part in done),
        num_images=sum(shard.rows for shard in shards),
        content=digest([each for part in done for each in part.digests]),
        skipped=tuple(skip for part in done for skip in part.skipped),
    )


def _refuse_duplicates(done: Iterable[DecodedSlice]) -> None:
    seen: dict[str, str] = {}
    for part in done:
        for image_id, where in zip(part.ids, part.wheres, strict=True):
            if image_id in seen:
                raise DataError(f"image id {image_id!r} occurs twice: {seen[image_id]} and {where}")
            seen[image_id] = where
