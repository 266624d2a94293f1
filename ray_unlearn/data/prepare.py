"""A source -> its decoded shards, made once and then only mapped.

    prepared = prepare_source(source, storage, image_size=32, decode_all=in_place)
    prepared.manifest.content                    # digest of the decoded content: what identities use
    prepared.folder                              # data-cache/<key>: content-addressed

The manifest is published last; slices that were finished when a preparation was killed are not decoded again.
Only the id of an image stays in this process while others are decoded.

Does not cover: where decoding runs. `in_place` is a plain loop; the driver passes a Ray Data job for large sources.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, ValidationError

from ray_unlearn import __version__
from ray_unlearn.data.decode import DecodedSlice, DecodeJob, ShardInfo, decode_slice, drop_stale_notes, remove_notes
from ray_unlearn.data.node_cache import NodeCache, cache_folder
from ray_unlearn.data.rows import OpenSource, Slice
from ray_unlearn.data.shards import Shard, map_shard, read_columns
from ray_unlearn.data.verified import sha256_of
from ray_unlearn.errors import DamagedFile, DataError
from ray_unlearn.store.filesystem import Storage
from ray_unlearn.store.formats import FORMATS, parse_object
from ray_unlearn.store.layout import DATA_CACHE
from ray_unlearn.study.identity import canonical, digest
from ray_unlearn.study.schema import Resize

_FORMAT = 2
_AT_ONCE = 4  # shards that are fetched at the same time
_MOST_CLASSES = 100_000
_LONGEST_NAME = 1_000  # characters
_COLUMNS_AT_ONCE = 16  # two small requests each, mostly waiting
MANIFEST = "manifest.json"
_REPAIR = "run `ray-unlearn verify --repair` for the study, which decodes its source again, and then what you ran"

DecodeAll = Callable[[Sequence[Slice], DecodeJob], Iterable[DecodedSlice]]
"""Function that decodes every slice, and yields results in the slices' order."""


class Manifest(BaseModel):
    """Contents of a prepared source."""

    model_config = ConfigDict(frozen=True)

    format: int = 1
    """Format of the manifest; absent in format 1, like `made_by`."""
    made_by: str = ""
    """Version of ray_unlearn."""
    source: str
    image_size: int
    shards: tuple[ShardInfo, ...]
    class_names: tuple[str, ...] | None
    max_label: int
    num_images: int
    content: str
    """sha256 over every example's digest, in order: identifies the decoded images wherever they came from."""
    skipped: tuple[dict[str, str], ...]
    """Images that `on_bad_image: skip` left out: where, image_id, reason."""

    @cached_property
    def shards_sha256(self) -> str:
        """One sha256 over those of all shards, in order; a run's record holds it."""
        return digest([shard.sha256 for shard in self.shards])


