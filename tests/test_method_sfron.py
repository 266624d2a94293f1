"""SFRon, worked by hand: the mask, the adaptive ascent with its clipped gradient, and what alternates with what."""

from __future__ import annotations

import math

import pytest
import torch
from nets import HandSGD, SmallConv, batch_of, close, copy_of, squared_gradients
from samples import run_data
from torch.nn import functional as F  # noqa: N812 - its usual name

from ray_unlearn.methods.sfron import SfronOptions, adaptive_loss, saliency, sfron
from ray_unlearn.seeds import Seeds
from ray_unlearn.training import Batch

RNG = Seeds(study=0, population="sfron")


@pytest.mark.parametrize("threshold", [1.0, 3.0])
def test_the_mask_by_hand(tmp_path, threshold):
    """Law: 1 where the squared gradient on forget is at least so many times that on retain."""
    data, model = run_data(tmp_path), SmallConv().eval()
    found = saliency(model, data, SfronOptions(threshold=threshold, importance_batch_size=4))
    of_forget, of_retain = (squared_gradients(model, images, 4) for images in (data.forget, data.retain))
    for parameter, f, r in zip(model.parameters(), of_forget, of_retain, strict=True):
        clear = ((f - threshold * r).abs() > 1e-4 * f) & (r > 1e-12)
        assert torch.equal(found[parameter][clear], (f >= threshold * r)[clear].float())
        assert 0 < float(found[parameter].mean()) < 1 or parameter.ndim == 1


def test_the_adaptive_loss_by_hand():
    """Law: losses 4 and 1 with power 1/2 have coefficients 1/2 and 1, as shares 1/3 and 2/3: 4/3 + 2/3 = 2."""
    logits = torch.tensor([[0.0, math.log(math.exp(4.0) - 1)], [0.0, math.log(math.e - 1)]])
    batch = Batch(logits, torch.tensor([0, 0]))
    assert float(adaptive_loss(lambda images: images, batch, 0.5)) == pytest.approx(2.0, rel=1e-5)
    assert float(adaptive_loss(lambda images: images, batch, 0.0)) == pytest.approx(2.5, rel=1e-5)


def test_every_step_by_hand(tmp_path):
    """Law: before every second of five retain steps a masked and clipped ascent; cosines of rate and ascent by step."""
    data, model = run_data(tmp_path, retain=8, forget=4), SmallConv()
    hand = copy_of(model)
    options = SfronOptions(iterations=5, forget_every=2, ascent=3.0, max_norm=0.2, lr=0.05, batch_size=4)
    sfron(model, data, options, RNG)
    mask = [m >= 1 for m in saliency(copy_of(SmallConv()), data, options).values()]
    order = ["F" if min(batch) >= 8 else "R" for batch in model.trained_on]
    assert "".join(order) == "FRRFRRFR"
    optimizer, step = HandSGD(hand, 0.9, 5e-4), 0
    for kind, indices in zip(order, model.trained_on, strict=True):
        images, labels = batch_of(data, indices)
        factor = (1 + math.cos(math.pi * step / 5)) / 2
        losses = F.cross_entropy(hand(images), labels, reduction="none")
        if kind == "R":
            optimizer.step(losses.mean(), 0.05 * factor)
            step += 1
            continue
        c = losses.detach() ** -0.5
        ascent = -3.0 * factor * (c / c.sum() * losses).sum()
        gradients = torch.autograd.grad(ascent, list(hand.parameters()), retain_graph=True)
        norm = math.sqrt(sum(float((g[m] ** 2).sum()) for g, m in zip(gradients, mask, strict=True)))
        assert norm > 0.2  # the cut counts
        scales = {p: m * (0.2 / (norm + 1e-6)) for p, m in zip(hand.parameters(), mask, strict=True)}
        optimizer.step(ascent, 0.05 * factor, scales)
    assert close(model, hand)
