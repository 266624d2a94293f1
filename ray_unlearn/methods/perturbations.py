"""How methods push a model away from what it knows before they repair it: each once, in place, from a generator.

    add_noise(model.parameters(), 0.01, rng.torch("start-noise"))
    reset_layers([model.conv1, model.fc], rng, "reset")
    stranger = scratch_copy(model, rng, "stranger")  # the same architecture, knowing nothing
    reinitialise(conv.weight, mask, generator)       # He-normal, fan_out, where the mask is true
    refill(fc.bias, mask, bound, generator)          # uniform in (-bound, bound), where the mask is true
    transpose_kernels(model)
    holes = prune_smallest(tensors, fraction=0.99)   # masks of what was set to zero
    masks = smallest(gradients, fraction=0.3)        # the same choice without pruning

All draws happen on the CPU, in the order of the tensors given, so that a run does not depend on its device. Frozen
parameters (requires_grad false) stay as they are.

Does not cover: choosing layers by what they have learned; methods do, with `training.gradients`.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Iterable, Sequence

import torch
from torch import nn

from ray_unlearn.errors import MethodError
from ray_unlearn.seeds import Seeds


@torch.no_grad()
def add_noise(tensors: Iterable[torch.Tensor], std: float, generator: torch.Generator) -> None:
    """Add N(0, std^2) to every tensor in the order given; `std` is in units of the weights."""
    for tensor in filter(moves, tensors):
        noise = torch.randn(tensor.shape, generator=generator)
        tensor.add_(noise.to(tensor), alpha=std)


def moves(tensor: torch.Tensor) -> bool:
    """Return whether a method may change a tensor: any but a frozen parameter."""
    return not isinstance(tensor, nn.Parameter) or tensor.requires_grad


def check_some_move(tensors: Iterable[torch.Tensor], what: str) -> None:
    """Check that not all of what a method perturbs is frozen: it would do the rest of its steps alone.

    Raises:
        MethodError: all is frozen; `what` names it.

    """
    if not any(map(moves, tensors)):
        raise MethodError(f"the method changes {what}, which the net has frozen; leave it out of model.freeze")


def reset_layers(layers: Iterable[nn.Module], rng: Seeds, purpose: str) -> None:
    """Re-initialise layers by their own default initialisation (`reset_parameters`), as PyTorch builds them.

    A layer whose parameters are all frozen keeps its buffers, too. Attention comes after all others, because it sets
    the bias of a linear layer inside of it.

    Raises:
        MethodError: a layer has no default initialisation.

    """
    with rng.global_state(purpose):
        for layer in sorted(layers, key=lambda layer: isinstance(layer, nn.MultiheadAttention)):
            _reset(layer)


def _reset(layer: nn.Module) -> None:
    """Draw a layer's own parameters anew from torch's global generator; frozen ones stay."""
    own = list(layer.parameters())
    frozen = [(parameter, parameter.detach().clone()) for parameter in own if not parameter.requires_grad]
    if own and len(frozen) == len(own):
        return
    device = next(itertools.chain(own, layer.buffers())).device
    layer.cpu()  # the draws come from the CPU's generator on every device
    name = "_reset_parameters" if isinstance(layer, nn.MultiheadAttention) else "reset_parameters"
    reset = getattr(layer, name, None)
    if reset is None:
        raise MethodError(f"layer {type(layer).__name__} has no reset_parameters and cannot be re-initialised")
    reset()
    layer.to(device)
    with torch.no_grad():
        for parameter, kept in frozen:
            parameter.copy_(kept)


def reset_tensors(drawn: Iterable[tuple[nn.Module, str | None]], rng: Seeds, purpose: str) -> None:
    """Re-initialise single tensors as their layers do by default; None names a whole layer.

    Raises:
        MethodError: a layer has no default initialisation.

    """
    with rng.global_state(purpose):
        for layer, name in drawn:
            kept = {own: t.detach().clone() for own, t in layer.state_dict(keep_vars=True).items() if own != name}
            _reset(layer)
            with torch.no_grad():
                for own, tensor in layer.state_dict(keep_vars=True).items():
                    if name is not None and own in kept:
                        tensor.copy_(kept[own])


def scratch_copy(model: nn.Module, rng: Seeds, purpose: str) -> nn.Module:
    """Return a copy that knows nothing: every layer by its own default initialisation, running statistics included.

    A scheme of the whole architecture (torchvision's ResNets have one for convolutions) is not repeated.

    Raises:
        MethodError: a layer has no default initialisation, so that it would keep what it learned.

    """
    scratch = copy.deepcopy(model)
    reset_layers([layer for layer in scratch.modules() if _learns(layer)], rng, purpose)
    return scratch


def _learns(layer: nn.Module) -> bool:
    """Return whether a layer has parameters of its own, or statistics that it can reset."""
    own, statistics = layer.parameters(recurse=False), layer.buffers(recurse=False)
    return any(True for _ in own) or (hasattr(layer, "reset_parameters") and any(True for _ in statistics))


@torch.no_grad()
def reinitialise(weight: torch.Tensor, where: torch.Tensor, generator: torch.Generator) -> None:
    """Draw He-normal values (mode fan_out, gain sqrt(2)) for a convolution's elements where `where` is true."""
    fan_out = weight.shape[0] * weight[0, 0].numel()
    fresh = torch.randn(weight.shape, generator=generator) * math.sqrt(2 / fan_out)
    weight.copy_(torch.where(where, fresh.to(weight), weight))


@torch.no_grad()
def refill(tensor: torch.Tensor, where: torch.Tensor, bound: float, generator: torch.Generator) -> None:
    """Draw uniform values between -bound and bound for the elements where `where` is true."""
    fresh = (2 * torch.rand(tensor.shape, generator=generator) - 1) * bound
    tensor.copy_(torch.where(where, fresh.to(tensor), tensor))


@torch.no_grad()
def transpose_kernels(model: nn.Module) -> None:
    """Swap height and width of every 2-d convolution's kernel.

    Raises:
        MethodError: a kernel is not square, or all are frozen.

    """
    layers = convolutions(model)
    check_some_move([layer.weight for _, layer in layers], "the convolutions")
    for name, layer in layers:
        height, width = layer.weight.shape[2:]
        if height != width:
            raise MethodError(f"layer {name}: its kernel is {height}x{width}; only square kernels can be transposed")
        if layer.weight.requires_grad:
            layer.weight.copy_(layer.weight.transpose(2, 3).clone())


def check_convolutions(model: nn.Module, options: object, classes: int) -> None:
    """Check before any run that a net has 2-d convolutions to train.

    Raises:
        MethodError: it has none, or all are frozen.

    """
    check_some_move([layer.weight for _, layer in convolutions(model)], "the convolutions")


@torch.no_grad()
def prune_smallest(tensors: Sequence[torch.Tensor], fraction: float) -> list[torch.Tensor]:
    """Set the globally smallest |values| to zero; return a mask per tensor, true where it did."""
    holes = smallest(tensors, fraction)
    for tensor, hole in zip(tensors, holes, strict=True):
        tensor.masked_fill_(hole, 0)
    return holes


@torch.no_grad()
def smallest(
    tensors: Sequence[torch.Tensor], fraction: float, among: Sequence[torch.Tensor] | None = None
) -> list[torch.Tensor]:
    """Return a mask per tensor, true at the smallest |values| of all tensors together.

    Exactly round(fraction * candidates) elements; ties are broken by position.

    Args:
        tensors: what is ranked.
        fraction: share of the candidates, 0..1.
        among: a mask per tensor, true at the candidates; default all elements.

    """
    magnitudes = torch.cat([tensor.abs().flatten() for tensor in tensors])
    total = len(magnitudes)
    if among is not None:
        candidates = torch.cat([mask.flatten() for mask in among])
        magnitudes, total = torch.where(candidates, magnitudes, torch.inf), int(candidates.sum())
    chosen = magnitudes.argsort(stable=True)[: round(fraction * total)]
    mask = torch.zeros_like(magnitudes, dtype=torch.bool)
    mask[chosen] = True
    parts = torch.split(mask, [tensor.numel() for tensor in tensors])
    return [part.view(tensor.shape) for part, tensor in zip(parts, tensors, strict=True)]


def convolutions(model: nn.Module) -> list[tuple[str, nn.Conv2d]]:
    """Return every 2-d convolution by name, in the model's order.

    Raises:
        MethodError: there is none.

    """
    found = [(name, layer) for name, layer in model.named_modules() if isinstance(layer, nn.Conv2d)]
    if not found:
        raise MethodError("the method changes 2-d convolutions, and the model has none")
    return found
