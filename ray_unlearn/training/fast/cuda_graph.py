"""One training step on tensors at fixed addresses, captured once as a CUDA graph and replayed.

    engines = Engines(cuda_graph)                    # one per worker; a stepper asks it through RunData.engines
    engine = engines.of(model, optimizer, images, recipe, batch_size, full_steps, weights_C)
    total = engine.epoch(model, optimizer, draws, rates, weights_C)     # or begin(...), step() until False, finish(...)

A GPU gets one launch per training step instead of some hundreds. A CUDA graph replays the same kernels on the same
addresses; values that a step reads from Python are frozen in it, and are therefore part of an engine's key. The next
run reuses buffers and graph.

An engine owns all tensors of its step: a copy of the model, its gradients, an optimiser whose rate is a tensor, and
tables of an epoch's draws and rates, which the step reads at a counter that it increments itself. A run's weights,
running statistics and optimiser state are copied in before an epoch and out after it, so that they are ordinary tensors
between epochs. Warm-up and capture work on the copies, before a run's state is copied in: a run's result does not
depend on whether it was the first. A smaller last batch is computed eagerly, on the engine's tensors.

Captured and eager epochs are the same arithmetic in the same order; on a GPU the captured rate is float32, so that the
two agree to rounding, not in every bit. Each repeats itself bit for bit with `execution.deterministic`.

Does not cover: which trainings an engine may serve (`Stepper`); objectives and hooks of a method's own, whose
tensors are the run's (`own_steps`).
"""

from __future__ import annotations

import copy
import warnings
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain, repeat
from typing import Any

import torch
from torch import nn

from ray_unlearn.data.images import ImageSet, upload
from ray_unlearn.errors import MethodError, first_line
from ray_unlearn.seeds import nothing_drawn
from ray_unlearn.study.recipe import Recipe
from ray_unlearn.training.batches import Draws, load
from ray_unlearn.training.objective import cross_entropy
from ray_unlearn.training.optimizers import make_optimizer
from ray_unlearn.training.precision import autocast

Step = Callable[[], None]
Capture = Callable[[Step, torch.device], Step]
"""Function of a step that reads and writes the same tensors at every call; returns a function that repeats the step."""

_KEPT = 4  # engines per worker: each holds a model, its gradients, its optimiser's state and one step's activations
_WARM_UP = 3  # steps before a capture, as torch's documentation advises: cuDNN and cuBLAS allocate in the first ones
_OWN = ("params", "lr", "foreach", "fused", "capturable")  # settings of a group that do not change the arithmetic


def cuda_graph(step: Step, device: torch.device) -> Step:
    """Warm up a step on a new stream, capture it there as a CUDA graph, and return the graph's replay.

    Raises:
        MethodError: the step cannot be captured.

    """
    with nothing_drawn(device):  # warm-up must not use up random numbers, for dropout for example
        return _captured(step, device)


def _captured(step: Step, device: torch.device) -> Step:
    stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*capturable=True")  # the optimiser is capturable
        for _ in range(_WARM_UP):
            step()
    torch.cuda.current_stream(device).wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    try:  # thread_local: a thread that publishes the last run may allocate meanwhile
        with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
            step()
    except RuntimeError as error:
        reason = first_line(error)
        hint = "set execution.cuda_graph: false to train without"
        raise MethodError(f"a training step cannot be captured as a CUDA graph ({reason}); {hint}") from error
    return graph.replay


class Engines:
    """The most recently used captured steps of one worker."""

    def __init__(self, capture: Capture, kept: int = _KEPT) -> None:
        self.capture, self._kept = capture, kept
        self._engines: OrderedDict[Hashable, Engine] = OrderedDict()

    def __len__(self) -> int:
        return len(self._engines)

    def of(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        images: ImageSet,
        recipe: Recipe,
        batch_size: int,
        full_steps: int,
        weights_C: torch.Tensor | None,
    ) -> Engine:
        """Return the engine for such trainings, a new one if there is none yet.

        Two trainings share an engine if a graph would have the same kernels and addresses for both: the same modules
        and shapes, the same pixels, the same arithmetic; `full_steps` is rounded up to a power of two.
        """
        capacity = 1 << (full_steps - 1).bit_length()
        how = (recipe.optimizer, repr(settings_of(optimizer.param_groups[0])), recipe.precision, recipe.channels_last)
        where = (id(images.pixels), images.scaling, recipe.augment.crop, recipe.augment.flip, batch_size, capacity)
        key = (_layout(model), *how, *where, weights_C is not None)
        if key not in self._engines:
            made = Engine(model, optimizer, images, recipe, batch_size, capacity, weights_C, self.capture)
            self._engines[key] = made
        self._engines.move_to_end(key)
        while len(self._engines) > self._kept:
            self._engines.popitem(last=False)
        return self._engines[key]


