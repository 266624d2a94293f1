"""forget: which layers are re-initialised when, the regression worked by hand, both variants' rates."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
import torchvision
from nets import optimizers_of, weights_of
from samples import run_data
from torch import nn

from ray_unlearn.errors import MethodError
from ray_unlearn.methods import METHODS
from ray_unlearn.methods import forget as module
from ray_unlearn.methods.forget import ForgetOptions, forget
from ray_unlearn.seeds import Seeds

CANDIDATES = {"layers.0.weight", "layers.0.bias", "layers.1.weight", "layers.1.bias"}
CONVOLUTIONS = {"pool": "convolutions"}
VARIANT_2 = METHODS["forget"].presets["competition_variant_2"]


class Net(nn.Module):
    """Two 3x3 convolutions, a 1x1 one and a classifier; all copies note what they see in one list."""

    seen: list[tuple[bool, torch.Tensor]] = []  # noqa: RUF012 - shared by the model and its teacher on purpose

    def __init__(self) -> None:
        super().__init__()
        Net.seen.clear()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            convolutions = [nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 1)]
            self.layers = nn.Sequential(*convolutions, nn.Flatten(), nn.Linear(64, 3))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.seen.append((self.training, images.detach()))
        return self.layers(images / 255)


def history(folder, run: int = 0, **options):
    """Run the method; return the weights before it and after each epoch, and each epoch's optimiser and its rate."""
    model, epochs = Net(), []
    states = [weights_of(model)]

    def note(model, epoch, loss):
        states.append(weights_of(model))
        epochs.append((len(made), made[-1].param_groups[0]["lr"]))

    data = replace(run_data(folder), on_epoch=note)
    options = ForgetOptions(**{"batch_size": 64, **options})
    with optimizers_of(module) as made:
        forget(model, data, options, Seeds(study=0, population="test", run=run))
    return states, epochs


@pytest.mark.parametrize(
    ("options", "optimizers", "rates"),
    [
        ({}, [1, 2, 2, 3, 3], [1e-3, 1e-3, 5e-4, 1e-3, 5e-4]),  # cosine over 2 epochs, anew in each cycle
        (VARIANT_2, [1, 1, 2, 3, 4], [5e-4, 1e-3, 1e-3, 1e-3, 1e-3]),
        ({"cycles": (1, 1), "epochs": 4.0, "schedule": "constant"}, [1, 2, 2, 2], [1e-3] * 4),
        ({"epoch_lrs": (0.1, 0.2), "schedule": "constant", "epochs": 3.0}, [1, 2, 2], [0.1, 0.2, 0.2]),
    ],
)
def test_cycles_and_rates(tmp_path, options, optimizers, rates):
    """Law: [1, 2, 2] or [2, 1, 1, 1] epochs, a new optimiser per cycle, the rates published; the last cycle goes on."""
    _, epochs = history(tmp_path, **options)
    assert [made for made, _ in epochs] == optimizers
    assert [rate for _, rate in epochs] == pytest.approx(rates)


@pytest.mark.parametrize(("options", "starts"), [({}, {0, 1, 3}), (VARIANT_2, {0, 2, 3, 4})])
def test_only_the_start_of_a_cycle_resets(tmp_path, options, starts):
    """Law: with rates that move nothing, all tensors but the classifier's change there, or convolutions beyond 1x1."""
    tiny = {"lr": 1e-30, "epoch_lrs": (1e-30,), "schedule": "constant"}
    for pool, expected in (
        ("convolutions", CANDIDATES),
        ("tensors", CANDIDATES | {"layers.2.weight", "layers.2.bias"}),
    ):
        states, _ = history(tmp_path, **{**options, **tiny, "layers": 60, "pool": pool})
        for epoch, (before, after) in enumerate(itertools.pairwise(states)):
            changed = {name for name in before if not torch.equal(before[name], after[name])}
            assert changed == (expected if epoch in starts else set())


def test_a_resnets_pool():
    """Law: 51 of its 62 parameter tensors: without the classifier's two and the nine of three projection shortcuts.

    Six draws with replacement reach 1 - (50 / 51)^6 = 11 % of them, two cycles 21 %, three 30 %: the published ratios.
    """
    assert len(module._candidates(torchvision.models.resnet18(), "tensors", 1000)) == 51
    assert [round(100 * (1 - (50 / 51) ** (6 * cycles))) for cycles in (1, 2, 3)] == [11, 21, 30]


