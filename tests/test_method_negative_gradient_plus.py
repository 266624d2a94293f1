"""negative_gradient_plus: down on retain, up on forget, in one step."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from nets import Linear
from samples import run_data
from torch.nn import functional as F  # noqa: N812 - its usual name

from ray_unlearn.methods.negative_gradient_plus import NegativeGradientPlusOptions, negative_gradient_plus
from ray_unlearn.seeds import Seeds

RNG = Seeds(study=0, population="test")


@pytest.mark.parametrize("alpha", [0.95, 0.5, 0.1])
def test_one_step_of_negative_gradient_plus(tmp_path, alpha):
    """Law: w - lr * (alpha * grad CE(retain) - (1 - alpha) * grad CE(forget)), and not with the other sign."""
    data = run_data(tmp_path, retain=8, forget=5)
    model, lr = Linear(), 0.5
    options = NegativeGradientPlusOptions(alpha=alpha, epochs=1, lr=lr, batch_size=8, statistics="batch", anchor=0.0)
    negative_gradient_plus(model, data, options, RNG)

    def gradient(images):
        by_hand = Linear()
        batch, labels = images.batch(np.arange(len(images)))
        return torch.autograd.grad(F.cross_entropy(by_hand(batch), labels), by_hand.layer.weight)[0]

    start, on_retain, on_forget = Linear().layer.weight, gradient(data.retain), gradient(data.forget)
    expected = start - lr * (alpha * on_retain - (1 - alpha) * on_forget)
    wrong = start - lr * (alpha * on_retain + (1 - alpha) * on_forget)
    assert torch.allclose(model.layer.weight, expected, atol=1e-6)
    assert not torch.allclose(wrong, expected, atol=1e-5)
    assert sorted(model.seen) == list(range(13))


def test_three_steps_as_in_scrub_by_hand(tmp_path):
    """Law: SGD without momentum on alpha (CE(r) + anchor / 2 |w - w0|^2) - (1 - alpha) CE(f), batches of 5 and 3."""
    data, model, hand = run_data(tmp_path, retain=5, forget=3), Linear(), Linear()
    lr, alpha, anchor = 0.5, 0.7, 0.4
    options = NegativeGradientPlusOptions(
        alpha=alpha, epochs=3, lr=lr, batch_size=5, forget_batch_size=3, anchor=anchor
    )
    negative_gradient_plus(model, data, options, RNG)
    (retain, y_r), (forget, y_f) = (s.batch(np.arange(len(s))) for s in (data.retain, data.forget))
    start = [parameter.detach().clone() for parameter in hand.parameters()]
    for _ in range(3):
        loss = alpha * F.cross_entropy(hand(retain), y_r) - (1 - alpha) * F.cross_entropy(hand(forget), y_f)
        gradients = torch.autograd.grad(loss, list(hand.parameters()))
        with torch.no_grad():
            for parameter, gradient, first in zip(hand.parameters(), gradients, start, strict=True):
                parameter.sub_(lr * (gradient + alpha * anchor * (parameter - first)))
    assert torch.allclose(model.layer.weight, hand.layer.weight, atol=1e-6)
    assert torch.allclose(model.layer.bias, hand.layer.bias, atol=1e-6)


@pytest.mark.parametrize(("statistics", "moves"), [("frozen", False), ("batch", True)])
def test_running_statistics(tmp_path, statistics, moves):
    """Law: frozen, as in SCRUB's small scale: evaluation mode throughout; batch: both batches move the statistics."""
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.BatchNorm1d(192), torch.nn.Linear(192, 3))
    options = NegativeGradientPlusOptions(epochs=1, batch_size=8, statistics=statistics)
    negative_gradient_plus(model, run_data(tmp_path, normalize="unit"), options, RNG)
    assert bool(model[1].running_mean.any()) == moves
    assert all(module.training for module in model.modules())


def test_class_weights_act_on_the_retain_term_only(tmp_path):
    """Law: with `class_weights: inverse` the forget term stays the plain mean."""
    data = run_data(tmp_path, retain=8, forget=5)
    model = Linear()
    options = NegativeGradientPlusOptions(alpha=0.5, epochs=1, lr=0.5, batch_size=8, class_weights="inverse")
    negative_gradient_plus(model, data, options, RNG)
    by_hand = Linear()
    (retain, retain_labels), (forget, forget_labels) = (s.batch(np.arange(len(s))) for s in (data.retain, data.forget))
    weight = torch.tensor([1 / 3, 1 / 3, 1 / 2])  # retain labels 0 1 2 0 1 2 0 1
    loss = 0.5 * F.cross_entropy(by_hand(retain), retain_labels, weight=weight)
    loss = loss - 0.5 * F.cross_entropy(by_hand(forget), forget_labels)
    expected = by_hand.layer.weight - 0.5 * torch.autograd.grad(loss, by_hand.layer.weight)[0]
    assert torch.allclose(model.layer.weight, expected, atol=1e-6)
