"""CF-k: which blocks move, that the rest stays bit-equal, and that the step is plain fine-tuning of them."""

from __future__ import annotations

import copy

import pytest
import torch
from samples import run_data, small_net
from torch import nn
from torch.nn import functional as F  # noqa: N812 - its usual name
from torchvision.models import resnet18, vit_b_16

from ray_unlearn.errors import MethodError
from ray_unlearn.methods.catastrophic_forgetting_k import (
    CatastrophicForgettingKOptions,
    _rate,
    catastrophic_forgetting_k,
)
from ray_unlearn.methods.units import classifier, last_units
from ray_unlearn.seeds import Seeds

RNG = Seeds(study=0, population="test")
PLAIN = {"epochs": 2.0, "lr": 0.05, "batch_size": 8}


def last_linear(model):
    return [module for module in model.modules() if isinstance(module, nn.Linear)][-1]


def names(model, k, unit="block"):
    known = {module: name for name, module in model.named_modules()}
    return [known[module] for module in last_units(model, last_linear(model), k, unit)]


@pytest.mark.parametrize(
    ("k", "expected"),
    [
        (0, ["fc"]),
        (1, ["layer4.1", "fc"]),
        (3, ["layer3.1", "layer4.0", "layer4.1", "fc"]),
        (9, ["conv1", "bn1", *(f"layer{i}.{j}" for i in range(1, 5) for j in range(2)), "fc"]),
    ],
)
def test_blocks_of_a_resnet(k, expected):
    """Law: a residual block is a block; the stem and its normalisation are the ninth."""
    assert names(resnet18(num_classes=3), k) == expected


@pytest.mark.parametrize(
    ("k", "expected"),
    [(0, ["14"]), (1, ["8", "9", "14"]), (2, ["4", "5", "8", "9", "14"]), (3, ["0", "1", "4", "5", "8", "9", "14"])],
)
def test_blocks_of_a_flat_sequential(k, expected):
    """Law: each convolution with its normalisation is a block; layers without parameters are none."""
    assert names(small_net(), k) == expected


@pytest.mark.parametrize(
    ("k", "unit", "expected"),
    [
        (1, "stage", ["layer4", "fc"]),  # SCRUB and Deep Unlearn
        (2, "stage", ["layer3", "layer4", "fc"]),
        (5, "stage", ["conv1", "bn1", "layer1", "layer2", "layer3", "layer4", "fc"]),
        (1, "layer", ["fc"]),  # Goel et al.: the classifier is the first layer
        (2, "layer", ["layer4.1.conv2", "layer4.1.bn2", "fc"]),
        (3, "layer", ["layer4.1.conv1", "layer4.1.bn1", "layer4.1.conv2", "layer4.1.bn2", "fc"]),
    ],
)
def test_units_of_a_resnet(k, unit, expected):
    """Law: the three published meanings of k; a normalisation goes with the convolution before it."""
    assert names(resnet18(num_classes=3), k, unit) == expected


@pytest.mark.parametrize("unit", ["stage", "block"])
def test_a_net_inside_of_another_is_no_unit(unit):
    """Law: Transformers' nets have one child, the backbone, before the classifier: k = 1 would move everything."""
    net = nn.Module()
    net.vit, net.classifier = nn.Module(), nn.Linear(8, 3)
    net.vit.embeddings, net.vit.encoder, net.vit.norm = nn.Conv2d(3, 8, 4), nn.Linear(8, 8), nn.LayerNorm(8)
    with pytest.raises(MethodError, match=f"is one {unit}, 'vit', so nothing would be frozen; set unit: layer"):
        last_units(net, net.classifier, 1, unit)
    assert names(net, 0, unit) == ["classifier"]
    assert names(net, 2, "layer") == ["vit.encoder", "vit.norm", "classifier"]