def test_a_tensor_is_drawn_alone(tmp_path):
    """Law: one draw changes one tensor to its layer's default: not the other, nor a normalisation's statistics."""
    layer = nn.BatchNorm2d(3)
    with torch.no_grad():
        for tensor in layer.state_dict().values():
            tensor.fill_(7)
    module.reset_tensors([(layer, "weight")], Seeds(study=0), "reset")
    found = {name: float(tensor.double().mean()) for name, tensor in layer.state_dict().items()}
    assert found == {"weight": 1, "bias": 7, "running_mean": 7, "running_var": 7, "num_batches_tracked": 7}
    states, _ = history(tmp_path, lr=1e-30, layers=1, epochs=1.0, cycles=(1,))
    assert sum(not torch.equal(states[0][name], states[1][name]) for name in states[0]) == 1


def test_layers_are_drawn_with_replacement(tmp_path):
    """Law: two draws from two layers hit one alone in half of 24 cycles: 12, within 4 standard errors of 2.45."""
    both = alone = 0
    which = set()
    for run in range(8):
        states, _ = history(tmp_path, run=run, lr=1e-30, layers=2, **CONVOLUTIONS)
        for epoch in (0, 1, 3):
            hit = [not torch.equal(states[epoch][name], states[epoch + 1][name]) for name in sorted(CANDIDATES)]
            which.add(tuple(hit))
            both, alone = both + all(hit), alone + (not all(hit))
    assert both + alone == 24
    assert abs(alone - 12) < 10
    assert which == {(True, True, False, False), (False, False, True, True), (True, True, True, True)}


def test_the_regression_by_hand(tmp_path):
    """Law: one step on mean (f - f0)^2 over images and classes, both on the same noisy retain images."""
    options = {"epochs": 1.0, "cycles": (1,), "lr": 0.01, "weight_decay": 0.1, "layers": 1, "image_noise_std": 3.0}
    options |= CONVOLUTIONS
    states, _ = history(tmp_path, **options)
    (_, of_model), (_, of_teacher) = Net.seen
    assert [training for training, _ in Net.seen] == [True, False]
    assert torch.equal(of_model, of_teacher)
    clean = run_data(tmp_path).retain.batch(np.arange(20))[0]
    nearest = torch.cdist(of_model.flatten(1), clean.flatten(1)).argmin(1)
    assert sorted(nearest.tolist()) == list(range(20))
    noise = of_model - clean[nearest]
    assert abs(float(noise.mean())) < 5 * 3.0 / noise.numel() ** 0.5
    assert abs(float(noise.std()) - 3.0) < 5 * 3.0 / (2 * noise.numel()) ** 0.5

    original, by_hand = Net(), Net()
    rng = Seeds(study=0, population="test")
    with rng.global_state("reset-0"):
        by_hand.layers[int(rng.numpy("layers").integers(2))].reset_parameters()
    loss = ((by_hand(of_model) - original(of_model).detach()) ** 2).sum() / (20 * 3)
    loss.backward()
    for name, parameter in by_hand.named_parameters():
        expected = parameter - 0.01 * (parameter.grad + 0.1 * parameter)
        assert torch.allclose(states[-1][name], expected, atol=1e-6)


def test_the_target_stays_the_original(tmp_path, monkeypatch):
    """Law: with no layer changed and no noise to decay, f = f0 in every cycle, so that nothing moves at all."""
    monkeypatch.setattr(module, "reset_tensors", lambda *given: None)
    states, _ = history(tmp_path, weight_decay=0.0, lr=0.1)
    assert all(torch.allclose(states[0][name], states[-1][name], atol=1e-6) for name in states[0])


def test_a_model_without_candidates_is_refused(tmp_path):
    """Law: one line states what is missing."""
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Flatten(), nn.Linear(256, 3))
    with pytest.raises(MethodError, match="convolutions larger than 1x1, and the model has none"):
        forget(model, run_data(tmp_path), ForgetOptions(**CONVOLUTIONS), Seeds(study=0))
    with pytest.raises(MethodError, match="parameters outside the classifier, and the model has none"):
        forget(nn.Sequential(nn.Flatten(), nn.Linear(192, 3)), run_data(tmp_path), ForgetOptions(), Seeds(study=0))
