"""AMUN, worked by hand: the search for the nearest other class, and what is trained on under which label."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from nets import HandSGD, SmallConv, batch_of, close, copy_of
from samples import run_data
from torch import nn
from torch.nn import functional as F  # noqa: N812 - its usual name

from ray_unlearn.methods.amun import AmunOptions, adversarial, amun
from ray_unlearn.seeds import Seeds
from ray_unlearn.training import predict

RNG = Seeds(study=0, population="amun")


class Mean(nn.Module):
    """Two classes, distinguished by the mean pixel: beyond 1 / 2 of the range it is class 1."""

    def __init__(self, scale: float = 255.0) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.tensor(10.0))
        self.scale = scale

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        value = self.slope * (images.flatten(1).mean(1) / self.scale - 0.5)
        return torch.stack([torch.zeros_like(value), value], 1)


class Grey:
    """Images of one grey level each, as `ImageSet` gives them."""

    def __init__(self, levels: list[int], labels: list[int], like) -> None:
        self.labels_N, self.scaling, self.pixels = np.array(labels), like.scaling, like.pixels
        self.levels = torch.tensor(levels, dtype=torch.float32)

    def __len__(self) -> int:
        return len(self.levels)

    def in_order(self):
        yield self.levels.view(-1, 1, 1, 1).expand(-1, 3, 4, 4).clone(), torch.tensor(self.labels_N)


def test_the_search_by_hand(tmp_path):
    """Law: all pixels move alike, by epsilon / (10 sqrt 48) a step; within 50 steps of a radius the ball's edge is met.

    An image at 0.4 needs 0.1 * sqrt 48 = 0.693 to reach 1 / 2: the radii 0.04, 0.08, ... 0.64 do not do, 1.28 does. One
    at 0.6 of class 0 is taken for 1 as it is, and stays.
    """
    images = Grey([102, 153], [0, 0], run_data(tmp_path).forget)
    moved, said, found = adversarial(Mean(), images, 0.04, 50)
    assert said.tolist() == [1, 1]
    assert found.tolist() == [0, 1]
    distance = ((moved[0] / 255 - 0.4) ** 2).sum().sqrt()
    assert 0.693 <= float(distance) <= 0.693 + 0.128 + 1e-4  # at most one step of 1.28 / 10 beyond
    assert torch.equal(moved[1], next(images.in_order())[0][1])
    assert float(moved.min()) >= 0
    assert float(moved.max()) <= 255


def test_an_image_that_cannot_leave_its_class(tmp_path):
    """Law: where no image of the range is another class, none is found, and the rest is trained on all the same."""

    class Sure(Mean):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return super().forward(images) + torch.tensor([100.0, 0.0])

    images = Grey([102], [0], run_data(tmp_path).forget)
    assert adversarial(Sure(), images, 0.04, 5)[2].tolist() == []


def nearest(batch: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    """Return for each image of a batch which of these it is."""
    how = "donot_use_mm_for_euclid_dist"
    return torch.cdist(batch.flatten(1), images.flatten(1), compute_mode=how).argmin(1)


@pytest.mark.parametrize("with_forget", [True, False])
def test_every_step_by_hand(tmp_path, with_forget):
    """Law: SGD on retain and forget under their labels, on adversarial images under the wrong ones; rates / 10."""
    data, model = run_data(tmp_path, retain=6, forget=4), SmallConv()
    hand = copy_of(model)
    known = data.forget.with_labels(predict(SmallConv(), data.forget).argmax(1))  # so that every image has to move
    data = replace(data, forget=known)
    moved, said, found = adversarial(SmallConv(), data.forget, 0.5, 20)
    assert len(found) == 4
    assert all(said != data.forget.labels_N)
    options = AmunOptions(epochs=2.0, lr=0.05, epsilon=0.5, steps=20, batch_size=4, with_forget=with_forget)
    seen = []
    model.register_forward_pre_hook(lambda m, args: seen.append(args[0].detach().clone()) if m.training else None)
    amun(model, data, options, RNG)
    count = 14 if with_forget else 10
    assert [len(batch) for batch in seen] == ([4, 4, 4, 2] if with_forget else [4, 4, 2]) * 2
    images, labels = batch_of(data, range(10 if with_forget else 6))
    if with_forget:
        labels = torch.cat([labels[:6], torch.from_numpy(known.labels_N)])
    images, labels = torch.cat([images, moved]), torch.cat([labels, torch.from_numpy(said)])
    optimizer, per_epoch = HandSGD(hand, 0.9, 5e-4), len(seen) // 2
    for step, batch in enumerate(seen):
        which = nearest(batch, images)
        optimizer.step(F.cross_entropy(hand(images[which]), labels[which]), 0.05 * 0.1 ** (step // per_epoch))
    assert sorted(nearest(torch.cat(seen[:per_epoch]), images).tolist()) == list(range(count))
    assert close(model, hand)
