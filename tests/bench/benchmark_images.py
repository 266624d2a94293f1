"""The files that every side of tests/bench/benchmark.py reads: images in Parquet, a list to forget, an original.

    classes = write_images(folder, source, images=6400)     # train.parquet, test.parquet, forget.csv

`train.parquet` holds `images` images to train on and, next to them, a fiftieth as many to forget; `test.parquet` a
tenth as many. Which, of the source's, is drawn with ray_unlearn.seeds. Encoded images are kept as they are.

Does not cover: decoding; each side does that itself, and it is part of its time.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from ray_unlearn.data.embedded import DigitsSlice
from ray_unlearn.data.parquet import open_parquet
from ray_unlearn.data.rows import Row
from ray_unlearn.errors import DataError
from ray_unlearn.seeds import Seeds
from ray_unlearn.study.schema import Columns

_FORGET_SHARE, _TEST_SHARE = 50, 10
_SYNTHETIC_CLASSES = 10
_IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


@dataclass(frozen=True, slots=True)
class Labelled:
    """An encoded image and its class, 0..C-1."""

    data: bytes
    label: int


@dataclass(frozen=True, slots=True)
class Pool:
    """Images to draw from."""

    name: str
    train: list[Labelled]
    test: list[Labelled] | None
    """None: test images are further ones of `train`."""
    classes: int


def synthetic_pool(images: int, image_size: int) -> Pool:
    """Draw noise of which each class has a mean of its own."""
    rng = Seeds(study=0, population="benchmark").numpy("synthetic-images")
    labels = rng.integers(0, _SYNTHETIC_CLASSES, sum(_counts(images)))
    noise = (rng.integers(0, 156, (image_size, image_size, 3), np.uint8) for _ in labels)
    train = [Labelled(_png(pixels + np.uint8(10 * k)), int(k)) for pixels, k in zip(noise, labels, strict=True)]
    return Pool("synthetic images", train, None, _SYNTHETIC_CLASSES)


def digits_pool() -> Pool:
    """Return scikit-learn's digits."""
    train, test = (_labelled(DigitsSlice(part).rows(), ()) for part in ("train", "test"))
    return Pool("digits", train, test, 10)


def parquet_pool(train: str, test: str | None) -> Pool:
    """Read Parquet files in the Hugging Face layout.

    Raises:
        DataError: a file cannot be read.

    """
    sources = [open_parquet((path,), Columns()) for path in (train, test) if path]
    names = sources[0].class_names or ()
    rows = [_labelled((row for part in source.slices for row in part.rows()), names) for source in sources]
    classes = len(names) or 1 + max(image.label for found in rows for image in found)
    return Pool(Path(train).name, rows[0], rows[1] if test else None, classes)


def write_images(folder: Path, pool: Pool, images: int) -> None:
    """Draw the images and write the files.

    Raises:
        DataError: there are not so many.

    """
    retain, forget, test = _counts(images)
    rng = Seeds(study=0, population="benchmark").numpy("images")
    order = rng.permutation(len(pool.train))
    others = [pool.train[i] for i in order[retain + forget :]] if pool.test is None else pool.test
    if len(order) < retain + forget or len(others) < test:
        have = f"{len(pool.train):,} images" + (f" and {len(pool.test):,} to test" if pool.test else "")
        raise DataError(
            f"--images {images}: needs {retain:,} images, {forget:,} to forget and {test:,} to test; {pool.name} has "
            f"{have}; ask for fewer"
        )
    train = [pool.train[i] for i in order[: retain + forget]]
    _write(folder / "train.parquet", train, "train")
    _write(folder / "test.parquet", others[:test], "test")
    ids = [f"train-{i:06d}" for i in range(retain, retain + forget)]
    (folder / "forget.csv").write_text("\n".join(["image_id", *ids]) + "\n")


def _counts(images: int) -> tuple[int, int, int]:
    """Return how many to train on, to forget, and to test with."""
    return images, max(2, images // _FORGET_SHARE), max(2, images // _TEST_SHARE)


def _labelled(rows: Iterator[Row], names: tuple[str, ...]) -> list[Labelled]:
    found = []
    for row in rows:
        label = names.index(row.label) if isinstance(row.label, str) else row.label
        if row.image is None or label is None:
            raise DataError(f"{row.where}: {row.problem or 'no label'}; the benchmark takes whole sources only")
        found.append(Labelled(row.image if isinstance(row.image, bytes) else _png(row.image), label))
    return found


def _png(pixels: np.ndarray) -> bytes:
    sink = io.BytesIO()
    Image.fromarray(pixels).save(sink, "PNG", compress_level=1)
    return sink.getvalue()


def _write(path: Path, images: list[Labelled], part: str) -> None:
    columns = {
        "image": pa.array([{"bytes": image.data, "path": None} for image in images], _IMAGE),
        "label": pa.array([image.label for image in images], pa.int64()),
        "image_id": pa.array([f"{part}-{i:06d}" for i in range(len(images))], pa.string()),
    }
    pq.write_table(pa.table(columns), path, row_group_size=1000)
