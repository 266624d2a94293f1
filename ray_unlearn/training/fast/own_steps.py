"""The captured steps of one training, on the training's own tensors: any objective, any hooks, any number of sets.

    steps = OwnSteps(step, images, sizes, capture)
    total = steps.epoch(draws, rates, optimizer)         # draws of one list per set, one element per step

An epoch's draws and rates lie in tables on the device, which a step reads at a counter that it increments itself. A
graph is captured for each kind of step (`Hooks.before_step`) over batches of the usual sizes; smaller last batches take
the same code eagerly, on the same tensors. Warm-up and capture take steps: model, optimiser and counters are put back
after them. If the optimiser, or the address of a tensor, is another one than in the last epoch, graphs are captured
anew.

Captured and eager steps are the same arithmetic in the same order; see `cuda_graph` for the rate on a GPU.

Does not cover: sharing a graph between runs, which needs an objective without tensors of its own (`cuda_graph`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Hashable, Iterator, Sequence
from functools import partial
from itertools import chain
from typing import Any

import torch
from torch import nn

from ray_unlearn.data.images import ImageSet, upload
from ray_unlearn.study.recipe import Recipe
from ray_unlearn.training.batches import Batch, Draws, load
from ray_unlearn.training.fast.cuda_graph import Capture, exact_dtype, settings_of, tensors_of, with_rate
from ray_unlearn.training.step import Step


class OwnSteps:
    """Graphs of a training's steps, by the kind of the step."""

    def __init__(
        self, step: Step, images: Sequence[ImageSet], sizes: Sequence[int], steps: int, capture: Capture
    ) -> None:
        """Make the tables.

        Args:
            step: the training's step.
            images: sets, all of them resident on the device.
            sizes: usual size of the batches of each set.
            steps: most steps of an epoch.
            capture: makes a replay of a step.

        """
        device = step.device
        self._step, self._capture = step, capture
        self._tables = [_Table(one, size * steps, steps, step.recipe) for one, size in zip(images, sizes, strict=True)]
        self._usual = tuple(min(size, len(one)) for one, size in zip(images, sizes, strict=True))
        self._at = torch.zeros(1, dtype=torch.int64, device=device)
        self._rate = torch.zeros((), dtype=exact_dtype(device), device=device)
        self._rates_S = torch.zeros(steps, dtype=exact_dtype(device), device=device)
        self._total = torch.zeros((), device=device)
        self._replays: dict[Hashable, Callable[[], None]] = {}
        self._captured_on: Any = None

    def epoch(
        self, draws: Sequence[Sequence[Draws]], rates: Sequence[float], optimizer: torch.optim.Optimizer
    ) -> torch.Tensor:
        """Take an epoch's steps; return the sum of its images' losses, on the device."""
        if self._captured_on != self._addresses(optimizer):
            self._replays.clear()
        self._fill(draws, rates)
        with _reading_rate(optimizer, self._rate, rates[-1]):
            for sizes in zip(*([len(one) for one in each] for each in draws), strict=True):
                kind = self._step.hooks.before_step(sizes)
                self._taken(sizes, kind, optimizer)()
            self._captured_on = self._addresses(optimizer)
        optimizer.zero_grad(set_to_none=True)  # gradients lie in the memory of a graph
        return self._total.clone()

    def _fill(self, draws: Sequence[Sequence[Draws]], rates: Sequence[float]) -> None:
        for table, each in zip(self._tables, draws, strict=True):
            table.fill(each)
        rates_S = torch.tensor(rates, dtype=self._rates_S.dtype)
        self._rates_S[: len(rates)].copy_(upload(rates_S, self._step.device))
        self._total.zero_()
        self._at.zero_()

    def _taken(self, sizes: tuple[int, ...], kind: Hashable, optimizer: torch.optim.Optimizer) -> Callable[[], None]:
        """Return what takes a step: a replay for the usual sizes, captured at the first of its kind."""
        take = partial(self._take, sizes, optimizer)
        if sizes != self._usual:
            return take
        if kind not in self._replays:
            with _put_back(self._step.model, optimizer, self._total, self._at):
                self._replays[kind] = self._capture(take, self._step.device)
        return self._replays[kind]

    def _take(self, sizes: tuple[int, ...], optimizer: torch.optim.Optimizer) -> None:
        """Take the step at the counter, and increment the counter; without decision or wait."""
        self._rate.copy_(self._rates_S.index_select(0, self._at)[0])
        batches = [table.batch(self._at, size) for table, size in zip(self._tables, sizes, strict=True)]
        self._total.add_(self._step(batches, optimizer))
        self._at.add_(1).clamp_(max=self._rates_S.numel() - 1)  # warm-up may count beyond the table

    def _addresses(self, optimizer: torch.optim.Optimizer) -> Any:
        """Return what a graph freezes: the optimiser, its settings, and where its tensors and the model's are."""
        groups = [settings_of(group) for group in optimizer.param_groups]
        state = [one for known in optimizer.state.values() for one in known.values() if torch.is_tensor(one)]
        places = [(one.data_ptr(), one.requires_grad) for one in chain(tensors_of(self._step.model), state)]
        return optimizer, repr(groups), places