@pytest.mark.parametrize(("unit", "share"), [("layer", 5_130), ("block", 4_725_770), ("stage", 8_398_858)])
def test_how_many_parameters_k_1_moves(unit, share):
    """Law: of a ResNet-18 with ten classes, 512 * 10 + 10; the last block's 4,720,640 more; layer4's 8,393,728 more."""
    net = resnet18(num_classes=10)
    units = last_units(net, net.fc, 1, unit)
    assert sum(parameter.numel() for module in units for parameter in module.parameters()) == share


@pytest.fixture(scope="module")
def transformer():
    """torchvision's vit_b_16 for ten classes, without values."""
    with torch.device("meta"):
        return vit_b_16(num_classes=10)


@pytest.mark.parametrize("unit", ["stage", "block"])
def test_a_transformers_encoder_is_no_unit(transformer, unit):
    """Law: refused with its share: all but 590,592 parameters of patches and 768 of the class token, of 85,798,656."""
    expected = f"unit: {unit}: 'encoder' is one {unit}, and holds 99.3 % of the parameters before the classifier"
    with pytest.raises(MethodError, match=f"^{expected}.*; set unit: encoder_layer \\(12 of them\\) or layer$"):
        last_units(transformer, transformer.heads.head, 1, unit)
    assert names(transformer, 0, unit) == ["heads.head"]


@pytest.mark.parametrize(("k", "count"), [(1, 7_097_098), (2, 7_097_098 + 7_087_872)])
def test_encoder_layers_of_a_transformer(transformer, k, count):
    """Law: 7,087,872 each; the last with the normalisation after it, 1,536, and the classifier, 768 * 10 + 10."""
    units = [f"encoder.layers.encoder_layer_{i}" for i in range(12 - k, 12)]
    found = last_units(transformer, transformer.heads.head, k, "encoder_layer")
    assert names(transformer, k, "encoder_layer") == [*units, "encoder.ln", "heads.head"]
    assert sum(parameter.numel() for module in found for parameter in module.parameters()) == count


def test_encoder_layers_of_a_net_with_several_lists_are_refused():
    """Law: a ResNet's stages are lists of blocks of their own; the message names them, and what to set."""
    with pytest.raises(MethodError, match=r"found layer1, layer2, layer3, layer4; set unit: block or layer$"):
        names(resnet18(num_classes=3), 1, "encoder_layer")
    with pytest.raises(MethodError, match=r"expected one list of equal blocks.*found none"):
        names(small_net(), 1, "encoder_layer")


def test_a_last_linear_layer_with_other_outputs_is_no_classifier(tmp_path):
    """Law: a net whose classifier is not created last is refused, and the layers that fit are named."""
    net = nn.Module()
    net.fc, net.embedding = nn.Linear(8, 3), nn.Linear(8, 2)
    expected = r"'embedding' has 2 outputs; expected 3, one per class; 'fc' does: create it last in the net's __init__"
    with pytest.raises(MethodError, match=expected):
        catastrophic_forgetting_k(net, run_data(tmp_path), CatastrophicForgettingKOptions(), RNG)
    with pytest.raises(MethodError, match=r"has 2 outputs; expected 4, one per class; no linear layer does$"):
        classifier(net, 4)


def test_a_classifier_deep_inside_and_what_comes_after_it():
    """Law: no matter what holds the classifier counts by its children; nothing after the classifier is a block."""

    class Head(nn.Module):
        def __init__(self):
            super().__init__()
            self.before = nn.Linear(2, 2)
            self.out = nn.Sequential(nn.LayerNorm(2), nn.Linear(2, 3))
            self.after = nn.Conv2d(1, 1, 1)

    wrapped = nn.ModuleDict({"first": nn.Linear(2, 2), "head": Head(), "last": nn.BatchNorm2d(3)})
    assert names(wrapped, 1) == ["head.before", "head.out.0", "head.out.1"]
    assert names(wrapped, 2) == ["first", "head.before", "head.out.0", "head.out.1"]


