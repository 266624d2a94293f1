"""SalUn, worked by hand: which parameters may move, and that the others do not move by a bit."""

from __future__ import annotations

import pytest
import torch
from nets import HandSGD, SmallConv, batch_of, close, copy_of
from samples import digit_runs, run_data, same_weights
from torch import nn
from torch.nn import functional as F  # noqa: N812 - its usual name

from ray_unlearn.methods.random_label import RandomLabelOptions, random_label
from ray_unlearn.methods.salun import SalunOptions, salun
from ray_unlearn.seeds import Seeds

RNG = Seeds(study=0, population="salun")
BASE = {
    "order": "joint",
    "exclude_own": True,
    "epochs": 2,
    "lr": 0.05,
    "momentum": 0.9,
    "weight_decay": 0.1,
    "batch_size": 4,
}


def saliency(data, model, indices) -> list[torch.Tensor]:
    """Return |gradient of the summed cross-entropy| of every parameter over these images at once."""
    images, labels = batch_of(data, indices)
    loss = F.cross_entropy(model(images), labels, reduction="sum")
    return [gradient.abs() for gradient in torch.autograd.grad(loss, list(model.parameters()))]


@pytest.mark.parametrize("share", [0.5, 0.2])
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_masked_parameters_keep_every_bit(tmp_path, share, optimizer):
    """Law: the share of all parameters with the largest |grad CE(forget)| moves; decay and momentum move no other."""
    data, model, before = run_data(tmp_path, retain=6, forget=5), SmallConv(), SmallConv()
    salun(model, data, SalunOptions(**BASE, optimizer=optimizer, saliency=share), RNG)
    assert model.looked_at == [list(range(6, 11)), [6]]  # one look at the forget set in evaluation mode; map sizes
    score = torch.cat([each.flatten() for each in saliency(data, before, range(6, 11))])
    old, new = (torch.cat([p.detach().flatten() for p in net.parameters()]) for net in (before, model))
    moved = old != new
    assert int(moved.sum()) == len(score) - round((1 - share) * len(score))
    assert float(score[moved].min()) >= float(score[~moved].max()) - 1e-5 * float(score.max())


def test_every_step_by_hand_with_two_classes(tmp_path):
    """Law: the step of random labels, then masked parameters back to the original's; momentum is not masked."""
    data, model = run_data(tmp_path, retain=6, forget=5, classes=2), SmallConv(classes=2)
    hand, before = copy_of(model), copy_of(model)
    salun(model, data, SalunOptions(**BASE), RNG)
    scores = saliency(data, before, range(6, 11))
    median = torch.cat([each.flatten() for each in scores]).sort(descending=True).values
    masks = [score >= median[round(0.5 * len(median)) - 1] for score in scores]
    optimizer = HandSGD(hand, 0.9, 0.1)
    assert len(model.trained_on) == 6
    for indices in model.trained_on:
        images, labels = batch_of(data, indices)
        wrong = torch.where(torch.tensor(indices) >= 6, 1 - labels, labels)
        optimizer.step(F.cross_entropy(hand(images), wrong), 0.05)
        with torch.no_grad():
            for p, old, mask in zip(hand.parameters(), before.parameters(), masks, strict=True):
                p.copy_(torch.where(mask, p, old))
    assert close(model, hand)
    assert not close(model, before)


class Padded(nn.Module):
    """A convolution over 1x1 maps with a 3x3 kernel, of which one tap in nine meets a pixel, and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.pool, self.conv, self.head = nn.AdaptiveAvgPool2d(1), nn.Conv2d(3, 9, 3, padding=1), nn.Linear(9, 3)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.conv(self.pool(images / 255)).flatten(1))


def test_dead_weights_are_not_ranked(tmp_path):
    """Law: of 27 live taps, 9 biases, 27 + 3 of the head, half may move; the 216 dead taps fill no half, and stay."""
    data, model, before = run_data(tmp_path), Padded(), Padded()
    salun(model, data, SalunOptions(**BASE), RNG)
    moved = [(new != old) for new, old in zip(model.parameters(), before.parameters(), strict=True)]
    assert sum(int(each.sum()) for each in moved) == 66 - round(0.5 * 66)
    outside = torch.ones(3, 3, dtype=torch.bool)
    outside[1, 1] = False
    assert not moved[0][:, :, outside].any()


def test_with_all_parameters_it_is_random_label(tmp_path):
    """Law: saliency 1 holds nothing: the same labels, order and bits as the baseline."""
    data, model, baseline = run_data(tmp_path), SmallConv(), SmallConv()
    salun(model, data, SalunOptions(**BASE, saliency=1.0), RNG)
    random_label(baseline, data, RandomLabelOptions(**BASE), RNG)
    assert same_weights(model.state_dict(), baseline.state_dict())


def test_digits(tmp_path):
    """Law: finite; a run repeats, another goes differently; both hold the same half, batch normalisation's included."""
    first, again, other, still = digit_runs(tmp_path, "salun", (0, 0, 1, 2), epochs=3, batch_size=8)
    assert same_weights(first, again)
    assert not same_weights(first, other)
    names = [name for name in first if "running" not in name and "num_batches" not in name]
    first, other, still = (torch.cat([run[name].flatten() for name in names]) for run in (first, other, still))
    held = (first == other) & (other == still)
    assert 0.49 < float(held.float().mean()) < 0.52
