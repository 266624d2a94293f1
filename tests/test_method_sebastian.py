"""sebastian, worked by hand: what is pruned and refilled, the loss, fractional epochs, rounding."""

from __future__ import annotations

import math

import pytest
import torch
from nets import HandSGD, SmallConv, batch_of, close, copy_of
from samples import run_data, small_net
from torch import nn

from ray_unlearn import models
from ray_unlearn.errors import MethodError
from ray_unlearn.methods.sebastian import SebastianOptions, sebastian
from ray_unlearn.seeds import Seeds
from ray_unlearn.study.schema import Model

STILL = {"lr": 1e-30, "weight_decay": 0.0, "epochs": 1, "round_to_half": False}  # trains without changing a bit
RNG = Seeds(study=0, population="sebastian")


@pytest.mark.parametrize("fraction", [0.99, 0.5])
def test_the_smallest_of_all_are_drawn_anew(tmp_path, fraction):
    """Law: exactly 99 % of all weights and biases, the smallest anywhere; weights drawn anew, biases zero (slides)."""
    before, model = SmallConv((64, 16)), SmallConv((64, 16))
    sebastian(model, run_data(tmp_path), SebastianOptions(**STILL, prune_fraction=fraction), RNG)
    old, new = (torch.cat([p.detach().flatten() for p in each.parameters()]) for each in (before, model))
    pruned = old != new
    total = 64 * 3 * 9 + 64 + 16 * 64 * 9 + 16 + 3 * 256 + 3
    assert int(pruned.sum()) == round(fraction * total)
    assert float(old[pruned].abs().max()) <= float(old[~pruned].abs().min())
    for name, parameter in model.named_parameters():
        fan_in = {"layers.0": 3 * 9, "layers.2": 64 * 9, "layers.5": 256}[name.rpartition(".")[0]]
        drawn = parameter[parameter != before.get_parameter(name)].detach()
        if parameter.ndim == 1:
            assert bool((drawn.abs() < 1e-30).all())  # zero, but for a step of 1e-30
            continue
        bound, count = 1 / math.sqrt(fan_in), len(drawn)
        assert bool((drawn.abs() <= bound).all())
        if count > 500:  # uniform: mean 0, mean square bound^2 / 3 with variance 4/45 bound^4
            assert abs(float(drawn.mean())) < 5 * bound / math.sqrt(3 * count)
            assert abs(float(drawn.square().mean()) - bound**2 / 3) < 5 * bound**2 * math.sqrt(4 / 45 / count)


def test_normalisation_is_not_pruned(tmp_path):
    """Law: scales and shifts of batch normalisation are neither counted nor changed."""
    before, model = (models.build(Model(arch="small_cnn"), 3, Seeds(study=0)) for _ in range(2))
    sebastian(model, run_data(tmp_path), SebastianOptions(**STILL), RNG)
    counted = changed = 0
    for name, layer in before.named_modules():
        for key, old in layer.named_parameters(recurse=False):
            new = model.get_parameter(f"{name}.{key}")
            if isinstance(layer, nn.BatchNorm2d):
                # shifts of 0 take the step of 1e-30 that all others are too large to notice
                assert torch.allclose(new, old, atol=1e-20)
            else:
                counted, changed = counted + old.numel(), changed + int((new != old).sum())
    assert changed == round(0.99 * counted)


@pytest.mark.parametrize("power", [-0.1, -2.0])
def test_every_step_by_hand(tmp_path, power):
    """Law: CE weighted by count^power (weighted mean) + mean (H(model) - H(original))^2; 3.2 epochs of 5 steps: 16."""
    data, model, start = run_data(tmp_path, retain=10), SmallConv(), SmallConv()
    options = {"class_weight_power": power, "batch_size": 2}
    sebastian(model, data, SebastianOptions(lr=0.02, round_to_half=False, **options), RNG)
    sebastian(start, data, SebastianOptions(**STILL), RNG)
    original, hand = SmallConv(), copy_of(start)
    sgd = HandSGD(hand, momentum=0.9, decay=5e-4)
    weights_C = torch.tensor([4.0, 3.0, 3.0]) ** power  # retain labels 0 1 2 0 1 2 0 1 2 0

    def entropy(logits):
        p = logits.softmax(1)
        return -(p * p.log()).sum(1)

    for indices in model.trained_on:
        assert set(indices) <= set(range(10))
        images, labels = batch_of(data, indices)
        logits = hand(images)
        right = logits.log_softmax(1)[torch.arange(len(labels)), labels]
        on_labels = -(weights_C[labels] * right).sum() / weights_C[labels].sum()
        gap = entropy(logits) - entropy(original(images)).detach()
        sgd.step(on_labels + gap.square().mean(), 0.02)
    assert len(model.trained_on) == 16
    assert close(model, hand)


@pytest.mark.parametrize("rounded", [True, False])
def test_rounding(tmp_path, rounded):
    """Law: every parameter is a half-precision number at the end, or is left alone; buffers are never rounded."""
    model = small_net()
    model[1].running_var.fill_(1e6)  # beyond half's largest number
    sebastian(model, run_data(tmp_path), SebastianOptions(round_to_half=rounded, epochs=1), RNG)
    assert all(torch.equal(p, p.half().float()) for p in model.parameters()) == rounded
    assert float(model[1].running_var.min()) > 65504
    assert torch.isfinite(model[1].running_var).all()


def test_a_model_without_layers_to_prune_is_refused(tmp_path):
    """Law: a MethodError in one line."""
    with pytest.raises(MethodError, match="and the model has none"):
        sebastian(nn.Sequential(nn.Flatten(), nn.BatchNorm1d(3)), run_data(tmp_path), SebastianOptions(), RNG)
