"""Certified noisy fine-tuning, worked by hand: clipping, noise, every step, and what no noise reaches."""

from __future__ import annotations

import pytest
import torch
from nets import SmallConv, batch_of, close, copy_of
from samples import run_data, same_weights
from torch import nn
from torch.nn import functional as F  # noqa: N812 - its usual name

from ray_unlearn.errors import MethodError
from ray_unlearn.methods import METHODS
from ray_unlearn.methods.noisy_finetune import NoisyFinetuneOptions, noise_std, noisy_finetune, one_cycle
from ray_unlearn.seeds import Seeds

RNG = Seeds(study=0, population="noisy")
SHORT = {"batch_size": 10, "epochs": 0.5, "lr": 1e-3, "steps": 3, "noisy_lr": 0.01, "shrink": 5.0}


def clipped(tensors: list[torch.Tensor], largest: float) -> list[torch.Tensor]:
    """Return the tensors times min(1, largest / norm of all)."""
    norm = sum(float((tensor.double() ** 2).sum()) for tensor in tensors) ** 0.5
    return [tensor * min(1.0, largest / norm) for tensor in tensors]


@pytest.mark.parametrize("by", ["gradients", "weights", "start"])
def test_every_step_by_hand(tmp_path, by):
    """Law: the three algorithms of the paper, then one step of plain SGD at the first rate of one cycle."""
    data, model = run_data(tmp_path), SmallConv()
    options = NoisyFinetuneOptions(
        **SHORT, momentum=0.0, weight_decay=0.25, clipped=by, start_clip=1.5, clip=0.7, epsilon=900.0, delta=0.1
    )
    hand, generator, std = copy_of(model), RNG.torch("noise"), noise_std(options)
    assert 0.001 < std < 1.0
    noisy_finetune(model, data, options, RNG)
    batches = [batch for batch in model.trained_on if batch]
    assert len(batches) == (1 if by == "start" else 4)

    def noise() -> None:
        for p in hand.parameters():
            p.add_(std * torch.randn(p.shape, generator=generator))

    def put(values: list[torch.Tensor]) -> None:
        for p, value in zip(hand.parameters(), values, strict=True):
            p.copy_(value)

    def gradients(batch: list[int]) -> list[torch.Tensor]:
        images, labels = batch_of(data, batch)
        return list(torch.autograd.grad(F.cross_entropy(hand(images), labels), list(hand.parameters())))

    with torch.no_grad():
        put(clipped(list(hand.parameters()), 1.5))
        if by == "start":
            noise()
    for batch in batches[:-1]:
        found = gradients(batch)
        with torch.no_grad():
            moves = clipped(found, 0.7) if by == "gradients" else found
            put([p - 0.01 * (g + 5.0 * p) for p, g in zip(hand.parameters(), moves, strict=True)])
            if by == "weights":
                put(clipped(list(hand.parameters()), 0.7))
            noise()
    found = gradients(batches[-1])
    with torch.no_grad():
        put([p - 1e-3 / 25 * (g + 0.25 * p) for p, g in zip(hand.parameters(), found, strict=True)])
    assert close(model, hand)
    assert not close(model, SmallConv())


def test_only_retain_images_are_seen(tmp_path):
    """Law: no forget image passes through the net."""
    data, model = run_data(tmp_path), SmallConv()
    noisy_finetune(model, data, NoisyFinetuneOptions(**SHORT), RNG)
    assert {image for batch in [*model.trained_on, *model.looked_at] for image in batch} <= set(range(20))


def test_two_starts_end_alike_where_noise_is_large(tmp_path):
    """Law: with the noise of a small epsilon, two starts end nearer to each other than the noise is large."""
    data, options = run_data(tmp_path), NoisyFinetuneOptions(**SHORT, epsilon=0.5, start_clip=1.0, clip=1.0)
    ends = []
    for seed in (0, 1):
        model = SmallConv(seed=seed)
        noisy_finetune(model, data, options, RNG)
        ends.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    apart, noise = float((ends[0] - ends[1]).norm()), noise_std(options)
    assert apart < 2 * noise  # the same noise in both; the worst case that the bound allows is much larger than that
    assert float(ends[0].norm()) > 20 * noise


class Normed(nn.Module):
    """A linear net behind batch normalisation."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.layer = nn.BatchNorm1d(192), nn.Linear(192, 3)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.layer(self.norm(images.flatten(1) / 255))


def test_statistics_start_afresh(tmp_path):
    """Law: running statistics hold nothing of the original: any two give the same net after the same noise."""
    data, ends = run_data(tmp_path), []
    for mean in (0.0, 100.0):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = Normed()
        model.norm.running_mean.fill_(mean)
        noisy_finetune(model, data, NoisyFinetuneOptions(**SHORT), RNG)
        assert int(model.norm.num_batches_tracked) == 1
        ends.append({name: tensor.clone() for name, tensor in model.state_dict().items()})
    assert same_weights(*ends)


def test_a_buffer_that_nothing_resets_is_refused(tmp_path):
    """Law: a buffer could carry what the original learned past the noise."""
    model = SmallConv()
    model.register_buffer("average", torch.zeros(3))
    with pytest.raises(MethodError, match="buffer average may hold what the original learned"):
        noisy_finetune(model, run_data(tmp_path), NoisyFinetuneOptions(**SHORT), RNG)


def test_the_rate_of_one_cycle():
    """Law: a 25th at the start, 1 after 30 %, a 25th at 85 %, a ten-thousandth at the end; straight lines between."""
    assert [round(one_cycle(share), 6) for share in (0.0, 0.15, 0.3, 0.575, 0.85, 1.0)] == [
        0.04,
        0.52,
        1.0,
        0.52,
        0.04,
        0.0001,
    ]


def test_a_schedule_is_a_further_factor(tmp_path, monkeypatch):
    """Law: at half of the epochs, a linear schedule halves the rate of the cycle."""
    found = {}
    monkeypatch.setattr("ray_unlearn.methods.noisy_finetune.fit", lambda *_, rate: found.update(half=rate(2.0)))
    known = {"schedule": "linear", "schedule_per": "batch", "epochs": 4.0, "steps": 1}
    noisy_finetune(SmallConv(), run_data(tmp_path), NoisyFinetuneOptions(**SHORT | known), RNG)
    assert found["half"] == pytest.approx(one_cycle(0.5) / 2)


def test_the_reference_is_the_same_from_scratch():
    """Law: one function, the same options and presets; a fresh start."""
    method, reference = METHODS["noisy_finetune"], METHODS["noisy_finetune_reference"]
    assert (reference.run, reference.options, reference.published) == (method.run, method.options, method.published)
    assert (method.starts_from, reference.starts_from) == ("original", "scratch")
