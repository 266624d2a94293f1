"""Trimmed convolutions are convolutions: the same values, gradients and state dict, no matter what is trimmed."""

import copy
import itertools

import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 - its usual name

from ray_unlearn import models
from ray_unlearn.seeds import Seeds
from ray_unlearn.study.schema import Model
from ray_unlearn.training.fast.small_maps import TrimmedConv2d, trim, windows


def pair(*args, **options):
    """Return the same convolution twice, the second one trimmed; float64, so that only real differences show."""
    torch.manual_seed(0)
    plain = nn.Conv2d(*args, **options).double()
    return plain, trim(copy.deepcopy(plain))


def both(plain, trimmed, images):
    """Return outputs and gradients of both."""
    found = []
    for layer in (plain, trimmed):
        pixels = images.clone().requires_grad_()
        out = layer(pixels)
        out.mul(torch.arange(out.numel()).view(out.shape) % 7 + 1).sum().backward()
        found.append((out.detach(), pixels.grad, layer.weight.grad, None if layer.bias is None else layer.bias.grad))
    return found


def test_windows_by_hand():
    """A 3-tap kernel with padding 1: one pixel meets the middle tap; of two pixels each meets two taps."""
    assert windows(1, 3, 1, 1) == [(slice(0, 1), slice(1, 2))]
    assert windows(2, 3, 1, 1) == [(slice(0, 2), slice(1, 3)), (slice(0, 2), slice(0, 2))]
    assert windows(2, 3, 2, 1) == [(slice(0, 2), slice(1, 3))]
    assert windows(4, 3, 2, 1) == [(slice(0, 2), slice(1, 3)), (slice(1, 4), slice(0, 3))]


@pytest.mark.parametrize("size", [(1, 1), (2, 2), (3, 3), (4, 4), (1, 3), (2, 1)])
@pytest.mark.parametrize("bias", [True, False])
def test_values_and_gradients_are_those_of_the_convolution(size, bias):
    """Law: for every kernel, stride and padding, outputs and all gradients agree to rounding."""
    trimmed_some = False
    for kernel, stride, padding in itertools.product((1, 2, 3, (3, 1)), (1, 2), (0, 1, 2)):
        plain, layer = pair(3, 5, kernel, stride=stride, padding=padding, bias=bias)
        images = torch.randn(4, 3, *size, dtype=torch.float64)
        try:
            plain(images)
        except RuntimeError:
            continue  # the kernel is larger than the padded image
        for expected, found in zip(*both(plain, layer, images), strict=True):
            if expected is not None:
                torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
        trimmed_some |= spared(layer, images)
    assert trimmed_some


def spared(layer, images):
    """Return whether the layer went without F.conv2d."""
    calls = []
    original = F.conv2d
    try:
        torch.nn.functional.conv2d = lambda *a, **k: calls.append(1) or original(*a, **k)
        layer(images)
    finally:
        torch.nn.functional.conv2d = original
    return not calls


@pytest.mark.parametrize("memory_format", [torch.channels_last, torch.contiguous_format])
def test_gradients_are_in_memory_as_the_weight_is(memory_format):
    """Law: the gradient of a weight has the weight's strides, so that autograd keeps it without a copy."""
    layer = trim(nn.Conv2d(4, 6, 3, padding=1)).to(memory_format=memory_format)
    layer(torch.randn(2, 4, 1, 1)).sum().backward()
    assert layer.weight.grad.stride() == layer.weight.stride()
    dead = layer.weight.grad.clone()
    dead[:, :, 1, 1] = 0
    assert not dead.any()
    assert layer.weight.grad[:, :, 1, 1].all()


def test_large_maps_and_other_kinds_are_left_to_pytorch():
    """Law: where no tap is dead, maps are large, or the convolution is grouped or dilated, nothing is replaced."""
    cases = [(pair(4, 4, 3, padding=1)[1], 8), (pair(4, 4, 1)[1], 1), (pair(4, 4, 2, stride=2)[1], 4)]
    for layer, size in cases:
        assert not spared(layer, torch.randn(2, 4, size, size, dtype=torch.float64))
    assert spared(pair(4, 4, 3, padding=1)[1], torch.randn(2, 4, 1, 1, dtype=torch.float64))
    for options in ({"groups": 2}, {"dilation": 2}, {"padding_mode": "reflect"}, {"padding": "same"}):
        assert type(trim(nn.Conv2d(4, 4, 3, **options))) is nn.Conv2d


def test_autocast_gives_bf16_as_the_convolution_does():
    """Law: under autocast, outputs are bf16 and close to PyTorch's own; the gradient of the weight stays fp32."""
    torch.manual_seed(1)
    plain = nn.Conv2d(16, 8, 3, padding=1)
    layer = trim(copy.deepcopy(plain))
    images = torch.randn(4, 16, 2, 2)
    with torch.autocast("cpu", torch.bfloat16):
        expected, found = plain(images), layer(images)
    assert found.dtype == expected.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), expected.float(), rtol=0.05, atol=0.05)
    found.float().sum().backward()
    assert layer.weight.grad.dtype == torch.float32


def test_a_resnet_gives_the_same_logits_and_names():
    """Law: a trimmed ResNet-18 has the plain one's state dict, name by name, and its logits to rounding."""
    plain = models.build(Model(arch="resnet18", trim_dead_taps=False), 9, Seeds(study=0)).double().eval()
    trimmed = models.build(Model(arch="resnet18"), 9, Seeds(study=0)).double().eval()
    assert not any(isinstance(layer, TrimmedConv2d) for layer in plain.modules())
    assert list(plain.state_dict()) == list(trimmed.state_dict())
    images = torch.randn(3, 3, 32, 32, dtype=torch.float64)
    torch.testing.assert_close(trimmed(images), plain(images), rtol=1e-9, atol=1e-9)


def test_it_can_be_traced_and_differentiated_by_example():
    """Law: torch.fx and torch.func do with a trimmed layer what they do with a convolution."""
    plain, layer = pair(2, 3, 3, padding=1)
    images = torch.randn(4, 2, 2, 2, dtype=torch.float64)
    traced = torch.fx.symbolic_trace(nn.Sequential(layer))
    torch.testing.assert_close(traced(images), plain(images))
    torch.testing.assert_close(layer(images[0]), plain(images[0]))  # [C, H, W], as nn.Conv2d takes it, too

    def gradients(conv):
        def loss(parameters, image):
            return torch.func.functional_call(conv, parameters, (image[None],)).square().sum()

        each = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))
        return each(dict(conv.named_parameters()), images)

    for expected, found in zip(gradients(plain).values(), gradients(layer).values(), strict=True):
        torch.testing.assert_close(found, expected)


def test_the_switch_is_part_of_the_identity():
    """Law: results differ in the last bits, so trimmed and untrimmed populations are two."""
    on, off = (models.identity(Model(arch="resnet18", trim_dead_taps=value)) for value in (True, False))
    assert on != off
