"""toshi_marvel: both halves worked by hand, and the index that chooses between them."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from nets import Remembering, close
from samples import run_data, same_weights
from torch import nn
from torch.nn import functional as F  # noqa: N812 - its usual name

from ray_unlearn.errors import MethodError
from ray_unlearn.methods.perturbations import scratch_copy
from ray_unlearn.methods.toshi_marvel import ToshiMarvelOptions, shifted, surely_wrong, toshi_marvel
from ray_unlearn.seeds import Seeds

RNG = Seeds(study=0, population="test")
ONE_STEP = {"epochs": 1.0, "scratch_epochs": 1.0, "batch_size": 64, "momentum": 0.0, "weight_decay": 0.0}


def net() -> Remembering:
    """Return two convolutions and a classifier."""
    return Remembering(lambda: [nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3), nn.Flatten(), nn.Linear(64, 3)])


def stepped(model: nn.Module, images: torch.Tensor, labels: torch.Tensor, lr: float) -> nn.Module:
    """Return the model after one plain gradient step on all images."""
    model = copy.deepcopy(model)
    F.cross_entropy(model(images), labels).backward()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.sub_(lr * parameter.grad)
    return model


def everything(images):
    """Return all images of a set, and their labels."""
    return images.batch(np.arange(len(images)))


def test_transpose_swaps_every_kernel_and_repairs_on_retain(tmp_path):
    """Law: w[o, i, y, x] -> w[o, i, x, y] in every convolution, nothing else; then cross-entropy on retain alone."""
    data = run_data(tmp_path)
    model, by_hand = net(), net()
    toshi_marvel(model, data, ToshiMarvelOptions(variant="transpose", lr=0.1, **ONE_STEP), RNG)
    with torch.no_grad():
        for layer in (by_hand.layers[0], by_hand.layers[1]):
            layer.weight.copy_(torch.from_numpy(np.swapaxes(layer.weight.numpy().copy(), 2, 3).copy()))
    assert close(model, stepped(by_hand, *everything(data.retain), lr=0.1))
    assert not close(model, stepped(net(), *everything(data.retain), lr=0.1))
    assert sorted(model.seen) == list(range(20))


def test_pseudo_labels_from_two_functions(tmp_path):
    """Law: retain; forget images right before and shifted, as the tuned copy states; surely wrong ones, as scratch
    states.

    One step by hand; an image that both functions choose comes twice.
    """
    data, threshold = run_data(tmp_path, forget=24), 1.093
    options = ToshiMarvelOptions(
        variant="pseudo_label", lr=1.0, scratch_lr=0.2, entropy_threshold=threshold, **ONE_STEP
    )
    heard = []
    model, original = net(), net()
    toshi_marvel(model, replace(data, on_epoch=lambda net, epoch, loss: heard.append((net, epoch))), options, RNG)

    retain, retain_labels = everything(data.retain)
    forget, true = everything(data.forget)
    before = original(forget).argmax(1)
    after = stepped(original, retain, retain_labels, lr=1.0)(forget).argmax(1)
    p = torch.softmax(stepped(scratch_copy(original, RNG, "scratch"), retain, retain_labels, lr=0.2)(forget), 1)
    said = p.argmax(1)
    moved, sure = (before == true) & (after != before), (said != true) & (-(p * p.log()).sum(1) < threshold)
    assert 0 < int(moved.sum()) < 24
    assert 0 < int(sure.sum()) < int((said != true).sum())  # the threshold counts
    assert not torch.equal(moved, sure)
    images = torch.cat([retain, forget[moved], forget[sure]])
    labels = torch.cat([retain_labels, after[moved], said[sure]])
    assert close(model, stepped(original, images, labels, lr=1.0))
    chosen = [*np.flatnonzero(moved.numpy()), *np.flatnonzero(sure.numpy())]
    assert sorted(model.seen) == [*range(20), *sorted(20 + index for index in chosen)]
    assert heard == [(model, 1)]  # no one learns of the copies


def test_both_functions_by_hand():
    """Law: (i) right before and other after: positions 0 and 3; (ii) wrong, entropy below T: position 1 alone."""
    labels = np.array([0, 1, 2, 0])
    assert [each.tolist() for each in shifted(labels, np.array([0, 0, 2, 0]), np.array([1, 1, 2, 2]))] == [
        [0, 3],
        [1, 2],
    ]
    sure, even = [9.0, 0.0, 0.0], [0.1, 0.0, 0.2]
    found = surely_wrong(labels, np.array([sure, sure, even, [0.0, 0.0, 0.1]], np.float32), 0.5)
    assert [each.tolist() for each in found] == [[1], [0]]


def test_the_index_chooses(tmp_path):
    """Law: a mix's run is its variant's run bit for bit; 246 and 266 start with pseudo-labels, then take turns."""
    data = run_data(tmp_path)
    for shares, expected in [({}, "ptp"), ({"transpose_share": 3, "pseudo_label_share": 1}, "ttp")]:
        for run, variant in enumerate(expected):
            rng = Seeds(study=0, population="test", run=run)
            mixed, alone = net(), net()
            toshi_marvel(mixed, data, ToshiMarvelOptions(lr=0.01, batch_size=7, **shares), rng)
            kind = {"p": "pseudo_label", "t": "transpose"}[variant]
            toshi_marvel(alone, data, ToshiMarvelOptions(variant=kind, lr=0.01, batch_size=7), rng)
            assert same_weights(mixed.state_dict(), alone.state_dict())


def test_a_scratch_copy_knows_nothing():
    """Law: every weight and statistic is a fresh layer's, from the stream alone; the model itself is left as it was."""
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.BatchNorm2d(4, affine=False), nn.Linear(4, 2))
    with torch.no_grad():
        for tensor in model.state_dict().values():
            tensor.fill_(7)
    scratch = scratch_copy(model, RNG, "a").state_dict()
    assert all(bool((tensor == 7).all()) for tensor in model.state_dict().values())
    assert not any(bool((tensor == 7).any()) for tensor in scratch.values())
    assert float(scratch["0.weight"].abs().max()) <= 27**-0.5  # PyTorch's default: uniform within 1 / sqrt(fan_in)
    assert float(scratch["1.running_mean"].abs().max()) == float(scratch["2.running_mean"].abs().max()) == 0
    assert same_weights(scratch, scratch_copy(model, RNG, "a").state_dict())
    assert not same_weights(scratch, scratch_copy(model, RNG, "b").state_dict())


def test_what_cannot_be_reset_is_refused():
    """Law: no parameter keeps what it learned: a layer without a default initialisation ends the run in one line."""
    model = nn.Sequential(nn.Linear(2, 2))
    model.register_parameter("scale", nn.Parameter(torch.ones(1)))
    with pytest.raises(MethodError, match="layer Sequential has no reset_parameters"):
        scratch_copy(model, RNG, "a")
