"""Mapped shards as one index, scaling on the device, and the walls between the sets."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from samples import numbered_pixels, picture, run_data

from ray_unlearn.data.images import ImageSet, Pixels, Scaling
from ray_unlearn.data.shards import Example, encode_shard, map_shard
from ray_unlearn.data.study_data import prepare_study
from ray_unlearn.store.filesystem import open_storage
from ray_unlearn.study.schema import Normalize

CPU = torch.device("cpu")


def test_gathering_across_shards_is_indexing_a_concatenation(tmp_path):
    """Law: no matter what the shard sizes, the order and the repetitions, gather(i) is the i-th image of all."""
    sizes, shards, start = [1, 4, 2, 5], [], 0
    for size in sizes:
        examples = [Example(picture(i), i % 3, f"i{i}", "", 0.0, "") for i in range(start, start + size)]
        path = tmp_path / f"{start}.arrow"
        path.write_bytes(encode_shard(examples))
        shards.append(map_shard(str(path)))
        start += size
    pixels = Pixels(shards, CPU)
    everything = np.stack([picture(i) for i in range(12)])
    rng = np.random.default_rng(0)
    for indices in ([0], [11], [0, 1, 4, 5, 6, 7, 11], [11, 0, 11, 5], [], rng.integers(0, 12, 50)):
        chosen = np.array(indices, dtype=np.int64)
        assert np.array_equal(pixels.gather(chosen), everything[chosen])
        assert np.array_equal(pixels.take(chosen).numpy(), everything[chosen])
        assert pixels.labels(chosen).tolist() == (chosen % 3).tolist()
    assert (len(pixels), pixels.image_size, pixels.ids[7]) == (12, 8, "i7")


def test_a_gathered_batch_is_a_copy(tmp_path):
    """Law: changing a batch changes no image: the shards are read-only views."""
    pixels = numbered_pixels(tmp_path, [0, 1, 0, 1])
    batch = pixels.gather(np.array([2]))
    before = batch.copy()
    batch += 1
    assert np.array_equal(pixels.gather(np.array([2])), before)
    assert all(not block.flags.owndata for block in pixels._blocks)


@pytest.mark.parametrize(
    ("normalize", "expected"),
    [
        ("raw", [0.0, 51.0, 255.0]),
        ("unit", [0.0, 0.2, 1.0]),
        ("standard", [-2.0, -1.2, 2.0]),  # (0.2 - 0.5) / 0.25 = -1.2
        (Normalize(mean=(0.2, 0.0, 1.0), std=(0.4, 0.5, 2.0)), [-0.5, 0.4, 0.0]),  # (x - mean) / std by channel
    ],
)
def test_scaling_worked_by_hand(normalize, expected):
    """Law: pixels 0, 51 and 255 in the channels red, green and blue."""
    images = torch.tensor([0, 51, 255], dtype=torch.uint8).reshape(1, 1, 1, 3)
    scaled = Scaling.of(normalize).apply(images)
    assert (scaled.dtype, scaled.shape) == (torch.float32, (1, 3, 1, 1))
    assert torch.allclose(scaled.flatten(), torch.tensor(expected), atol=1e-6)


def test_scaling_moves_channels_and_nothing_else():
    """Law: raw scaling is the identity but for the axes; height and width do not change places."""
    images = torch.from_numpy(np.stack([picture(i, 4, 6) for i in range(2)]))
    scaled = Scaling.of("raw").apply(images)
    assert scaled.shape == (2, 3, 4, 6)
    assert torch.equal(scaled, images.permute(0, 3, 1, 2).float())


def test_an_image_set_is_its_indices(tmp_path):
    """Law: position p of a set is image indices[p], for pixels and labels alike."""
    pixels = numbered_pixels(tmp_path, [i % 3 for i in range(10)])
    images = ImageSet(pixels, np.array([8, 1, 4]), Scaling.of("raw"))
    batch, labels = images.batch(np.array([2, 0]))
    assert batch[:, 0, 0, 0].tolist() == [4.0, 8.0]
    assert labels.tolist() == [1, 2]
    assert (len(images), images.labels_N.tolist()) == (3, [2, 1, 1])
    assert torch.equal(images.raw(np.array([1])), torch.from_numpy(pixels.gather(np.array([1]))))


def test_every_column_comes_along(tmp_path):
    """Law: ids, groups, ages and given sets have the images' order, across shards."""
    pixels = numbered_pixels(tmp_path, [0] * 5)
    assert pixels.ids == [f"image-{i:03d}" for i in range(5)]
    assert pixels.groups == ["p0", "p0", "p1", "p1", "p2"]
    assert pixels.ages_N.tolist() == [20.0, 21.0, 22.0, 23.0, 24.0]
    assert pixels.given == [""] * 5


@pytest.mark.parametrize("test", ["digits", 0.3])
def test_a_run_never_sees_a_test_image(tiny, tmp_path, test):
    """Law: a study's retain, forget, train and validation sets hold no test index and no test id."""
    study = tiny(data={"test": test, "validation": 0.2})
    data = prepare_study(study, open_storage(study.storage))
    pixels, sets = data.open(CPU), data.splits.sets
    tested = {pixels.ids[i] for i in sets["test"]}
    seen = {pixels.ids[i] for name in ("retain", "forget", "validation") for i in sets[name]}
    seen |= {pixels.ids[i] for i in data.splits.train}
    assert len(tested) == len(sets["test"]) > 0
    assert not tested & seen
    if test == "digits":
        assert all(int(name.removeprefix("digits-")) % 5 == 0 for name in tested)
        assert all(int(name.removeprefix("digits-")) % 5 for name in seen)


def test_a_run_has_no_test_set(tmp_path):
    """Law: there is no field of RunData by which a method could ask for test images."""
    data = run_data(tmp_path)
    assert not hasattr(data, "test")
    assert set(type(data).__slots__) == {
        "train", "retain", "forget", "validation", "num_classes", "device", "on_epoch", "engines", "on_images",
        "resuming", "slot",
    }  # fmt: skip
