"""What is said of the images before any work: near copies, groups in two sets, few images, lone last batches."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import TINY, merged
from PIL import Image
from samples import encoded

from ray_unlearn.data import near_copies
from ray_unlearn.data.copies import few_images, lone_batches, straddling
from ray_unlearn.data.near_copies import MOST_BITS, count_bits, hashes
from ray_unlearn.data.study_data import prepare_study
from ray_unlearn.errors import DataError
from ray_unlearn.evaluation.evaluate import evaluate
from ray_unlearn.generation import generate
from ray_unlearn.generation.prepare import prepare
from ray_unlearn.report.publish import render
from ray_unlearn.store import StudyStore, open_storage
from ray_unlearn.store.agreement import disagreements
from ray_unlearn.study import parse_study


def photograph(seed: int, size: int = 48) -> np.ndarray:
    """Return smooth noise, uint8 [size, size, 3]."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC))


def jpeg_again(pixels: np.ndarray) -> np.ndarray:
    return np.asarray(Image.fromarray(pixels).resize((40, 40)).resize((48, 48)))


def bits_between(one: np.ndarray, other: np.ndarray) -> int:
    ours, theirs = hashes(np.stack([one, other]))
    return int(count_bits(ours ^ theirs).sum())


def test_the_hash_is_of_the_picture_and_not_of_its_bytes():
    """Law: scaled, brighter and noisy copies are within the threshold; others are far; a hash by hand agrees."""
    first = photograph(0)
    noisy = np.clip(first + np.random.default_rng(1).normal(0, 2, first.shape), 0, 255).astype(np.uint8)
    brighter = np.clip(first * 0.8 + 20, 0, 255).astype(np.uint8)
    assert max(bits_between(first, other) for other in (jpeg_again(first), noisy, brighter)) <= MOST_BITS
    assert min(bits_between(first, photograph(seed)) for seed in range(1, 30)) > 3 * MOST_BITS
    ramp = np.broadcast_to(np.arange(72, dtype=np.uint8)[None, :, None], (72, 72, 3))
    (found,) = hashes(ramp[None])
    assert np.unpackbits(found.view(np.uint8)).tolist() == [1] * 64 + [0] * 64  # brighter to the right, not downwards


def test_bits_are_counted_without_numpys_own_function(monkeypatch):
    """Law: NumPy 1 counts as NumPy 2 does."""
    words = np.random.default_rng(0).integers(0, 2**63, (3, 4), dtype=np.int64).astype(np.uint64)
    expected = [[bin(int(word)).count("1") for word in row] for row in words]
    assert count_bits(words).tolist() == expected
    monkeypatch.delattr(np, "bitwise_count", raising=False)
    assert count_bits(words).tolist() == expected


@pytest.fixture(scope="module")
def faces(tmp_path_factory) -> Path:
    """Forty pictures in two classes; b/39 is a near copy of a/0, b/38 an equal one of a/1."""
    root = tmp_path_factory.mktemp("faces")
    pictures = [photograph(i) for i in range(38)] + [photograph(1), jpeg_again(photograph(0))]
    for i, pixels in enumerate(pictures):
        (root / "ab"[i >= 20]).mkdir(exist_ok=True)
        (root / "ab"[i >= 20] / f"{i}.png").write_bytes(encoded(pixels))
    return root


def warnings_of(faces: Path, folder: Path, **data: Any) -> tuple[str, ...]:
    tree = {"train": str(faces), "image_size": 32, "forget": {"ids": ["a/0.png", "a/1.png"]}, **data}
    study = parse_study({**TINY, "storage": str(folder), "data": tree}, where="x")
    return prepare_study(study, open_storage(str(folder))).warnings


def test_near_copies_are_named_on_request(faces: Path, tmp_path: Path, monkeypatch):
    """Law: their number and pairs with the threshold; equal pixels are the other warning's; strict refuses them."""
    monkeypatch.setattr("ray_unlearn.data.copies.FEW_IMAGES", 0)
    plain = warnings_of(faces, tmp_path)
    assert len(plain) == 1
    assert "1 of 2 forget images are pixel by pixel in retain too, such as 'a/1.png' and 'b/38.png'" in plain[0]
    near = warnings_of(faces, tmp_path, near_duplicates=True)
    assert near[:1] == plain
    assert near[1] == (
        "data: 1 of 2 forget images are nearly the same as images in retain (at most 10 of 128 bits of their hashes "
        "differ): 'a/0.png' and 'b/39.png'"
    )
    with pytest.raises(DataError, match=r"pixel by pixel .*\(and 1 more such"):
        warnings_of(faces, tmp_path, near_duplicates=True, strict=True)


def test_near_copies_are_looked_for_in_every_forget_set(faces: Path, tmp_path: Path):
    """Law: each of several sets divides the train images in its own way; one that parts a pair is named by number."""
    data = {"train": str(faces), "image_size": 32, "near_duplicates": True, "forget": {"fraction": 0.5, "sets": 6}}
    tree = {**merged(TINY, {"populations": {"finetune": {"count": 18}}}), "storage": str(tmp_path), "data": data}
    warnings = prepare_study(parse_study(tree, where="x"), open_storage(str(tmp_path))).warnings
    lines = [one for one in warnings if "nearly" in one]
    named = [one for one in lines if one.startswith("forget set ")]
    assert named
    assert all("'a/0.png'" in one and "'b/39.png'" in one for one in lines)


