"""Langevin unlearning, worked by hand: features, every noisy step, and which images it learns from."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from nets import batch_of
from samples import run_data
from torch import nn

from ray_unlearn.errors import MethodError
from ray_unlearn.methods.langevin import LangevinOptions, langevin, unlearn_steps
from ray_unlearn.seeds import Seeds

RNG = Seeds(study=0, population="langevin")


class Head(nn.Module):
    """Fixed features and a linear classifier."""

    def __init__(self, bias: bool = True) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.features, self.head = nn.Linear(192, 5), nn.Linear(5, 3, bias=bias)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(torch.relu(self.features(images.flatten(1) / 255)))


@pytest.mark.parametrize("learn_on", ["train", "retain"])
def test_every_step_by_hand(tmp_path, learn_on):
    """Law: W - rate ((probabilities - targets)^T x / n + decay W) + noise, on `learn_on`, then on retain; |x| <= 1."""
    data, model, before = run_data(tmp_path), Head(), Head()
    options = LangevinOptions(learn_on=learn_on, learn_steps=3, epsilon=6.0, std=0.5, decay=0.5, delta=0.01)
    more = unlearn_steps(options, data)
    assert 1 <= more < 20
    langevin(model, data, options, RNG)
    images, labels = batch_of(data, range(26))
    with torch.no_grad():
        hidden = torch.relu(before.features(images.flatten(1) / 255))
        x = torch.cat([hidden, torch.ones(26, 1)], 1).double()
    largest = x[:20].norm(dim=1).max()
    x = x / largest
    learned = [row / max(1.0, float(row.norm())) for row in x[: 26 if learn_on == "train" else 20]]
    generator, rate = RNG.torch("langevin"), 1 / 1.5
    w = torch.randn((3, 6), generator=generator).double() * (2 * 0.25 / 0.5) ** 0.5
    for rows, count in ((torch.stack(learned), 3), (x[:20], more)):
        for _ in range(count):
            exps = torch.exp(rows @ w.T)
            errors = exps / exps.sum(1, keepdim=True)
            errors[torch.arange(len(rows)), labels[: len(rows)]] -= 1
            drawn = torch.randn((3, 6), generator=generator).double()
            w = w - rate * (errors.T @ rows / len(rows) + 0.5 * w) + (2 * rate) ** 0.5 * 0.5 * drawn
    found = torch.cat([model.head.weight, model.head.bias[:, None]], 1).double() * largest
    assert torch.allclose(found, w, rtol=1e-4, atol=1e-5)
    assert torch.equal(model.features.weight, before.features.weight)


def test_an_image_that_stands_out_counts_as_one_of_norm_1(tmp_path):
    """Law: forget images do not set the scale: a forget image ten times as large leaves the retain features alone."""
    data, ends = run_data(tmp_path), []
    options = LangevinOptions(learn_on="retain", learn_steps=2, epsilon=20.0, decay=0.5)
    for scale in (1, 0):
        pixels = data.train.pixels
        blocks = [np.array(block) for block in pixels._blocks]
        blocks[-1][:] = blocks[-1] * scale
        model = Head()
        langevin(model, data, options, RNG)
        ends.append(model.head.weight.detach().clone())
    assert torch.equal(ends[0], ends[1])


def test_a_larger_epsilon_needs_fewer_steps(tmp_path):
    """Law: steps go on until (epsilon, delta) holds."""
    data = run_data(tmp_path)
    steps = [unlearn_steps(LangevinOptions(epsilon=epsilon), data) for epsilon in (0.5, 1.0, 4.0)]
    assert steps[0] > steps[1] > steps[2] > 0


def test_whitened_features_are_what_the_layer_sees(tmp_path):
    """Law: with `whiten`, the net's logits are W times features of mean 0 and covariance 1 over the retain set."""
    data, model, before = run_data(tmp_path), Head(), Head()
    options = LangevinOptions(learn_on="retain", learn_steps=2, epsilon=200.0, delta=0.01, std=0.5, whiten=True)
    assert unlearn_steps(options, data) == 0
    langevin(model, data, options, RNG)
    images, labels = batch_of(data, range(20))
    with torch.no_grad():
        hidden = torch.relu(before.features(images.flatten(1) / 255))
        centred = hidden - hidden.mean(0)
        values, vectors = torch.linalg.eigh((centred.T @ centred / 20).double())  # in float32: signs of v are arbitrary
        spread = values.clamp(min=0).sqrt()
        white = centred.double() @ (vectors / (spread + spread.max() / 1000))
        assert torch.allclose((white.T @ white / 20).diagonal()[spread > 0.01], torch.ones(()).double(), atol=0.2)
        x = torch.cat([white, torch.ones(20, 1)], 1)
        x = x / x.norm(dim=1).max()
        generator, rate = RNG.torch("langevin"), 1 / 1.05
        w = torch.randn((3, 6), generator=generator).double() * (2 * 0.25 / 0.05) ** 0.5
        for _ in range(2):
            errors = (x @ w.T).softmax(1)
            errors[torch.arange(20), labels] -= 1
            drawn = torch.randn((3, 6), generator=generator).double()
            w = w - rate * (errors.T @ x / 20 + 0.05 * w) + (2 * rate) ** 0.5 * 0.5 * drawn
        assert torch.allclose(model(images).double(), x @ w.T, rtol=1e-3, atol=1e-3)


def test_whitening_needs_a_bias(tmp_path):
    """Law: without a bias the layer cannot hold the features' mean."""
    options = LangevinOptions(learn_steps=1, whiten=True)
    with pytest.raises(MethodError, match="whiten: the net's classifier has no bias"):
        langevin(Head(bias=False), run_data(tmp_path), options, RNG)


class Odd(Head):
    """A net that does something after its classifier."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return 2 * super().forward(images)


def test_a_net_that_ends_in_another_layer_is_refused(tmp_path):
    """Law: only a linear classifier has the bound."""
    with pytest.raises(MethodError, match="learns a linear classifier, and the net ends in another layer"):
        langevin(Odd(), run_data(tmp_path), LangevinOptions(learn_steps=1), RNG)


def test_a_frozen_classifier_is_refused(tmp_path):
    """Law: frozen parameters stay as they are, and nothing else is learned."""
    model = Head()
    model.head.weight.requires_grad_(False)
    with pytest.raises(MethodError, match="learns the net's classifier, which is frozen"):
        langevin(model, run_data(tmp_path), LangevinOptions(learn_steps=1), RNG)


def test_without_a_bias(tmp_path):
    """Law: a classifier without a bias has no column for it."""
    model = Head(bias=False)
    langevin(model, run_data(tmp_path), LangevinOptions(learn_steps=1, epsilon=20.0, decay=0.5), RNG)
    assert model.head.weight.shape == (3, 5)
    assert torch.isfinite(model.head.weight).all()


def test_runs_repeat_and_differ(tmp_path):
    """Law: the same run is the same bit for bit; another draws other noise."""
    data, ends = run_data(tmp_path), []
    for run in (0, 0, 1):
        model = Head()
        langevin(model, data, LangevinOptions(learn_steps=2, epsilon=20.0), Seeds(study=0, population="x", run=run))
        ends.append(model.head.weight.detach().clone())
    assert torch.equal(ends[0], ends[1])
    assert not torch.equal(ends[0], ends[2])
