"""Boundary shrink: the labels after a step by hand, and that only relabelled forget images are trained on."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from nets import Linear
from samples import run_data, same_weights
from torch import nn
from torch.nn import functional as F  # noqa: N812 - its usual name

from ray_unlearn import models
from ray_unlearn.data.images import ImageSet, Pixels, Scaling
from ray_unlearn.methods.boundary_shrink import BoundaryShrinkOptions, boundary_shrink, nearest_class
from ray_unlearn.seeds import Seeds
from ray_unlearn.study.schema import Model

RNG = Seeds(study=0, population="test")
PLAIN = {"epochs": 1.0, "momentum": 0.0, "weight_decay": 0.0, "schedule": "constant"}


def others(epsilon: float) -> BoundaryShrinkOptions:
    """Return options by which no image keeps its class, and no moved pixel is clamped."""
    return BoundaryShrinkOptions(epsilon=epsilon, exclude_own=True, clamp=False)


class Mean(nn.Module):
    """Logits that are straight lines in the mean pixel, so that the nearest class depends on where it goes."""

    def __init__(self, weights, biases):
        super().__init__()
        self.layer = nn.Linear(1, len(biases))
        with torch.no_grad():
            self.layer.weight.copy_(torch.tensor(weights)[:, None])
            self.layer.bias.copy_(torch.tensor(biases))

    def forward(self, images):
        return self.layer(images.flatten(1).mean(1, keepdim=True))


def grey(values, labels, scaling):
    """Return images of one grey value each."""
    pixels = object.__new__(Pixels)
    pixels.device, pixels.labels_N = torch.device("cpu"), np.array(labels)
    blocks = np.broadcast_to(np.array(values, np.uint8)[:, None, None, None], (len(values), 2, 2, 3)).copy()
    pixels._blocks, pixels._starts, pixels.resident = [blocks], np.array([0, len(values)]), None
    pixels._labels = torch.tensor(labels)
    return ImageSet(pixels, np.arange(len(values)), Scaling.of(scaling))


@pytest.mark.parametrize(("scaling", "unit"), [("raw", 255.0), ("unit", 1.0), ("standard", 4.0)])
@pytest.mark.parametrize(("epsilon", "expected"), [(0.0, [1, 0, 1]), (0.1, [1, 0, 1]), (0.3, [2, 0, 1])])
def test_the_step_decides_by_hand(scaling, unit, epsilon, expected):
    """Law: epsilon is a share of the pixel range no matter what the scaling; the own class is never the label.

    Over the range 0..1 the logits are 0, 5 t - 2 and 25 t - 10: at t = 0.2 class 0 leads 1 (-1) and 2 (-5). Up its
    loss is to brighter pixels: at 0.3 the others are at -0.5 and -2.5, at 0.5 they are at 0.5 and 2.5. At t = 0.8
    class 2 (10) leads 1 (2) and 0; down by 0.3, 1 (0.5) leads 0 still. The image of class 1 at t = 0.2 goes down.
    """
    images = grey([51, 51, 204], [0, 1, 2], scaling)
    shift = -2.0 if scaling == "standard" else 0.0
    weights, biases = [0.0, 5.0 / unit, 25.0 / unit], [0.0, -2.0, -10.0]
    biases = [bias - weight * shift for bias, weight in zip(biases, weights, strict=True)]
    assert nearest_class(Mean(weights, biases), images, others(epsilon)).tolist() == expected


@pytest.mark.parametrize(
    ("epsilon", "exclude_own", "expected"),
    [(0.05, False, [0, 1]), (0.05, True, [1, 0]), (0.2, False, [1, 1]), (0.2, True, [1, 0])],
)
def test_an_image_may_keep_its_class(epsilon, exclude_own, expected):
    """Law: the label is what the original states of the moved image, its own class included, as in the authors' code.

    Logits 0 and t - 0.5 over the range 0..1: the image at 0.4 of class 0 goes up to 0.45, or over the boundary to 0.6;
    the one at 0.8 of class 1 goes down to 0.75 or 0.6 and stays on its side.
    """
    images = grey([102, 204], [0, 1], "unit")
    options = BoundaryShrinkOptions(epsilon=epsilon, exclude_own=exclude_own)
    assert nearest_class(Mean([0.0, 1.0], [0.0, -0.5]), images, options).tolist() == expected


@pytest.mark.parametrize("scaling", ["raw", "unit", "standard"])
def test_moved_pixels_are_whole_levels_in_the_range(scaling, monkeypatch):
    """Law: levels 250 and 2 move by 0.1 of the range, 25.5: to 255 instead of 275.5, and to 28 instead of 27.5."""
    seen = []

    class Watching(Mean):
        def forward(self, images):
            seen.append(images.detach()[:, 0, 0, 0])
            return super().forward(images)

    images, scale, shift = grey([250, 2], [0, 0], scaling), Scaling.of(scaling).scale[0], Scaling.of(scaling).shift[0]
    nearest_class(Watching([0.0, 1.0], [0.0, 0.0]), images, BoundaryShrinkOptions())
    assert (seen[1] * scale + shift).tolist() == pytest.approx([255, 28], abs=1e-4)
    nearest_class(Watching([0.0, 1.0], [0.0, 0.0]), images, BoundaryShrinkOptions(clamp=False))
    assert (seen[3] * scale + shift).tolist() == pytest.approx([275.5, 27.5], abs=1e-3)


def by_hand(model, images, epsilon, scale):
    """Return the labels in plain torch, one image at a time: the likeliest class but the own one, unclamped."""
    found = []
    for i in range(len(images)):
        x, y = images.batch(np.array([i]))
        x.requires_grad_()
        F.cross_entropy(model(x), y).backward()
        logits = model(x + 255 * epsilon / scale * x.grad.sign())[0].tolist()
        logits[int(y)] = -np.inf
        found.append(int(np.argmax(logits)))
    return found


def test_labels_of_a_net(tmp_path, monkeypatch):
    """Law: one signed gradient step under the original in evaluation mode, no matter what the batch; nothing else
    changes.
    """
    data = run_data(tmp_path, retain=8, forget=30, normalize="standard")
    model = models.build(Model(arch="small_cnn", options={"width": 8}), 3, Seeds(study=0))
    before = copy.deepcopy(model.state_dict())
    plain, in_order = copy.deepcopy(model).eval(), ImageSet.in_order
    for epsilon in (0.0, 0.2):
        expected = by_hand(plain, data.forget, epsilon, 63.75)
        assert nearest_class(model, data.forget, others(epsilon)).tolist() == expected
        monkeypatch.setattr(ImageSet, "in_order", lambda images: in_order(images, 7))
        assert nearest_class(model, data.forget, others(epsilon)).tolist() == expected
    assert all(label != own for label, own in zip(expected, data.forget.labels_N, strict=True))
    assert same_weights(before, model.state_dict())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_one_step_on_the_unmoved_images_by_hand(tmp_path):
    """Law: theta - lr * gradient of CE(forget image, nearest other class): the images unmoved, no retain image seen."""
    data, lr = run_data(tmp_path, forget=7), 0.5
    model, plain = Linear(), Linear().eval()
    labels = torch.tensor(by_hand(plain, data.forget, 0.1, 1.0))
    boundary_shrink(
        model, data, BoundaryShrinkOptions(lr=lr, batch_size=8, exclude_own=True, clamp=False, **PLAIN), RNG
    )
    images, own = data.forget.batch(np.arange(7))
    slope = torch.autograd.grad(F.cross_entropy(plain(images), labels), plain.layer.weight)[0]
    wrong = torch.autograd.grad(F.cross_entropy(plain(images), own), plain.layer.weight)[0]
    assert torch.allclose(model.layer.weight, plain.layer.weight - lr * slope, atol=1e-6)
    assert not torch.allclose(slope, wrong, atol=1e-3)
    assert sorted(model.seen) == list(range(20, 27))
