"""Embedded sets: digits without a network, CIFAR-10 from a local copy or a refusal."""

from __future__ import annotations

import hashlib
import pickle
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
from samples import column, decoded, prepare, rows_of
from sklearn.datasets import load_digits
from torchvision.datasets import CIFAR10
from torchvision.datasets import utils as torchvision_utils

from ray_unlearn.data.embedded import open_cifar10, open_digits
from ray_unlearn.errors import DataError


def test_digits_are_scikit_learns(tmp_path):
    """Law: every fifth image is a test image; 17 grey levels spread over 0..255, nothing lost, nothing twice."""
    known = load_digits()
    prepared = {part: prepare(open_digits(part), tmp_path / "store") for part in ("train", "test")}
    ids = {part: column(prepared[part], "image_id") for part in prepared}
    assert (len(ids["train"]), len(ids["test"])) == (1437, 360)
    assert sorted(ids["train"] + ids["test"]) == [f"digits-{i:04d}" for i in range(1797)]
    for part, these in prepared.items():
        index = [int(image_id.removeprefix("digits-")) for image_id in ids[part]]
        assert all((i % 5 == 0) == (part == "test") for i in index)
        assert column(these, "label") == known.target[index].tolist()
        pixels = decoded(these)
        assert np.array_equal(np.round(pixels[:, :, :, 0] * (16 / 255)), known.images[index])
        assert np.array_equal(pixels[:, :, :, 0], pixels[:, :, :, 2])
    assert prepared["train"].manifest.class_names == tuple("0123456789")


@pytest.mark.parametrize("part", ["train", "test"])
def test_the_announced_number_of_digits_is_true(part):
    """Law: num_rows is what the slices yield; the two parts are different sources."""
    source = open_digits(part)
    assert len(rows_of(source)) == source.num_rows
    assert open_digits("train").fingerprint != open_digits("test").fingerprint


def test_cifar10_without_a_network_is_refused(tmp_path, monkeypatch):
    """Law: the refusal names the folder, the reason, and the way out."""

    def no_network(*args, **kwargs):
        raise URLError("Name or service not known")

    monkeypatch.setattr(torchvision_utils, "_urlretrieve", no_network)
    with pytest.raises(DataError) as caught:
        open_cifar10(str(tmp_path), "train")
    message = str(caught.value)
    assert message.startswith(f"cifar10: not in {tmp_path}, and the download failed (")
    assert "Name or service not known" in message
    assert message.endswith("put cifar-10-batches-py there, or name Parquet files instead")


def small_cifar10(root: Path, monkeypatch) -> np.ndarray:
    """Write a CIFAR-10 of 3 + 2 images in its original files; return their pixels."""
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)

    def write(name: str, content: dict) -> str:
        data = pickle.dumps(content)
        (folder / name).write_bytes(data)
        return hashlib.md5(data, usedforsecurity=False).hexdigest()

    def batch(name: str, part: slice) -> tuple[str, str]:
        flat = pixels[part].transpose(0, 3, 1, 2).reshape(-1, 3072)
        return name, write(name, {"data": flat, "labels": list(range(5))[part]})

    names = ["plane", "car", "bird", "cat", "deer"]
    monkeypatch.setattr(CIFAR10, "train_list", [batch("data_batch_1", slice(0, 3))])
    monkeypatch.setattr(CIFAR10, "test_list", [batch("test_batch", slice(3, 5))])
    md5 = write("batches.meta", {"label_names": names})
    monkeypatch.setattr(CIFAR10, "meta", {"filename": "batches.meta", "key": "label_names", "md5": md5})
    return pixels


def test_cifar10_from_a_local_copy(tmp_path, monkeypatch):
    """Law: where the files are, nothing is downloaded, and pixels, labels and names are theirs."""
    pixels = small_cifar10(tmp_path / "root", monkeypatch)
    monkeypatch.setattr(torchvision_utils, "_urlretrieve", lambda *a, **k: pytest.fail("went to the network"))
    train = prepare(open_cifar10(str(tmp_path / "root"), "train"), tmp_path / "store", image_size=32)
    test = prepare(open_cifar10(str(tmp_path / "root"), "test"), tmp_path / "store", image_size=32)
    assert np.array_equal(decoded(train), pixels[:3])
    assert np.array_equal(decoded(test), pixels[3:])
    assert (column(train, "label"), column(test, "label")) == ([0, 1, 2], [3, 4])
    assert column(test, "image_id") == ["cifar10-test-00000", "cifar10-test-00001"]
    assert train.manifest.class_names == ("plane", "car", "bird", "cat", "deer")


def test_a_damaged_cifar10_is_not_unpickled(tmp_path, monkeypatch):
    """Law: files whose md5 is not the published one are never opened."""
    small_cifar10(tmp_path, monkeypatch)
    (tmp_path / "cifar-10-batches-py" / "data_batch_1").write_bytes(b"cos\nsystem\n(S'false'\ntR.")
    monkeypatch.setattr(torchvision_utils, "_urlretrieve", lambda *a, **k: (_ for _ in ()).throw(URLError("offline")))
    with pytest.raises(DataError, match="the download failed"):
        open_cifar10(str(tmp_path), "train")
