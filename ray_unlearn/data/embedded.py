"""Two well-known sets that need no files of the user: scikit-learn's digits, and CIFAR-10 through torchvision.

    open_digits("train")                         # 1,437 real 8x8 images inside scikit-learn; "test" has the other 360
    open_cifar10(root, "train")                  # downloads once, and needs a network for that

Digits have no official split: every fifth image is a test image.

Does not cover: a licence for CIFAR-10; its authors state none.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ray_unlearn.data.rows import OpenSource, Part, Row
from ray_unlearn.errors import DataError, first_line
from ray_unlearn.study.identity import digest

_TEST_EVERY = 5


@dataclass(frozen=True, slots=True)
class DigitsSlice:
    """All digits of one part."""

    part: Part

    @property
    def num_rows(self) -> int:
        """Number of digits."""
        return 360 if self.part == "test" else 1437

    def rows(self) -> Iterator[Row]:
        """Yield digits as uint8 [8, 8], their 17 grey levels spread over 0..255."""
        pixels_NHW, labels_N = _digits()
        for i, label in enumerate(labels_N):
            if (i % _TEST_EVERY == 0) == (self.part == "test"):
                image_id = f"digits-{i:04d}"
                yield Row(image=pixels_NHW[i], image_id=image_id, label=label, where=image_id)


@functools.cache
def _digits() -> tuple[np.ndarray, list[int]]:
    """Return all digits, uint8 [1797, 8, 8], read-only, and their labels; both parts are read from it."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    pixels_NHW = np.round(digits.images * (255 / 16)).astype(np.uint8)
    pixels_NHW.flags.writeable = False
    return pixels_NHW, [int(label) for label in digits.target]


def open_digits(part: Part) -> OpenSource:
    """Open scikit-learn's digits."""
    digits = DigitsSlice(part)
    return OpenSource(
        name=f"digits ({part})",
        fingerprint=digest(["digits", part, _TEST_EVERY]),
        class_names=tuple("0123456789"),
        slices=(digits,),
        num_rows=digits.num_rows,
    )


@dataclass(frozen=True, slots=True)
class CifarSlice:
    """One part of CIFAR-10, decoded where it was downloaded; torchvision checks its files by their published md5."""

    root: str
    part: Part
    num_rows: int

    def rows(self) -> Iterator[Row]:
        """Yield images as uint8 [32, 32, 3]."""
        from torchvision.datasets import CIFAR10

        images = CIFAR10(self.root, train=self.part == "train", download=False)
        for i in range(len(images.data)):
            image_id = f"cifar10-{self.part}-{i:05d}"
            yield Row(image=images.data[i], image_id=image_id, label=int(images.targets[i]), where=image_id)


def open_cifar10(root: str | None, part: Part) -> OpenSource:
    """Open CIFAR-10 in `root` (default: the user's cache folder), downloading it where it is missing.

    Raises:
        DataError: it is missing, and the download failed.

    """
    from torchvision.datasets import CIFAR10

    folder = root or str(Path.home() / ".cache" / "ray_unlearn" / "cifar10")
    try:
        images = CIFAR10(folder, train=part == "train", download=True)
    except (OSError, RuntimeError) as error:
        raise DataError(
            f"cifar10: not in {folder}, and the download failed ({first_line(error)}); "
            "put cifar-10-batches-py there, or name Parquet files instead"
        ) from error
    return OpenSource(
        name=f"cifar10 ({part})",
        fingerprint=digest(["cifar10", part]),
        class_names=tuple(images.classes),
        slices=(CifarSlice(folder, part, len(images.data)),),
        num_rows=len(images.data),
    )
