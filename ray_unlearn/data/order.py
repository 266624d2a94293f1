"""The order of an epoch, drawn from a generator on the CPU.

    order_N = draw_order(len(images), Shuffle(order="blocks"), generator)     # a permutation, int64
    ahead_N = reading_order(images.indices[order_N], shuffle)                 # the same rows, ordered for reading

Does not cover: properties of the shuffles (`ray_unlearn.study.shuffle`), augmentation (`training.batches`).
"""

from __future__ import annotations

import numpy as np
import torch

from ray_unlearn.study.shuffle import Shuffle


def draw_order(count: int, shuffle: Shuffle, generator: torch.Generator) -> torch.Tensor:
    """Return a permutation of 0..count-1, int64.

    `blocks` draws the order of the blocks, then one order per window of mixed images, window by window.
    """
    if not shuffle.window:
        return torch.randperm(count, generator=generator)
    block = min(shuffle.block_images, max(count, 1))  # a block larger than the set is the set
    blocks_K = torch.randperm(-(-count // block), generator=generator)
    inside = (blocks_K[:, None] * block + torch.arange(block)).flatten()
    windows = torch.split(inside[inside < count], shuffle.window)
    return torch.cat([window[torch.randperm(len(window), generator=generator)] for window in windows])


def reading_order(rows_N: np.ndarray, shuffle: Shuffle) -> np.ndarray:
    """Return an epoch's rows in the best order for reading: sorted within each window, so that blocks are whole."""
    if not shuffle.window:
        return rows_N
    parts = [np.sort(rows_N[start : start + shuffle.window]) for start in range(0, len(rows_N), shuffle.window)]
    return np.concatenate(parts)
