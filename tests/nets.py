"""A small convolutional net without batch normalisation that remembers its batches, and steps of SGD written out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import ModuleType

import numpy as np
import pytest
import torch
from samples import indices_of
from torch import nn
from torch.nn import functional as F  # noqa: N812 - its usual name

from ray_unlearn.data.images import ImageSet, RunData


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
    """One linear layer on raw pixels that remembers the batches it was trained on."""

    def __init__(self, largest: float = 0.01) -> None:
        super().__init__()
        self.layer = nn.utils.skip_init(nn.Linear, 192, 3)  # draws nothing
        with torch.no_grad():
            self.layer.weight.copy_(torch.linspace(-largest, largest, 576).reshape(3, 192))
            self.layer.bias.zero_()
        self.batches: list[torch.Tensor] = []

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if self.training:
            self.batches.append(images.detach().clone())
        return self.layer(images.flatten(1) / 255)

    @property
    def seen(self) -> list[int]:
        """The indices of the images that it was trained on."""
        return [index for batch in self.batches for index in indices_of(batch)]


class Remembering(nn.Module):
    """Layers, drawn from one seed, on raw pixels; remembers the images they were trained on."""

    def __init__(self, layers: Callable[[], Sequence[nn.Module]]) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.layers = nn.Sequential(*layers())
        self.seen: list[int] = []

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.seen += indices_of(images) if self.training else []
        return self.layers(images / 255)


def squared_gradients(model: nn.Module, images: ImageSet, size: int) -> list[torch.Tensor]:
    """Return the mean over batches of `size` images of the squared gradient of their mean loss, in plain torch."""
    total = [torch.zeros_like(parameter) for parameter in model.parameters()]
    starts = range(0, len(images), size)
    for start in starts:
        batch, labels = images.batch(np.arange(start, min(start + size, len(images))))
        gradients = torch.autograd.grad(F.cross_entropy(model(batch), labels), list(model.parameters()))
        for sums, gradient in zip(total, gradients, strict=True):
            sums.add_(gradient**2 / len(starts))
    return total


@contextmanager
def optimizers_of(module: ModuleType) -> Iterator[list[torch.optim.Optimizer]]:
    """Yield the list of the optimisers that a method's module makes inside the block."""
    made, make = list[torch.optim.Optimizer](), module.make_optimizer
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "make_optimizer", lambda *given: made.append(make(*given)) or made[-1])
        yield made


def weights_of(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return copies of a net's parameters by name."""
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def dropping(num_classes: int) -> nn.Module:
    """Return a net with dropout, which draws from torch's global generator."""
    return nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(3 * 8 * 8, num_classes))