class _Table:
    """Draws of an epoch's batches of one set, one after another, at fixed addresses."""

    def __init__(self, images: ImageSet, capacity: int, steps: int, recipe: Recipe) -> None:
        device = images.pixels.device
        self._images, self._recipe = images, recipe
        self._rows_N, self._labels_N = (torch.zeros(capacity, dtype=torch.int64, device=device) for _ in range(2))
        self._offsets_2N = torch.zeros((2, capacity), dtype=torch.int64, device=device) if recipe.augment.crop else None
        self._mirrored_N = torch.zeros(capacity, dtype=torch.bool, device=device) if recipe.augment.flip else None
        self._starts_S = torch.zeros(steps, dtype=torch.int64, device=device)
        self._places_N = torch.arange(capacity, device=device)

    def fill(self, draws: Sequence[Draws]) -> None:
        """Write an epoch's draws, one element per step."""
        sizes = [len(one) for one in draws]
        starts_S = torch.tensor([0, *sizes[:-1]]).cumsum(0)
        self._starts_S[: len(sizes)].copy_(upload(starts_S, self._starts_S.device))
        for name in ("rows_N", "labels_N", "offsets_2N", "mirrored_N"):
            table = getattr(self, f"_{name}")
            if table is not None:
                table[..., : sum(sizes)].copy_(torch.cat([getattr(one, name) for one in draws], -1))

    def batch(self, at: torch.Tensor, size: int) -> Batch:
        """Return the batch of the step at the counter."""
        places_B = (self._starts_S.index_select(0, at) + self._places_N[:size]).clamp(max=len(self._places_N) - 1)
        offsets, mirrored = self._offsets_2N, self._mirrored_N
        draws = Draws(
            rows_N=self._rows_N.index_select(0, places_B),
            labels_N=self._labels_N.index_select(0, places_B),
            offsets_2N=None if offsets is None else offsets.index_select(1, places_B),
            mirrored_N=None if mirrored is None else mirrored.index_select(0, places_B),
        )
        return load(self._images, draws, self._recipe)


@contextlib.contextmanager
def _reading_rate(optimizer: torch.optim.Optimizer, rate: torch.Tensor, last: float) -> Iterator[None]:
    """Let the optimiser read its rate from a tensor in the block; afterwards its rate is a number, the last step's."""
    before = [dict(group) for group in optimizer.param_groups]
    with_rate(optimizer, rate)
    try:
        yield
    finally:
        for group, settings in zip(optimizer.param_groups, before, strict=True):
            group.update({**settings, "lr": last})


@contextlib.contextmanager
def _put_back(model: nn.Module, optimizer: torch.optim.Optimizer, *counters: torch.Tensor) -> Iterator[None]:
    """Restore all tensors after the block; state that the optimiser did not have before is zero, as torch begins."""
    stepped = [one for group in optimizer.param_groups for one in group["params"]]
    tensors = [*tensors_of(model), *stepped, *counters]
    before = [tensor.detach().clone() for tensor in tensors]
    known = {
        (parameter, name): value.clone()
        for parameter, state in optimizer.state.items()
        for name, value in state.items()
        if torch.is_tensor(value)
    }
    yield
    with torch.no_grad():
        for tensor, value in zip(tensors, before, strict=True):
            tensor.copy_(value)
        for parameter, state in optimizer.state.items():
            for name, tensor in state.items():
                if torch.is_tensor(tensor):
                    tensor.copy_(known[parameter, name]) if (parameter, name) in known else tensor.zero_()
