"""torchvision's transforms by name, for each image of a batch: `training.augment.transforms`.

    check_transforms(recipe.augment.transforms, image_size=32, where="training.augment.transforms")
    images_BHWC = transformed(images_BHWC, recipe.augment.transforms, seeds_B)

A transform gets one uint8 image [3, H, W] on the CPU and has to give another of the same shape. torchvision draws from
torch's global generator, which is seeded for each image from the run's own stream, so that a run gives the same images
on every device and worker, after any other runs. It costs 0.2 to 4 ms per image and core, and on a GPU a copy to
the CPU and back; crops and flips (`batches`) cost neither. Enumerations are named by their values: `interpolation:
bilinear`, `policy: cifar10`.

Does not cover: transforms that mix images or labels (MixUp, CutMix), sizes and types (`data.image_size`), and
normalisation (`data.normalize`).
"""

from __future__ import annotations

import functools
import inspect
import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from ray_unlearn.errors import StudyError, did_you_mean, first_line
from ray_unlearn.seeds import reseeding
from ray_unlearn.study.identity import canonical
from ray_unlearn.study.recipe import Transform, short_transform

_TRIED = 32  # images; one in ten is met with 97 %
_NESTED = "transforms"  # argument of RandomApply, RandomChoice, RandomOrder and Compose
_INSTEAD = {
    "Normalize": "data.normalize scales images",
    "ToDtype": "data.normalize scales images",
    "Resize": "data.image_size and data.resize set the size",
    "MixUp": "it mixes labels, which the objective does not take",
    "CutMix": "it mixes labels, which the objective does not take",
    "Lambda": "it needs a function, which no file states",
}


def transformed(images_BHWC: torch.Tensor, transforms: Sequence[Transform], seeds_B: torch.Tensor) -> torch.Tensor:
    """Return uint8 [B, H, W, 3] on the images' device, each image transformed with draws of its own."""
    apply, images_BCHW = _pipeline(_key(transforms)), images_BHWC.cpu().permute(0, 3, 1, 2)
    found = []
    with reseeding() as restart:
        for image, number in zip(images_BCHW, seeds_B.tolist(), strict=True):
            restart(number)
            found.append(apply(image))
    return torch.stack(found).permute(0, 2, 3, 1).contiguous().to(images_BHWC.device)


def check_transforms(transforms: Sequence[Transform], image_size: int, where: str) -> None:
    """Check that each transform exists, takes its arguments, and keeps the shape and type of an image.

    Args:
        transforms: in the order in which they are applied.
        image_size: pixels per side.
        where: key of the study, for messages.

    Raises:
        StudyError: one does not.

    """
    if transforms:
        try:
            _check(_key(transforms), image_size)
        except (_Refusal, ValueError, TypeError) as error:  # of canonical: a value that is no plain finite one
            raise StudyError(f"{where}: {error}") from None


class _Refusal(Exception):
    """Why a transform is refused; the caller knows the key."""


def _key(transforms: Sequence[Transform]) -> str:
    return canonical([one.model_dump() for one in transforms])


@functools.cache
def _check(key: str, image_size: int) -> None:
    """Apply each transform to a few images: to enough that one which is applied now and then is applied."""
    for one in json.loads(key):
        apply = _made(one)
        shape = _TRIED, 3, image_size, image_size
        images = torch.arange(math.prod(shape)).remainder(251).to(torch.uint8).view(shape)
        with reseeding() as restart:
            for number, image in enumerate(images):
                restart(number)
                _check_result(one["name"], apply, image)


def _check_result(name: str, apply: Callable[[torch.Tensor], Any], image: torch.Tensor) -> None:
    try:
        found = apply(image.clone())
    except Exception as error:  # a transform may raise anything
        raise _Refusal(f"{name} fails on an image: {first_line(error)}{_hint(name)}") from error
    if not isinstance(found, torch.Tensor) or found.shape != image.shape or found.dtype != torch.uint8:
        what = f"{found.dtype} {list(found.shape)}" if isinstance(found, torch.Tensor) else type(found).__name__
        expected = f"{str(image.dtype)[6:]} {list(image.shape)}"
        raise _Refusal(f"{name} gives {what.removeprefix('torch.')}; expected {expected}, as it gets{_hint(name)}")


def _hint(name: str) -> str:
    return f": {_INSTEAD[name]}" if name in _INSTEAD else ""


@functools.lru_cache(maxsize=8)
def _pipeline(key: str) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return the transforms, one after another."""
    steps = [_made(one) for one in json.loads(key)]

    def apply(image: torch.Tensor) -> torch.Tensor:
        for step in steps:
            image = step(image)
        return image

    return apply


def _made(one: Mapping[str, Any]) -> Any:
    """Return a transform of torchvision's.

    Raises:
        _Refusal: there is none of the name, or it does not take the arguments.

    """
    from torchvision.transforms import v2

    names = [name for name, each in vars(v2).items() if inspect.isclass(each) and issubclass(each, v2.Transform)]
    name, options = one["name"], dict(one["options"])
    if name not in names or name == "Transform":
        raise _Refusal(f"torchvision.transforms.v2 has no transform {name!r}{did_you_mean(name, names)}")
    if isinstance(options.get(_NESTED), list):
        parts = [Transform.model_validate(short_transform(each)) for each in options[_NESTED]]
        options[_NESTED] = [_made(part.model_dump()) for part in parts]
    try:
        return getattr(v2, name)(**{key: _enumerated(key, value) for key, value in options.items()})
    except Exception as error:  # a class may raise anything
        found = inspect.signature(getattr(v2, name))
        raise _Refusal(f"{name}: {first_line(error)}; it takes {found}{_hint(name)}") from error


def _enumerated(key: str, value: Any) -> Any:
    """Return the member of an enumeration of torchvision's that a text names."""
    from torchvision.transforms import v2

    kinds = {"interpolation": v2.InterpolationMode, "policy": v2.AutoAugmentPolicy}
    return kinds[key](value) if key in kinds and isinstance(value, str) else value
