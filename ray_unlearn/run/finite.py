"""Checks that a trained run holds no NaN and no infinity: neither in its weights nor in its metrics.

    check_weights(model)                         # TrainingDiverged names the tensor
    check_metrics(writer)

Does not cover: the loss of an epoch, which ends the training (`ray_unlearn.training`).
"""

from __future__ import annotations

import math

import torch
from torch import nn

from ray_unlearn.errors import TrainingDiverged
from ray_unlearn.run.artefacts import RunWriter


def check_metrics(writer: RunWriter) -> None:
    """Check that no loss overflowed, which can happen with finite weights: no record could be read back with it."""
    for where, metrics in (("", writer.metrics), *((f" of epoch {s['epoch']:.0f}", s) for s in writer.stages)):
        for name, value in metrics.items():
            if not math.isfinite(value):
                raise TrainingDiverged(f"{name}{where} is {value} after training; a lower lr may help")


def check_weights(model: nn.Module) -> None:
    """Check that every number of a model is finite.

    A finite sum has finite terms, and takes a twentieth of the time of a largest value; it may overflow without NaN or
    infinity among them, and the largest value of each tensor decides then.

    Raises:
        TrainingDiverged: a tensor holds NaN or infinity.

    """
    state = {
        name: tensor for name, tensor in model.state_dict().items() if tensor.is_floating_point() and tensor.numel()
    }
    if math.isfinite(sum(torch.stack([tensor.sum().float() for tensor in state.values()]).tolist())):
        return
    largest = torch._foreach_norm(list(state.values()), math.inf)  # one call for all; NaN stays NaN
    for name, norm in zip(state, torch.stack([each.float() for each in largest]).tolist(), strict=True):
        if not math.isfinite(norm):
            raise TrainingDiverged(f"tensor {name!r} holds NaN or infinity after training")