@dataclass(frozen=True, slots=True)
class Prepared:
    """A decoded source on a storage."""

    storage: Storage
    folder: str
    manifest: Manifest

    def map(self, cache: Path | None = None, first: int | None = None) -> list[Shard]:
        """Memory-map every shard, or the `first` ones.

        Raises:
            DataError: a shard is missing or damaged, or the cache is full.

        """
        return [map_shard(str(path)) for path in self.paths(cache, first)]

    def paths(self, cache: Path | None = None, first: int | None = None) -> list[Path]:
        """Return the local paths of shards; where the storage is not local, copy them into the node's `cache` before.

        Raises:
            DataError: a shard is missing or damaged, or the cache is full.

        """
        shards = self.manifest.shards[:first]
        with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="fetch") as threads:
            return list(threads.map(lambda shard: self._whole(shard, cache), shards))

    def _whole(self, shard: ShardInfo, cache: Path | None) -> Path:
        """Return the local path of a shard whose bytes have the manifest's sha256."""
        path, marks = self._local(shard, cache), cache or cache_folder()
        try:
            found = sha256_of(path, shard.sha256, marks)
            if found != shard.sha256 and self.storage.local is None:  # the storage has another copy
                NodeCache.of(marks).drop(shard.sha256)
                path = self._local(shard, cache)
                found = sha256_of(path, shard.sha256, marks)
        except OSError as error:
            reason = error.strerror or error
            raise DataError(f"{path}: a shard of decoded images cannot be read ({reason}); {_REPAIR}") from error
        if found != shard.sha256:
            sums = f"expected sha256 {shard.sha256[:12]}..., found {found[:12]}..."
            raise DataError(f"{path}: a shard of decoded images is damaged: {sums}; {_REPAIR}")
        return path

    def columns(self) -> list[pa.Table]:
        """Return every shard's columns except its pixels; no pixel is copied, from any storage.

        Raises:
            DataError: a shard is missing or damaged.

        """
        if self.storage.local is not None:
            return [shard.columns() for shard in self.map()]
        with ThreadPoolExecutor(_COLUMNS_AT_ONCE, thread_name_prefix="columns") as threads:
            return list(threads.map(self._columns, self.manifest.shards))

    def _columns(self, shard: ShardInfo) -> pa.Table:
        name = f"{self.folder}/{shard.name}"
        known: dict[str, Any] = {
            "size_bytes": shard.size_bytes,
            "rows": shard.rows,
            "where": f"{self.storage.uri}/{name}",
        }
        try:
            return self.storage.read_within(name, lambda file: read_columns(file, **known))
        except FileNotFoundError as error:
            raise DataError(f"{known['where']}: missing; remove its folder and run `ray-unlearn prepare`") from error

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


_LARGE_ROWS = 16_000
"""Rows below which to decode a source in place is quicker than to start Ray Data."""


def is_large(slices: Sequence[Slice]) -> bool:
    """Return whether to decode a source on Ray is worth its start."""
    return len(slices) > 1 and sum(part.num_rows for part in slices) >= _LARGE_ROWS


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
    resize: Resize = "stretch",
    grey_bits: int | None = None,
    decode_all: DecodeAll = in_place,
) -> Prepared:
    """Decode a source into `storage`, unless it is decoded already.

    Args:
        source: the source to decode.
        storage: the storage of the shards, below `data-cache/`.
        image_size: pixels per side.
        class_names: the classes of string labels; default the source's own.
        num_classes: number of classes; None accepts any label.
        skip_bad: skip and record images that cannot be decoded instead of refusing.
        resize: what happens to images that are not square.
        grey_bits: bits of 16-bit grey images that are used.
        decode_all: runs the decoding.

    Raises:
        DataError: an image or label is refused, an id occurs twice, or no image is left.

    """
    names = class_names or source.class_names
    limit = num_classes if num_classes is not None else (len(names) if names else None)
    check_classes(limit or 0, source.name)
    if names and len(longest := max(names, key=len)) > _LONGEST_NAME:
        raise DataError(
            f"{source.name}: a class name of {len(longest):,} characters, {longest[:40]!r}...; expected at most "
            f"{_LONGEST_NAME:,}: is the label column the right one?"
        )
    later: dict[str, Any] = {"resize": resize} if resize != "stretch" else {}
    later |= {"grey_bits": grey_bits} if grey_bits is not None else {}
    key = digest([_FORMAT, source.fingerprint, image_size, names, limit, skip_bad, *([later] if later else [])])
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
            resize=resize,
            grey_bits=grey_bits,
            resumable=len(source.slices) > 1,
        )
        storage.sweep(folder)
        drop_stale_notes(storage, folder)
        manifest = _decode_source(source, job, decode_all)
        storage.publish_file(f"{folder}/{MANIFEST}", manifest.model_dump_json(indent=1).encode())
        remove_notes(storage, folder)
    return Prepared(storage, folder, manifest)


