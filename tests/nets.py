"""A small convolutional net without batch normalisation that remembers its batches, and steps of SGD written out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from samples import indices_of
from torch import nn

from ray_unlearn.data.images import RunData


class SmallConv(nn.Module):
    """Two convolutions with biases and a linear layer, for raw 8x8 images; the same weights for the same seed."""

    def __init__(self, widths: tuple[int, int] = (4, 6), classes: int = 3, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.layers = nn.Sequential(
                nn.Conv2d(3, widths[0], 3),
                nn.ReLU(),
                nn.Conv2d(widths[0], widths[1], 3),
                nn.ReLU(),
                nn.Flatten(),
                nn.Linear(widths[1] * 4 * 4, classes),  # no pooling: the logits of random images differ
            )
        self.trained_on: list[list[int]] = []
        self.looked_at: list[list[int]] = []

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        (self.trained_on if self.training else self.looked_at).append(indices_of(images))
        return self.layers((images - 127.5) / 63.75)

    @property
    def kernels(self) -> list[nn.Parameter]:
        """The weights of both convolutions."""
        return [self.layers[0].weight, self.layers[2].weight]


def copy_of(model: nn.Module) -> SmallConv:
    """Return a net of its own with the weights of another `SmallConv`."""
    hand = SmallConv((model.layers[0].out_channels, model.layers[2].out_channels), model.layers[5].out_features)
    hand.load_state_dict(model.state_dict())
    return hand


def batch_of(data: RunData, indices: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return images and labels by the indices that a net has remembered."""
    pixels, rows = data.train.pixels, np.asarray(indices)
    return data.train.scaling.apply(pixels.take(rows)), pixels.labels(rows)


class HandSGD:
    """b = momentum * b + (scale * gradient + decay * p); p = p - rate * b."""

    def __init__(self, model: nn.Module, momentum: float, decay: float) -> None:
        self.parameters, self.momentum, self.decay = list(model.parameters()), momentum, decay
        self.buffers = [torch.zeros_like(p) for p in self.parameters]

    def step(self, loss: torch.Tensor, rate: float, scales: dict[nn.Parameter, torch.Tensor] | None = None) -> None:
        """Take one step."""
        gradients = torch.autograd.grad(loss, self.parameters)
        with torch.no_grad():
            for p, b, g in zip(self.parameters, self.buffers, gradients, strict=True):
                b.copy_(self.momentum * b + (scales or {}).get(p, torch.ones(())) * g + self.decay * p)
                p.sub_(rate * b)


def close(one: nn.Module, other: nn.Module) -> bool:
    """Return whether all parameters agree up to rounding."""
    return all(
        torch.allclose(p, q, rtol=1e-4, atol=2e-6) for p, q in zip(one.parameters(), other.parameters(), strict=True)
    )


class Linear(nn.Module):
    """One linear layer that remembers the images it was trained on."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.utils.skip_init(nn.Linear, 192, 3)  # draws nothing
        with torch.no_grad():
            self.layer.weight.copy_(torch.linspace(-0.01, 0.01, 576).reshape(3, 192))
            self.layer.bias.zero_()
        self.seen: list[int] = []

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.seen += indices_of(images)
        return self.layer(images.flatten(1) / 255)


def dropping(num_classes: int) -> nn.Module:
    """Return a net with dropout, which draws from torch's global generator."""
    return nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(3 * 8 * 8, num_classes))
