"""Random labels, worked by hand: which labels each image is trained under, and on what."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from nets import HandSGD, SmallConv, batch_of, close, copy_of
from samples import indices_of, run_data
from torch.nn import functional as F  # noqa: N812 - its usual name

from ray_unlearn.errors import MethodError
from ray_unlearn.methods.random_label import RandomLabelOptions, random_label, random_labels
from ray_unlearn.seeds import Seeds

RNG = Seeds(study=0, population="random")


class Watched(SmallConv):
    """Remembers the label that each image was trained under: the one entry of softmax - onehot below zero."""

    def __init__(self, classes: int) -> None:
        super().__init__(classes=classes)
        self.labels: list[tuple[int, int]] = []

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits, indices = super().forward(images), indices_of(images)

        def note(gradient: torch.Tensor) -> None:
            self.labels += zip(indices, gradient.argmin(1).tolist(), strict=True)

        logits.register_hook(note)
        return logits


def test_forget_labels_may_be_wrong_and_new_in_every_epoch(tmp_path):
    """Law: each epoch sees every image once; retain images under their own class, forget images never, nor for long."""
    data, model = run_data(tmp_path, retain=20, forget=30, classes=5), Watched(classes=5)
    random_label(model, data, RandomLabelOptions(epochs=4, batch_size=5, exclude_own=True), RNG)
    epochs = [dict(model.labels[start : start + 50]) for start in range(0, 200, 50)]
    assert len(model.labels) == 200
    for labels in epochs:
        assert sorted(labels) == list(range(50))
        assert all(labels[i] == i % 5 for i in range(20))
        assert all(labels[i] != i % 5 for i in range(20, 50))
    forget = [[labels[i] for i in range(20, 50)] for labels in epochs]
    assert len({tuple(labels) for labels in forget}) == 4
    assert all(sum(a == b for a, b in zip(*pair, strict=True)) < 20 for pair in pairwise(forget))


@pytest.mark.parametrize(("exclude_own", "shares"), [(False, [0.2] * 5), (True, [0.0] + [0.25] * 4)])
def test_labels_are_uniform(exclude_own, shares):
    """Law: each class has probability 1/5, or each other one 1/4 and the own 0: within 5 standard errors of 40,000."""
    own = np.arange(40_000) % 5
    drawn = random_labels(own, 5, np.random.default_rng(0), exclude_own=exclude_own)
    shifts = np.bincount((drawn - own) % 5, minlength=5)
    assert (shifts[0] == 0) == exclude_own
    assert np.abs(shifts - 40_000 * np.array(shares)).max() < 5 * (40_000 * 0.2) ** 0.5
    assert set(drawn) == set(range(5))


def test_the_optimum_is_uniform_as_published(tmp_path):
    """Law: by default a forget image gets its own class as often as any: 1/3 of 30 images in 4 epochs, within 5 sd."""
    data, model = run_data(tmp_path, retain=2, forget=30, classes=3), Watched(classes=3)
    random_label(model, data, RandomLabelOptions(epochs=4, batch_size=8), RNG)
    own = [label == index % 3 for index, label in model.labels if index >= 2]
    assert len(own) == 120
    assert abs(sum(own) - 40) < 5 * (120 * 2 / 9) ** 0.5


def test_labels_are_drawn_once_where_asked(tmp_path):
    """Law: `redraw: once`, as in Amnesiac: every epoch has the same wrong label for an image."""
    data, model = run_data(tmp_path, retain=6, forget=12, classes=5), Watched(classes=5)
    options = RandomLabelOptions(epochs=3, batch_size=6, exclude_own=True, redraw="once")
    random_label(model, data, options, RNG)
    epochs = [dict(model.labels[start : start + 18]) for start in range(0, 54, 18)]
    assert epochs[0] == epochs[1] == epochs[2]
    assert all(epochs[0][i] != i % 5 for i in range(6, 18))


def test_sequential_epochs_by_hand(tmp_path):
    """Law: forget batches, then retain batches, epoch by epoch, one optimiser: SalUn's branch for CIFAR-10."""
    data, model = run_data(tmp_path, retain=6, forget=5, classes=2), SmallConv(classes=2)
    hand = copy_of(model)
    options = RandomLabelOptions(
        epochs=2, lr=0.05, momentum=0.9, weight_decay=0.1, batch_size=4, exclude_own=True, order="sequential"
    )
    random_label(model, data, options, RNG)
    assert [min(batch) >= 6 for batch in model.trained_on] == [True, False, False, True, False, False]
    assert [len(batch) for batch in model.trained_on] == [4, 4, 2] * 2
    optimizer = HandSGD(hand, 0.9, 0.1)
    for indices in model.trained_on:
        images, labels = batch_of(data, indices)
        optimizer.step(F.cross_entropy(hand(images), 1 - labels if min(indices) >= 6 else labels), 0.05)
    assert close(model, hand)


@pytest.mark.parametrize("class_weights", ["none", "inverse"])
def test_every_step_by_hand_with_two_classes(tmp_path, class_weights):
    """Law: SGD with momentum and decay on mixed batches; with two classes the wrong label is the other one.

    Class weights count own classes: 6 and 5 of the 11 images.
    """
    data, model = run_data(tmp_path, retain=6, forget=5, classes=2), SmallConv(classes=2)
    hand = copy_of(model)
    options = RandomLabelOptions(
        epochs=2, lr=0.05, momentum=0.9, weight_decay=0.1, batch_size=4, class_weights=class_weights, exclude_own=True
    )
    random_label(model, data, options, RNG)
    assert [len(batch) for batch in model.trained_on] == [4, 4, 3, 4, 4, 3]
    assert any(min(batch) < 6 <= max(batch) for batch in model.trained_on)
    weight = torch.tensor([1 / 6, 1 / 5]) if class_weights == "inverse" else None
    optimizer = HandSGD(hand, 0.9, 0.1)
    for indices in model.trained_on:
        images, labels = batch_of(data, indices)
        wrong = torch.where(torch.tensor(indices) >= 6, 1 - labels, labels)
        optimizer.step(F.cross_entropy(hand(images), wrong, weight=weight), 0.05)
    assert close(model, hand)


def test_one_class_is_refused(tmp_path):
    """Law: with one class no label is wrong; the message reports it in a line."""
    data = run_data(tmp_path, classes=1)
    with pytest.raises(MethodError, match="random labels need at least two classes; the data has one"):
        random_label(SmallConv(classes=1), data, RandomLabelOptions(), RNG)
