"""Bad teacher, worked by hand: which teacher each image gets, and on what the student is trained."""

from __future__ import annotations

from itertools import chain

import pytest
import torch
from nets import HandSGD, SmallConv, batch_of, close, copy_of
from samples import run_data

from ray_unlearn.methods.bad_teacher import BadTeacherOptions, bad_teacher
from ray_unlearn.methods.perturbations import scratch_copy
from ray_unlearn.seeds import Seeds

RNG = Seeds(study=0, population="bad")
BASE = {"optimizer": "sgd", "lr": 0.05, "momentum": 0.9, "weight_decay": 0.1, "batch_size": 4}


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_every_step_by_hand(tmp_path, temperature):
    """Law: T^2 KL(p ‖ student), p = l softmax(random / T) + (1 - l) softmax(original / T), l = 1 for forget images."""
    data, model = run_data(tmp_path, retain=10, forget=7), SmallConv()
    original, random, hand = copy_of(model), scratch_copy(model, RNG, "random-teacher").eval(), copy_of(model)
    assert not any(torch.equal(p, q) for p, q in zip(original.parameters(), random.parameters(), strict=True))
    options = BadTeacherOptions(**BASE, epochs=3, retain_fraction=0.5, temperature=temperature)
    bad_teacher(model, data, options, RNG)
    assert any(min(batch) < 10 <= max(batch) for batch in model.trained_on)
    optimizer = HandSGD(hand, 0.9, 0.1)
    for indices in model.trained_on:
        images, _ = batch_of(data, indices)
        forget = (torch.tensor(indices) >= 10).float()[:, None]
        p_random, p_original = (torch.softmax(net(images).detach() / temperature, 1) for net in (random, original))
        p = forget * p_random + (1 - forget) * p_original
        q = torch.softmax(hand(images) / temperature, 1)
        optimizer.step(temperature**2 * (p * (p / q).log()).sum(1).mean(), 0.05)
    assert close(model, hand)
    assert not close(model, original)


def test_the_subset_is_drawn_once_per_run(tmp_path):
    """Law: every epoch sees all forget images and the same 6 of 20 retain images; another run draws others."""
    data, seen = run_data(tmp_path, retain=20, forget=6), []
    for run in (0, 1):
        model = SmallConv()
        bad_teacher(model, data, BadTeacherOptions(**BASE, epochs=3), Seeds(study=0, population="bad", run=run))
        epochs = [sorted(chain(*model.trained_on[start : start + 3])) for start in (0, 3, 6)]
        assert len(model.trained_on) == 9
        assert epochs[0] == epochs[1] == epochs[2]
        assert epochs[0][6:] == list(range(20, 26))
        assert len(set(epochs[0][:6])) == 6
        seen.append(epochs[0])
    assert seen[0] != seen[1]


def test_each_run_has_a_random_teacher_of_its_own(tmp_path):
    """Law: on one batch of everything, where subset and order are the same, two runs still go apart."""
    data, results = run_data(tmp_path, retain=4, forget=4), []
    for run in (0, 1):
        model = SmallConv()
        options = BadTeacherOptions(**BASE | {"batch_size": 8}, retain_fraction=1.0)
        bad_teacher(model, data, options, Seeds(study=0, population="bad", run=run))
        results.append(model)
    assert not close(*results)
