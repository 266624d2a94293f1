"""seif, worked by hand: noise on the convolutions, a loss scaled batch by batch, noise again before the last epoch."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest
import torch
from nets import HandSGD, SmallConv, batch_of, close, copy_of
from samples import run_data
from torch import nn
from torch.nn import functional as F  # noqa: N812 - its usual name

from ray_unlearn.errors import MethodError
from ray_unlearn.methods.seif import SeifOptions, seif
from ray_unlearn.seeds import Seeds

STILL = {"lr": 1e-30, "weight_decay": 0.0}  # trains without changing a bit
SILENT = {"noise_std": 0.0, "late_noise_std": 0.0}
RNG = Seeds(study=0, population="seif")


@pytest.mark.parametrize("layers", ["all", "first"])
def test_the_start_noise(tmp_path, layers):
    """Law: N(0, 0.6^2), within 5 standard errors, on kernels alone: of every convolution, or of the first."""
    before, model = SmallConv((64, 16)), SmallConv((64, 16))
    seif(model, run_data(tmp_path), SeifOptions(**STILL, late_noise_std=0.0, layers=layers), RNG)
    noisy = {"all": ["layers.0.weight", "layers.2.weight"], "first": ["layers.0.weight"]}[layers]
    for name, parameter in model.named_parameters():
        noise = (parameter - before.get_parameter(name)).detach()
        if name in noisy:
            assert abs(float(noise.mean())) < 5 * 0.6 / noise.numel() ** 0.5
            assert abs(float(noise.std()) - 0.6) < 5 * 0.6 / (2 * noise.numel()) ** 0.5
        else:
            assert not noise.any()


@pytest.mark.parametrize(
    ("epochs", "layers", "kernels"), [(4, "all", 2), (2.5, "all", 2), (2.01, "all", 2), (1, "all", 2), (3, "first", 1)]
)
def test_the_late_noise_comes_before_the_last_epoch(tmp_path, epochs, layers, kernels):
    """Law: N(0, 0.005^2) once, on the same kernels; 2.5 epochs have their last from 2 on, 2.01 of 3 steps are 2."""
    states = []
    data = replace(
        run_data(tmp_path),
        on_epoch=lambda model, epoch, loss: states.append([p.detach().clone() for p in model.kernels]),
    )
    model = SmallConv((64, 16))
    states.append([p.detach().clone() for p in model.kernels])
    seif(model, data, SeifOptions(**STILL, noise_std=0.0, epochs=epochs, layers=layers, batch_size=8), RNG)
    assert len(states) - 1 == {4: 4, 2.5: 3, 2.01: 2, 1: 1, 3: 3}[epochs]
    for earlier, later in itertools.pairwise(states[:-1]):
        assert all(torch.equal(one, other) for one, other in zip(earlier, later, strict=True))
    for i, (earlier, later) in enumerate(zip(states[-2], states[-1], strict=True)):
        noise, expected = later - earlier, 0.005 if i < kernels else 0.0
        assert abs(float(noise.std()) - expected) <= 5 * expected / (2 * noise.numel()) ** 0.5


def test_the_two_noises_are_drawn_apart(tmp_path):
    """Law: the late noise is not the start noise over again."""
    drawn = []
    for options in ({"late_noise_std": 0.0, "noise_std": 0.5}, {"late_noise_std": 0.5, "noise_std": 0.0}):
        model = SmallConv()
        seif(model, run_data(tmp_path), SeifOptions(**STILL, **options, epochs=1), RNG)
        drawn.append((model.kernels[0] - SmallConv().kernels[0]).detach())
    assert abs(float(torch.corrcoef(torch.stack([each.flatten() for each in drawn]))[0, 1])) < 0.5


@pytest.mark.parametrize(
    ("weights", "by_hand"),
    [
        ((1.0, 0.05), [1.0, 0.05, 0.05]),
        ((0.2, 1.0, 0.4), [0.2, 1.0, 0.4]),
        ("balanced", [20 / (3 * 7), 20 / (3 * 7), 20 / (3 * 6)]),  # retain labels: 7, 7 and 6 of 20
    ],
)
def test_every_step_by_hand(tmp_path, weights, by_hand):
    """Law: mean cross-entropy times the batch's mean class weight; cosine by epoch; momentum and decay as in SGD."""
    data, model = run_data(tmp_path), SmallConv()
    seif(model, data, SeifOptions(**SILENT, lr=0.05, epochs=4, batch_size=8, batch_weights=weights), RNG)
    hand = copy_of(SmallConv())
    sgd, weights_C = HandSGD(hand, momentum=0.9, decay=5e-4), torch.tensor(by_hand)
    for step, indices in enumerate(model.trained_on):
        assert set(indices) <= set(range(20))
        images, labels = batch_of(data, indices)
        rate = 0.05 * (1 + math.cos(math.pi * (step // 3) / 4)) / 2  # three batches an epoch
        sgd.step(F.cross_entropy(hand(images), labels) * weights_C[labels].mean(), rate)
    assert len(model.trained_on) == 12
    assert close(model, hand)


def test_what_cannot_be_is_refused(tmp_path):
    """Law: more weights than classes, or a model without convolutions, is a MethodError in one line."""
    with pytest.raises(MethodError, match="batch_weights: expected at most 3 numbers, one per class; found 4"):
        seif(SmallConv(), run_data(tmp_path), SeifOptions(batch_weights=(1.0, 1.0, 1.0, 1.0)), RNG)
    with pytest.raises(MethodError, match="the model has none"):
        seif(nn.Linear(2, 2), run_data(tmp_path), SeifOptions(), RNG)
    for wrong in ((), (-1.0,)):
        with pytest.raises(ValueError, match="batch_weights"):
            SeifOptions(batch_weights=wrong)
