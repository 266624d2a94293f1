"""kookmin, worked by hand: which weights are drawn anew, from what, and how the others are held back."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from nets import HandSGD, SmallConv, batch_of, close, copy_of
from samples import run_data
from torch import nn
from torch.nn import functional as F  # noqa: N812 - its usual name

from ray_unlearn import models
from ray_unlearn.data.images import ImageSet
from ray_unlearn.errors import MethodError
from ray_unlearn.methods.kookmin import KookminOptions, _chosen, _rate, kookmin
from ray_unlearn.seeds import Seeds
from ray_unlearn.study.schema import Model
from ray_unlearn.training import cross_entropy
from ray_unlearn.training.dead import dead_weights
from ray_unlearn.training.gradients import mean_gradient

STILL = {"lr": 1e-30, "weight_decay": 0.0, "epochs": 1}  # trains without changing a bit
RNG = Seeds(study=0, population="kookmin")


@pytest.mark.parametrize(("scope", "fraction"), [("global", 0.3), ("layer", 0.3), ("global", 0.1)])
def test_exactly_the_smallest_gradients_are_drawn_anew(tmp_path, scope, fraction):
    """Law: of 108 and 216 weights, 97 (or 32 and 65, or 32) with the smallest |grad CE(retain) - grad CE(forget)|."""
    data = run_data(tmp_path, retain=6, forget=6)  # as many retain images as forget: the random subset is all of them
    before, model = SmallConv(), SmallConv()
    kookmin(model, data, KookminOptions(**STILL, scope=scope, fraction=fraction), RNG)

    retain, forget = (batch_of(data, indices) for indices in (range(6), range(6, 12)))
    losses = [F.cross_entropy(before(images), labels) for images, labels in (retain, forget)]
    difference = torch.autograd.grad(losses[0] - losses[1], before.kernels)
    scores = [gradient.abs().flatten() for gradient in difference]
    fresh = [(new != old).flatten() for new, old in zip(model.kernels, before.kernels, strict=True)]
    if scope == "layer":
        assert [int(each.sum()) for each in fresh] == [32, 65]
    else:
        scores, fresh = [torch.cat(scores)], [torch.cat(fresh)]
        assert int(fresh[0].sum()) == round(fraction * 324)
    for score, where in zip(scores, fresh, strict=True):
        assert float(score[where].max()) <= float(score[~where].min()) + 1e-6 * float(score.max())
    for name in ("layers.0.bias", "layers.2.bias", "layers.5.weight", "layers.5.bias"):
        assert torch.equal(model.get_parameter(name), before.get_parameter(name))


def test_fresh_weights_are_he_normal_by_fan_out(tmp_path):
    """Law: N(0, 2 / (outputs * 9)), not by inputs: mean and spread within 5 standard errors, in both layers."""
    before, model = SmallConv((64, 16)), SmallConv((64, 16))
    kookmin(model, run_data(tmp_path), KookminOptions(**STILL, scope="layer"), RNG)
    for new, old in zip(model.kernels, before.kernels, strict=True):
        drawn, std = new[new != old].detach(), math.sqrt(2 / (len(new) * 9))
        assert abs(float(drawn.mean())) < 5 * std / len(drawn) ** 0.5
        assert abs(float(drawn.std()) - std) < 5 * std / (2 * len(drawn)) ** 0.5


def test_the_subset_is_as_large_as_forget_and_the_runs_own(tmp_path):
    """Law: scores look at all forget images and as many retain images, drawn per run; training sees retain alone."""
    subsets = []
    for run in (0, 0, 1):
        model = SmallConv()
        rng = Seeds(study=0, population="kookmin", run=run)
        kookmin(model, run_data(tmp_path), KookminOptions(**STILL), rng)
        on_retain, on_forget, _ = model.looked_at  # and one image, for the sizes of maps
        assert sorted(on_forget) == list(range(20, 26))
        assert len(set(on_retain)) == 6
        assert set(on_retain) < set(range(20))
        assert sorted(index for batch in model.trained_on for index in batch) == list(range(20))
        subsets.append(set(on_retain))
    assert subsets[0] == subsets[1] != subsets[2]


def test_kept_weights_move_by_a_tenth_of_their_gradient(tmp_path):
    """Law: SGD with momentum and decay, kept kernels' gradients times 0.1, rates 1/3, 2/3, 1, 2/3, 1/3 by epoch."""
    data, model, start = run_data(tmp_path), SmallConv(), SmallConv()
    kookmin(model, data, KookminOptions(lr=0.05, batch_size=10), RNG)
    kookmin(start, data, KookminOptions(**STILL), RNG)
    hand, original = copy_of(start), SmallConv()
    scales = {own: torch.where(own != old, 1.0, 0.1) for own, old in zip(hand.kernels, original.kernels, strict=True)}
    sgd = HandSGD(hand, momentum=0.9, decay=5e-4)
    rates = [1 / 3, 1 / 3, 2 / 3, 2 / 3, 1, 1, 2 / 3, 2 / 3, 1 / 3, 1 / 3]  # two batches an epoch
    for indices, rate in zip(model.trained_on, rates, strict=True):
        images, labels = batch_of(data, indices)
        sgd.step(F.cross_entropy(hand(images), labels), 0.05 * rate, scales)
    assert close(model, hand)
    assert not close(model, start)