def _layout(model: nn.Module) -> Hashable:
    """Return the key of a computation: modules with their settings, and each tensor's name, shape and dtype."""
    tensors = [*model.named_parameters(), *model.named_buffers()]
    return str(model), tuple((name, tuple(t.shape), t.dtype) for name, t in tensors)


class Engine:
    """The tensors of one captured step, and the step."""

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        images: ImageSet,
        recipe: Recipe,
        batch_size: int,
        capacity: int,
        weights_C: torch.Tensor | None,
        capture: Capture,
    ) -> None:
        device = images.pixels.device
        self._images, self._recipe, self._size, self._capture = images, recipe, batch_size, capture
        self._device = device
        self._replay: Step | None = None
        self._pending: Iterator[Step] = iter(())
        self._model = copy.deepcopy(model)
        self._weights_C = None if weights_C is None else weights_C.clone()
        self._loss = cross_entropy(self._weights_C)
        exact = exact_dtype(device)
        self._rate = torch.zeros((), dtype=exact, device=device)
        self._optimizer = with_rate(make_optimizer(self._model, recipe), self._rate)
        self._optimizer.param_groups[0].update(settings_of(optimizer.param_groups[0]))  # a method may have changed them
        self._total = torch.zeros((), device=device)
        self._at = torch.zeros(1, dtype=torch.int64, device=device)
        self._rates_S = torch.zeros(capacity, dtype=exact, device=device)
        self._table = _empty_table(capacity, batch_size, recipe, device)

    def epoch(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        draws: Draws,
        rates: Sequence[float],
        weights_C: torch.Tensor | None,
    ) -> torch.Tensor:
        """Train model and optimiser through an epoch's draws; return the sum of its images' losses, on the device."""
        self.begin(model, optimizer, draws, rates, weights_C)
        while self.step():
            pass
        return self.finish(model, optimizer)

    def begin(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        draws: Draws,
        rates: Sequence[float],
        weights_C: torch.Tensor | None,
    ) -> None:
        """Copy in a run's state and an epoch's draws; `step` takes the steps, and `finish` copies the state back.

        The steps of several engines may be taken in turn.
        """
        full = len(draws) // self._size
        self._fill(draws, rates, full)
        if self._weights_C is not None and weights_C is not None:
            self._weights_C.copy_(weights_C)
        replay = self._ready()
        self._take_over(model, optimizer)
        rest = draws.part(full * self._size, len(draws))
        last = [partial(self._eagerly, rest, rates[full])] if len(rest) else []
        self._pending = chain(repeat(replay, full), last)

    def step(self) -> bool:
        """Take the epoch's next step; return whether there was one."""
        take = next(self._pending, None)
        if take is not None:
            take()
        return take is not None

    def finish(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> torch.Tensor:
        """Copy the state back into model and optimiser; return the sum of the images' losses."""
        self._give_back(model, optimizer)
        return self._total.clone()

    def _eagerly(self, draws: Draws, rate: float) -> None:
        self._rate.fill_(rate)
        self._train_on(draws)

    def _ready(self) -> Step:
        """Return the replay, captured at the first call; capturing leaves garbage in the copies, overwritten next."""
        if self._replay is None:
            self._replay = self._capture(self._step, self._device)
        return self._replay

    def _step(self) -> None:
        """Take the step at the counter, and increment the counter; without argument, decision or wait."""
        table = self._table
        draws = Draws(
            rows_N=self._now(table.rows_N),
            labels_N=self._now(table.labels_N),
            offsets_2N=None if table.offsets_2N is None else self._now(table.offsets_2N),
            mirrored_N=None if table.mirrored_N is None else self._now(table.mirrored_N),
        )
        self._rate.copy_(self._now(self._rates_S))
        self._train_on(draws)
        self._at.add_(1).clamp_(max=self._rates_S.numel() - 1)  # warm-up may count beyond a short table

    def _now(self, table: torch.Tensor) -> torch.Tensor:
        return table.index_select(0, self._at)[0]

    def _train_on(self, draws: Draws) -> None:
        self._optimizer.zero_grad(set_to_none=True)
        batch = load(self._images, draws, self._recipe)
        with autocast(self._recipe.precision, self._device, cached=False):
            value = self._loss(self._model, batch)
        value.backward()  # type: ignore[no-untyped-call]
        self._optimizer.step()
        self._total.add_(value.detach() * len(batch))

    def _fill(self, draws: Draws, rates: Sequence[float], full: int) -> None:
        """Write an epoch's full batches into the tables."""
        taken, table = draws.part(0, full * self._size), self._table
        table.rows_N[:full].copy_(taken.rows_N.view(full, self._size))
        table.labels_N[:full].copy_(taken.labels_N.view(full, self._size))
        if table.offsets_2N is not None and taken.offsets_2N is not None:
            table.offsets_2N[:full].copy_(taken.offsets_2N.reshape(2, full, self._size).transpose(0, 1))
        if table.mirrored_N is not None and taken.mirrored_N is not None:
            table.mirrored_N[:full].copy_(taken.mirrored_N.view(full, self._size))
        self._rates_S[:full].copy_(upload(torch.tensor(rates[:full], dtype=self._rates_S.dtype), self._device))

    @torch.no_grad()
    def _take_over(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Copy in a run's state; state that its optimiser does not have yet is zero, as torch's initial state."""
        for mine, theirs in zip(tensors_of(self._model), tensors_of(model), strict=True):
            mine.copy_(theirs)
        for my_parameter, parameter in zip(parameters_of(self._optimizer), parameters_of(optimizer), strict=True):
            known = optimizer.state.get(parameter, {})
            for name, tensor in self._optimizer.state[my_parameter].items():
                if tensor is not None:
                    tensor.zero_() if known.get(name) is None else tensor.copy_(known[name])
        self._total.zero_()
        self._at.zero_()

    @torch.no_grad()
    def _give_back(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        for theirs, mine in zip(tensors_of(model), tensors_of(self._model), strict=True):
            theirs.copy_(mine)
        for parameter, my_parameter in zip(parameters_of(optimizer), parameters_of(self._optimizer), strict=True):
            known = optimizer.state[parameter]
            for name, tensor in self._optimizer.state[my_parameter].items():
                if known.get(name) is None:
                    known[name] = None if tensor is None else tensor.clone()
                else:
                    known[name].copy_(tensor)


def with_rate(optimizer: torch.optim.Optimizer, rate: torch.Tensor) -> torch.optim.Optimizer:
    """Make an optimiser read its rate from a tensor, in one fused kernel that can be captured."""
    for group in optimizer.param_groups:
        group.update({"lr": rate, "fused": True, "foreach": False})
        if "capturable" in group:
            group["capturable"] = True
    return optimizer


def exact_dtype(device: torch.device) -> torch.dtype:
    """Return the type of a rate: a fused kernel on a GPU reads float32; on a CPU the number, which loses nothing."""
    return torch.float32 if device.type == "cuda" else torch.float64


def settings_of(group: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of an optimiser's group, without parameters, rate and kernel."""
    return {name: value for name, value in group.items() if name not in _OWN}


def parameters_of(optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
    """Return the tensors that an optimiser of one group steps, in order."""
    parameters: list[torch.Tensor] = optimizer.param_groups[0]["params"]
    return parameters


def tensors_of(model: nn.Module) -> list[torch.Tensor]:
    """Return all tensors of a model, including buffers that no checkpoint holds."""
    return [*model.parameters(), *model.buffers()]


def _empty_table(steps: int, batch_size: int, recipe: Recipe, device: torch.device) -> Draws:
    """Return empty tables of an epoch's draws by step: rows, labels and mirrored [S, B], offsets [S, 2, B]."""

    def integers(*shape: int) -> torch.Tensor:
        return torch.zeros(shape, dtype=torch.int64, device=device)

    return Draws(
        rows_N=integers(steps, batch_size),
        labels_N=integers(steps, batch_size),
        offsets_2N=integers(steps, 2, batch_size) if recipe.augment.crop else None,
        mirrored_N=integers(steps, batch_size).bool() if recipe.augment.flip else None,
    )