def test_black_is_no_near_copy_of_white():
    """Law: images of one colour have no bit set, so nothing is known of them; no image at all has no hash."""
    even = np.stack([np.full((32, 32, 3), grey, np.uint8) for grey in (0, 255)])
    hashed = hashes(np.concatenate([even, np.stack([photograph(0, 32), photograph(0, 32) // 2 + 60])]))
    words, ids = np.arange(4, dtype=np.uint64), list("abcd")
    assert list(near_copies.near_copies(sets_of(retain=[0], forget=[1]), hashed, words, ids)) == []
    (line,) = near_copies.near_copies(sets_of(retain=[0, 2], forget=[1, 3]), hashed, words, ids)
    assert line.startswith("data: 1 of 2 forget images are nearly the same as images in retain")
    assert hashes(np.empty((0, 32, 32, 3), np.uint8)).shape == (0, 2)


def test_pairs_do_not_depend_on_how_many_are_compared_at_once(monkeypatch):
    """Law: blocks of one image give the same pairs as all at once."""
    rng = np.random.default_rng(0)
    own = rng.integers(0, 2**63, (50, 2), dtype=np.int64).astype(np.uint64)
    own[30:] = own[:20] ^ np.uint64(0b111)
    sets = [np.arange(30), np.arange(30, 50)]
    whole = near_copies._pairs(*sets, own)
    monkeypatch.setattr(near_copies, "_PAIRS_AT_ONCE", 1)
    assert whole.tolist() == near_copies._pairs(*sets, own).tolist() == [[i, i + 30] for i in range(20)]


# Groups, few images, last batches.


def sets_of(**sets: list[int]) -> dict[str, np.ndarray]:
    names = ("retain", "forget", "validation", "test")
    return {name: np.array(sets.get(name, []), np.int64) for name in names}


def test_groups_in_two_sets_are_counted():
    """Law: forget with retain, validation and test; test with retain, which are another matter; none for no group."""
    groups = ["p0", "p0", "p1", "p1", "p2", "p2", "", ""]
    lines = list(straddling(sets_of(retain=[0, 2, 6], forget=[1, 4], validation=[5], test=[3, 7]), groups))
    assert [line.split(":")[1] for line in lines] == [
        " 1 of 2 groups in forget have images in retain too, such as 'p0'",
        " 1 of 2 groups in forget have images in validation too, such as 'p2'",
        " 1 of 1 groups in test have images in retain too, such as 'p1'",
    ]
    assert list(straddling(sets_of(retain=[0, 1], forget=[2, 3], test=[4, 5]), groups)) == []


@pytest.mark.parametrize(("count", "said"), [(1, "1 image: each is 100 %"), (12, "12 images: .* 8 % .* to 28 points")])
def test_few_images_to_forget_are_warned_of(count: int, said: str):
    """Law: 1.96 x 0.5 / sqrt(12) is 28.3 points; twenty images are enough to say nothing."""
    (line,) = few_images(sets_of(forget=list(range(count))))
    assert re.search(said, line)
    assert list(few_images(sets_of(forget=list(range(20))))) == []


def test_a_last_batch_of_one_image_is_found():
    """Law: of each loader, by its size modulo the batch."""
    sizes = {"retain": 65, "forget": 64, "validation": 1, "test": 65}
    assert [line.partition("the last batch of the ")[2].split()[0] for line in lone_batches("mine", 64, sizes)] == [
        "retain",
        "validation",
    ]


def test_warnings_reach_prepare_and_the_report(tmp_path: Path):
    """Law: what `prepare` warns of, `generate` saves with the splits and the report prints; strictness is no change."""
    script = tmp_path / "mine.py"
    script.write_text("def unlearning(net, retain_loader, forget_loader, val_loader):\n    pass\n")
    changes = {"storage": str(tmp_path), "populations": {"mine": {"method": f"{script}:unlearning", "batch_size": 8}}}
    study = parse_study(merged(TINY, changes), where="x")
    prepared = prepare(study, backend="inline")
    assert prepared.splits.sizes()["forget"] == 9
    found = prepared.warnings
    assert any(line.startswith("data.forget: 9 images: each is 11 %") for line in found)
    assert any(line.startswith("populations.mine: the last batch of the forget loader has one image") for line in found)
    retrained = {"retrained": {"method": "train", "on": "retain", "count": 3}}
    plain = parse_study(merged(TINY, {"storage": str(tmp_path), "populations": retrained}), where="x")
    assert generate(plain, backend="inline").exit_code == 0
    evaluate(plain, StudyStore(open_storage(str(tmp_path)), "tiny"))
    page = render(StudyStore(open_storage(str(tmp_path)), "tiny"), "markdown")
    assert "data.forget: 9 images: each is 11 % of every score" in page
    strict = plain.model_copy(update={"data": plain.data.model_copy(update={"strict": True})})
    assert disagreements(strict, StudyStore(open_storage(str(tmp_path)), "tiny")) == []
    with pytest.raises(DataError, match=r"^.*data\.strict: data\.forget: 9 images"):
        generate(strict, backend="inline")
