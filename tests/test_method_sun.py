"""sun: which tensors get noise and train in which epoch, at which rate; one step worked by hand."""

from __future__ import annotations

import copy
import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
import torchvision
from nets import optimizers_of, weights_of
from samples import indices_of, run_data
from torch import nn
from torch.nn import functional as F  # noqa: N812 - its usual name

from ray_unlearn.methods import sun as module
from ray_unlearn.methods.sun import SunOptions, sun
from ray_unlearn.seeds import Seeds

KINDS = {"pool": "weights", "noise_again": True}  # Net's names have no "bn"
NORMAL = {"layers.1.weight", "layers.1.bias", "layers.3.weight", "layers.3.bias"}
HEAD = {"layers.9.weight", "layers.9.bias"}


class Net(nn.Module):
    """Five convolutions, two batch normalisations, a classifier: 12 tensors, and batch normalisation's 4."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            first = [nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8)]
            more = [nn.Conv2d(8, 8, 3, padding=1) for _ in range(3)]
            self.layers = nn.Sequential(*first, nn.Tanh(), *more, nn.Flatten(), nn.Linear(128, 3))
            nn.init.ones_(first[1].bias)  # 1 - 1e-30 is 1; 0 - 1e-30 is not 0
            nn.init.ones_(first[3].bias)
        self.seen: set[int] = set()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.seen |= set(indices_of(images))
        return self.layers(images / 255)


def history(folder, run: int = 0, **options):
    """Run the method; return the weights before it and after each epoch, and each epoch's optimiser and its rate."""
    model, epochs = Net(), []
    states = [weights_of(model)]

    def note(model, epoch, loss):
        states.append(weights_of(model))
        epochs.append((made[-1], made[-1].param_groups[0]["lr"]))

    data = replace(run_data(folder), on_epoch=note)
    with optimizers_of(module) as made:
        sun(model, data, SunOptions(batch_size=64, **options), Seeds(study=0, population="test", run=run))
    assert model.seen == set(range(20))
    assert all(parameter.requires_grad for parameter in model.parameters())
    return states, epochs, data


def changed(before, after):
    """Return the names of the tensors of which some element is another."""
    return {name for name in before if not torch.equal(before[name], after[name])}


def test_each_epoch_trains_its_tensors(tmp_path):
    """Law: five epochs of 9 random tensors and all batch normalisation, differently drawn; then four of everything."""
    states, epochs, _ = history(tmp_path, lr=1e-2, **KINDS)
    assert len(epochs) == 9
    everything = set(states[0])
    assert len(everything) == 16
    moved = [changed(before, after) for before, after in itertools.pairwise(states[1:])]  # from epoch 1 on
    for names in moved[:4]:
        assert names >= NORMAL
        assert len(names) == 9 + 4
    assert len({frozenset(names) for names in moved[:4]}) > 1
    assert moved[4:] == [everything] * 4
    first = changed(states[0], states[1]) | HEAD  # epoch 0: its nine, and the classifier, which is reset
    assert NORMAL < first < everything
    assert [rate for _, rate in epochs] == pytest.approx([1e-2] * 5 + [2e-4, 2e-4, 2e-4, 1e-3])
    assert len({id(optimizer) for optimizer, _ in epochs}) == 9


def test_noise_goes_to_six_of_the_nine(tmp_path):
    """Law: with a rate that moves nothing, epoch 0 changes the classifier alone, epochs 1 to 4 six by N(0, 0.04^2)."""
    draws = []
    for run in range(3):
        states, epochs, _ = history(tmp_path, run=run, lr=1e-30, final_lrs=(1e-30,) * 4, **KINDS)
        trained = [{id(p) for p in optimizer.param_groups[0]["params"]} for optimizer, _ in epochs]
        assert [len(each) for each in trained] == [13] * 5 + [16] * 4
        moved = [changed(before, after) for before, after in itertools.pairwise(states)]
        assert moved[0] == HEAD
        assert [len(names) for names in moved[1:]] == [6] * 4 + [0] * 4
        assert not any(names & NORMAL for names in moved)
        for before, after, names in zip(states[1:5], states[2:6], moved[1:5], strict=True):
            draws += [(after[name] - before[name]).flatten() for name in sorted(names)]
    noise = torch.cat(draws)
    assert len(noise) > 5000
    assert abs(float(noise.mean())) < 5 * 0.04 / len(noise) ** 0.5
    assert abs(float(noise.std()) - 0.04) < 5 * 0.04 / (2 * len(noise)) ** 0.5


