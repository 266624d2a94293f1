"""Parameters that a model froze (requires_grad false) are no one's to change: every method leaves them bit-equal."""

from __future__ import annotations

import copy

import pytest
import torch
from samples import run_data, small_net
from torch import nn

from ray_unlearn.errors import MethodError
from ray_unlearn.methods import METHODS
from ray_unlearn.methods.perturbations import scratch_copy
from ray_unlearn.seeds import Seeds
from ray_unlearn.study.recipe import Recipe

FROM_ORIGINAL = sorted(
    name for name, m in METHODS.items() if m.starts_from == "original" and name not in ("null", "mix")
)
FROZEN = {
    "all but the last block": ("0.weight", "1.weight", "1.bias", "4.weight", "5.weight", "5.bias"),
    "the classifier's weight": ("14.weight",),
}
LIVELY = {
    "selective_synaptic_dampening": {"alpha": 0.5},
    "seif": {"layers": "all"},
    "sfron": {"iterations": 6},
    "unsir": {"noise_steps": 2, "noise_batch_size": 4, "noise_batches": 1},
}


@pytest.mark.parametrize("frozen", FROZEN)
@pytest.mark.parametrize("name", FROM_ORIGINAL)
def test_frozen_parameters_stay(tmp_path, name, frozen):
    """Law: whatever part is frozen, the method runs, changes something else, and none of the frozen bits or flags."""
    data = run_data(tmp_path, normalize="standard")
    model = small_net()
    for key, parameter in model.named_parameters():
        parameter.requires_grad_(key not in FROZEN[frozen])
    before = copy.deepcopy(model)
    method = METHODS[name]
    lively = LIVELY.get(name, {})
    once = {} if "iterations" in lively else {"epochs": 1.0}
    short = {**once, "batch_size": 8} if issubclass(method.options, Recipe) else {}
    method.run(model, data, method.options(**short, **lively), Seeds(study=0, population=name))
    changed = {key for key, p in model.named_parameters() if not torch.equal(p, before.get_parameter(key))}
    assert not changed & set(FROZEN[frozen])
    assert changed
    flags = {key: parameter.requires_grad for key, parameter in model.named_parameters()}
    assert flags == {key: parameter.requires_grad for key, parameter in before.named_parameters()}


@pytest.mark.parametrize(
    ("name", "kind", "what"),
    [
        ("seif", nn.Conv2d, "the first convolution"),
        ("kookmin", nn.Conv2d, "the convolutions"),
        ("toshi_marvel", nn.Conv2d, "the convolutions"),
        ("forget", nn.Conv2d | nn.BatchNorm2d, ""),
        ("sebastian", nn.Conv2d | nn.Linear, "convolutions and linear layers"),
        ("sun", nn.Linear, "the classifier"),
        ("amnesiacs", nn.Conv2d | nn.Linear, "the first convolution and the classifier"),
    ],
)
def test_a_method_whose_layers_are_all_frozen_is_refused(tmp_path, name, kind, what):
    """Law: what is left of it is plain fine-tuning, which would be published under the method's name."""
    model = small_net()
    for layer in model.modules():
        if isinstance(layer, kind):
            layer.requires_grad_(False)
    options = METHODS[name].options(**({"variant": "transpose"} if name == "toshi_marvel" else {}))
    message = f"changes {what}, which the net has frozen" if what else "and the model has none to train"
    with pytest.raises(MethodError, match=message):
        METHODS[name].run(model, run_data(tmp_path), options, Seeds(study=0, population=name))


def test_a_scratch_copy_keeps_what_is_frozen():
    """Law: the copy that knows nothing has the frozen weights of the model, as a retrained model would."""
    model = small_net()
    model[0].weight.requires_grad_(False)
    fresh = scratch_copy(model, Seeds(study=1), "scratch")
    assert torch.equal(fresh[0].weight, model[0].weight)
    assert not torch.equal(fresh[4].weight, model[4].weight)
