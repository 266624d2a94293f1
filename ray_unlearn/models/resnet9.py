"""ResNet-9 for images of 32 pixels, with the layers and the names of tensors of EasyDUB's checkpoints.

    net = resnet9(num_classes=10)                # 2.3 million parameters; its logits are scaled by 0.2

Source: github.com/easydub/EasyDUB-code (MIT), `models.resnet9` (arXiv 2602.16400). Their `train_models.py`: 24 epochs,
batches of 256, SGD with momentum 0.9 and weight decay 5e-4, cross-entropy, bf16, no augmentation; the rate rises
linearly to 0.4 in 5 epochs, and falls linearly to 0. As a study's `training` block:

    {epochs: 24, batch_size: 256, optimizer: sgd, lr: 0.505263, weight_decay: 5.0e-4, schedule: linear,
     schedule_per: batch, warmup_epochs: 5, precision: bf16}

Here warm-up multiplies the schedule, so the base rate is 0.4 x 24/19: from epoch 5 on the rates are theirs; during
warm-up they are above theirs, by 26 % at its first step and by nothing at its last.

Does not cover: their stacking of many nets into one.
"""

from __future__ import annotations

import torch
from torch import nn

_LOGIT_SCALE = 0.2


class Residual(nn.Module):
    """A module whose input is added to its output."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return x + module(x)."""
        return x + self.module(x)  # type: ignore[no-any-return]


class Scale(nn.Module):
    """Multiplies by a constant."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return factor * x."""
        return self.factor * x


def resnet9(num_classes: int = 10) -> nn.Module:
    """Return the net, for images from 14x14 pixels."""
    return nn.Sequential(
        _layer(3, 64),
        _layer(64, 128, kernel=5, stride=2, padding=2),
        Residual(nn.Sequential(_layer(128, 128), _layer(128, 128))),
        _layer(128, 256),
        nn.MaxPool2d(2),
        Residual(nn.Sequential(_layer(256, 256), _layer(256, 256))),
        _layer(256, 128, padding=0),
        nn.AdaptiveMaxPool2d(1),
        nn.Flatten(),
        nn.Linear(128, num_classes, bias=False),
        Scale(_LOGIT_SCALE),
    )


def _layer(inputs: int, outputs: int, *, kernel: int = 3, stride: int = 1, padding: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))
