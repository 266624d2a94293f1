"""UNSIR, worked by hand: the noise's steps, what the impair pass sees under which label, and the repair."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from nets import Linear
from samples import indices_of, run_data
from torch.nn import functional as F  # noqa: N812 - its usual name

from ray_unlearn.methods.unsir import UnsirOptions, unsir, worst_noise
from ray_unlearn.seeds import Seeds

RNG = Seeds(study=0, population="unsir")
ONE = {"optimizer": "sgd", "momentum": 0.0, "batch_size": 64, "impair_batch_size": 64}
SMALL = {"noise_steps": 2, "noise_batch_size": 2, "noise_batches": 3}


def adam(start: torch.Tensor, gradient_of, steps: int, lr: float) -> torch.Tensor:
    """Return what Adam makes of a tensor (Kingma and Ba 2015, betas 0.9 and 0.999, epsilon 1e-8)."""
    x, m, v = start.clone(), torch.zeros_like(start), torch.zeros_like(start)
    for t in range(1, steps + 1):
        g = gradient_of(x)
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        x = x - lr * (m / (1 - 0.9**t)) / ((v / (1 - 0.999**t)).sqrt() + 1e-8)
    return x


def test_the_noise_by_hand():
    """Law: Adam down -CE(noise, class) + 0.1 * mean over images of the squared norm, three steps of 0.1.

    The weights are so large that both terms have gradients of one size: each one's sign shows.
    """
    model, start = Linear(25.0), torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))

    def gradient_of(x: torch.Tensor) -> torch.Tensor:
        x = x.clone().requires_grad_()
        loss = -F.cross_entropy(Linear(25.0)(x), torch.tensor([1, 1])) + 0.1 * (x**2).sum() / 2
        return torch.autograd.grad(loss, x)[0]

    found = worst_noise(model, start, 1, UnsirOptions(noise_steps=3))
    assert torch.allclose(found, adam(start, gradient_of, 3, 0.1), atol=1e-4)
    assert not model.batches  # evaluation mode
    assert all(parameter.grad is None for parameter in model.parameters())


def test_impair_and_repair_by_hand(tmp_path):
    """Law: a step on noise under its class and on the first retain images of each class; a step on those alone."""
    data = run_data(tmp_path, retain=20, forget=2)  # forget labels: 20 % 3 = 2, 0
    model, hand = Linear(), Linear()
    unsir(model, data, UnsirOptions(lr=0.5, impair_lr=2.0, retain_per_class=2, **ONE, **SMALL), RNG)
    noise = torch.randn((2, 2, 3, 8, 8), generator=RNG.torch("noise"))
    noise = [worst_noise(hand, noise[i], label, UnsirOptions(**SMALL)) for i, label in enumerate((0, 2))]
    images, labels = data.retain.batch(np.array([0, 3, 1, 4, 2, 5]))
    mixed = torch.cat([images, *[each for each in noise for _ in range(3)]])
    under = torch.cat([labels, torch.tensor([0] * 6 + [2] * 6)])
    for batch, own, lr in ((mixed, under, 2.0), (images, labels, 0.5)):
        gradients = torch.autograd.grad(F.cross_entropy(hand(batch), own), list(hand.parameters()))
        with torch.no_grad():
            for parameter, gradient in zip(hand.parameters(), gradients, strict=True):
                parameter.sub_(lr * gradient)
    assert torch.allclose(model.layer.weight, hand.layer.weight, atol=1e-5)
    impair, repair = model.batches
    assert (len(impair), len(repair)) == (18, 6)
    assert sorted(indices_of(repair)) == [0, 1, 2, 3, 4, 5]
    distances = torch.cdist(impair.flatten(1), mixed.flatten(1)).min(0).values
    assert float(distances.max()) < 1e-2  # every noise image and every retain image is there, and no forget image


def test_whole_classes(tmp_path):
    """Law: with a class forgotten, there is noise for that class alone."""
    data = run_data(tmp_path, retain=20, forget=6)
    twos = data.forget.subset(np.flatnonzero(data.forget.labels_N == 2))
    data = copy.copy(data)
    object.__setattr__(data, "forget", twos)
    model = Linear()
    unsir(model, data, UnsirOptions(**{**ONE, **SMALL, "impair_batch_size": 256}), RNG)
    assert len(model.batches[0]) == 20 + 2 * 3


@pytest.mark.parametrize("option", ["noise_steps", "noise_batches", "retain_per_class"])
def test_nothing_is_no_number(option):
    """Law: a count below one is refused."""
    with pytest.raises(ValueError, match=option):
        UnsirOptions(**{option: 0})
