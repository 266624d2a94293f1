"""NumPy arrays of images and labels: `.npz` (as MedMNIST and Keras lay it out), or a folder of two `.npy` files.

    open_arrays("pathmnist.npz", "train")        # train_images and train_labels; val_ and test_ for the other roles
    open_arrays("small/", "train")               # small/data.npy and small/label.npy

Images are uint8 [N, H, W], [N, H, W, C] or [N, C, H, W] with one or three channels, or flat rows of 3,072 or 784;
booleans, and floats within 0..1, are shares of 255; other numbers have to be whole and within 0..255. Ids are
`<name>-<role>-00012`. No pickle is read.

Does not cover: arrays with several labels per image.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ray_unlearn.data.files import why_unread
from ray_unlearn.data.folders import size_and_time
from ray_unlearn.data.reading import memory_limit
from ray_unlearn.data.rows import OpenSource, Role, Row
from ray_unlearn.errors import DataError
from ray_unlearn.store.disk import check_regular_file
from ray_unlearn.study.identity import digest

_OF_ROLE = {
    "train": (("train_images", "x_train", "X_train", "train_x"), ("train_labels", "y_train", "Y_train", "train_y")),
    "validation": (("val_images", "x_val", "X_val", "val_x"), ("val_labels", "y_val", "Y_val", "val_y")),
    "test": (("test_images", "x_test", "X_test", "test_x"), ("test_labels", "y_test", "Y_test", "test_y")),
}
_ANY_ROLE = (("images", "data", "x", "X", "arr_0"), ("labels", "label", "targets", "y", "Y", "arr_1"))
_FLAT = {3072: (3, 32, 32), 784: (28, 28)}


@dataclass(frozen=True, slots=True)
class ArraySlice:
    """The images of a pair of arrays."""

    path: str
    images: str
    labels: str
    prefix: str
    scale: float
    """Factor from the array's numbers to 0..255."""
    num_rows: int

    def rows(self) -> Iterator[Row]:
        """Yield images as uint8 [H, W] or [H, W, 3]."""
        images, labels = _load(self.path, self.images), _labels(_load(self.path, self.labels), self.path, self.labels)
        for i in range(self.num_rows):
            pixels = _plain(np.asarray(images[i]))
            if pixels.dtype != np.uint8:
                pixels = np.rint(pixels.astype(np.float64) * self.scale).astype(np.uint8)
            yield Row(
                image=pixels,
                image_id=f"{self.prefix}-{i:05d}",
                label=labels[i],
                where=f"{self.path} {self.images}[{i}]",
            )


def is_arrays(path: str) -> bool:
    """Return whether a path is that of NumPy's arrays."""
    return path.lower().endswith(".npz") or ("://" not in path and bool(_pair(Path(path))))


def open_arrays(path: str, role: Role) -> OpenSource:
    """Open the arrays for a role.

    Raises:
        DataError: there are no such arrays, or they are of another shape or type.

    """
    images, labels = _names(path, role)
    found, classes = _load(path, images), _labels(_load(path, labels), path, labels)
    where = f"{path}: {images}"
    if len(found) != len(classes):
        raise DataError(f"{where} has {len(found):,} images, and {labels} {len(classes):,} labels")
    if found.dtype.kind not in "biuf" or not _is_image(_plain(found[0])):
        raise DataError(f"{where}: expected images [N, H, W] or [N, H, W, 3]; found {found.dtype} {list(found.shape)}")
    names = tuple(sorted({*classes})) if isinstance(classes[0], str) else None
    prefix = f"{Path(path).name.removesuffix('.npz')}-{role}"
    part = ArraySlice(path, images, labels, prefix, _scale(found, where), len(found))
    return OpenSource(
        name=path,
        fingerprint=digest([str(Path(path).absolute()), role, images, labels, *_sizes_and_times(Path(path))]),
        class_names=names,  # type: ignore[arg-type]
        slices=(part,),
        num_rows=len(found),
    )


def _pair(folder: Path) -> list[str]:
    """Return the names of the two files in a folder; empty if it does not hold both."""
    found = [next((name for name in each if (folder / f"{name}.npy").is_file()), "") for each in _ANY_ROLE]
    return found if all(found) else []


