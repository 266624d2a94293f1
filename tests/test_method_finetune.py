"""finetune: start noise, then cross-entropy on the retain set alone."""

from __future__ import annotations

import numpy as np
import torch
from nets import Linear
from samples import run_data, small_net
from torch import nn
from torch.nn import functional as F  # noqa: N812 - its usual name

from ray_unlearn.methods.finetune import FinetuneOptions, finetune
from ray_unlearn.methods.perturbations import add_noise
from ray_unlearn.seeds import Seeds

RNG = Seeds(study=0, population="test")


def test_one_step_of_finetune(tmp_path):
    """Law: w - lr * (grad CE(retain) + weight_decay * w), and not a step up."""
    data = run_data(tmp_path, retain=8, forget=5)
    model, lr, decay = Linear(), 0.5, 0.1
    options = FinetuneOptions(lr=lr, weight_decay=decay, batch_size=8, schedule="constant")
    finetune(model, data, options, RNG)
    start = Linear()
    batch, labels = data.retain.batch(np.arange(8))
    gradient = torch.autograd.grad(F.cross_entropy(start(batch), labels), start.layer.weight)[0]
    step = lr * (gradient + decay * start.layer.weight)
    assert torch.allclose(model.layer.weight, start.layer.weight - step, atol=1e-6)
    assert not torch.allclose(model.layer.weight, start.layer.weight + step, atol=1e-4)


def test_start_noise_has_its_spread_and_differs_between_runs():
    """Law: N(0, std^2) on every parameter: 40,000 draws are within 5 standard errors of mean 0 and spread std."""
    std, size = 0.02, 40_000
    drawn = []
    for run in (0, 0, 1):
        model = nn.Linear(200, 200, bias=False)
        before = model.weight.detach().clone()
        add_noise(model.parameters(), std, Seeds(study=0, population="p", run=run).torch("start-noise"))
        drawn.append((model.weight - before).detach())
    assert torch.allclose(drawn[0], drawn[1], atol=1e-7)
    assert not torch.allclose(drawn[0], drawn[2], atol=1e-3)
    for noise in drawn:
        assert abs(float(noise.mean())) < 5 * std / size**0.5
        assert abs(float(noise.std()) - std) < 5 * std / (2 * size) ** 0.5


def test_noise_reaches_every_parameter_and_no_buffer():
    """Law: weights, biases, scales and shifts get noise; running statistics do not."""
    model = small_net()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    add_noise(model.parameters(), 0.1, RNG.torch("start-noise"))
    parameters = dict(model.named_parameters())
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]) == (name not in parameters)


def test_zero_noise_draws_nothing(tmp_path):
    """Law: without noise the start is the original, bit for bit, and no stream of noise is opened."""
    opened: list[str] = []

    class Watched(Seeds):
        def torch(self, purpose):
            opened.append(purpose)
            return super().torch(purpose)

    rng = Watched(study=0, population="test")
    finetune(Linear(), run_data(tmp_path), FinetuneOptions(), rng)
    assert opened == ["fit-retain"]
    finetune(Linear(), run_data(tmp_path), FinetuneOptions(noise_std=0.1), rng)
    assert opened == ["fit-retain", "start-noise", "fit-retain"]


def test_finetune_sees_retain_images_only_and_runs_differ(tmp_path):
    """Law: no forget image is seen; two run indexes start and go differently, one twice gives the same weights."""
    results = []
    for run in (0, 0, 1):
        model = Linear()
        options = FinetuneOptions(noise_std=0.01, lr=0.1, batch_size=4)
        finetune(model, run_data(tmp_path), options, Seeds(study=0, population="f", run=run))
        assert set(model.seen) == set(range(20))
        results.append(model.layer.weight.detach().clone())
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])
