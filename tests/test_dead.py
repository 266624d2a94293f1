"""Dead weights: kernel taps that meet padding alone are exactly those that no image gives a gradient."""

from __future__ import annotations

import copy

import pytest
import torch
from samples import run_data
from torch import nn
from torch.nn import functional as F  # noqa: N812 - its usual name

from ray_unlearn.training.dead import dead_weights


class One(nn.Module):
    """One convolution over maps of a given size, random images of which give its gradient."""

    def __init__(self, size: int, **how) -> None:
        super().__init__()
        self.size, self.conv = size, nn.Conv2d(3, 4, **how)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.conv(F.adaptive_avg_pool2d(images, self.size)).flatten(1)


@pytest.mark.parametrize(
    ("size", "how", "dead"),
    [
        (1, {"kernel_size": 3, "padding": 1}, 8),
        (2, {"kernel_size": 3, "padding": 1}, 0),
        (2, {"kernel_size": 3, "padding": 1, "stride": 2}, 5),
        (2, {"kernel_size": 5, "padding": 2}, 16),
        (2, {"kernel_size": 3, "padding": 2, "dilation": 2}, 8),
        (4, {"kernel_size": 3, "padding": 0}, 0),
        (1, {"kernel_size": (1, 3), "padding": (0, 1)}, 2),
        (1, {"kernel_size": 3, "padding": 1, "padding_mode": "circular"}, 0),
        (1, {"kernel_size": 3, "padding": "same"}, 0),  # not reported; treated as live
    ],
)
def test_what_never_gets_a_gradient(tmp_path, size, how, dead):
    """Law: the taps whose gradient is zero on random maps, counted by hand: 8 of 9 taps miss a map of one pixel."""
    model = One(size, **how)
    masks = dead_weights(model, run_data(tmp_path).retain)
    taps = masks.get(model.conv.weight, torch.zeros_like(model.conv.weight, dtype=torch.bool))
    assert int(taps.sum()) == dead * 12
    maps = torch.randn(16, 3, size, size, generator=torch.Generator().manual_seed(0))
    (gradient,) = torch.autograd.grad((model.conv(maps) ** 2).sum(), model.conv.weight)
    assert not gradient[taps].any()
    if how["padding"] != "same":
        assert bool((gradient[~taps] != 0).all())


def test_a_layer_that_sees_maps_of_two_sizes_is_live_where_either_meets(tmp_path):
    """Law: taps are dead only if no call reaches them."""

    class Twice(One):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            small, large = (self.conv(F.adaptive_avg_pool2d(images, size)).mean((2, 3)) for size in (1, 4))
            return small + large

    assert dead_weights(Twice(1, kernel_size=3, padding=1), run_data(tmp_path).retain) == {}


def test_nothing_else_changes(tmp_path):
    """Law: buffers and torch's random state are as before, and the model is in evaluation mode."""
    model = nn.Sequential(One(1, kernel_size=3, padding=1), nn.BatchNorm1d(4), nn.Dropout(0.5))
    before, state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    assert len(dead_weights(model, run_data(tmp_path).retain)) == 1
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    assert not model.training
