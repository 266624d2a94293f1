"""Fresh copies of a model: equal, apart, and as deepcopy makes them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ray_unlearn.models import Template, small_cnn


class Tied(nn.Module):
    """Two names for one weight, a frozen parameter, a buffer, a plain tensor, and a list of odd things."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(3, 3), nn.Linear(3, 3, bias=False)
        self.b.weight = self.a.weight
        self.frozen = nn.Parameter(torch.ones(2), requires_grad=False)
        self.register_buffer("count", torch.tensor(7))
        self.plain = torch.arange(3.0)
        self.things = [1, "two", None]


def unpicklable() -> nn.Module:
    model = small_cnn(3, width=2)
    model[2].hook = lambda x: x  # a function of a function
    return model


def channels_last() -> nn.Module:
    return small_cnn(3, width=2).to(memory_format=torch.channels_last)


@pytest.mark.parametrize("build", [Tied, unpicklable, channels_last])
def test_copies_are_equal_and_share_nothing(build):
    """Law: what is done to a copy, weights or structure, is seen neither in the next copy nor in the model."""
    model = build()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    template = Template(model)
    first = template.copy()
    assert type(first) is type(model)
    for tensor in first.state_dict().values():
        tensor.fill_(9)
    first.extra = "mine"
    first.eval()
    second = template.copy()
    for state in (second.state_dict(), model.state_dict()):
        assert list(state) == list(before)
        assert all(torch.equal(state[name], before[name]) for name in before)
    assert not hasattr(second, "extra")
    assert second.training
    strides = {name: tensor.stride() for name, tensor in model.state_dict().items()}
    assert {name: tensor.stride() for name, tensor in second.state_dict().items()} == strides


def test_ties_frozen_parameters_and_plain_attributes_are_kept():
    """Law: one memory under two names stays one; requires_grad stays; lists and plain tensors are copies."""
    model = Tied()
    copy = Template(model).copy()
    assert isinstance(copy, Tied)
    assert copy.a.weight is copy.b.weight
    assert copy.a.weight is not model.a.weight
    assert isinstance(copy.frozen, nn.Parameter)
    assert (copy.frozen.requires_grad, copy.a.weight.requires_grad) == (False, True)
    assert copy.count.dtype == torch.int64
    assert torch.equal(copy.plain, model.plain)
    assert copy.plain.data_ptr() != model.plain.data_ptr()
    assert copy.things == model.things
    assert copy.things is not model.things


def test_a_copy_trains_like_the_model():
    """Law: one step of the same numbers gives the same numbers."""
    torch.manual_seed(0)
    model = small_cnn(3, width=2)
    copy = Template(model).copy()
    images = torch.randn(4, 3, 8, 8)
    for each in (model, copy):
        each(images).square().sum().backward()
    for (name, own), other in zip(model.named_parameters(), copy.parameters(), strict=True):
        assert own.grad is not None
        assert other.grad is not None
        assert torch.equal(own.grad, other.grad), name
