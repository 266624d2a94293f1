"""IU: WoodFisher's recursion against an explicit inverse, and the step that it takes."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from samples import run_data
from torch import nn
from torch.nn import functional as F  # noqa: N812 - its usual name

from ray_unlearn.errors import MethodError
from ray_unlearn.methods import METHODS
from ray_unlearn.methods.influence import InfluenceOptions, WoodFisher, influence
from ray_unlearn.seeds import Seeds

RNG = Seeds(study=0, population="test")


def explicit(gradients_NP, vector_P, count, damping):
    """Return (damping I + sum g g^T / count)^-1 v, in double precision."""
    g = gradients_NP.double()
    matrix = damping * torch.eye(g.shape[1], dtype=torch.float64) + g.T @ g / count
    return torch.linalg.solve(matrix, vector_P.double())


@pytest.mark.parametrize("damping", [1.0, 0.05])
@pytest.mark.parametrize(("count", "size"), [(1, 5), (4, 12), (40, 7)])
def test_the_recursion_is_the_inverse(count, size, damping):
    """Law: after every gradient the product is that with the explicit inverse of damping I + sum g g^T / count."""
    generator = RNG.torch("gradients")
    gradients_NP = torch.randn(count, size, generator=generator)
    vector_P = torch.randn(size, generator=generator)
    fisher = WoodFisher(vector_P, count, damping)
    assert torch.allclose(fisher.product_P, vector_P / damping)
    for n in range(1, count + 1):
        fisher.add(gradients_NP[n - 1])
        expected = explicit(gradients_NP[:n], vector_P, count, damping)
        assert torch.allclose(fisher.product_P.double(), expected, rtol=1e-3, atol=1e-4 / damping)


def test_one_gradient_by_hand():
    """Law: H = 2 I + [3, 4] [3, 4]^T, v = [1, 0]: H^-1 v = [18, -12] / 54."""
    fisher = WoodFisher(torch.tensor([1.0, 0.0]), 1, 2.0)
    fisher.add(torch.tensor([3.0, 4.0]))
    assert fisher.product_P.tolist() == pytest.approx([18 / 54, -12 / 54])


def test_more_memory_than_there_is():
    """Law: refused in one line that states how much it would take, and what to lower."""
    with pytest.raises(MethodError, match=r"^influence: 10000000000 gradients need 40000000 GB; lower `gradients`$"):
        WoodFisher(torch.zeros(1_000_000), 10_000_000_000, 1.0)


def net():
    """Return a tiny net with fixed weights and a normalisation, whose statistics must not move."""
    layers = nn.Sequential(
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(12, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 3)
    )
    with torch.no_grad():
        for number, parameter in enumerate(layers.parameters()):
            parameter.copy_(torch.randn(parameter.shape, generator=RNG.torch(f"net-{number}")))
    return layers


def gradient(model, images, positions):
    """Return the flat gradient of the mean cross-entropy in evaluation mode, in plain torch."""
    batch, labels = images.batch(np.asarray(positions))
    loss = F.cross_entropy(model(batch), labels)
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(model.parameters()))])


def forget_minus_retain(model, data):
    return gradient(model, data.forget, range(6)) - gradient(model, data.retain, range(20))


@pytest.mark.parametrize("count", [1000, 8])
def test_the_published_step_by_hand(tmp_path, count):
    """Law: v = N_f / (N_f + N_r) (g_f - g_r); k and o as the authors' loop has them, over the first N + 2 images."""
    data = run_data(tmp_path, normalize="standard")
    model = net()
    before = copy.deepcopy(model).eval()
    influence(model, data, InfluenceOptions(alpha=0.2, gradients=count), RNG)
    v = 6 / 26 * forget_minus_retain(before, data)
    k, o = v.clone(), None
    for i in range(min(20, count + 2)):
        g = gradient(before, data.retain, [i])
        if o is None:
            o = g.clone()
            continue
        overlap = torch.dot(o, g)
        k -= torch.dot(k, g) / (count + overlap) * o
        o -= overlap / (count + overlap) * o
    start = torch.cat([parameter.flatten() for parameter in before.parameters()])
    found = torch.cat([parameter.flatten() for parameter in model.parameters()])
    assert torch.allclose(found - start, 0.2 * k, rtol=1e-3, atol=1e-6)
    assert not torch.allclose(0.2 * k, 0.2 * 26 / 6 * k, rtol=1e-2, atol=1e-6)


@pytest.mark.parametrize(("alpha", "damping"), [(0.2, 1.0), (-0.5, 0.1)])
def test_the_step(tmp_path, alpha, damping):
    """Law: theta + alpha (damping I + mean g g^T)^-1 (g_forget - g_retain), g of single drawn retain images."""
    data, count = run_data(tmp_path, normalize="standard"), 12
    model = net()
    before = copy.deepcopy(model).eval()
    options = InfluenceOptions(alpha=alpha, damping=damping, gradients=count, recursion="exact", images="random")
    influence(model, data, options, RNG)
    drawn = RNG.numpy("gradients").integers(20, size=count)
    assert len(set(drawn)) > 5
    singles = torch.stack([gradient(before, data.retain, [position]) for position in drawn])
    direction = 6 / 26 * forget_minus_retain(before, data)
    start = torch.cat([parameter.flatten() for parameter in before.parameters()])
    found = torch.cat([parameter.flatten() for parameter in model.parameters()])
    step = alpha * explicit(singles, direction, count, damping)
    assert torch.allclose((found - start).double(), step, rtol=1e-3, atol=1e-5)
    plain = (alpha / damping * direction).double()
    assert (step - plain).norm() > 0.1 * step.norm()  # the Fisher matrix counts
    buffers = dict(before.named_buffers())
    assert all(torch.equal(tensor, buffers[name]) for name, tensor in model.named_buffers())


def test_it_moves_away_from_the_forget_set(tmp_path):
    """Law: a small step raises the loss on forget relative to that on retain."""
    data = run_data(tmp_path, normalize="standard")
    model = net().eval()

    def gap():
        with torch.no_grad():
            (x_f, y_f), (x_r, y_r) = (each.batch(np.arange(len(each))) for each in (data.forget, data.retain))
            return float(F.cross_entropy(model(x_f), y_f) - F.cross_entropy(model(x_r), y_r))

    before = gap()
    influence(model, data, InfluenceOptions(alpha=0.01, gradients=5), RNG)
    assert gap() > before


def test_the_published_images_are_not_drawn():
    """Law: every run has the same images by default, and is said to be deterministic; drawn ones differ."""
    assert METHODS["influence"].is_deterministic(InfluenceOptions())
    assert not METHODS["influence"].is_deterministic(InfluenceOptions(images="random"))
