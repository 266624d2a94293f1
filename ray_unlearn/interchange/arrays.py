"""Files of numbers that other programs write: NumPy's `.npy` and `.npz`, and tensors of torch.save.

    read_array("margins.npy").array              # memory-mapped
    read_array("oracle_margins.pt").sha256
    pick(read_tree("ascent.pt"), "5", "ascent.pt")

A `.pt` is read with weights_only=True alone, an array without pickles.

Does not cover: the meaning of the numbers (`margins`, `logits`).
"""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ray_unlearn.data.arrays import opened_npz
from ray_unlearn.data.id_lists import read_ids, whole
from ray_unlearn.errors import DataError, first_line
from ray_unlearn.store.disk import check_regular_file
from ray_unlearn.wording import first_of


def sha256_of(path: Path) -> str:
    """Return the sha256 of a file.

    Raises:
        DataError: it cannot be read.

    """
    try:
        check_regular_file(path)
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error


def read_array(path: Path) -> np.ndarray:
    """Return the one array of a `.npy` file, mapped, or the one tensor of a `.pt` file.

    Raises:
        DataError, ModelError: it cannot be read, or holds something else.

    """
    tree = read_tree(path)
    if isinstance(tree, np.ndarray):
        return tree
    raise DataError(f"{path}: expected one array; found a dictionary of {first_of(tree)}")


def read_tree(path: Path) -> np.ndarray | dict[str, np.ndarray]:
    """Return the array of a file, or its arrays by key; errors as `read_array`."""
    ending = path.suffix.lower()
    if not path.is_file():
        raise DataError(f"{path}: no such file; expected .npy, .npz or .pt")
    if ending in (".npy", ".npz"):
        return _numpy(path)
    if ending not in (".pt", ".pth"):
        raise DataError(f"{path}: expected .npy, .npz or .pt")
    from ray_unlearn.models.weight_files import read_safely

    loaded = read_safely(path.read_bytes(), str(path))
    if isinstance(loaded, Mapping):
        return {str(key): _plain(value, f"{path}: {key}") for key, value in loaded.items()}
    return _plain(loaded, str(path))


def _numpy(path: Path) -> np.ndarray | dict[str, np.ndarray]:
    try:
        check_regular_file(path)
        if path.suffix.lower() == ".npy":
            return np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))
        with opened_npz(str(path)) as held:
            return {name: held[name] for name in held.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        reason = first_line(error)
        raise DataError(f"{path}: cannot be read as NumPy's arrays: {reason}") from error


def _plain(value: Any, where: str) -> np.ndarray:
    """Return a tensor, or an array, or numbers in lists, as an array; float16 and bfloat16 as float32."""
    import torch

    if isinstance(value, torch.Tensor):
        halves = value.dtype in (torch.float16, torch.bfloat16)
        return np.asarray((value.float() if halves else value).detach().numpy())
    try:
        found = np.asarray(value)
    except ValueError:
        found = np.asarray(None)
    if found.dtype.kind not in "biuf":
        raise DataError(f"{where}: expected a tensor; found {type(value).__name__}")
    return found


def pick(tree: np.ndarray | dict[str, np.ndarray], epoch: str | None, where: Path) -> np.ndarray:
    """Return one of a file's arrays, which are of several epochs.

    Args:
        tree: what the file holds.
        epoch: key of the array; None for the only one.
        where: the file, for messages.

    Raises:
        DataError: it has several and none is chosen, or none of this name.

    """
    if isinstance(tree, np.ndarray):
        return tree
    if epoch is None and len(tree) == 1:
        return next(iter(tree.values()))
    if epoch is None or epoch not in tree:
        asked = f"no {epoch}; " if epoch is not None else ""
        raise DataError(f"{where}: {asked}holds {first_of(tree)} (--epoch chooses one)")
    return tree[epoch]


def stacked(arrays: Sequence[np.ndarray], files: Sequence[Path]) -> np.ndarray:
    """Return the arrays of one file per model, the models first.

    Raises:
        DataError: two are of different shapes.

    """
    for array, file in zip(arrays, files, strict=True):
        if array.shape != arrays[0].shape:
            raise DataError(f"{file}: expected {list(arrays[0].shape)}, as {files[0]} has; found {list(array.shape)}")
    return np.stack(arrays)


def read_positions(path: Path, num_train: int) -> list[int]:
    """Return the positions that a list of forget images names: .npy, .txt, .csv, .json, or .pt.

    Raises:
        DataError: it names something other than training images.

    """
    if path.suffix.lower() in (".pt", ".pth"):
        found = read_array(path).ravel()
        if (found.dtype == bool and len(found) != num_train) or (found != found.astype(np.int64)).any():
            raise DataError(
                f"{path}: expected positions of training images, 0 to {num_train - 1}, or {num_train} booleans; found "
                f"{found.dtype} [{len(found)}]"
            )
        return [int(one) for one in (np.flatnonzero(found) if found.dtype == bool else found)]
    found_at = [whole(text) for _, text in read_ids(str(path), num_train)]
    numbers = [number for number in found_at if number is not None and number < num_train]
    if len(numbers) < len(found_at):
        raise DataError(f"{path}: expected positions of training images, 0 to {num_train - 1}")
    return numbers
