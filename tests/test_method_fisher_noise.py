"""Fisher noise: the variance of every tensor, with its clamp, mean and boost, worked by hand."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from samples import digit_runs, run_data, same_weights, small_net
from torch import nn
from torch.nn import functional as F  # noqa: N812 - its usual name

from ray_unlearn import models
from ray_unlearn.data.images import RunData
from ray_unlearn.errors import MethodError
from ray_unlearn.methods import fisher_noise as room
from ray_unlearn.methods.fisher_noise import FisherNoiseOptions, fisher_noise
from ray_unlearn.seeds import Seeds
from ray_unlearn.study.schema import Model
from ray_unlearn.training import cross_entropy
from ray_unlearn.training.gradients import fisher_diagonal, mean_squared_gradient

RNG = Seeds(study=0, population="test")


def deviations(monkeypatch, model, information, **options):
    """Return what is added to each parameter where every draw is 1 and the Fisher information is the given one."""
    before = [parameter.detach().clone() for parameter in model.parameters()]
    data = RunData(train=None, retain="retain", forget=None, validation=None, num_classes=2, device=None)

    def fisher(model, images, batch_size):
        assert images == "retain"
        return dict(zip(model.parameters(), map(torch.as_tensor, information), strict=True))

    monkeypatch.setattr(room, "fisher_diagonal", fisher)
    monkeypatch.setattr(torch, "randn", lambda shape, generator: torch.ones(shape))
    fisher_noise(model, data, FisherNoiseOptions(**options), RNG)
    return [(after - start).detach() for after, start in zip(model.parameters(), before, strict=True)]


def tiny():
    """Return a hidden layer [3, 2] with bias and a classifier [2, 3] with bias, all zero."""
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 2))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    return model


INFORMATION = [
    [[1.0, 0.25], [0.0, 0.5], [1e-9, 1e-3]],
    [2.0, 0.0, 1e-4],
    [[1.0, 0.5, 0.25], [0.0, 1e-3, 1.0]],
    [4.0, 0.0],
]


def test_the_fisher_is_expected_over_the_models_own_labels(tmp_path):
    """Law: mean over images of sum_y p_y (d CE(y))^2, by hand, class by class; not the square at the true label."""
    data, model = (run_data(tmp_path, normalize="unit"), small_net())
    found = fisher_diagonal(model, data.retain)
    expected = [torch.zeros_like(parameter) for parameter in model.parameters()]
    for i in range(20):
        image, _ = data.retain.batch(np.array([i]))
        p = torch.softmax(model(image), 1)[0].detach()
        for y in range(3):
            gradients = torch.autograd.grad(F.cross_entropy(model(image), torch.tensor([y])), list(model.parameters()))
            for sums, gradient in zip(expected, gradients, strict=True):
                sums.add_(p[y] * gradient**2 / 20)
    true = mean_squared_gradient(model, data.retain, cross_entropy())
    for parameter, by_hand in zip(model.parameters(), expected, strict=True):
        assert torch.allclose(found[parameter], by_hand, rtol=1e-3, atol=1e-9)
    assert not all(torch.allclose(found[p], true[p], rtol=0.1) for p in model.parameters())


def test_an_image_known_by_heart():
    """Law: one weight per logit and p = 0.99: p (1 - p)^2 + (1 - p) p^2 = 0.0099, at the true label 1e-4."""
    model = nn.Linear(1, 2, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[math.log(99.0)], [0.0]]))
    batches = [(torch.ones(1, 1), torch.tensor([0]))]
    one = type("One", (), {"__len__": lambda self: 1, "in_order": lambda self, size: batches})()
    assert fisher_diagonal(model, one)[model.weight].flatten().tolist() == pytest.approx([0.0099, 0.0099], rel=1e-4)
    true = mean_squared_gradient(model, one, lambda m, batch: F.cross_entropy(m(batch.images), batch.labels))
    assert true[model.weight].flatten().tolist() == pytest.approx([1e-4, 1e-4], rel=1e-4)


@pytest.mark.parametrize("alpha", [1e-6, 1e-2])
def test_variance_by_hand(monkeypatch, alpha):
    """Law: alpha / F; 1 / F at most 1e3 (classifier 1e2), then its mean over inputs, then 10 for 1-D and classifier."""
    found = deviations(monkeypatch, tiny(), INFORMATION, alpha=alpha)
    rows = [(1 + 4) / 2, (1000 + 2) / 2, (1000 + 1000) / 2]
    head = [(1 + 2 + 4) / 3, (100 + 100 + 1) / 3]
    expected = [
        [[row, row] for row in rows],
        [10 * 0.5, 10 * 1000.0, 10 * 1000.0],
        [[10 * row] * 3 for row in head],
        [10 * 0.25, 10 * 100.0],  # once, though it is both
    ]
    for noise, variance in zip(found, expected, strict=True):
        assert torch.allclose(noise**2, alpha * torch.tensor(variance), rtol=1e-5, atol=0)


def test_options_reach_their_places(monkeypatch):
    """Law: both clamps and the boost are options."""
    found = deviations(monkeypatch, tiny(), INFORMATION, alpha=1.0, clamp=3.0, classifier_clamp=1.5, boost=2.0)
    assert (found[0][0] ** 2).tolist() == pytest.approx([(1 + 3) / 2] * 2)
    assert (found[1] ** 2).tolist() == pytest.approx([2 * 0.5, 2 * 3, 2 * 3])
    assert (found[2][0] ** 2).tolist() == pytest.approx([2 * (1 + 1.5 + 1.5) / 3] * 3)
    assert (found[3] ** 2).tolist() == pytest.approx([2 * 0.25, 2 * 1.5])


def test_the_mean_is_over_input_channels_alone(monkeypatch):
    """Law: a kernel's positions and its outputs keep variances of their own."""
    model = nn.Sequential(nn.Conv2d(2, 2, 2, bias=False), nn.Linear(1, 2))
    with torch.no_grad():
        model[0].weight.zero_()
    information = torch.tensor([1.0, 2.0, 4.0, 5.0, 8.0, 10.0, 16.0, 20.0] * 2).view(2, 2, 2, 2)
    information[1] *= 10
    found = deviations(monkeypatch, model, [information, torch.ones(2, 1), torch.ones(2)], alpha=1.0)
    first = torch.tensor([[1 + 1 / 8, 1 / 2 + 1 / 10], [1 / 4 + 1 / 16, 1 / 5 + 1 / 20]]) / 2
    for channel in range(2):
        assert torch.allclose(found[0][0, channel] ** 2, first)
        assert torch.allclose(found[0][1, channel] ** 2, first / 10)


