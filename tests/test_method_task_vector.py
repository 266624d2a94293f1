"""Task-vector negation and NegMerge, worked by hand: the copies, the merge by sign, and the subtraction."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from nets import Linear
from samples import run_data, same_weights, small_net
from torch import nn
from torch.nn import functional as F  # noqa: N812 - its usual name

from ray_unlearn.methods.task_vector import TaskVectorOptions, task_vector
from ray_unlearn.seeds import Seeds

RNG = Seeds(study=0, population="vector")
PLAIN = {"momentum": 0.0, "batch_size": 64}


def tuned(lr: float, steps: int, data) -> list[torch.Tensor]:
    """Return the task vector of plain gradient steps on the whole forget set."""
    model, start = Linear(), Linear()
    images, labels = data.forget.batch(np.arange(len(data.forget)))
    for _ in range(steps):
        gradients = torch.autograd.grad(F.cross_entropy(model(images), labels), list(model.parameters()))
        with torch.no_grad():
            for parameter, gradient in zip(model.parameters(), gradients, strict=True):
                parameter.sub_(lr * gradient)
    return [(after - before).detach() for after, before in zip(model.parameters(), start.parameters(), strict=True)]


def test_negation_by_hand(tmp_path):
    """Law: theta - scale * (theta of a copy fine-tuned on the forget set - theta); no retain image, no other copy."""
    data, model = run_data(tmp_path), Linear()
    task_vector(model, data, TaskVectorOptions(lrs=(0.5,), epochs=2.0, scale=0.7, **PLAIN), RNG)
    for found, start, vector in zip(model.parameters(), Linear().parameters(), tuned(0.5, 2, data), strict=True):
        assert torch.allclose(found, start - 0.7 * vector, atol=1e-6)
        assert not torch.allclose(found, start, atol=1e-5)


@pytest.mark.parametrize("merge", ["mean", "consensus"])
def test_merging_by_hand(tmp_path, merge):
    """Law: the mean over rates; in consensus zero where the vectors' signs differ, as those of a large rate do."""
    data, model, rates = run_data(tmp_path), Linear(), (0.1, 300.0)
    task_vector(model, data, TaskVectorOptions(lrs=rates, epochs=3.0, merge=merge, **PLAIN), RNG)
    first, second = (tuned(rate, 3, data) for rate in rates)
    differing = 0
    for found, start, a, b in zip(model.parameters(), Linear().parameters(), first, second, strict=True):
        same = torch.sign(a) == torch.sign(b)
        expected = (a + b) / 2 if merge == "mean" else torch.where(same, (a + b) / 2, torch.zeros(()))
        assert torch.allclose(found, start - expected, rtol=1e-3, atol=1e-5)
        differing += int((~same).sum())
    assert differing > 10


def test_statistics_stay_and_no_one_learns_of_the_copies(tmp_path):
    """Law: buffers are the original's bit for bit; the run's record has no epoch of a copy."""
    from dataclasses import replace

    heard = []
    data = replace(run_data(tmp_path, normalize="unit"), on_epoch=lambda *given: heard.append(given))
    model = small_net()
    before = {name: tensor.clone() for name, tensor in model.named_buffers()}
    task_vector(model, data, TaskVectorOptions(lrs=(0.1,), repeats=2, batch_size=3), RNG)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.named_buffers())
    assert not heard
    assert isinstance(model, nn.Module)
    assert model.training


def test_runs_differ_and_repeat(tmp_path):
    """Law: finite; a run repeats bit for bit, and another run goes differently."""
    data, found = run_data(tmp_path, normalize="standard"), []
    for run in (0, 0, 1):
        model = small_net()
        options = TaskVectorOptions(lrs=(0.01, 0.1), batch_size=2, merge="consensus")
        task_vector(model, data, options, Seeds(study=0, population="vector", run=run))
        found.append(model.state_dict())
    assert all(torch.isfinite(tensor.float()).all() for tensor in found[0].values())
    assert same_weights(found[0], found[1])
    assert not same_weights(found[0], found[2])
