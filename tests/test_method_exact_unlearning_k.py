"""EU-k: exactly the last k blocks and the classifier start afresh, and then alone are trained."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from nets import SmallConv, close, copy_of
from samples import run_data, small_net
from torch import nn
from torch.nn import functional as F  # noqa: N812 - its usual name
from torchvision.models import VisionTransformer, resnet18

from ray_unlearn import models
from ray_unlearn.errors import MethodError
from ray_unlearn.methods.catastrophic_forgetting_k import CatastrophicForgettingKOptions, catastrophic_forgetting_k
from ray_unlearn.methods.exact_unlearning_k import ExactUnlearningKOptions, exact_unlearning_k
from ray_unlearn.methods.perturbations import reset_layers
from ray_unlearn.seeds import Seeds
from ray_unlearn.study.schema import Model

RNG = Seeds(study=0, population="test")
STILL = {"epochs": 1.0, "lr": 1e-12, "momentum": 0.0, "weight_decay": 0.0}  # a rate below the weights' resolution


def trained(model):
    """Set every parameter and running statistic to 7, which no initialisation draws."""
    with torch.no_grad():
        for tensor in model.state_dict().values():
            tensor.fill_(7)
    return model


def small_cnn():
    return trained(small_net())


def fresh(monkeypatch, model, data, k):
    """Return the state as training finds it."""
    found = {}

    def look(model, data, options, rng):
        found.update({name: tensor.clone() for name, tensor in model.state_dict().items()})

    monkeypatch.setattr("ray_unlearn.methods.exact_unlearning_k.catastrophic_forgetting_k", look)
    exact_unlearning_k(model, data, ExactUnlearningKOptions(k=k, unit="block"), RNG)
    return found


@pytest.mark.parametrize(
    ("build", "k", "chosen"),
    [
        (small_cnn, 0, ("14.",)),
        (small_cnn, 1, ("8.", "9.", "14.")),
        (small_cnn, 2, ("4.", "5.", "8.", "9.", "14.")),
        (lambda: trained(resnet18(num_classes=3)), 1, ("layer4.1.", "fc.")),
        (lambda: trained(resnet18(num_classes=3)), 2, ("layer4.0.", "layer4.1.", "fc.")),
    ],
)
def test_exactly_those_are_re_initialised(tmp_path, monkeypatch, build, k, chosen):
    """Law: no element of the last k blocks and the classifier keeps its value, every other tensor keeps all bits."""
    state = fresh(monkeypatch, build(), run_data(tmp_path), k)
    for name, tensor in state.items():
        assert torch.all(tensor != 7) if name.startswith(chosen) else torch.all(tensor == 7), name


def test_fresh_values_are_the_layers_own_defaults(tmp_path, monkeypatch):
    """Law: weights within PyTorch's bound 1 / sqrt(fan_in) and spread like it, normalisation back to 1, 0, 0, 1, 0."""
    model = trained(models.build(Model(arch="small_cnn", options={"width": 16}), 3, Seeds(study=0)))
    state = fresh(monkeypatch, model, run_data(tmp_path), 1)
    bound = (32 * 9) ** -0.5
    assert 0.99 * bound < float(state["8.weight"].abs().max()) <= bound
    assert float(state["8.weight"].std()) == pytest.approx(bound / 3**0.5, rel=0.03)
    assert float(state["14.weight"].abs().max()) <= 64**-0.5
    kinds = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    assert [float(state[f"9.{kind}"].double().mean()) for kind in kinds] == [1, 0, 0, 1, 0]


def test_then_they_are_trained_as_cf_k_trains_them(tmp_path):
    """Law: the rest is CF-k from the fresh start: the same batches, the same frozen part."""
    data = run_data(tmp_path, normalize="unit")
    build = small_net
    start, whole = build(), build()
    exact_unlearning_k(
        start, data, ExactUnlearningKOptions(unit="block", statistics="moving", batch_size=32, **STILL), RNG
    )
    with torch.no_grad():
        start[9].reset_running_stats()  # the only thing that a step without length changes
    how = {"unit": "block", "statistics": "moving", "epochs": 2.0, "batch_size": 8, "weight_decay": 0.1, "lr": 0.05}
    catastrophic_forgetting_k(start, data, CatastrophicForgettingKOptions(**how), RNG)
    exact_unlearning_k(whole, data, ExactUnlearningKOptions(**how), RNG)
    original = build().state_dict()
    for name, tensor in whole.state_dict().items():
        assert torch.allclose(tensor, start.state_dict()[name], atol=1e-5)
        assert torch.equal(tensor, original[name]) == (not name.startswith(("8.", "9.", "14."))), name


