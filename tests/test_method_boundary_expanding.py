"""Boundary expanding, worked by hand: the extra class, the steps towards it, and what is left when it is cut off."""

from __future__ import annotations

import math

import pytest
import torch
from nets import HandSGD, SmallConv, batch_of, close, copy_of
from samples import run_data
from torch import nn
from torch.nn import functional as F  # noqa: N812 - its usual name

from ray_unlearn.errors import MethodError, TrainingDiverged
from ray_unlearn.methods.boundary_expanding import BoundaryExpandingOptions, boundary_expanding
from ray_unlearn.seeds import Seeds

RNG = Seeds(study=0, population="expand")


def test_every_step_by_hand(tmp_path):
    """Law: SGD on CE(forget, class C) with a fourth row of N(0, 2 / (in + 4)) and bias 0; the first three rows stay."""
    data, model, hand = run_data(tmp_path, forget=6), SmallConv(), SmallConv()
    options = BoundaryExpandingOptions(epochs=2.0, lr=0.05, weight_decay=0.1, batch_size=3)
    boundary_expanding(model, data, options, RNG)
    head = hand.layers[5]
    row = math.sqrt(2 / (96 + 4)) * torch.randn((1, 96), generator=RNG.torch("new-class"))
    wide = nn.Linear(96, 4)
    with torch.no_grad():
        wide.weight.copy_(torch.cat([head.weight, row]))
        wide.bias.copy_(torch.cat([head.bias, torch.zeros(1)]))
    hand.layers[5] = wide
    optimizer = HandSGD(hand, 0.9, 0.1)
    assert len(model.trained_on) == 4
    for indices in model.trained_on:
        assert min(indices) >= 20  # no retain image
        images, _ = batch_of(data, indices)
        optimizer.step(F.cross_entropy(hand(images), torch.full((3,), 3)), 0.05)
    expected = copy_of(SmallConv())
    expected.load_state_dict({k: v[:3] if k.startswith("layers.5") else v for k, v in hand.state_dict().items()})
    assert close(model, expected)
    assert not close(model, SmallConv())


def test_the_model_has_its_shape_again(tmp_path):
    """Law: the same parameters, in the same objects, with three outputs; also where training fails."""
    model = SmallConv()
    parameters = list(model.parameters())
    boundary_expanding(model, run_data(tmp_path), BoundaryExpandingOptions(batch_size=3), RNG)
    assert all(a is b for a, b in zip(model.parameters(), parameters, strict=True))
    assert (model.layers[5].out_features, tuple(model.layers[5].weight.shape)) == (3, (3, 96))
    with pytest.raises(TrainingDiverged):
        boundary_expanding(model, run_data(tmp_path), BoundaryExpandingOptions(batch_size=3, lr=1e30), RNG)
    assert (model.layers[5].out_features, tuple(model.layers[5].weight.shape)) == (3, (3, 96))


def test_another_head_is_refused(tmp_path):
    """Law: a last linear layer that does not name the classes is one line with both numbers."""
    with pytest.raises(MethodError, match="has 4 outputs; expected 3, one per class"):
        boundary_expanding(SmallConv(classes=4), run_data(tmp_path), BoundaryExpandingOptions(), RNG)
