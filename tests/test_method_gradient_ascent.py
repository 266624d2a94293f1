"""Gradient ascent, worked by hand: the forget set alone, and uphill."""

from __future__ import annotations

from itertools import chain

import torch
from nets import HandSGD, SmallConv, batch_of, close, copy_of
from samples import run_data
from torch.nn import functional as F  # noqa: N812 - its usual name

from ray_unlearn.methods.gradient_ascent import GradientAscentOptions, gradient_ascent
from ray_unlearn.seeds import Seeds

RNG = Seeds(study=0, population="ascent")
BASE = {"epochs": 2, "lr": 0.05, "momentum": 0.9, "weight_decay": 0.1, "batch_size": 4}


def test_each_step_climbs_on_a_batch_of_the_forget_set(tmp_path):
    """Law: b = 0.9 b - grad CE(forget batch) + 0.1 w; w - 0.05 b; each epoch sees every forget image, no other."""
    data, model = run_data(tmp_path, retain=10, forget=8), SmallConv()
    hand = copy_of(model)
    gradient_ascent(model, data, GradientAscentOptions(**BASE), RNG)
    assert [len(batch) for batch in model.trained_on] == [4, 4, 4, 4]
    for epoch in (model.trained_on[:2], model.trained_on[2:]):
        assert sorted(chain(*epoch)) == list(range(10, 18))
    optimizer = HandSGD(hand, 0.9, 0.1)
    for indices in model.trained_on:
        images, labels = batch_of(data, indices)
        optimizer.step(-F.cross_entropy(hand(images), labels), 0.05)
    assert close(model, hand)
    assert not close(model, SmallConv())


def test_class_weights_are_the_forget_sets(tmp_path):
    """Law: `inverse` counts the forget images of each class: 0 1 2 0 1 here, after nine retain images."""
    data, model = run_data(tmp_path, retain=9, forget=5), SmallConv()
    hand = copy_of(model)
    options = GradientAscentOptions(**BASE | {"epochs": 1, "batch_size": 5}, class_weights="inverse")
    gradient_ascent(model, data, options, RNG)
    images, labels = batch_of(data, range(9, 14))
    loss = -F.cross_entropy(hand(images), labels, weight=torch.tensor([1 / 2, 1 / 2, 1.0]))
    HandSGD(hand, 0.9, 0.1).step(loss, 0.05)
    assert close(model, hand)
