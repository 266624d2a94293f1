"""One encoded image -> uint8 pixels; one slice of a source -> shards of decoded images.

    pixels_HWC = decode(png_bytes, image_size=32)
    part = decode_slice(source.slices[0], 0, job)     # writes its shards, returns their contents

The same function runs in this process and inside a Ray Data job; a slice gives the same bytes in both. Where a source
has several slices, each finished one leaves a note, so that a killed preparation continues from there.

Does not cover: the manifest of a whole source (`prepare`).
"""

from __future__ import annotations

import hashlib
import io
import re
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Annotated

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from pydantic import Field, TypeAdapter, ValidationError

from ray_unlearn.data.class_names import composed
from ray_unlearn.data.rows import Row, Slice
from ray_unlearn.data.shards import Example, encode_shard
from ray_unlearn.errors import DataError, did_you_mean, first_line
from ray_unlearn.store.filesystem import Storage
from ray_unlearn.study.schema import Resize

_SHARD_BYTES = 64 * 2**20  # pixels per shard: small enough to hold while writing, large enough to map
_SHARD_ROWS = 2048
_FORMATS = ("BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
"""Formats that are read. Pillow knows forty more; some start programs (EPS) or are hardly maintained."""
_FEW_LEVELS = 4096  # of 65,536: the upper eight bits of sixteen would keep 16 of 256 levels
_LARGEST_LABEL = 2**31 - 1
_LONGEST_SIDE = 65_535  # pixels: the limit of a JPEG


@dataclass(frozen=True, kw_only=True, slots=True)
class DecodeJob:
    """How a source is decoded, and the folder of its shards."""

    storage: Storage
    folder: str
    image_size: int
    class_names: tuple[str, ...] | None
    num_classes: int | None
    """Number of classes: labels must be below it; None accepts any non-negative label."""
    skip_bad: bool
    resize: Resize = "stretch"
    grey_bits: int | None = None
    """Bits of 16-bit grey images that are used; None refuses images that seem to use twelve or fewer."""
    resumable: bool = False
    """Whether a finished slice leaves a note in the shards' folder, and is not decoded again where one exists."""

    @property
    def shard_rows(self) -> int:
        """Images per shard."""
        return max(1, min(_SHARD_ROWS, _SHARD_BYTES // (3 * self.image_size**2)))


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardInfo:
    """One shard, as the manifest lists it; a name with a path is invalid."""

    name: Annotated[str, Field(pattern=r"^[0-9]+-[0-9]+\.arrow$")]
    rows: int
    size_bytes: int
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


@dataclass(slots=True)
class DecodedSlice:
    """Result of decoding one slice."""

    shards: list[ShardInfo] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)
    wheres: list[str] = field(default_factory=list)
    """File and row of each id, for messages about duplicates."""
    digests: list[str] = field(default_factory=list)
    """Digest of each decoded example, in hexadecimal; all of them, in order, identify the source's content."""
    skipped: list[dict[str, str]] = field(default_factory=list)
    max_label: int = -1
    error: str = ""
    """Reason for refusing the source; a value, so that it crosses processes unchanged."""


DECODED = TypeAdapter(DecodedSlice)
NOTE = re.compile(r"[0-9]+\.json")
"""Names of the notes of finished slices."""


def decode(
    image: bytes | np.ndarray, image_size: int, resize: Resize = "stretch", grey_bits: int | None = None
) -> np.ndarray:
    """Return uint8 [image_size, image_size, 3] RGB pixels, turned by EXIF orientation, resized to a square (bilinear).

    Args:
        image: an encoded image, or uint8 pixels.
        image_size: pixels per side.
        resize: what happens to an image that is not square: stretched, cropped to its middle, or padded with black.
        grey_bits: bits of 16-bit grey levels that are used; None refuses an image whose levels are all below 4096.

    Raises:
        DataError: Pillow cannot open the bytes as an image, or the image would not fit in memory.

    """
    if isinstance(image, np.ndarray) and image.dtype == np.uint8:  # Pillow would return the same pixels, after a time
        if image.shape == (image_size, image_size):
            return np.repeat(image[:, :, None], 3, axis=2)
        if image.shape == (image_size, image_size, 3):
            return np.ascontiguousarray(image)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            warnings.simplefilter("ignore", UserWarning)  # broken EXIF in an image that opens
            opened = (
                Image.fromarray(image)
                if isinstance(image, np.ndarray)
                else Image.open(io.BytesIO(image), formats=_FORMATS)
            )
            with opened as picture:
                _check_sides(picture)
                deep = any(";16" in str(tile[3]) for tile in getattr(picture, "tile", ()))  # gone once it is loaded
                ImageOps.exif_transpose(picture, in_place=True)  # a copy of 89 million pixels takes 0.36 GB
                plain = _eight_bits(picture, grey_bits, deep=deep)
                rgb = plain if plain.mode == "RGB" else plain.convert("RGB")
                rgb.load()
    except Exception as error:  # a codec may raise anything on damaged bytes
        reason = first_line(error)
        if isinstance(error, UnidentifiedImageError):  # its message holds an address in memory
            reason = f"of no format that is read: {', '.join(_FORMATS)}"
        raise DataError(f"not an image that can be decoded ({reason})") from error
    rgb = _square(rgb, resize)
    if rgb.size != (image_size, image_size):
        rgb = rgb.resize((image_size, image_size), Image.Resampling.BILINEAR)
    return np.asarray(rgb, dtype=np.uint8)


def _check_sides(picture: Image.Image) -> None:
    """Check that no side is longer than a photograph's: resizing takes 24 bytes for each of its pixels."""
    if max(picture.size) > _LONGEST_SIDE:
        raise ValueError(f"{picture.width}x{picture.height} pixels; expected sides of at most {_LONGEST_SIDE}")


def _square(rgb: Image.Image, resize: Resize) -> Image.Image:
    """Return the image's middle, or the image with black borders; itself where it will be stretched."""
    if resize == "stretch" or rgb.width == rgb.height:
        return rgb
    if resize == "pad":
        side = max(rgb.size)
        padded = Image.new("RGB", (side, side))
        padded.paste(rgb, ((side - rgb.width) // 2, (side - rgb.height) // 2))
        return padded
    side = min(rgb.size)
    left, top = (rgb.width - side) // 2, (rgb.height - side) // 2
    return rgb.crop((left, top, left + side, top + side))


def _eight_bits(picture: Image.Image, grey_bits: int | None, *, deep: bool) -> Image.Image:
    """Keep the upper eight of the bits that 16-bit grey levels use; Pillow's own conversion would clip them at 255."""
    if picture.mode in ("F", "I"):
        raise ValueError(f"mode {picture.mode}, whose numbers have no stated white; save it with 8 bits")
    if not picture.mode.startswith("I;16"):
        return _checked_colours(picture) if deep and grey_bits != 16 else picture
    levels = np.asarray(picture)
    highest, bits = int(levels.max(initial=0)), grey_bits or 16
    if highest >> bits:
        raise ValueError(f"grey levels up to {highest:,}, which take more than the {bits} bits of data.grey_bits")
    if grey_bits is None and 0 < highest < _FEW_LEVELS:
        raise ValueError(
            f"grey levels up to {highest:,} of 65,535: of data of twelve bits or fewer, 16 levels would be left; set "
            "data.grey_bits: 12, or 16 for an image that is that dark"
        )
    return Image.fromarray((levels >> (bits - 8)).astype(np.uint8))


def _checked_colours(picture: Image.Image) -> Image.Image:
    """Refuse a 16-bit colour image that seems to hold twelve bits; Pillow reads the upper eight of its sixteen."""
    rgb = picture.convert("RGB")
    highest = int(np.asarray(rgb).max(initial=0))
    if 0 < highest < _FEW_LEVELS >> 8:
        raise ValueError(
            f"16-bit colours, of which {highest + 1} levels would be left: it seems to hold twelve bits or fewer; "
            "save it with 8 bits, or set data.grey_bits: 16 for an image that is that dark"
        )
    return rgb


def decode_slice(part: Slice, number: int, job: DecodeJob) -> DecodedSlice:
    """Decode one slice into shards `<number>-<part>.arrow`; a refusal is returned as `error`, not raised."""
    note = f"{job.folder}/{number:05d}.json"
    if job.resumable and (known := _noted(job.storage, note)) is not None:
        return known
    done = DecodedSlice()
    try:
        _decode_rows(part.rows(), number, job, done)
    except DataError as error:
        done.error = str(error)
    if job.resumable and not done.error:
        job.storage.publish_file(note, DECODED.dump_json(done))
    return done


def _noted(storage: Storage, note: str) -> DecodedSlice | None:
    try:
        return DECODED.validate_json(storage.read(note))
    except (FileNotFoundError, ValidationError):
        return None


def drop_stale_notes(storage: Storage, folder: str) -> None:
    """Remove the notes with a shard that is missing or has another size."""
    sizes = storage.sizes(folder)
    for name in filter(NOTE.fullmatch, sizes):
        known = _noted(storage, f"{folder}/{name}")
        if known is None or any(sizes.get(shard.name) != shard.size_bytes for shard in known.shards):
            storage.remove(f"{folder}/{name}")


def remove_notes(storage: Storage, folder: str) -> None:
    """Remove all notes: the manifest holds their contents."""
    for name in filter(NOTE.fullmatch, storage.sizes(folder)):
        storage.remove(f"{folder}/{name}")


def _decode_rows(rows: Iterable[Row], number: int, job: DecodeJob, done: DecodedSlice) -> None:
    held: list[Example] = []
    for row in rows:
        example = _example(row, job, done)
        if example is None:
            continue
        done.ids.append(row.image_id)
        done.digests.append(example.digest().hex())
        done.wheres.append(row.where)
        done.max_label = max(done.max_label, example.label)
        held.append(example)
        if len(held) == job.shard_rows:
            _write(held, number, job, done)
            held = []
    if held:
        _write(held, number, job, done)


def _example(row: Row, job: DecodeJob, done: DecodedSlice) -> Example | None:
    label = _label(row, job)
    try:
        if row.image is None:
            raise DataError(row.problem)
        pixels = decode(row.image, job.image_size, job.resize, job.grey_bits)
    except DataError as error:
        if not job.skip_bad:
            hint = "; `data.on_bad_image: skip` skips such images and records them"
            raise DataError(f"{row.where}: {error}{hint}") from error
        done.skipped.append({"where": row.where, "image_id": row.image_id, "reason": str(error)})
        return None
    return Example(pixels, label, row.image_id, row.group, row.age, row.given)


def _label(row: Row, job: DecodeJob) -> int:
    names, limit, label = job.class_names or (), job.num_classes, row.label
    if isinstance(label, str):
        label = label if label in names else composed(label, names)
        if label not in names:
            raise DataError(
                f"{row.where}: label {repr(label)[:80]} is none of the {len(names)} classes{did_you_mean(label, names)}"
            )
        label = names.index(label)
    if not isinstance(label, int) or not 0 <= label < (limit or _LARGEST_LABEL):
        expected = "expected a class number from 0" + (f" to {limit - 1}" if limit else "")
        if label is None:
            raise DataError(f"{row.where}: no label: the cell is null; leave such rows out, or label them")
        if label == -1:
            expected += "; sets for competitions have -1 where labels are secret, so name a split with labels"
        raise DataError(f"{row.where}: label {row.label}: {expected}; `data.classes` sets their number")
    return int(label)


def _write(examples: list[Example], number: int, job: DecodeJob, done: DecodedSlice) -> None:
    digests = [bytes.fromhex(one) for one in done.digests[-len(examples) :]]
    data = encode_shard(examples, digests)
    name = f"{number:05d}-{len(done.shards):03d}.arrow"
    job.storage.publish_file(f"{job.folder}/{name}", data)
    sha256 = hashlib.sha256(data).hexdigest()
    done.shards.append(ShardInfo(name=name, rows=len(examples), size_bytes=len(data), sha256=sha256))
