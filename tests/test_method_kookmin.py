"""kookmin, worked by hand: which weights are drawn anew, from what, and how the others are held back."""

from __future__ import annotations

import math

import pytest
import torch
from nets import HandSGD, SmallConv, batch_of, close, copy_of
from samples import digit_runs, run_data, same_weights
from torch.nn import functional as F  # noqa: N812 - its usual name

from ray_unlearn.methods.kookmin import KookminOptions, _rate, kookmin
from ray_unlearn.seeds import Seeds

STILL = {"lr": 1e-30, "weight_decay": 0.0, "epochs": 1}  # trains without changing a bit
RNG = Seeds(study=0, population="kookmin")


def test_published_values():
    """Law: 30 % of all convolutions together, a tenth of the gradient, 5 epochs, 1e-3, decay 5e-4, 3 of warm-up."""
    known = KookminOptions()
    assert (known.fraction, known.scope, known.kept_scale, known.warmup_epochs) == (0.3, "global", 0.1, 3)
    assert (known.epochs, known.optimizer, known.lr, known.momentum, known.weight_decay) == (5, "sgd", 1e-3, 0.9, 5e-4)


@pytest.mark.parametrize(("scope", "fraction"), [("global", 0.3), ("layer", 0.3), ("global", 0.1)])
def test_exactly_the_smallest_gradients_are_drawn_anew(tmp_path, scope, fraction):
    """Law: of 108 and 216 weights, 97 (or 32 and 65, or 32) with the smallest |grad CE(retain) - grad CE(forget)|."""
    data = run_data(tmp_path, retain=6, forget=6)  # as many retain images as forget: the random subset is all of them
    before, model = SmallConv(), SmallConv()
    kookmin(model, data, KookminOptions(**STILL, scope=scope, fraction=fraction), RNG)

    retain, forget = (batch_of(data, indices) for indices in (range(6), range(6, 12)))
    losses = [F.cross_entropy(before(images), labels) for images, labels in (retain, forget)]
    difference = torch.autograd.grad(losses[0] - losses[1], before.kernels)
    scores = [gradient.abs().flatten() for gradient in difference]
    fresh = [(new != old).flatten() for new, old in zip(model.kernels, before.kernels, strict=True)]
    if scope == "layer":
        assert [int(each.sum()) for each in fresh] == [32, 65]
    else:
        scores, fresh = [torch.cat(scores)], [torch.cat(fresh)]
        assert int(fresh[0].sum()) == round(fraction * 324)
    for score, where in zip(scores, fresh, strict=True):
        assert float(score[where].max()) <= float(score[~where].min()) + 1e-6 * float(score.max())
    for name in ("layers.0.bias", "layers.2.bias", "layers.5.weight", "layers.5.bias"):
        assert torch.equal(model.get_parameter(name), before.get_parameter(name))


def test_fresh_weights_are_he_normal_by_fan_out(tmp_path):
    """Law: N(0, 2 / (outputs * 9)), not by inputs: mean and spread within 5 standard errors, in both layers."""
    before, model = SmallConv((64, 16)), SmallConv((64, 16))
    kookmin(model, run_data(tmp_path), KookminOptions(**STILL, scope="layer"), RNG)
    for new, old in zip(model.kernels, before.kernels, strict=True):
        drawn, std = new[new != old].detach(), math.sqrt(2 / (len(new) * 9))
        assert abs(float(drawn.mean())) < 5 * std / len(drawn) ** 0.5
        assert abs(float(drawn.std()) - std) < 5 * std / (2 * len(drawn)) ** 0.5


def test_the_subset_is_as_large_as_forget_and_the_runs_own(tmp_path):
    """Law: scores look at all forget images and as many retain images, drawn per run; training sees retain alone."""
    subsets = []
    for run in (0, 0, 1):
        model = SmallConv()
        rng = Seeds(study=0, population="kookmin", run=run)
        kookmin(model, run_data(tmp_path), KookminOptions(**STILL), rng)
        on_retain, on_forget = model.looked_at
        assert sorted(on_forget) == list(range(20, 26))
        assert len(set(on_retain)) == 6
        assert set(on_retain) < set(range(20))
        assert sorted(index for batch in model.trained_on for index in batch) == list(range(20))
        subsets.append(set(on_retain))
    assert subsets[0] == subsets[1] != subsets[2]


def test_kept_weights_move_by_a_tenth_of_their_gradient(tmp_path):
    """Law: SGD with momentum and decay, kept kernels' gradients times 0.1, rates 1/3, 2/3, 1, 2/3, 1/3 by epoch."""
    data, model, start = run_data(tmp_path), SmallConv(), SmallConv()
    kookmin(model, data, KookminOptions(lr=0.05, batch_size=10), RNG)
    kookmin(start, data, KookminOptions(**STILL), RNG)
    hand, original = copy_of(start), SmallConv()
    scales = {own: torch.where(own != old, 1.0, 0.1) for own, old in zip(hand.kernels, original.kernels, strict=True)}
    sgd = HandSGD(hand, momentum=0.9, decay=5e-4)
    rates = [1 / 3, 1 / 3, 2 / 3, 2 / 3, 1, 1, 2 / 3, 2 / 3, 1 / 3, 1 / 3]  # two batches an epoch
    for indices, rate in zip(model.trained_on, rates, strict=True):
        images, labels = batch_of(data, indices)
        sgd.step(F.cross_entropy(hand(images), labels), 0.05 * rate, scales)
    assert close(model, hand)
    assert not close(model, start)


@pytest.mark.parametrize(
    ("epochs", "warmup", "expected"),
    [
        (5, 3, [1 / 3, 2 / 3, 1, 2 / 3, 1 / 3]),
        (2, 0, [1, 1 / 2]),
        (2, 4, [1 / 4, 2 / 4]),
        (4, 1, [1, 3 / 4, 1 / 2, 1 / 4]),
    ],
)
def test_the_rate_rises_and_falls_in_equal_steps(epochs, warmup, expected):
    """Law: up to 1 in `warmup` steps, then down as if to 0 after the last epoch; never above 1."""
    options = KookminOptions(epochs=epochs, warmup_epochs=warmup)
    assert [_rate(options, epoch) for epoch in range(epochs)] == pytest.approx(expected)


def test_runs_on_digits(tmp_path):
    """Law: losses stay finite; the same run twice is bit-equal; another run differs."""
    first, again, other = digit_runs(tmp_path, "kookmin", batch_size=8)
    assert same_weights(first, again)
    assert not same_weights(first, other)