def _names(path: str, role: Role) -> tuple[str, str]:
    """Return the names of the arrays for a role."""
    if not path.lower().endswith(".npz"):
        images, labels = _pair(Path(path))
        return images, labels
    if not Path(path).is_file():
        raise DataError(f"{path}: no such file; expected an .npz file of images and labels")
    with opened_npz(path) as held:
        for ways in (_OF_ROLE[role], _ANY_ROLE):
            found = [next((name for name in names if name in held.files), "") for names in ways]
            if all(found):
                return found[0], found[1]
        raise DataError(
            f"{path}: no images and labels for data.{role}; it holds {', '.join(held.files)}; expected "
            f"{_OF_ROLE[role][0][0]} and {_OF_ROLE[role][1][0]}"
        )


def opened_npz(path: str) -> Any:
    """Return the open arrays of an `.npz` file, by name.

    Raises:
        DataError: it is no such file, or would unpack to more than fits into memory.

    """
    try:
        check_regular_file(Path(path))
        with zipfile.ZipFile(path) as archive:
            unpacked, most = sum(member.file_size for member in archive.infolist()), memory_limit()
        if unpacked > most:
            raise DataError(f"{path}: would unpack to {unpacked:,} bytes, and there are {most:,} of memory")
        return np.load(path, allow_pickle=False)
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: not a readable .npz file: {why_unread(error)}") from error


def _load(path: str, name: str) -> np.ndarray:
    try:
        if not path.lower().endswith(".npz"):
            file = Path(path) / f"{name}.npy"
            check_regular_file(file)
            return np.asarray(np.load(file, mmap_mode="r", allow_pickle=False))
        with opened_npz(path) as held:
            return np.asarray(held[name])
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, KeyError) as error:
        raise DataError(f"{path}: {name} cannot be read: {why_unread(error)}") from error


def _plain(image: np.ndarray) -> np.ndarray:
    """Return one image as [H, W] or [H, W, 3]."""
    if image.ndim == 1 and image.size in _FLAT:
        image = image.reshape(_FLAT[image.size])
    if image.ndim == 3 and image.shape[-1] not in (1, 3) and image.shape[0] in (1, 3):
        image = np.moveaxis(image, 0, -1)
    return image[..., 0] if image.ndim == 3 and image.shape[-1] == 1 else image


def _is_image(plain: np.ndarray) -> bool:
    return plain.ndim == 2 or (plain.ndim == 3 and plain.shape[-1] == 3)


def _labels(found: np.ndarray, path: str, name: str) -> Sequence[int | str]:
    """Return one class per image."""
    if found.ndim == 2 and found.shape[1] == 1:
        found = found[:, 0]
    if found.ndim != 1 or not len(found):
        raise DataError(
            f"{path}: {name} of shape {list(found.shape)}; expected one class per image, [N]: several labels per image "
            "(multi-label), and one-hot rows, are not read"
        )
    if found.dtype.kind in "US":
        return [one.decode("utf-8", "backslashreplace") if isinstance(one, bytes) else str(one) for one in found]
    if found.dtype.kind not in "iubf" or (found.dtype.kind == "f" and not np.array_equal(found, np.floor(found))):
        raise DataError(f"{path}: {name}: expected whole numbers; found {found.dtype}")
    return [int(one) for one in found]


def _scale(found: np.ndarray, where: str) -> float:
    """Return the factor from an array's numbers to 0..255."""
    low, high = float(found.min()), float(found.max())
    shares = found.dtype.kind in "bf" and high <= 1
    whole = found.dtype.kind in "biu" or np.array_equal(found, np.floor(found))
    if not shares and high == 1:
        raise DataError(
            f"{where}: whole numbers 0 and 1, of which only black would be left; expected 0..255: multiply them by "
            "255, or save them as booleans"
        )
    if low < 0 or high > 255 or not np.isfinite(high) or not (whole or shares):
        raise DataError(
            f"{where}: numbers from {low:g} to {high:g}; expected 0..255, or fractions in 0..1: save the pixels before "
            "they were normalised"
        )
    return 255.0 if shares else 1.0


def _sizes_and_times(path: Path) -> list[int]:
    files = [path] if path.is_file() else sorted(path.glob("*.npy"))
    return [number for file in files for number in size_and_time(file)]
