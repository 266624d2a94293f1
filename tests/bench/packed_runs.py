"""K runs of one architecture as one: their weights stacked, one step that trains all of them, one capture.

    packed = Packed(nets, images, recipe, cuda_graph)
    totals_K = packed.epoch(draws_K, rates)      # each run's own draws; sums of its images' losses
    weights = packed.state(3)                    # as that net's state_dict() would be

torch.func: `stack_module_state` stacks parameters and buffers, `vmap` over `grad_and_value` makes K gradients in one
pass (a convolution becomes a grouped one), and the recipe's optimiser steps the stacked tensors, whose update is
elementwise and so is each run's own. Running statistics are stacked too and move in place. The sums are those of a run
alone in another order: equal to rounding, not in every bit. vmap's batch normalisation takes no bfloat16 images next to
float32 statistics, so in bf16 it is computed on float32 copies, which costs memory traffic that a run alone has not.

Does not cover: augmentation, class weights, dropout, dead taps (`nets` without them), nets of several kinds.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import partial

import torch
from torch import nn
from torch.func import functional_call, grad_and_value, stack_module_state, vmap

from ray_unlearn.data.images import ImageSet, upload
from ray_unlearn.study.recipe import Recipe
from ray_unlearn.training.batches import Batch, Draws, load
from ray_unlearn.training.fast.cuda_graph import Capture, Step, with_rate
from ray_unlearn.training.objective import cross_entropy
from ray_unlearn.training.optimizers import make_optimizer
from ray_unlearn.training.precision import autocast

State = dict[str, torch.Tensor]


class Packed:
    """The tensors of K runs, and the step of all of them."""

    def __init__(self, nets: Sequence[nn.Module], images: ImageSet, recipe: Recipe, capture: Capture) -> None:
        self._device = device = images.pixels.device
        self._images, self._size, self._capture = images, recipe.batch_size, capture
        self._recipe = recipe.model_copy(update={"channels_last": False})  # stacked weights are not, either
        self._parameters, self._buffers = stack_module_state([*nets])
        self._values = {name: parameter.detach() for name, parameter in self._parameters.items()}  # the same memory
        self._base = _widened(copy.deepcopy(nets[0]).to("meta"))
        self._gradients = vmap(grad_and_value(self._loss))
        exact = torch.float32 if device.type == "cuda" else torch.float64  # as in training.fast.cuda_graph
        self._rate = torch.zeros((), dtype=exact, device=device)
        self._optimizer = with_rate(make_optimizer(self._base, recipe, self._parameters.values()), self._rate)
        steps, runs = max(1, len(images) // self._size), len(nets)
        self._rows_SKB, self._labels_SKB = (
            torch.zeros((steps, runs, self._size), dtype=torch.int64, device=device) for _ in range(2)
        )
        self._rates_S = torch.zeros(steps, dtype=exact, device=device)
        self._at = torch.zeros(1, dtype=torch.int64, device=device)
        self._total_K = torch.zeros(runs, device=device)
        self._replay: Step | None = None

    def epoch(self, draws_K: Sequence[Draws], rates: Sequence[float]) -> torch.Tensor:
        """Train every run through its draws; return the sums of its images' losses, float32 [K] on the device."""
        full = len(draws_K[0]) // self._size
        for run, draws in enumerate(draws_K):
            taken = draws.part(0, full * self._size)
            self._rows_SKB[:full, run] = taken.rows_N.view(full, self._size)
            self._labels_SKB[:full, run] = taken.labels_N.view(full, self._size)
        self._rates_S[:full].copy_(upload(torch.tensor(rates[:full], dtype=self._rates_S.dtype), self._device))
        replay = self._ready()
        self._at.zero_()
        self._total_K.zero_()
        for _ in range(full):
            replay()
        rest = [draws.part(full * self._size, len(draws)) for draws in draws_K]
        if len(rest[0]):
            self._rate.fill_(rates[full])
            self._train_on(torch.stack([each.rows_N for each in rest]), torch.stack([each.labels_N for each in rest]))
        return self._total_K.clone()

    def state(self, run: int) -> State:
        """Return copies of one run's parameters and buffers, by their names in its net."""
        return {name: tensor[run].clone() for name, tensor in (self._values | self._buffers).items()}

    def _ready(self) -> Step:
        """Return the replay; a capture trains a little, and what it did is undone."""
        if self._replay is None:
            tensors = [*self._values.values(), *self._buffers.values()]
            before = [tensor.clone() for tensor in tensors]
            self._replay = self._capture(self._step, self._device)
            for tensor, was in zip(tensors, before, strict=True):
                tensor.copy_(was)
            for state in self._optimizer.state.values():
                for tensor in state.values():
                    if tensor is not None:
                        tensor.zero_()  # which is how torch's begin
        return self._replay

    def _step(self) -> None:
        """Take the step that the counter points at, and move the counter."""
        self._rate.copy_(self._rates_S.index_select(0, self._at)[0])
        self._train_on(self._rows_SKB.index_select(0, self._at)[0], self._labels_SKB.index_select(0, self._at)[0])
        self._at.add_(1).clamp_(max=len(self._rates_S) - 1)

    def _train_on(self, rows_KB: torch.Tensor, labels_KB: torch.Tensor) -> None:
        batch = load(self._images, Draws(rows_N=rows_KB.flatten(), labels_N=labels_KB.flatten()), self._recipe)
        images_KBCHW = batch.images.view(*rows_KB.shape, *batch.images.shape[1:])
        gradients, losses_K = self._gradients(self._values, self._buffers, images_KBCHW, labels_KB)
        for name, parameter in self._parameters.items():
            parameter.grad = gradients[name]
        self._optimizer.step()
        self._total_K.add_(losses_K * rows_KB.shape[1])

    def _loss(self, values: State, buffers: State, images_BCHW: torch.Tensor, labels_B: torch.Tensor) -> torch.Tensor:
        model = partial(functional_call, self._base, (values, buffers))
        with autocast(self._recipe.precision, self._device, cached=False):
            return cross_entropy()(model, Batch(images_BCHW, labels_B))


class _WideBatchNorm2d(nn.BatchNorm2d):
    """Computes in its statistics' type, and answers in the images'."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return super().forward(input.float()).to(input.dtype)


def _widened(net: nn.Module) -> nn.Module:
    for module in net.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = _WideBatchNorm2d
    return net
