"""fanchuan, worked by hand: uniform predictions, then contrastive and retain passes in turn, three optimisers."""

from __future__ import annotations

import math

import pytest
import torch
from nets import HandSGD, SmallConv, batch_of, close, copy_of
from samples import run_data
from torch.nn import functional as F  # noqa: N812 - its usual name

from ray_unlearn.methods.fanchuan import FanchuanOptions, fanchuan
from ray_unlearn.methods.losses import contrastive
from ray_unlearn.seeds import Seeds

RNG = Seeds(study=0, population="fanchuan")
FORGET, RETAIN = set(range(10, 17)), set(range(10))


def test_the_contrastive_loss_by_hand():
    """Law: one forget image (1, 2) and retain images (1, 0), (0, 3) at t = 2: products 1/2, 3; -mean log softmax."""
    value = contrastive(torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0, 0.0], [0.0, 3.0]]), temperature=2.0)
    total = math.log(math.exp(0.5) + math.exp(3.0))
    assert float(value) == pytest.approx(-((0.5 - total) + (3.0 - total)) / 2)


def test_every_step_by_hand(tmp_path):
    """Law: one flattening pass, then (contrastive pass, retain pass) per round; each kind has momentum of its own.

    Forget batches are of 4, retain batches of 5: 2 steps a pass. The contrastive rate follows the cosine step by step
    over 2 rounds of 2; weight decay acts in the retain passes alone; no gradient flows through retain logits.
    """
    data, model = run_data(tmp_path, retain=10, forget=7), SmallConv()
    rates = {"flatten_lr": 0.1, "forget_lr": 0.2, "forget_lr_min": 0.01, "lr": 0.05}
    fanchuan(model, data, FanchuanOptions(**rates, epochs=2, batch_size=4, retain_batch_size=5), RNG)

    hand = copy_of(SmallConv())
    flatten, forget = (HandSGD(hand, momentum=0.9, decay=0.0) for _ in range(2))
    repair = HandSGD(hand, momentum=0.9, decay=1e-2)
    batches = iter(model.trained_on)
    seen = {"flatten": [], "forget": [], "paired": [], "repair": []}

    def logits(kind):
        seen[kind] += (indices := next(batches))
        images, labels = batch_of(data, indices)
        return hand(images), labels

    for _ in range(2):
        p = logits("flatten")[0].softmax(1)
        flatten.step((1 / 3 * (math.log(1 / 3) - p.log())).sum(1).mean(), 0.1)
    for turn in range(2):
        for step in range(2):
            products = logits("forget")[0] @ logits("paired")[0].detach().T / 1.15
            loss = -(products - products.logsumexp(1, keepdim=True)).mean()
            done = (2 * turn + step) / 4
            forget.step(loss, 0.01 + (0.2 - 0.01) * (1 + math.cos(math.pi * done)) / 2)
        for _ in range(2):
            outputs, labels = logits("repair")
            repair.step(F.cross_entropy(outputs, labels), 0.05)
    assert next(batches, None) is None
    assert [len(indices) for indices in seen.values()] == [7, 14, 20, 20]
    assert set(seen["flatten"]) == set(seen["forget"]) == FORGET
    assert set(seen["paired"]) == set(seen["repair"]) == RETAIN
    assert close(model, hand)


@pytest.mark.parametrize("epochs", [0.5, 1.5, 2.3])
def test_fractional_rounds_end(tmp_path, epochs):
    """Law: both kinds of pass make their own share of steps, no matter what rounding does to each."""
    data, model = run_data(tmp_path, retain=10, forget=7), SmallConv()
    fanchuan(model, data, FanchuanOptions(epochs=epochs, batch_size=7, retain_batch_size=2), RNG)
    contrastive_steps, retain_steps = max(1, round(epochs)), round(5 * epochs)
    assert len(model.trained_on) == 1 + 2 * contrastive_steps + retain_steps
