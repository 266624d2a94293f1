"""A competition-style method for `chaos.py` and the fault matrix: a step of noise, and `faults.py`'s orders obeyed."""

import time
from pathlib import Path

import faults
import torch


def unlearning(net: torch.nn.Module, *loaders: object) -> None:
    """Move the weights a little, and die where an order demands it."""
    faults.obey(Path(faults.__file__).parent)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(torch.randn(parameter.shape), alpha=0.01)
    time.sleep(0.1)