def test_more_blocks_than_there_are(tmp_path):
    """Law: refused in one line that states how many there are."""
    with pytest.raises(MethodError, match=r"^k is 4, but the model has 3 blocks before its classifier$"):
        catastrophic_forgetting_k(
            small_net(), run_data(tmp_path), CatastrophicForgettingKOptions(k=4, unit="block"), RNG
        )


@pytest.mark.parametrize(
    ("k", "moving"), [(0, ("14.",)), (1, ("8.", "9.", "14.")), (2, ("4.", "5.", "8.", "9.", "14."))]
)
def test_all_but_the_last_blocks_stays_bit_equal(tmp_path, k, moving):
    """Law: frozen parameters and running statistics keep their bits under weight decay and momentum; the rest moves."""
    model = small_net()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    options = CatastrophicForgettingKOptions(
        k=k, unit="block", statistics="moving", weight_decay=0.1, momentum=0.9, **PLAIN
    )
    catastrophic_forgetting_k(model, run_data(tmp_path, normalize="unit"), options, RNG)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]) == (not name.startswith(moving)), name
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert all(module.training for module in model.modules())


def test_a_frozen_block_of_a_resnet_stays_bit_equal(tmp_path):
    """Law: the same where blocks are modules of modules."""
    model = resnet18(num_classes=3)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    options = CatastrophicForgettingKOptions(
        k=1, unit="block", statistics="moving", epochs=1.0, batch_size=20, weight_decay=0.1
    )
    catastrophic_forgetting_k(model, run_data(tmp_path, normalize="unit"), options, RNG)
    moved = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert moved == {name for name in before if name.startswith(("layer4.1.", "fc."))}


@pytest.mark.parametrize(("statistics", "still"), [("frozen", {1, 5, 9}), ("moving", {1, 5}), ("batch", set())])
def test_whose_statistics_stay(tmp_path, statistics, still):
    """Law: frozen: of all normalisations; moving: of those that do not move; batch: of none (SCRUB's MIA notebook)."""
    model = small_net()
    before = copy.deepcopy(model)
    options = CatastrophicForgettingKOptions(unit="block", statistics=statistics, **PLAIN)
    catastrophic_forgetting_k(model, run_data(tmp_path, normalize="unit"), options, RNG)
    assert {i for i in (1, 5, 9) if torch.equal(model[i].running_mean, before[i].running_mean)} == still


def test_the_classifier_may_stay(tmp_path):
    """Law: without `moves_classifier` the last block alone moves, as SCRUB's notebooks have it."""
    model = small_net()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    options = CatastrophicForgettingKOptions(unit="block", moves_classifier=False, **PLAIN)
    catastrophic_forgetting_k(model, run_data(tmp_path, normalize="unit"), options, RNG)
    moved = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert moved == {"8.weight", "9.weight", "9.bias"}


def test_nothing_to_move_is_refused(tmp_path):
    """Law: no layer and no classifier is one line, not an optimiser without parameters."""
    with pytest.raises(MethodError, match=r"k is 0 with unit: layer: no parameter of the model would move"):
        catastrophic_forgetting_k(
            small_net(), run_data(tmp_path), CatastrophicForgettingKOptions(k=0, unit="layer"), RNG
        )


