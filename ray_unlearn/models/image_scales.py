"""Mean and standard deviation by which a file's net scaled its images, or which the file names beside the weights.

    scales_among({"normalize.mean": mean, "normalize.std": std, "total_ops": ops})   # scales, the names that hold them
    scales_beside({"rmodel": state, "mean": [0.49, 0.48, 0.45], "std": [0.2, 0.2, 0.2]}, "rmodel")

Both are of pixels in 0..1; values of pixels in 0..255 are divided.

Does not cover: what a study does with them (`ray_unlearn.generation.trial`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch

Scales = tuple[tuple[float, ...], tuple[float, ...]]
"""Mean and standard deviation, three numbers each."""


def scale_word(name: str) -> str:
    """Return `mean` or `std` for a buffer by which a net scales its images; else nothing."""
    match = re.fullmatch(r"(?:.*\.)?_?(?:pixel_|img_|image_|norm_|input_)?(mean|std)", name)
    return match[1] if match else ""


def scales_among(tensors: Mapping[str, torch.Tensor]) -> tuple[Scales | None, list[str]]:
    """Return the scales that a normalising wrapper left among tensors, and the names that hold them; None and none."""
    names = {word: name for name, one in tensors.items() if (word := scale_word(name)) and one.numel() in (1, 3)}
    if names.keys() != {"mean", "std"}:
        return None, []
    mean, std = (tensors[names[word]].double().flatten().expand(3).tolist() for word in ("mean", "std"))
    return _of_unit_pixels(mean, std), list(names.values())


def scales_beside(tree: Mapping[str, Any], path: str) -> Scales | None:
    """Return the scales that a file names in one of the dictionaries that lead to its weights; None without.

    Args:
        tree: the file's dictionary.
        path: keys that lead to the weights, with dots; empty where they are the file itself.

    """
    for one in _leading_to(tree, path.split(".") if path else []):
        found = {word: _three(value) for name, value in one.items() if (word := scale_word(str(name)))}
        mean, std = found.get("mean"), found.get("std")
        if mean and std and min(std) > 0:
            return _of_unit_pixels(mean, std)
    return None


def _leading_to(tree: Mapping[str, Any], keys: list[str]) -> Iterator[Mapping[str, Any]]:
    """Yield the dictionaries around the one that the keys lead to, the nearest first; keys may hold dots."""
    for end in range(1, len(keys) + 1):
        below = tree.get(".".join(keys[:end]))
        if isinstance(below, Mapping):
            yield from _leading_to(below, keys[end:])
            yield tree
            return


def _three(value: Any) -> list[float] | None:
    """Return three numbers of a tensor, an array, a list or a number of one or three values; else None."""
    try:
        found = np.asarray(value, dtype=np.float64).ravel()
    except (TypeError, ValueError, RuntimeError):
        return None
    return np.broadcast_to(found, 3).tolist() if found.size in (1, 3) and np.isfinite(found).all() else None


def _of_unit_pixels(mean: list[float], std: list[float]) -> Scales:
    unit = 255 if max(map(abs, mean + std)) > 4 else 1  # of pixels in 0..255
    return tuple(round(v / unit, 6) for v in mean), tuple(round(v / unit, 6) for v in std)
