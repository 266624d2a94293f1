"""amnesiacs: the reset, both phases and both losses, worked by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from nets import Remembering
from samples import run_data
from torch import nn

from ray_unlearn.errors import MethodError
from ray_unlearn.methods.amnesiacs import AmnesiacsOptions, amnesiacs
from ray_unlearn.seeds import Seeds

RNG = Seeds(study=0, population="test")
ONE_STEP = {"epochs": 1.0, "validation_epochs": 1.0, "batch_size": 64, "weight_decay": 0.0}


def two_and_two() -> Remembering:
    """Return two convolutions and two linear layers."""
    head = lambda: [nn.Flatten(), nn.Linear(64, 6), nn.Tanh(), nn.Linear(6, 3)]  # noqa: E731
    return Remembering(lambda: [nn.Conv2d(3, 4, 3), nn.Tanh(), nn.Conv2d(4, 4, 3), *head()])


def step(model: nn.Module, loss: torch.Tensor, lr: float) -> None:
    """Take one plain gradient step."""
    gradients = torch.autograd.grad(loss, list(model.parameters()))
    with torch.no_grad():
        for parameter, gradient in zip(model.parameters(), gradients, strict=True):
            parameter.sub_(lr * gradient)


def kl(p_logits: torch.Tensor, q_logits: torch.Tensor, T: float) -> torch.Tensor:
    """Return the mean over images of sum_c p_c log(p_c / q_c), softened by T; no T^2, as in the port."""
    p, q = (torch.exp(z / T) / torch.exp(z / T).sum(1, keepdim=True) for z in (p_logits, q_logits))
    return (p * torch.log(p / q)).sum(1).mean()


def expected(data, validation, objective: str, T: float) -> nn.Module:
    """Return the model after the reset, one step of distillation and one of repair, in plain torch."""
    teacher, model = two_and_two(), two_and_two()
    with RNG.global_state("reset"):
        model.layers[0].reset_parameters()
        model.layers[6].reset_parameters()
    images, _ = validation.batch(np.arange(len(validation)))
    step(model, kl(teacher(images).detach(), model(images), T), lr=0.2)
    images, labels = data.retain.batch(np.arange(len(data.retain)))
    student, target = model(images), teacher(images).detach()
    on_labels = -torch.log_softmax(student, 1)[torch.arange(len(labels)), labels].mean()
    p, q = torch.softmax(target / T, 1), torch.softmax(student / T, 1)
    extra = kl(student, target, T) if objective == "paper" else -(p * torch.log(q)).sum(1).mean()
    step(model, on_labels + kl(target, student, T) + extra, lr=2.0)
    return model


@pytest.mark.parametrize("objective", ["port", "paper"])
def test_reset_then_distil_then_repair(tmp_path, objective):
    """Law: first convolution and last linear layer fresh; a step on validation, then one on retain, momentum apart."""
    data = run_data(tmp_path, validation=9)
    model = two_and_two()
    options = AmnesiacsOptions(lr=2.0, validation_lr=0.2, temperature=2.0, objective=objective, **ONE_STEP)
    amnesiacs(model, data, options, RNG)
    by_hand = expected(data, data.validation, objective, T=2.0)
    for ours, theirs in zip(model.parameters(), by_hand.parameters(), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-5)
    other = expected(data, data.validation, "paper" if objective == "port" else "port", T=2.0)
    assert not torch.allclose(model.layers[6].weight, other.layers[6].weight, atol=1e-5)
    assert sorted(model.seen[:9]) == list(range(26, 35))  # retain 0..19, forget 20..25, validation 26..34
    assert sorted(model.seen[9:]) == list(range(20))


def test_temperature_scaling_is_an_option(tmp_path):
    """Law: with it the warm-up's step is T^2 = 4 times as long, which a rate of four times as much gives without."""
    moved = []
    for options in ({"validation_lr": 0.2, "temperature_scaling": True}, {"validation_lr": 0.8}):
        model = two_and_two()
        amnesiacs(model, run_data(tmp_path), AmnesiacsOptions(lr=1e-30, temperature=2.0, **options, **ONE_STEP), RNG)
        moved.append(model)
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(*(m.parameters() for m in moved), strict=True))


def test_only_the_first_and_the_last_layer_are_reset(tmp_path):
    """Law: with rates that move nothing, these two change, and what is between them stays as it was."""
    model, before = two_and_two(), two_and_two()
    options = AmnesiacsOptions(lr=1e-30, validation_lr=1e-30, **ONE_STEP)
    amnesiacs(model, run_data(tmp_path), options, RNG)
    changed = [not torch.equal(a, b) for a, b in zip(model.parameters(), before.parameters(), strict=True)]
    assert changed == [True, True, False, False, False, False, True, True]


def test_validation_images_of_some_classes(tmp_path):
    """Law: `validation_classes: [0, 1]` distils on those alone; retain is whole."""
    data = run_data(tmp_path, validation=9)  # labels 26 % 3 = 2, 0, 1, ...
    chosen = data.validation.subset(np.array([1, 2, 4, 5, 7, 8]))
    model = two_and_two()
    options = AmnesiacsOptions(lr=2.0, validation_lr=0.2, temperature=2.0, validation_classes=(0, 1), **ONE_STEP)
    amnesiacs(model, data, options, RNG)
    by_hand = expected(data, chosen, "port", T=2.0)
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(model.parameters(), by_hand.parameters(), strict=True))
    assert sorted(model.seen[:6]) == [27, 28, 30, 31, 33, 34]
    assert sorted(model.seen[6:]) == list(range(20))


@pytest.mark.parametrize("classes", [None, (0, 1)])
def test_a_study_without_validation_is_refused(tmp_path, classes):
    """Law: one line states which set is missing."""
    with pytest.raises(MethodError, match="trains on the validation set, which this study does not have"):
        amnesiacs(two_and_two(), run_data(tmp_path, validation=0), AmnesiacsOptions(validation_classes=classes), RNG)


def test_rates_of_the_phases(tmp_path, monkeypatch):
    """Law: constant on validation; on retain cosine, by epoch: 1, (1 + cos(pi / 3)) / 2 = 3/4, 1/4."""
    from ray_unlearn.training import loop

    rates = []
    monkeypatch.setattr(loop, "set_rate", lambda optimizer, rate: rates.append(rate))
    amnesiacs(two_and_two(), run_data(tmp_path), AmnesiacsOptions(), RNG)
    assert rates == pytest.approx([9e-4, 9e-4, 9e-4, 1e-3, 7.5e-4, 2.5e-4])
