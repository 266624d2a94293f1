"""What `import` is asked for: files by population, and what the files do not say themselves.

    wanted = Request(paths={"retrained": Path("oracle.pt")}, forget=Path("forget_set_2.npy"))

Does not cover: what each format takes of it (`margins`, `logits`).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ray_unlearn.data.id_lists import read_ids
from ray_unlearn.errors import DataError, StudyError
from ray_unlearn.interchange.arrays import read_array, read_positions
from ray_unlearn.interchange.brought import Images

CIFAR10 = (50_000, 10_000)
_TRAIN_OF = {sum(CIFAR10): CIFAR10[0], 47_600: 44_200}
"""Training images by number of all images: of CIFAR-10, and of Living17 as the KLOM set has it."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """Files, and the options of the command."""

    paths: Mapping[str, Path]
    """Name of a population -> its file or folder."""
    forget: Path | None = None
    """List of the forget images' positions among the training images."""
    train: int | None = None
    """Number of training images, the first columns of the arrays."""
    labels: Path | None = None
    """Array of classes: training images, then test images."""
    ids: Path | None = None
    """List of the images' ids: training images, then test images."""
    epoch: str | None = None
    """Which epoch's numbers, where files have several."""
    forget_set: int | None = None
    """Which of EasyDUB's forget sets."""
    augmentation: int | None = None
    """Which of LiRA's augmentations, from 0; default the first, the image as it is."""

    @property
    def epoch_number(self) -> int | None:
        """The epoch where files are named by it.

        Raises:
            StudyError: it is no number.

        """
        if self.epoch is not None and not (self.epoch.isascii() and self.epoch.isdecimal()):
            raise StudyError(f"--epoch: expected a number; found {self.epoch!r}")
        return int(self.epoch) if self.epoch is not None else None

    def check_options(self, form: str, taken: Collection[str]) -> None:
        """Refuse options that the format does not take: its files say it, or it has none.

        Args:
            form: the format's name.
            taken: names of the attributes that it takes.

        Raises:
            StudyError: another one is given.

        """
        options = ("forget", "train", "labels", "epoch", "forget_set", "augmentation")
        given = [one for one in options if getattr(self, one) is not None]
        if unused := [one for one in given if one not in taken]:
            raise StudyError(f"--{unused[0].replace('_', '-')}: the format {form} does not take it; leave it out")

    def images(self, count: int, num_train: int | None = None) -> Images:
        """Return the images of arrays with so many columns.

        Args:
            count: columns.
            num_train: training images, where the files say how many; default: the option, else by the count.

        Raises:
            StudyError: the number of training images is not known.

        """
        size = self.train or num_train or _TRAIN_OF.get(count)
        if size is None or size > count or size != (num_train or size):
            found = f"found {size}" if size else f"{count:,} columns do not say it"
            found += f", and the files have {num_train}" if num_train else ""
            raise StudyError(
                f"--train: expected the number of training images, the first of {count:,} columns; {found}"
            )
        forget = read_positions(self.forget, size) if self.forget else []
        labels = np.asarray(read_array(self.labels)) if self.labels else None
        return self.images_of(size, count - size, forget, labels)

    def images_of(self, num_train: int, num_test: int, forget: list[int], labels: np.ndarray | None) -> Images:
        """Return these images, named by the list of ids; by default those of CIFAR-10 as the source `cifar10` does."""
        prefix = "cifar10" if (num_train, num_test) == CIFAR10 else ""
        found = Images.of(num_train=num_train, num_test=num_test, forget=forget, labels=labels, prefix=prefix)
        if self.ids is None:
            return found
        ids = tuple(text for _, text in read_ids(str(self.ids), forget=False))
        if len(ids) != len(found.ids) or len({*ids}) < len(ids):
            raise DataError(
                f"{self.ids}: expected {len(found.ids):,} different ids, of the training and then of the test images; "
                f"found {len(ids):,}, {len({*ids}):,} of them different"
            )
        return replace(found, ids=ids)

    def need_forget(self, images: Images) -> None:
        """Refuse images without a forget set.

        Raises:
            StudyError: there is none.

        """
        if not len(images.sets["forget"]):
            raise StudyError(
                "--forget: expected a list of the forget images' positions among the training images (.npy, .txt, "
                ".csv): populations are compared on them"
            )
