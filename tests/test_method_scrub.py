"""SCRUB, worked by hand: what alternates with what, both objectives, one optimiser, and the rate's drops."""

from __future__ import annotations

import pytest
import torch
from nets import HandSGD, SmallConv, batch_of, close, copy_of
from samples import run_data
from torch.nn import functional as F  # noqa: N812 - its usual name

from ray_unlearn.methods.scrub import ScrubOptions, scrub
from ray_unlearn.seeds import Seeds

RNG = Seeds(study=0, population="scrub")
BASE = {"optimizer": "sgd", "lr": 0.05, "momentum": 0.9, "weight_decay": 0.1, "batch_size": 4, "forget_batch_size": 3}


def divergence(teacher: torch.nn.Module, student: torch.nn.Module, images: torch.Tensor, temperature: float):
    """Return T^2 times the batch mean of sum_c p_c log(p_c / q_c); p is the teacher's softmax at T, q the student's."""
    p = torch.softmax(teacher(images) / temperature, 1).detach()
    q = torch.softmax(student(images) / temperature, 1)
    return temperature**2 * (p * (p / q).log()).sum(1).mean()


@pytest.mark.parametrize(("msteps", "expected"), [(2, "FFRRFFRRRRRR"), (0, "RRRRRRRR"), (9, "FFRRFFRRFFRRFFRR")])
def test_max_steps_come_first_and_only_in_the_first_epochs(tmp_path, msteps, expected):
    """Law: each of the first `msteps` of 4 epochs passes over forget and then retain, the others over retain alone."""
    data, model = run_data(tmp_path, retain=8, forget=6), SmallConv()
    scrub(model, data, ScrubOptions(**BASE, epochs=4, msteps=msteps), RNG)
    assert "".join("F" if min(batch) >= 8 else "R" for batch in model.trained_on) == expected
    for first, second in zip(model.trained_on[::2], model.trained_on[1::2], strict=True):
        whole = range(8, 14) if min(first) >= 8 else range(8)
        assert sorted(first + second) == list(whole)
        assert len(first) == (3 if min(first) >= 8 else 4)


def test_every_step_by_hand(tmp_path):
    """Law: -KL(T ‖ S) on forget; 0.7 CE + 1.5 KL on retain, T the start; shared momentum; drops after epochs 1, 3."""
    data, model = run_data(tmp_path, retain=8, forget=6), SmallConv()
    teacher, hand = copy_of(model), copy_of(model)
    options = {"epochs": 4, "msteps": 3, "decay_epochs": (1, 3), "gamma": 0.5, "temperature": 3.0}
    scrub(model, data, ScrubOptions(**BASE, **options, ce_weight=0.7, kl_weight=1.5), RNG)
    rates = [0.05] * 4 + [0.025] * 8 + [0.0125] * 2
    assert len(model.trained_on) == len(rates)
    optimizer = HandSGD(hand, 0.9, 0.1)
    for indices, rate in zip(model.trained_on, rates, strict=True):
        images, labels = batch_of(data, indices)
        apart = divergence(teacher, hand, images, 3.0)
        loss = -apart if min(indices) >= 8 else 0.7 * F.cross_entropy(hand(images), labels) + 1.5 * apart
        optimizer.step(loss, rate)
    assert close(model, hand)


def test_max_steps_leave_the_teacher_on_forget(tmp_path):
    """Law: the forget set's divergence from the original grows with max-steps beyond what min-steps alone give."""
    data = run_data(tmp_path, retain=8, forget=6)
    images, _ = batch_of(data, range(8, 14))
    apart = []
    for msteps in (0, 4):
        model = SmallConv()
        scrub(model, data, ScrubOptions(**BASE, epochs=4, msteps=msteps, ce_weight=0.1), RNG)
        apart.append(divergence(SmallConv(), model, images, 1.0).item())
    assert apart[1] > apart[0] >= 0


def test_class_weights_act_on_cross_entropy(tmp_path):
    """Law: with `inverse`, retain labels 0 1 2 0 1 weigh 1/2, 1/2 and 1 in the hard term of the min-step."""
    data, model = run_data(tmp_path, retain=5, forget=5), SmallConv()
    hand = copy_of(model)
    options = ScrubOptions(**BASE | {"batch_size": 5}, epochs=1, msteps=0, class_weights="inverse")
    scrub(model, data, options, RNG)
    images, labels = batch_of(data, range(5))
    loss = F.cross_entropy(hand(images), labels, weight=torch.tensor([1 / 2, 1 / 2, 1.0]))
    HandSGD(hand, 0.9, 0.1).step(loss, 0.05)
    assert close(model, hand)
