"""A net for `chaos.py` and the fault matrix whose worker obeys `faults.py`'s orders: `model: {arch: chaos_net:make}`.

A script's run has a process of its own, which publishes nothing; the net that predicts afterwards is the worker's.
"""

from pathlib import Path

import faults
from torch import nn

from ray_unlearn.models import small_cnn


def make(num_classes: int, width: int = 4) -> nn.Module:
    """Return a small_cnn that looks for an order before it predicts, in a Ray worker alone."""
    net = small_cnn(num_classes, width)
    net.register_forward_pre_hook(_obey)
    return net


def _obey(net: nn.Module, images: object) -> None:
    if Path("/proc/self/cmdline").read_bytes().startswith(b"ray::"):
        faults.obey(Path(faults.__file__).parent)
