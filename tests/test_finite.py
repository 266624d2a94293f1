"""A run's weights are published only where every number of them is finite."""

import math

import pytest
import torch
from torch import nn

from ray_unlearn.errors import TrainingDiverged
from ray_unlearn.run.finite import check_weights


@pytest.mark.parametrize("bad", [[math.nan], [math.inf], [-math.inf], [math.inf, -math.inf]])
def test_a_number_that_is_not_finite_is_refused_with_its_tensor(bad: list[float]) -> None:
    """Law: one such number is enough, wherever it is, also where two infinities might cancel in a sum."""
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    model[1].running_var.data[: len(bad)] = torch.tensor(bad)
    with pytest.raises(TrainingDiverged, match=r"'1.running_var' holds NaN or infinity"):
        check_weights(model)


def test_large_finite_numbers_are_accepted_although_their_sum_overflows() -> None:
    """Law: only the numbers themselves decide."""
    model = nn.Linear(3, 4)
    model.bias.data.fill_(3e38)
    assert not model.bias.sum().isfinite()
    check_weights(model)