@pytest.mark.parametrize(
    ("epochs", "warmup", "expected"),
    [
        (5, 3, [1 / 3, 2 / 3, 1, 2 / 3, 1 / 3]),
        (2, 0, [1, 1 / 2]),
        (2, 4, [1 / 4, 2 / 4]),
        (4, 1, [1, 3 / 4, 1 / 2, 1 / 4]),
    ],
)
def test_the_rate_rises_and_falls_in_equal_steps(epochs, warmup, expected):
    """Law: up to 1 in `warmup` steps, then down as if to 0 after the last epoch; never above 1."""
    options = KookminOptions(epochs=epochs, warmup_epochs=warmup)
    assert [_rate(options, epoch) for epoch in range(epochs)] == pytest.approx(expected)


class Padded(nn.Module):
    """Over maps of 2x2 pixels, then of one: of the second convolution's nine taps one meets a pixel."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.first, self.second = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 40, 3, padding=1)
            self.head = nn.Linear(40, 3)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        small = F.adaptive_avg_pool2d(images / 255, 2)
        return self.head(self.second(F.adaptive_avg_pool2d(self.first(small), 1)).flatten(1))


def fresh_of(folder, **options) -> tuple[list[int], list[int]]:
    """Return how many weights of either convolution are drawn anew, and how many of those can get a gradient."""
    before, model = Padded(), Padded()
    kookmin(model, run_data(folder, retain=6, forget=6), KookminOptions(**STILL, **options), RNG)
    fresh = [model.first.weight != before.first.weight, model.second.weight != before.second.weight]
    live = [int(fresh[0].sum()), int(fresh[1][:, :, 1, 1].sum())]
    return [int(each.sum()) for each in fresh], live


def test_a_ranking_that_dead_weights_decide_is_refused(tmp_path):
    """Law: globally, 30 % of 108 + 1440 weights are 464 of the 1280 that meet padding alone: reported with the
    numbers.
    """
    with pytest.raises(MethodError, match=r"1,280 of 1,548 convolution weights never get a gradient .* the 464 with"):
        fresh_of(tmp_path, scope="global")


@pytest.mark.parametrize(
    ("options", "fresh", "live"),
    [
        ({}, [32, 432], [32, 0]),  # as published: in the second layer, dead weights take all places
        ({"among": "live"}, [32, 48], [32, 48]),
        ({"fraction": 0.95}, [103, 1368], [103, 88]),
    ],
)
def test_layer_by_layer(tmp_path, options, fresh, live):
    """Law: 30 % of 108 and of 1440, the 1280 dead ones first; among live ones 30 % of 160; 95 % reach into the live."""
    assert fresh_of(tmp_path, **options) == (fresh, live)


def test_global_among_the_live(tmp_path):
    """Law: 30 % of the 108 + 160 weights that can get a gradient, 80, and none else."""
    fresh, live = fresh_of(tmp_path, scope="global", among="live")
    assert sum(fresh) == sum(live) == 80


def test_the_challenges_net(tmp_path):
    """Law: of a stock ResNet-18 at 32x32, 30 % per layer draws 3,350,073 weights anew, of which 872,812 can learn.

    The dead ones, whose score is zero, go first; globally they would take all 3,350,074 places, which is refused.
    """
    model = models.build(Model(arch="resnet18"), 10, Seeds(study=0))
    data = run_data(tmp_path, retain=4, forget=4, classes=10)
    big = replace(data, **{name: resized(getattr(data, name)) for name in ("retain", "forget")})
    weights = [layer.weight for layer in model.modules() if isinstance(layer, nn.Conv2d)]
    dead = dead_weights(model, big.retain)
    assert sum(int(mask.sum()) for mask in dead.values()) == 6_946_816
    masks = [dead.get(weight, torch.zeros_like(weight, dtype=torch.bool)) for weight in weights]
    scores = [torch.rand(mask.shape, generator=RNG.torch("scores")) + 1e-3 for mask in masks]
    scores = [torch.where(mask, 0.0, score) for mask, score in zip(masks, scores, strict=True)]
    fresh = _chosen(weights, scores, dead, KookminOptions())
    assert sum(int(each.sum()) for each in fresh) == 3_350_073
    assert sum(int((each & ~mask).sum()) for each, mask in zip(fresh, masks, strict=True)) == 872_812
    gradients = mean_gradient(model, big.retain, cross_entropy())
    assert not any(bool(gradients[weight][mask].any()) for weight, mask in zip(weights, masks, strict=True))
    with pytest.raises(MethodError, match=r"6,946,816 of 11,166,912 .* the 3,350,074 with the smallest"):
        kookmin(model, big, KookminOptions(**STILL, scope="global"), RNG)


def resized(images):
    """Return an image set whose batches are of 32x32 pixels."""
    return Resized(images.pixels, images.indices, images.scaling)


class Resized(ImageSet):
    """Eight pixels become thirty-two."""

    def batch(self, positions):
        images, labels = ImageSet.batch(self, positions)
        return F.interpolate(images, size=32), labels

    def subset(self, positions):
        return resized(ImageSet.subset(self, positions))
