"""Images of two sets that are nearly the same: the same photograph cropped, scaled or compressed anew.

    hashes_NW = hashes(pixels_NHWC)              # 128 bits an image, as two uint64
    for line in near_copies(splits.sets, hashes_NW, words_N, ids):
        print(line)                              # "12 of 4,000 test images are nearly in retain too, such as ..."

The hash is a difference hash (N. Krawetz, "Kind of Like That", 2013) in both directions: of the grey image averaged to
8x9 and to 9x8 cells, whether each cell is brighter than the one before it. Two images are near copies if at most
`MOST_BITS` of the 128 bits differ; of unrelated images, about half do. Equal pixels are left to `copies`. An image of
one colour has no bit to compare, and is no near copy of any.

Of CIFAR-10's 10,000 test images, 88 are within 10 bits of a training image, most of them the same photograph; of 4,000
faces, each in the middle of its image, 12 are, half of them other persons: look at the pairs. Every image of a set is
compared with every one of another: 60,000 images take 3 s of CPU time, 24,000 take 1 s.

Does not cover: drawings on an even ground, such as digits, which differ in few of the bits; mirrored, turned or
recoloured copies; copies inside one set.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from itertools import combinations

import numpy as np

MOST_BITS = 10
"""Bits of 128 in which near copies differ at most."""
_CELLS = 8
_AT_ONCE = 4096  # images whose cells are averaged, float32, at once
_PAIRS_AT_ONCE = 2**22
_SHOWN = 3
_BRIGHTER = 0.5  # grey levels, so that rounding decides no bit of an even area
_GREY = np.array([0.299, 0.587, 0.114], np.float32)


def hashes(pixels_NHWC: np.ndarray) -> np.ndarray:
    """Return uint64 [N, 2] of uint8 images."""
    parts = [_hashes(pixels_NHWC[i : i + _AT_ONCE]) for i in range(0, len(pixels_NHWC), _AT_ONCE)]
    return np.concatenate(parts) if parts else np.empty((0, 2), np.uint64)


def _hashes(pixels_NHWC: np.ndarray) -> np.ndarray:
    grey = pixels_NHWC.astype(np.float32) @ _GREY
    height, width = grey.shape[1:]
    across = _averages(height, _CELLS) @ grey @ _averages(width, _CELLS + 1).T
    down = _averages(height, _CELLS + 1) @ grey @ _averages(width, _CELLS).T
    brighter = [across[:, :, 1:] > across[:, :, :-1] + _BRIGHTER, down[:, 1:] > down[:, :-1] + _BRIGHTER]
    bits = np.concatenate([each.reshape(len(grey), -1) for each in brighter], 1)
    return np.ascontiguousarray(np.packbits(bits, axis=1)).view(np.uint64)


@cache
def _averages(pixels: int, cells: int) -> np.ndarray:
    """Return float32 [cells, pixels]: the share of each pixel in the mean of each cell."""
    edges = np.linspace(0, pixels, cells + 1)
    starts = np.arange(pixels)
    overlap = np.minimum(edges[1:, None], starts + 1) - np.maximum(edges[:-1, None], starts)
    return np.asarray(np.clip(overlap, 0, None) * cells / pixels, np.float32)


def near_copies(
    sets: Mapping[str, np.ndarray], hashes_NW: np.ndarray, words_N: np.ndarray, ids: Sequence[str]
) -> Iterator[str]:
    """Yield a line for each two sets with near copies: their number, and the first pairs.

    Args:
        sets: int64 indexes of each set.
        hashes_NW: uint64 [N, 2] of each image.
        words_N: uint64 of each image, equal for equal pixels.
        ids: id of each image.

    """
    uneven = {name: indexes[hashes_NW[indexes].any(1)] for name, indexes in sets.items()}
    for one, other in combinations(sets, 2):
        pairs = _pairs(uneven[other], uneven[one], hashes_NW)
        pairs = pairs[words_N[pairs[:, 0]] != words_N[pairs[:, 1]]]
        if len(pairs):
            count, total = len(np.unique(pairs[:, 0])), len(sets[other])
            shown = ", ".join(f"{ids[a]!r} and {ids[b]!r}" for a, b in pairs[:_SHOWN].tolist())
            more = ", ..." * (len(pairs) > _SHOWN)
            yield (
                f"data: {count:,} of {total:,} {other} images are nearly the same as images in {one} (at most "
                f"{MOST_BITS} of 128 bits of their hashes differ): {shown}{more}"
            )


def _pairs(first: np.ndarray, second: np.ndarray, hashes_NW: np.ndarray) -> np.ndarray:
    """Return int64 [P, 2]: the images of two sets whose hashes differ in few bits."""
    ours, theirs = hashes_NW[first], hashes_NW[second]
    step = max(1, _PAIRS_AT_ONCE // max(1, len(theirs)))
    found = [np.empty((0, 2), np.int64)]
    for start in range(0, len(ours), step):
        part = ours[start : start + step]
        bits = sum(count_bits(part[:, None, word] ^ theirs[None, :, word]) for word in range(2))
        rows, columns = np.nonzero(np.asarray(bits) <= MOST_BITS)
        found.append(np.stack([first[rows + start], second[columns]], 1))
    return np.concatenate(found)


def count_bits(words: np.ndarray) -> np.ndarray:
    """Return the number of ones in each uint64, as uint8; NumPy has a function for it from 2.0 on."""
    if hasattr(np, "bitwise_count"):
        return np.asarray(np.bitwise_count(words))
    table = np.array([bin(byte).count("1") for byte in range(256)], np.uint8)
    return np.asarray(table[words[..., None].view(np.uint8)].sum(-1, dtype=np.uint8))