def test_a_block_that_cannot_start_afresh_is_refused(tmp_path):
    """Law: a layer with parameters and no default initialisation is named in one line."""

    class Scale(nn.Module):
        def __init__(self):
            super().__init__()
            self.factor = nn.Parameter(torch.ones(2, 2))

    model = nn.Sequential(Scale(), nn.Linear(2, 3))
    with pytest.raises(MethodError, match="layer Scale has no reset_parameters"):
        exact_unlearning_k(model, run_data(tmp_path), ExactUnlearningKOptions(), RNG)


def test_the_classifier_that_stays_is_not_re_initialised(tmp_path, monkeypatch):
    """Law: as SCRUB's notebooks on a ResNet: with `moves_classifier: false` only the last unit starts afresh."""
    found = {}
    look = lambda model, data, options, rng: found.update(model.state_dict())  # noqa: E731
    monkeypatch.setattr("ray_unlearn.methods.exact_unlearning_k.catastrophic_forgetting_k", look)
    exact_unlearning_k(small_cnn(), run_data(tmp_path), ExactUnlearningKOptions(moves_classifier=False), RNG)
    assert {name for name, tensor in found.items() if torch.all(tensor != 7)} == {
        "8.weight",
        *(f"9.{kind}" for kind in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")),
    }


def test_an_encoder_layer_starts_as_pytorch_builds_it(tmp_path, monkeypatch):
    """Law: attention within Xavier's bound sqrt(6 / (8 + 24)), its biases 0, as torch draws them; the rest keeps 7."""
    net = trained(VisionTransformer(image_size=8, patch_size=4, num_layers=3, num_heads=2, hidden_dim=8, mlp_dim=8))
    net.heads = nn.Sequential(nn.Linear(8, 3))
    found = {}
    look = lambda model, data, options, rng: found.update(model.state_dict())  # noqa: E731
    monkeypatch.setattr("ray_unlearn.methods.exact_unlearning_k.catastrophic_forgetting_k", look)
    exact_unlearning_k(net, run_data(tmp_path), ExactUnlearningKOptions(unit="encoder_layer"), RNG)
    last = "encoder.layers.encoder_layer_2."
    for name, tensor in found.items():
        assert torch.all((tensor == 7) != name.startswith((last, "encoder.ln.", "heads."))), name
    weight, bound = found[f"{last}self_attention.in_proj_weight"], (6 / 32) ** 0.5
    assert 0.9 * bound < float(weight.abs().max()) <= bound
    assert not any(found[f"{last}self_attention.{name}"].any() for name in ("in_proj_bias", "out_proj.bias"))


def test_two_steps_of_the_defaults_by_hand(tmp_path):
    """Law: SCRUB's values: plain SGD at a constant 0.01, no momentum, no decay, on fresh units over a frozen rest."""
    data, model = run_data(tmp_path, retain=8), SmallConv()
    hand = copy_of(model)
    exact_unlearning_k(model, data, ExactUnlearningKOptions(epochs=2.0, batch_size=8), RNG)
    moving = [hand.layers[2], hand.layers[5]]
    reset_layers(moving, RNG, "reset")
    parameters = [parameter for layer in moving for parameter in layer.parameters()]
    images, labels = data.retain.batch(np.arange(8))
    starts = [parameter.detach().clone() for parameter in parameters]
    for _ in range(2):
        gradients = torch.autograd.grad(F.cross_entropy(hand(images), labels), parameters)
        with torch.no_grad():
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter.sub_(0.01 * gradient)
    assert close(model, hand)
    assert not all(torch.allclose(p, start, atol=1e-4) for p, start in zip(parameters, starts, strict=True))
