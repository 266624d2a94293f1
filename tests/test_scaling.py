"""Nets that scale images which the study has scaled: found by what their first layer gets."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from ray_unlearn.data.images import Scaling
from ray_unlearn.generation import open_job
from ray_unlearn.models import scaled_twice
from ray_unlearn.study import Study
from ray_unlearn.study.schema import Normalize

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
IMAGENET = Normalize(mean=list(MEAN), std=list(STD))


class Net(nn.Module):
    """A small net with something before its first layer."""

    def __init__(self, before: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.before = before
        self.layers = nn.Sequential(nn.Conv2d(3, 2, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 3))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.layers(self.before(images))


def by_255(images: torch.Tensor) -> torch.Tensor:
    return images / 255


def by_imagenet(images: torch.Tensor) -> torch.Tensor:
    return (images - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)


def of_imagenet(images: torch.Tensor) -> torch.Tensor:
    return images * torch.tensor(STD).view(3, 1, 1) + torch.tensor(MEAN).view(3, 1, 1)


def said(before: Callable[[torch.Tensor], torch.Tensor], normalize: str | Normalize) -> str | None:
    """Return what is said of a net and a study's scaling; images are random pixels."""
    scaling = Scaling.of(normalize)
    pixels_BHWC = torch.randint(0, 256, (2, 8, 8, 3), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    return scaled_twice(Net(before), scaling.apply(pixels_BHWC), scaling)


@pytest.mark.parametrize(
    ("before", "normalize"),
    [
        (nn.Identity(), "standard"),
        (nn.Identity(), "raw"),
        (nn.Identity(), IMAGENET),
        (by_255, "raw"),  # the study hands out pixels, the net scales them
        (by_imagenet, "unit"),
        (lambda images: by_imagenet(images / 255), "raw"),
        (lambda images: images - 255 * torch.tensor(MEAN).view(3, 1, 1), "raw"),  # Caffe's, without a deviation
        (lambda images: 255 * (images - torch.tensor(MEAN).view(3, 1, 1)), "unit"),
        (of_imagenet, IMAGENET),  # undoes the study's scaling
        (lambda images: 255 * of_imagenet(images), IMAGENET),
        (lambda images: (of_imagenet(images) - 0.5) / 0.5, IMAGENET),  # torchvision's transform_input
        (nn.BatchNorm2d(3), "standard"),  # begins with what it learns
        (nn.AvgPool2d(2), "standard"),  # other images, which no factor explains
        (lambda images: images.flip(3) / 255, "unit"),
    ],
)
def test_images_that_are_scaled_once(before, normalize):
    """Law: nothing is said where one of the two scales, or where it cannot be told."""
    assert said(before, normalize) is None


@pytest.mark.parametrize(
    ("before", "normalize", "expected"),
    [
        (by_255, "unit", "by a factor of 0.00392, so that black to white is 0 to 0.00392 at its first layer, and data"),
        (
            by_255,
            "standard",
            "black to white is -0.00784 to 0.00784 at its first layer, and data.normalize makes it -2 t",
        ),
        (by_imagenet, IMAGENET, "by a factor of 4.43, so that black to white is -10.8 to 8.81 at its first layer"),
        (by_imagenet, "standard", "by a factor of 4.43, so that black to white is -10.8 to 6.86 at its first layer"),
        (
            by_imagenet,
            "raw",
            "black to white is -1.99 to 1.13e+03 at its first layer, and data.normalize makes it 0 to 255",
        ),
        (lambda images: 2 * images - 1, "standard", "black to white is -5 to 3 at its first layer"),
        (lambda images: 2 * images - 1, Normalize(mean=[0.5] * 3, std=[0.5] * 3), "black to white is -3 to 1 at its f"),
        (lambda images: 2 * images - 1, "raw", "black to white is -1 to 509 at its first layer"),
    ],
)
def test_images_that_are_scaled_twice(before, normalize, expected):
    """Law: the factor, and what black and white are: -1.99 = -mean(mean / std), 1130 = mean(255 / std) - 1.99, and
    -10.8 = mean((-2 - mean) / std)."""
    line = said(before, normalize)
    assert line is not None
    assert expected in line
    assert line.endswith("scale in one of the two: data.normalize: raw hands out 0..255, and unit 0..1")


def test_a_study_says_so_before_any_run(tmp_path: Path, tiny: Callable[..., Study]):
    """Law: where a factory's net divides by 255 in a study whose images are scaled, a line names the net."""
    (tmp_path / "scales.py").write_text(
        "from torch import nn\n\nclass Scales(nn.Sequential):\n    def forward(self, x):\n"
        "        return super().forward(x / 255)\n\ndef net(num_classes):\n"
        "    return Scales(nn.Conv2d(3, 2, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, num_classes))\n"
    )
    made = tiny(model={"arch": "scales:net", "options": None})
    study = made.model_copy(update={"model": made.model.with_folder(str(tmp_path))})
    assert any(
        line.startswith("model scales:net: its forward scales images as well") for line in open_job(study).remarks
    )
