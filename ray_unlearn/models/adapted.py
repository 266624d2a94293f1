"""What a study changes in a net: its first layers, its number of channels, and which parts are trained.

    with_cifar_stem(model, "resnet18")           # a 3x3 convolution of stride 1, no pooling
    as_grey(model, "resnet18")                   # one input channel; a grey image gives what it gave before
    freeze(model, ["layer1", "layer2.0.conv1.weight"])

All three change a net in place; names of tensors stay.

Does not cover: pretrained weights (`pretrained`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from ray_unlearn.errors import ModelError, did_you_mean


def with_cifar_stem(model: nn.Module, arch: str) -> None:
    """Give one of torchvision's ResNets the first layers that CIFAR's have; they are drawn as torchvision draws them.

    Raises:
        ModelError: the net is no ResNet of torchvision's.

    """
    from torchvision.models import ResNet

    if not isinstance(model, ResNet):
        raise ModelError(f"model.stem: cifar is for torchvision's ResNets (resnet18, ...); {arch} begins otherwise")
    model.conv1 = nn.Conv2d(3, model.conv1.out_channels, 3, stride=1, padding=1, bias=False)
    nn.init.kaiming_normal_(
        model.conv1.weight,
        mode="fan_out",
        nonlinearity="relu",
        generator=torch.default_generator,  # seeded by `architectures`
    )
    model.maxpool = nn.Identity()


class GreyConv2d(nn.Conv2d):
    """A convolution over one channel that takes the mean of the channels that it gets."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Return the convolution of [B, any, H, W]."""
        return super().forward(input.mean(1, keepdim=True))


def as_grey(model: nn.Module, arch: str) -> None:
    """Let a net's first convolution take one channel, the mean of the three.

    A convolution of three channels gets the sum of its weights over them, so that an image whose channels are equal
    gives the same as before; one of one channel keeps its weights.

    Raises:
        ModelError: the net has no plain convolution of one or three channels.

    """
    first = next((one for one in model.modules() if isinstance(one, nn.Conv2d)), None)
    if type(first) is not nn.Conv2d or first.in_channels not in (1, 3) or first.groups != 1:
        found = "none" if first is None else f"{type(first).__name__} of {first.in_channels} channels"
        raise ModelError(
            f"model.grey: {arch}: expected a first convolution of one or three channels, a plain Conv2d; found {found}"
        )
    with torch.no_grad():
        first.weight = nn.Parameter(first.weight.sum(1, keepdim=True))
    first.in_channels = 1
    first.__class__ = GreyConv2d


def freeze(model: nn.Module, names: Sequence[str]) -> None:
    """Exclude modules and parameters from training; modules stay in evaluation mode: their statistics do not move.

    Raises:
        ModelError: the net has no module or parameter of a name.

    """
    modules, parameters = dict(model.named_modules()), dict(model.named_parameters())
    for name in names:
        if name in parameters:
            parameters[name].requires_grad_(False)
        elif name in modules and name:
            modules[name].requires_grad_(False)
            for module in modules[name].modules():
                module.register_forward_pre_hook(stay_in_evaluation)
        else:
            known = [*(one for one in modules if one), *parameters]
            top = ", ".join(child for child, _ in model.named_children())
            raise ModelError(
                f"model.freeze: the net has no module or parameter {name!r}{did_you_mean(name, known)}; its "
                f"modules are {top}"
            )


def stay_in_evaluation(module: nn.Module, args: tuple[Any, ...]) -> None:
    """Forward pre-hook of a frozen module: the training mode that a loop sets on the whole net is undone."""
    module.training = False