def test_noise_goes_to_tensors_that_no_epoch_chose_before(tmp_path):
    """Law: as in the port, a tensor gets noise in at most one epoch, and none that epoch 0 trained gets any."""
    noisy = 0
    for run in range(4):
        states, epochs, _ = history(tmp_path, run=run, lr=1e-30, final_lrs=(1e-30,) * 4, pool="weights", tensors=4)
        moved = [changed(before, after) for before, after in itertools.pairwise(states)]
        model = list(states[0])
        trained = [[p.shape for p in optimizer.param_groups[0]["params"]] for optimizer, _ in epochs]
        assert len(trained[0]) == 4 + 4
        assert sum(len(names) for names in moved[1:5]) == len(set().union(*moved[1:5]))
        assert all(len(names) <= 2 for names in moved[1:5])  # of 4, 0.7 rounded down
        noisy += sum(len(names) for names in moved[1:5])
        assert set().union(*moved) <= set(model)
    assert 0 < noisy < 4 * 4 * 2


class Named(Net):
    """A second normalisation by another name, as a ResNet's shortcuts have it."""

    def __init__(self) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(3)
        self.downsample = nn.BatchNorm2d(3)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return super().forward(images) + 0 * (self.bn(images).mean() + self.downsample(images).mean())


@pytest.mark.parametrize(("pool", "names"), [("port", {"bn"}), ("weights", {"bn", "downsample", "layers"})])
def test_what_every_epoch_trains(pool, names):
    """Law: by the port's rule, parameters with "bn" in their name; by kind, every batch normalisation's."""
    model = Named()
    always = module._normalisation(model, pool)
    assert {name.split(".")[0] for name, p in model.named_parameters() if p in always} == names


def test_the_pools_of_a_resnet():
    """Law: 62 tensors, of which 34 have "bn" in their name and 40 belong to batch normalisation: pools of 28 and 22."""
    model = torchvision.models.resnet18(num_classes=3)
    sizes = {pool: len(module._normalisation(model, pool)) for pool in ("port", "weights")}
    assert {pool: 62 - size for pool, size in sizes.items()} == {"port": 28, "weights": 22}


def test_the_last_epochs_step_by_hand(tmp_path):
    """Law: w - lr (gradient + wd w) on retain, at the last of `final_lrs`, without a moment from earlier epochs."""
    states, _, data = history(tmp_path, lr=0.05, final_lrs=(0.05, 0.05, 0.05, 0.2), weight_decay=0.01)
    by_hand = Net()
    by_hand.load_state_dict(states[-2], strict=False)
    images, labels = data.retain.batch(np.arange(20))
    F.cross_entropy(by_hand(images), labels).backward()
    for name, parameter in by_hand.named_parameters():
        expected = parameter - 0.2 * (parameter.grad + 0.01 * parameter)
        assert torch.allclose(states[-1][name], expected, atol=1e-5)


def test_small_models_and_few_epochs(tmp_path):
    """Law: beyond the model's tensors all train; with no more epochs than `final_lrs` there is no first stage."""
    states, epochs, _ = history(tmp_path, tensors=99, **KINDS)
    assert len(changed(states[1], states[2])) == 16
    states, epochs, _ = history(tmp_path, epochs=2.0, final_lrs=(0.1, 0.2, 0.3))
    assert [rate for _, rate in epochs] == pytest.approx([0.1, 0.2])
    assert len(changed(states[1], states[2])) == 16


def test_the_classifier_is_fresh(tmp_path):
    """Law: its weights are PyTorch's default, from the stream `reset`."""
    model, rng = Net(), Seeds(study=0, population="test")
    head = copy.deepcopy(model.layers[9])
    with rng.global_state("reset"):
        head.reset_parameters()
    sun(model, run_data(tmp_path), SunOptions(epochs=1.0, lr=1e-30, final_lrs=()), rng)
    assert torch.equal(model.layers[9].weight, head.weight)