def check_classes(count: int, where: str) -> None:
    """Check that a last layer for this number of classes is plausible; ImageNet-21k has 21,841.

    Raises:
        DataError: there are more than 100,000.

    """
    if count > _MOST_CLASSES:
        raise DataError(
            f"{where}: {count:,} classes; expected at most {_MOST_CLASSES:,}: is the label column an id or a path?"
        )


def read_manifest(storage: Storage, folder: str) -> Manifest | None:
    """Return a prepared source's manifest, or None where it is missing or damaged: decoding makes it again.

    Raises:
        NewerFormat: it is of a format that a later version wrote.

    """
    name = f"{folder}/{MANIFEST}"
    try:
        return Manifest.model_validate(parse_object("manifest", storage.read(name), f"{storage.uri}/{name}"))
    except (FileNotFoundError, DamagedFile, ValidationError):
        return None


def _whole_manifest(storage: Storage, folder: str) -> Manifest | None:
    """Return the manifest, or None where a shard that it lists is missing or has another size."""
    manifest = read_manifest(storage, folder)
    if manifest is None:
        return None
    sizes = storage.sizes(folder)
    return manifest if all(sizes.get(shard.name) == shard.size_bytes for shard in manifest.shards) else None


def _decode_source(source: OpenSource, job: DecodeJob, decode_all: DecodeAll) -> Manifest:
    whole = _Whole(source, job)
    for part in decode_all(source.slices, job):
        whole.add(part)
    return whole.manifest()


class _Whole:
    """The manifest of a source in the making: slices are added one after another."""

    def __init__(self, source: OpenSource, job: DecodeJob) -> None:
        self._source, self._job = source, job
        self._slice_of: dict[str, int] = {}
        """Slice number by image id: enough to detect a duplicate, and to find the first."""
        self._content = hashlib.sha256(b"[")
        self._shards: list[ShardInfo] = []
        self._skipped: list[dict[str, str]] = []
        self._max_label = -1
        self._count = 0

    def add(self, part: DecodedSlice) -> None:
        """Add the next slice.

        Raises:
            DataError: it was refused, or holds an image id that occurred already.

        """
        if part.error:
            raise DataError(part.error)
        for image_id, where in zip(part.ids, part.wheres, strict=True):
            if self._slice_of.setdefault(image_id, self._count) != self._count:
                raise DataError(f"image id {image_id!r} occurs twice: {self._first(image_id)} and {where}")
        _check_duplicates(part)
        if part.digests:  # the digest of the list of all digests, without holding the list
            self._content.update(("," * bool(self._shards) + canonical(part.digests)[1:-1]).encode())
        self._shards += part.shards
        self._skipped += part.skipped
        self._max_label = max(self._max_label, part.max_label)
        self._count += 1

    def _first(self, image_id: str) -> str:
        rows = self._source.slices[self._slice_of[image_id]].rows()
        return next(row.where for row in rows if row.image_id == image_id)

    def manifest(self) -> Manifest:
        """Return the manifest of all slices.

        Raises:
            DataError: the source has no image that can be decoded.

        """
        source, job = self._source, self._job
        if not self._shards:
            raise DataError(f"{source.name}: no images" + (" that can be decoded" if source.num_rows else ""))
        self._content.update(b"]")
        return Manifest(
            format=FORMATS["manifest"],
            made_by=__version__,
            source=source.name,
            image_size=job.image_size,
            shards=tuple(self._shards),
            class_names=job.class_names,
            max_label=self._max_label,
            num_images=sum(shard.rows for shard in self._shards),
            content=self._content.hexdigest(),
            skipped=tuple(self._skipped),
        )


def _check_duplicates(part: DecodedSlice) -> None:
    """Check that no image id occurs twice in one slice."""
    seen: dict[str, str] = {}
    for image_id, where in zip(part.ids, part.wheres, strict=True):
        if image_id in seen:
            raise DataError(f"image id {image_id!r} occurs twice: {seen[image_id]} and {where}")
        seen[image_id] = where
