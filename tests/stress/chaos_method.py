"""A competition-style method for `chaos.py` and the fault matrix: a step of noise, which takes a moment."""

import time

import torch


def unlearning(net: torch.nn.Module, *loaders: object) -> None:
    """Move the weights a little."""
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(torch.randn(parameter.shape), alpha=0.01)
    time.sleep(0.1)
