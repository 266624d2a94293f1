"""The flat optimisers are torch's: the same steps from the same gradients, in any memory format."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 - its usual name

from ray_unlearn.errors import MethodError, ModelError
from ray_unlearn.study.recipe import Recipe
from ray_unlearn.training.optimizers import make_optimizer

PLAIN = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9, weight_decay=0.1),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01, weight_decay=0.1),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1),
}


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 1, 1), nn.Flatten(), nn.Linear(16, 3))


def recipe(name):
    return Recipe(optimizer=name, lr=0.01, momentum=0.9, weight_decay=0.1)


def backward(model, step):
    generator = torch.Generator().manual_seed(step)
    images = torch.randn(5, 3, 6, 6, generator=generator)
    F.cross_entropy(model(images), torch.tensor([0, 1, 2, 0, 1])).backward()


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("name", PLAIN)
def test_steps_are_those_of_torch(name, memory_format):
    """Law: from the same gradients, five steps move every parameter as torch's own optimiser does."""
    ours, theirs = (net().to(memory_format=memory_format) for _ in range(2))
    optimizer, plain = make_optimizer(ours, recipe(name)), PLAIN[name](theirs.parameters())
    for step in range(5):
        for model in (ours, theirs):
            model.zero_grad()
        backward(theirs, step)
        for own, other in zip(ours.parameters(), theirs.parameters(), strict=True):
            own.grad = other.grad.clone()
        optimizer.step()
        plain.step()
        for own, other in zip(ours.parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(own, other, rtol=1e-6, atol=1e-7)
    assert not torch.equal(ours[0].weight, net()[0].weight)


def test_a_gradient_in_another_layout_counts_as_the_same_gradient():
    """Law: a hook may leave a gradient in any memory format; elements, not memory, decide."""
    models, gradient = [net().to(memory_format=torch.channels_last) for _ in range(2)], torch.randn(8, 3, 3, 3)
    for model, laid_out in zip(models, (torch.contiguous_format, torch.channels_last), strict=True):
        optimizer = make_optimizer(model, recipe("sgd"))
        model[0].weight.grad = gradient.to(memory_format=laid_out)
        optimizer.step()
    assert torch.equal(models[0][0].weight, models[1][0].weight)


def test_gradients_are_stepped_where_they_are():
    """Law: a gradient that lies in memory as its parameter does is not copied, of a 1x1 kernel in either format."""
    model = net().to(memory_format=torch.channels_last)
    optimizer = make_optimizer(model, recipe("sgd"))
    backward(model, 0)
    model[2].weight.grad = torch.ones(1, 8, 1, 1)
    assert model[2].weight.grad.stride() != model[2].weight.stride()
    optimizer.step()
    views = optimizer.param_groups[0]["params"]
    for parameter, view in zip(model.parameters(), views, strict=True):
        assert view.grad.data_ptr() == parameter.grad.data_ptr()


def test_parameters_without_a_gradient_stay():
    """Law: as in torch, no gradient means no step, not even weight decay; zero_grad forgets them."""
    model = net()
    optimizer = make_optimizer(model, recipe("sgd"))
    backward(model, 0)
    optimizer.zero_grad()
    assert all(parameter.grad is None for parameter in model.parameters())
    before = model[0].weight.clone()
    optimizer.step()
    assert torch.equal(model[0].weight, before)


def test_parameters_may_move_but_not_change_their_layout():
    """Law: a parameter whose memory moved is still the one that is trained; one in another layout is refused."""
    model = net()
    optimizer = make_optimizer(model, recipe("sgd"))
    model[0].weight.data = model[0].weight.data.clone()
    backward(model, 0)
    before = model[0].weight.clone()
    optimizer.step()
    assert not torch.equal(model[0].weight, before)
    model.to(memory_format=torch.channels_last)
    with pytest.raises(MethodError, match="memory format changed"):
        optimizer.step()


def test_memory_with_gaps_is_refused():
    """Law: no flat view, no optimiser, rather than steps that change a copy."""
    model = nn.Linear(4, 4)
    model.weight = nn.Parameter(torch.randn(4, 8)[:, ::2])
    with pytest.raises(ModelError, match=r"memory with gaps.*contiguous"):
        make_optimizer(model, recipe("sgd"))
