"""Reading ahead: which stretches of memory are asked for, when, and how much memory there may be."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from samples import indices_of, numbered_pixels

from ray_unlearn.data import reading
from ray_unlearn.data.images import ImageSet, Pixels, Scaling
from ray_unlearn.data.reading import Reading, exceeds_memory, memory_limit
from ray_unlearn.study.recipe import Augment, Recipe
from ray_unlearn.study.shuffle import Shuffle
from ray_unlearn.training.batches import batches, draw


@pytest.fixture
def blocks() -> list[np.ndarray]:
    """Two shards of 30 and 20 images of 12 bytes."""
    return [np.zeros((n, 2, 2, 3), np.uint8) for n in (30, 20)]


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([], []),
        ([3], [(0, 36, 12)]),
        ([5, 3, 4], [(0, 36, 36)]),
        ([0, 8], [(0, 0, 108)]),  # seven between: read along
        ([0, 9], [(0, 0, 12), (0, 108, 12)]),
        ([29, 30, 31], [(0, 348, 12), (1, 0, 24)]),  # never across shards
        ([49], [(1, 228, 12)]),
    ],
)
def test_stretches_worked_by_hand(blocks, rows, expected):
    """Law: neighbours are one stretch, no matter what their order; a stretch is in one shard."""
    found = Reading(blocks).ranges(np.array(rows, np.int64))
    assert found == [(blocks[shard].ctypes.data + first, size) for shard, first, size in expected]


def asked(monkeypatch, pixels: Pixels) -> list[list[int]]:
    """Return a list that gets the rows of everything that is asked for."""
    found: list[list[int]] = []
    monkeypatch.setattr(pixels, "prefetch", lambda rows: found.append(rows.tolist()))
    return found


@pytest.fixture
def larger_than_memory(monkeypatch) -> None:
    """Every set is larger than memory."""
    monkeypatch.setattr("ray_unlearn.data.images.exceeds_memory", lambda size_bytes: True)


def epoch_of(pixels: Pixels, count: int = 24) -> list[int]:
    """Return the images of an epoch in batches of 4, as they were trained on."""
    images = ImageSet(pixels, np.arange(count), Scaling.of("raw"))
    epoch = draw(images, 4, Augment(), torch.Generator().manual_seed(0)).on_device_of(images)
    return [i for batch in batches(images, epoch, 4, Recipe()) for i in indices_of(batch.images)]


def test_a_full_shuffle_asks_one_batch_ahead(tmp_path, monkeypatch, larger_than_memory):
    """Law: before a batch is gathered, it was asked for a batch earlier; all are asked for once."""
    pixels = numbered_pixels(tmp_path, [0] * 24)
    found = asked(monkeypatch, pixels)
    order = epoch_of(pixels)
    assert found == [order[i : i + 4] for i in range(0, 24, 4)] + [[]]


def test_blocks_ask_one_window_ahead(tmp_path, monkeypatch, larger_than_memory):
    """Law: the first window at once, and then, batch by batch, as much of the next one in the order of the disk."""
    pixels = numbered_pixels(tmp_path, [0] * 24)
    pixels.shuffle = Shuffle(order="blocks", block_images=4, buffer_blocks=2)
    found = asked(monkeypatch, pixels)
    order = epoch_of(pixels)
    first, second, third = (sorted(order[i : i + 8]) for i in (0, 8, 16))
    assert found == [first, second[:4], second[4:], third[:4], third[4:], [], []]


def test_what_is_in_memory_is_not_asked_for(tmp_path, monkeypatch):
    """Law: a set that fits costs no call."""
    pixels = numbered_pixels(tmp_path, [0] * 24)
    found = asked(monkeypatch, pixels)
    epoch_of(pixels)
    assert not pixels.read_ahead
    assert found == []


def test_advice_changes_no_pixel(tmp_path, larger_than_memory):
    """Law: the same images come, read ahead or not."""
    rows = np.array([7, 0, 23, 12])
    pixels = numbered_pixels(tmp_path, list(range(24)))
    assert pixels.read_ahead
    assert indices_of(pixels.take(rows).permute(0, 3, 1, 2)) == rows.tolist()
    assert pixels.gather(rows)[:, 0, 0, 0].tolist() == rows.tolist()


def test_a_system_without_advice_reads_all_the_same(blocks, monkeypatch):
    """Law: where libc has no madvise, nothing is advised and nothing fails."""
    monkeypatch.setattr(reading, "madvise", lambda: None)
    Reading(blocks).prefetch(np.arange(50))


def groups(folder: Path, text: str, limits: dict[str, str]) -> tuple[Path, Path]:
    """Write a process's control groups, and limits below a root."""
    root = folder / "cgroup"
    for path, limit in limits.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(limit)
    (folder / "groups").write_text(text)
    return folder / "groups", root


@pytest.mark.parametrize(
    ("text", "limits", "expected"),
    [
        ("0::/a/b\n", {"a/memory.max": "5000\n", "a/b/memory.max": "max\n"}, 5000),
        ("0::/a/b\n", {"memory.max": "7000\n", "a/b/memory.max": "9000\n"}, 7000),
        ("0::/\n", {"memory.max": "6000\n"}, 6000),
        ("4:cpu,memory:/j\n0::/\n", {"memory/j/memory.limit_in_bytes": "4000\n"}, 4000),
        ("4:memory:/gone\n", {"memory/memory.limit_in_bytes": "3000\n"}, 3000),
    ],
)
def test_the_least_limit_of_all_groups_counts(tmp_path, text, limits, expected):
    """Law: version 1 and 2, the own group and those above, in a container (whose own group is the root) or not."""
    assert memory_limit(*groups(tmp_path, text, limits)) == expected


def test_without_groups_it_is_the_machines(tmp_path):
    """Law: where nothing limits, the machine's memory does; and a set of half of it is the largest that fits."""
    machine = memory_limit(tmp_path / "none", tmp_path)
    assert machine > 2**28
    assert machine == memory_limit(*groups(tmp_path, "0::/\n", {"memory.max": "max"}))
    assert exceeds_memory(machine)
    assert not exceeds_memory(2**20)
