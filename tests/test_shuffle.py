"""`data.shuffle`: what an order in blocks promises, and that nothing but the order changes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from samples import indices_of, numbered_pixels, run_data

from ray_unlearn.data.images import ImageSet, Scaling
from ray_unlearn.data.order import draw_order, reading_order
from ray_unlearn.data.study_data import prepare_study
from ray_unlearn.seeds import Seeds
from ray_unlearn.store.filesystem import open_storage
from ray_unlearn.study.recipe import Augment, Recipe
from ray_unlearn.study.shuffle import Shuffle
from ray_unlearn.training.batches import Stream, draw

BLOCKS = Shuffle(order="blocks", block_images=4, buffer_blocks=3)


def generator(seed: int = 0) -> torch.Generator:
    """Return a seeded generator."""
    return torch.Generator().manual_seed(seed)


def in_blocks(folder, count: int, shuffle: Shuffle = BLOCKS) -> ImageSet:
    """Return numbered images that come in blocks."""
    pixels = numbered_pixels(folder, [i % 3 for i in range(count)])
    pixels.shuffle = shuffle
    return ImageSet(pixels, np.arange(count), Scaling.of("raw"))


@pytest.mark.parametrize("count", [0, 1, 3, 4, 11, 12, 13, 48, 50])
def test_every_image_comes_once(count):
    """Law: an order in blocks is a permutation, also where the last block and the last window are short."""
    assert sorted(draw_order(count, BLOCKS, generator()).tolist()) == list(range(count))


def test_full_is_torchs_permutation():
    """Law: the default gives the orders that studies had before it had a name."""
    assert torch.equal(draw_order(50, Shuffle(), generator(3)), torch.randperm(50, generator=generator(3)))


def test_a_window_holds_whole_blocks():
    """Law: every 12 images of the order are three whole blocks of four: three stretches of the disk serve them."""
    order = draw_order(48, BLOCKS, generator()).tolist()
    for start in range(0, 48, 12):
        window = sorted(order[start : start + 12])
        blocks = sorted({i // 4 for i in window})
        assert window == [4 * block + i for block in blocks for i in range(4)]


def test_a_window_is_mixed_completely():
    """Law: in one window every image takes every place equally often: 12 images, 2400 orders, 200 each (sd 13.5)."""
    one, stream = Shuffle(order="blocks", block_images=4, buffer_blocks=3), generator()
    counts = np.zeros((12, 12), int)
    for _ in range(2400):
        counts[np.arange(12), draw_order(12, one, stream).numpy()] += 1
    assert abs(counts - 200).max() < 5 * 13.5


def test_a_block_larger_than_the_set_is_the_set():
    """Law: ten million million images a block draw what twelve do, of twelve; of no image nothing."""
    vast, twelve = (Shuffle(order="blocks", block_images=size) for size in (10**13, 12))
    assert draw_order(12, vast, generator()).tolist() == draw_order(12, twelve, generator()).tolist()
    assert draw_order(0, vast, generator()).tolist() == []


def test_any_blocks_meet():
    """Law: which blocks share a window is drawn anew: of 12 blocks in windows of 3, two share one in 2 of 11 epochs."""
    stream, together = generator(), 0
    for _ in range(1100):
        place = draw_order(48, BLOCKS, stream).argsort() // 12
        together += int(place[0] == place[47])
    assert abs(together - 200) < 5 * 12.8  # binomial: sd of 1100 at 2/11


def test_the_stated_quality_on_a_sorted_set():
    """Law: sorted by class, a batch's count of a class varies 1 + (B - 1) / buffer_blocks times as under `full`."""
    count, batch = 40_000, 32
    labels = np.arange(count) // (count // 2)
    shuffle = Shuffle(order="blocks", block_images=20, buffer_blocks=16)
    stream = generator()
    shares = [
        labels[draw_order(count, shuffle, stream).numpy()].reshape(-1, batch).sum(1) for _ in range(8)
    ]  # 10,000 batches
    inflation = np.var(np.concatenate(shares)) / (batch / 4)
    assert inflation == pytest.approx(1 + (batch - 1) / 16, rel=0.06)


def test_what_is_read_ahead_is_each_windows_images_in_order():
    """Law: reading ahead permutes inside windows only, and sorts there; a full shuffle is read as it comes."""
    rows = np.array([5, 3, 4, 1, 9, 0, 2])
    two = Shuffle(order="blocks", block_images=2, buffer_blocks=2)
    assert reading_order(rows, two).tolist() == [1, 3, 4, 5, 0, 2, 9]
    assert reading_order(rows, Shuffle()).tolist() == rows.tolist()


def test_training_obeys_the_studys_order(tmp_path):
    """Law: draws of an epoch, and of an endless stream, come in blocks; the pixels are those of the rows drawn."""
    images = in_blocks(tmp_path, 48)
    rows = draw(images, 8, Augment(), generator()).rows_N.tolist()
    assert rows == draw_order(48, BLOCKS, generator()).tolist()
    stream = Stream(images, 8, Recipe(), generator())
    assert [i for _ in range(6) for i in indices_of(stream.batch().images)] == rows


def test_a_part_of_an_epoch_is_its_beginning(tmp_path):
    """Law: two steps of a fractional epoch see the first two batches of the whole one."""
    images = in_blocks(tmp_path, 48)
    whole, part = (draw(images, 8, Augment(), generator(), steps) for steps in (None, 2))
    assert part.rows_N.tolist() == whole.rows_N[:16].tolist()


def test_blocks_are_of_the_set_not_of_the_source(tmp_path):
    """Law: no forget image comes with a retain batch: blocks hold images that follow one another in the set."""
    data = run_data(tmp_path, retain=20, forget=6)
    data.retain.pixels.shuffle = Shuffle(order="blocks", block_images=16, buffer_blocks=2)
    for images, expected in ((data.retain, range(20)), (data.forget, range(20, 26))):
        assert sorted(draw(images, 4, Augment(), generator()).rows_N.tolist()) == list(expected)


def test_full_is_no_part_of_an_identity_and_blocks_are(tiny, tmp_path):
    """Law: a study that reports nothing keeps its digests; block size and buffer change results, so they change
    them.
    """
    storage = open_storage(str(tmp_path))

    def identity(**data) -> dict:
        return dict(prepare_study(tiny(data=data), storage).identity)

    plain = identity()
    assert "shuffle" not in plain
    assert identity(shuffle="full") == plain
    blocks = identity(shuffle="blocks")
    assert blocks == plain | {"shuffle": {"order": "blocks", "block_images": 128, "buffer_blocks": 64}}
    assert identity(shuffle={"order": "blocks", "block_images": 64}) != blocks


def test_numbers_of_blocks_need_blocks():
    """Law: what would be ignored is refused."""
    with pytest.raises(ValidationError, match="block_images belong to"):
        Shuffle(block_images=8)


def test_scripts_loaders_come_in_blocks_too(tmp_path):
    """Law: the loaders that a script gets follow the study's order."""
    from ray_unlearn.methods.script import ScriptOptions, _loaders

    data = run_data(tmp_path, retain=40)
    data.retain.pixels.shuffle = BLOCKS
    seeds = Seeds(study=0, population="script")
    retain = _loaders(data, ScriptOptions(batch_size=8), seeds)[0]
    epochs = [[int(v) for batch in retain for v in batch["image"][:, 0, 0, 0]] for _ in range(2)]
    assert epochs[0] != epochs[1]
    for order in epochs:
        assert sorted(order) == list(range(40))
        assert len({i // 4 for i in order[:12]}) == 3