def test_draws_are_standard_normal_and_the_fisher_is_of_single_retain_images(tmp_path):
    """Law: noise over its deviation has mean 0 and spread 1 within 5 standard errors; buffers keep their bits."""
    data = run_data(tmp_path, normalize="unit")
    model = models.build(Model(arch="small_cnn", options={"width": 16}), 3, Seeds(study=0))
    before = copy.deepcopy(model).eval()
    fisher_noise(model, data, FisherNoiseOptions(clamp=1e30, classifier_clamp=1e30, alpha=1e-9, labels="true"), RNG)
    total = [torch.zeros_like(parameter) for parameter in before.parameters()]
    for i in range(20):
        image, label = data.retain.batch(torch.tensor([i]).numpy())
        gradients = torch.autograd.grad(F.cross_entropy(before(image), label), list(before.parameters()))
        for sums, gradient in zip(total, gradients, strict=True):
            sums.add_(gradient**2 / 20)
    draws = []
    head = set(before[-1].parameters())
    for found, start, information in zip(model.parameters(), before.parameters(), total, strict=True):
        variance = (1 / (information + 1e-8)).clamp(max=1e30)
        if start.ndim > 1:
            variance = variance.mean(1, keepdim=True).expand_as(start)
        boost = 10 if start in head or start.ndim == 1 else 1
        usable = variance < 9e7  # elsewhere a huge draw reports nothing about the rest
        draws.append(((found - start) / (1e-9 * boost * variance).sqrt())[usable])
    pooled = torch.cat([each.flatten() for each in draws]).detach()
    count = len(pooled)
    assert count > 2000
    assert abs(float(pooled.mean())) < 5 / math.sqrt(count)
    assert abs(float(pooled.std()) - 1) < 5 / math.sqrt(2 * count)
    buffers = dict(before.named_buffers())
    assert all(torch.equal(tensor, buffers[name]) for name, tensor in model.named_buffers())


def test_a_model_without_a_classifier_is_refused(tmp_path):
    """Law: in one line, before any gradient."""
    with pytest.raises(MethodError, match="the model has no linear layer"):
        fisher_noise(nn.Sequential(nn.Conv2d(3, 3, 1)), run_data(tmp_path), FisherNoiseOptions(), RNG)


def test_runs_differ_and_repeat(tmp_path):
    """Law: finite on digits; the same run twice is bit-equal, another index draws other noise for every parameter."""
    first, again, other = digit_runs(tmp_path, "fisher_noise")
    assert same_weights(first, again)
    assert all(not torch.equal(first[key], other[key]) for key in first if key.endswith(("weight", "bias")))
    assert FisherNoiseOptions().alpha == 1e-6