def test_two_anchored_steps_by_hand(tmp_path):
    """Law: gradient of CE + anchor / 2 |w - w0|^2, all normalisation in evaluation mode, no momentum: SCRUB, small."""
    data = run_data(tmp_path, retain=8, normalize="unit")
    model, lr, anchor = small_net(), 0.5, 0.3
    hand, start = copy.deepcopy(model).eval(), copy.deepcopy(model)
    images, labels = data.retain.batch(torch.arange(8).numpy())
    for _ in range(2):
        moving = [parameter for i in (8, 9, 14) for parameter in hand[i].parameters()]
        origin = [parameter for i in (8, 9, 14) for parameter in start[i].parameters()]
        gradients = torch.autograd.grad(F.cross_entropy(hand(images), labels), moving)
        with torch.no_grad():
            for parameter, gradient, first in zip(moving, gradients, origin, strict=True):
                parameter.sub_(lr * (gradient + anchor * (parameter - first)))
    options = CatastrophicForgettingKOptions(
        unit="block", epochs=2.0, lr=lr, anchor=anchor, batch_size=8, channels_last=False
    )
    catastrophic_forgetting_k(model, data, options, RNG)
    for name, tensor in model.state_dict().items():
        assert torch.allclose(tensor, hand.state_dict()[name], atol=1e-6), name


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [0.01] * 8),
        ({"decay_epochs": (2, 5), "gamma": 0.1}, [0.01] * 2 + [0.001] * 3 + [0.0001] * 3),
        ({"decay_epochs": (2, 5), "decay_lr": 5e-4}, [0.01] * 2 + [5e-5] * 3 + [5e-6] * 3),  # SCRUB's helper
        (
            {"lr": 0.1, "restart_lr": 0.005},  # torch's CosineAnnealingWarmRestarts(T_0=1, T_mult=2, eta_min=0.005)
            [0.1, 0.1, 0.0525, 0.1, 0.08608757, 0.0525, 0.01891243, 0.1],
        ),
    ],
)
def test_rates_by_epoch(options, expected):
    """Law: constant; drops after the epochs named, from lr or from another rate; cosines of 1, 2, 4, ... epochs."""
    known = CatastrophicForgettingKOptions(**{"epochs": 8.0, **options})
    assert [known.lr * _rate(known, epoch) for epoch in range(8)] == pytest.approx(expected)


def test_one_step_by_hand(tmp_path):
    """Law: the moving part takes the gradient step of the retain set's cross-entropy, and the weight decay."""
    data = run_data(tmp_path, retain=8, normalize="unit")
    model = small_net()
    by_hand = copy.deepcopy(model).train()
    for i in (1, 5):  # normalisations of the frozen part
        by_hand[i].eval()
    images, labels = data.retain.batch(torch.arange(8).numpy())
    F.cross_entropy(by_hand(images), labels).backward()
    lr, decay = 0.5, 0.01
    options = CatastrophicForgettingKOptions(
        unit="block", statistics="moving", epochs=1.0, lr=lr, weight_decay=decay, batch_size=8, channels_last=False
    )
    catastrophic_forgetting_k(model, data, options, RNG)
    for i in (8, 9, 14):
        for found, start in zip(model[i].parameters(), by_hand[i].parameters(), strict=True):
            assert torch.allclose(found, start - lr * (start.grad + decay * start), atol=1e-6)
            assert not torch.allclose(found, start, atol=1e-5)


def test_a_clipped_step_by_hand(tmp_path):
    """Law: Goel et al. (learn.py, train): the moving gradients together have a norm of at most 10; here 0.01."""
    data = run_data(tmp_path, retain=8, normalize="unit")
    model = small_net()
    by_hand = copy.deepcopy(model).train()
    images, labels = data.retain.batch(torch.arange(8).numpy())
    gradients = torch.autograd.grad(F.cross_entropy(by_hand(images), labels), list(by_hand[14].parameters()))
    norm = sum(float((gradient**2).sum()) for gradient in gradients) ** 0.5
    assert norm > 0.1
    options = {"unit": "layer", "statistics": "batch", "epochs": 1.0, "lr": 10.0, "batch_size": 8}
    catastrophic_forgetting_k(model, data, CatastrophicForgettingKOptions(**options, max_norm=0.01), RNG)
    for found, start, gradient in zip(model[14].parameters(), by_hand[14].parameters(), gradients, strict=True):
        assert torch.allclose(found, start - 10.0 * 0.01 / norm * gradient, atol=1e-5)
        assert not torch.allclose(found, start, atol=1e-4)
