"""SSD: the dampening formula, worked by hand; nothing else changes; no chance in it."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from nets import squared_gradients
from samples import run_data, small_net
from torch import nn

from ray_unlearn.data.images import RunData
from ray_unlearn.methods import selective_synaptic_dampening as room
from ray_unlearn.methods.selective_synaptic_dampening import (
    SelectiveSynapticDampeningOptions,
    adaptive_alpha,
    selective_synaptic_dampening,
)
from ray_unlearn.seeds import Seeds
from ray_unlearn.training import cross_entropy
from ray_unlearn.training.gradients import mean_squared_gradient

RNG = Seeds(study=0, population="test")


def dampened(monkeypatch, theta, of_all, of_forget, **options):
    """Return the weights after SSD where the importances are the given ones."""
    model = nn.Linear(len(theta), 1, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([theta]))
    data = RunData(train="train", retain=None, forget="forget", validation=None, num_classes=2, device=None)
    given = {"train": of_all, "forget": of_forget}

    def importance(model, images, loss, batch_size):
        return {model.weight: torch.tensor([given[images]])}

    monkeypatch.setattr(room, "mean_squared_gradient", importance)
    selective_synaptic_dampening(model, data, SelectiveSynapticDampeningOptions(**options), RNG)
    return model.weight[0].tolist()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        # I_f / I_D:        20       10       9      0 / 0    1 / 0     0 / 1
        ({}, [2.0 / 20, 2.0, 2.0, 2.0, 0.0, 2.0]),  # dampened above alpha = 10 only, not at it
        ({"alpha": 5.0}, [2.0 / 20, 2.0 / 10, 2.0 / 9, 2.0, 0.0, 2.0]),
        ({"alpha": 0.0}, [2.0 / 20, 2.0 / 10, 2.0 / 9, 2.0, 0.0, 2.0]),
        ({"dampening": 4.0}, [2.0 * 4 / 20, 2.0, 2.0, 2.0, 0.0, 2.0]),
        ({"dampening": 25.0}, [2.0, 2.0, 2.0, 2.0, 0.0, 2.0]),  # 25 / 20 is bounded by 1
        ({"dampening": 25.0, "lower_bound": 1.5}, [2.0 * 25 / 20, 2.0, 2.0, 2.0, 0.0, 2.0]),
        ({"dampening": 25.0, "lower_bound": 0.5}, [1.0, 2.0, 2.0, 2.0, 0.0, 2.0]),
        ({"exponent": 2.0}, [2.0 / 400, 2.0, 2.0, 2.0, 0.0, 2.0]),
    ],
)
def test_the_formula(monkeypatch, options, expected):
    """Law: where I_f > alpha I_D, strictly, theta times min((lambda I_D / I_f)^exponent, bound); else the same bits."""
    of_all, of_forget = [0.5, 0.5, 1.0, 0.0, 0.0, 1.0], [10.0, 5.0, 9.0, 0.0, 1.0, 0.0]
    found = dampened(monkeypatch, [2.0] * 6, of_all, of_forget, **options)
    assert found == pytest.approx(expected, abs=0, rel=1e-6)
    assert all(a == 2.0 for a, b in zip(found, expected, strict=True) if b == 2.0)


def test_signs_are_kept(monkeypatch):
    """Law: the factor is never negative."""
    assert dampened(monkeypatch, [-3.0, 3.0], [1.0, 1.0], [30.0, 30.0]) == pytest.approx([-0.1, 0.1])


@pytest.mark.parametrize("size", [1, 2])
def test_importances_are_of_all_training_images_and_of_the_forget_set(tmp_path, size):
    """Law: I_D on retain and forget together, I_f on forget, in evaluation mode; buffers keep their bits."""
    data = run_data(tmp_path, retain=8, forget=4, normalize="unit")
    model = small_net()
    before = copy.deepcopy(model).eval()
    options = SelectiveSynapticDampeningOptions(alpha=1.5, dampening=0.8, images_per_gradient=size)
    selective_synaptic_dampening(model, data, options, RNG)
    of_all, of_forget = (squared_gradients(before, images, size) for images in (data.train, data.forget))
    changed = 0
    for found, start, d, f in zip(model.parameters(), before.parameters(), of_all, of_forget, strict=True):
        expected = torch.where(f > 1.5 * d, start * 0.8 * d / f, start)
        assert torch.allclose(found, expected, rtol=1e-4, atol=1e-9)
        changed += int((found != start).sum())
    assert 50 < changed < sum(parameter.numel() for parameter in model.parameters()) - 50
    buffers = dict(before.named_buffers())
    assert all(torch.equal(tensor, buffers[name]) for name, tensor in model.named_buffers())
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_a_smaller_last_batch_counts_as_much(tmp_path):
    """Law: as the authors divide by the number of batches: of 20 images in batches of 16, the last 4 count half."""
    data = run_data(tmp_path, retain=20, normalize="unit")
    model = small_net().eval()
    found = mean_squared_gradient(model, data.retain, cross_entropy(), 16)
    for parameter, expected in zip(model.parameters(), squared_gradients(model, data.retain, 16), strict=True):
        assert torch.allclose(found[parameter], expected, rtol=1e-4, atol=1e-12)


def test_lfssd_by_hand(tmp_path):
    """Law: importance is the mean over batches of |d (mean over images of |logits|^2)|, and no label plays a part."""
    data = run_data(tmp_path, retain=8, forget=6, normalize="unit")
    model = small_net()
    before = copy.deepcopy(model).eval()

    def importance(images):
        total = [torch.zeros_like(parameter) for parameter in before.parameters()]
        starts = range(0, len(images), 4)
        for start in starts:
            pixels, _ = images.batch(np.arange(start, min(start + 4, len(images))))
            loss = torch.stack([(row**2).sum() for row in before(pixels)]).mean()
            for sums, gradient in zip(total, torch.autograd.grad(loss, list(before.parameters())), strict=True):
                sums.add_(gradient.abs() / len(starts))
        return total

    options = SelectiveSynapticDampeningOptions(alpha=1.2, importance="output", images_per_gradient=4)
    selective_synaptic_dampening(model, data, options, RNG)
    changed = 0
    for found, start, d, f in zip(
        model.parameters(), before.parameters(), importance(data.train), importance(data.forget), strict=True
    ):
        assert torch.allclose(found, torch.where(f > 1.2 * d, start * d / f, start), rtol=1e-4, atol=1e-9)
        changed += int((found != start).sum())
    assert changed > 50


def test_assd_by_hand(monkeypatch):
    """Law: alpha is the 100 - log(1 + 100 N_f / N) percentile of the finite ratios: of 0 .. 100 and a tenth, 97.6."""
    of_all = [torch.ones(101), torch.tensor([0.0, 0.0])]
    of_forget = [torch.arange(101.0), torch.tensor([1.0, 0.0])]  # infinity and nothing: left out
    assert adaptive_alpha(of_all, of_forget, 0.1) == pytest.approx(100 - math.log(11))
    theta = dampened(monkeypatch, [2.0] * 3, [1.0, 1.0, 1.0], [1.0, 2.0, 4.0], alpha="adaptive")
    assert theta == pytest.approx([2.0, 2.0, 0.5])
