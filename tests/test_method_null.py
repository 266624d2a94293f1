"""null: nothing changes, and it states that its populations have no spread."""

from __future__ import annotations

from conftest import TINY, merged
from samples import run_data, same_weights
from torch import nn

from ray_unlearn.methods.null import NullOptions, null
from ray_unlearn.methods.resolve import resolve
from ray_unlearn.seeds import Seeds
from ray_unlearn.study import parse_study


def test_nothing_changes(tmp_path):
    """Law: parameters, buffers, gradients' flags and mode are as found, and no generator is opened."""
    model = nn.Sequential(nn.Conv2d(3, 2, 3), nn.BatchNorm2d(2)).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}

    class Closed(Seeds):
        def entropy(self, purpose):
            raise AssertionError(purpose)

    null(model, run_data(tmp_path), NullOptions(), Closed(study=0))
    assert same_weights(before, dict(model.state_dict()))
    assert model.training
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())


def test_a_study_can_name_it():
    """Law: the quoted word is the method; it starts from the original and takes no options."""
    study = parse_study(merged(TINY, {"populations": {"same": {"method": "null", "count": 2}}}), where="test")
    use = resolve(study, "same")
    assert (use.starts_from, use.deterministic, use.options.model_dump()) == ("original", True, {})
