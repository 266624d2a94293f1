"""torchvision's transforms by name in `training.augment`: the same images for the same run, refusals before work."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from conftest import TINY, merged
from samples import run_data

from ray_unlearn.data.images import ImageSet
from ray_unlearn.errors import StudyError
from ray_unlearn.generation import generate
from ray_unlearn.methods.resolve import resolve
from ray_unlearn.study import Study, parse_study
from ray_unlearn.study.identity import identity_of
from ray_unlearn.study.recipe import Augment, Recipe
from ray_unlearn.training.batches import batches, draw

JITTER = {"ColorJitter": {"brightness": 0.5}}


def study_of(*transforms: Any, **training: Any) -> Study:
    augment = {"transforms": list(transforms)}
    return parse_study(merged(TINY, {"training": {"augment": augment, **training}}), where="x")


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> ImageSet:
    """Six images."""
    return run_data(tmp_path_factory.mktemp("images"), retain=6).retain


def drawn(images: ImageSet, how: Augment, seed: int = 0, batch_size: int = 3) -> list[torch.Tensor]:
    """Return an epoch's batches."""
    recipe = Recipe(augment=how, batch_size=batch_size)
    epoch = draw(images, batch_size, how, torch.Generator().manual_seed(seed))
    return [batch.images for batch in batches(images, epoch, batch_size, recipe)]


def test_transforms_follow_the_runs_stream_alone(images):
    """Law: the same generator gives the same images, whatever the global one; another gives others; none is touched."""
    how = Augment(transforms=[JITTER, "RandomErasing"])
    torch.manual_seed(1)
    before, first = torch.get_rng_state(), drawn(images, how)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert all(map(torch.equal, first, drawn(images, how)))
    assert not any(map(torch.equal, first, drawn(images, how, seed=1)))
    plain = drawn(images, Augment())
    assert not any(map(torch.equal, first, plain))
    assert [batch.shape for batch in first] == [batch.shape for batch in plain]


def test_each_image_has_draws_of_its_own(images):
    """Law: equal images of a batch come out different."""
    same = images.subset(np.full(8, 5))
    how = Augment(transforms=[JITTER])
    epoch = draw(same, 8, how, torch.Generator().manual_seed(0))
    (batch,) = batches(same, epoch, 8, Recipe(augment=how, batch_size=8))
    assert len({image.numpy().tobytes() for image in batch.images}) == 8


def test_crops_and_flips_are_what_they_were_without_transforms(images):
    """Law: without transforms nothing more is drawn, and the option is in no identity."""
    generator, other = torch.Generator().manual_seed(0), torch.Generator().manual_seed(0)
    draw(images, 3, Augment(crop=1, flip=True), generator)
    torch.randperm(6, generator=other)
    for _ in range(2):
        torch.randint(0, 3, (2, 3), generator=other)
        torch.rand(3, generator=other)
    assert torch.equal(generator.get_state(), other.get_state())
    assert identity_of(Augment(crop=1)) == {"crop": 1, "flip": False}
    assert identity_of(Augment(transforms=[JITTER]))["transforms"] == [
        {"name": "ColorJitter", "options": {"brightness": 0.5}}
    ]


@pytest.mark.parametrize(
    ("transform", "message"),
    [
        ("RandAugmentt", r"v2 has no transform 'RandAugmentt' \(did you mean 'RandAugment'\?\)"),
        ({"ColorJitter": {"brightnes": 1}}, r"ColorJitter: .*brightnes.*; it takes \(brightness"),
        ({"Resize": {"size": 4}}, r"Resize gives uint8 \[3, 4, 4\]; expected uint8 \[3, 8, 8\], as it gets: data"),
        ({"ToDtype": {"dtype": 1}}, "ToDtype.*data.normalize scales images"),
        ("Lambda", "Lambda: .*it needs a function"),
        ({"RandomAffine": {"degrees": 5, "interpolation": "cubical"}}, "RandomAffine: 'cubical' is not a valid"),
        ({"RandomApply": {"transforms": ["Nope"]}}, "v2 has no transform 'Nope'"),
        ({"RandomApply": {"transforms": ["Grayscale"], "p": 0.1}}, r"RandomApply gives uint8 \[1, 8, 8\]"),
        ({"ColorJitter": {"brightness": float("nan")}}, "not JSON compliant|brightness"),
    ],
)
def test_what_is_no_transform_of_an_image_is_refused(transform: Any, message: str):
    """Law: an unknown name, an argument that it lacks, another size or type: one line with the key, before any work."""
    with pytest.raises(StudyError, match=rf"^training\.augment\.transforms: .*({message})"):
        resolve(study_of(transform), "original")


def test_a_populations_own_transforms_are_named_as_its():
    """Law: the key in the message is the one that states them."""
    own = {"populations": {"finetune": {"method": "finetune", "augment": {"transforms": ["Nope"]}}}}
    with pytest.raises(StudyError, match=r"^populations\.finetune\.augment\.transforms: .*'Nope'"):
        resolve(parse_study(merged(TINY, own), where="x"), "finetune")


def test_a_study_with_transforms_is_made_twice_alike(tmp_path):
    """Law: the same bytes in another store; the run's images come from its own stream, so other runs differ."""
    made = []
    for name in ("one", "two"):
        nested = {"RandomApply": {"transforms": [JITTER, "RandomGrayscale"], "p": 0.5}}
        study = study_of({"RandomRotation": {"degrees": 10, "interpolation": "bilinear"}}, nested)
        study = study.model_copy(update={"storage": str(tmp_path / name)})
        assert generate(study, backend="inline").exit_code == 0
        runs = sorted((tmp_path / name).glob("tiny/*/*/model.safetensors"))
        made.append({str(run.relative_to(tmp_path / name)): run.read_bytes() for run in runs})
    assert made[0] == made[1]
    assert len(made[0]) == len({*made[0].values()}) == 4
