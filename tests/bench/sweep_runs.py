"""Some runs of one setting in one process, trained in one of three ways: what tests/bench/sweep_device.py compares.

    group = WAYS["streams"](setting, [0, 1, 2, 3])
    group.epoch()                                # every run, one epoch on
    group.states()[2]                            # run 2's weights

    alone    the package's own training loop with its captured step, one run's epoch after another's
    streams  an engine for each run, each captured once; one thread replays their steps in turn, on a stream for each
    packed   all runs as one (tests/bench/packed_runs.py)

Each way trains the same runs: weights and order of batches are drawn with the run's seeds, no matter what else the
process trains. The first epoch captures and warms up. On a CPU the step is called again instead of a replay.

Does not cover: time and memory, several processes (`sweep_members`).
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from packed_runs import Packed, State
from profile_step import CLASSES, finish, random_images, run_data
from torch import nn

from ray_unlearn import models
from ray_unlearn.data.images import ImageSet
from ray_unlearn.errors import RayUnlearnError, TrainingDiverged
from ray_unlearn.seeds import Seeds
from ray_unlearn.study.model import Model
from ray_unlearn.study.recipe import Recipe
from ray_unlearn.training import Training
from ray_unlearn.training.batches import Draws, draw, sizes_of
from ray_unlearn.training.fast.cuda_graph import Capture, Engine, Engines, Step, cuda_graph
from ray_unlearn.training.optimizers import make_optimizer
from ray_unlearn.training.precision import arithmetic

MOST_ON_STREAMS = 16
"""torch has 32 streams to give; a run takes one to replay on and one to capture on, with cuBLAS's workspace.
The driver queues them in `CUDA_DEVICE_MAX_CONNECTIONS` (8) lanes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """What every run trains."""

    device: str
    arch: str
    image_size: int
    images: int
    batch_size: int
    epochs: int
    """Timed ones; one more comes first."""
    precision: str
    optimizer: str
    lr: float
    deterministic: bool
    """As `execution.deterministic`."""

    @property
    def recipe(self) -> Recipe:
        """The recipe of every run."""
        given = {name: getattr(self, name) for name in ("batch_size", "precision", "optimizer", "lr")}
        return Recipe(epochs=1 + self.epochs, schedule="constant", weight_decay=5e-4, **given)

    @property
    def steps(self) -> int:
        """Steps of a run in the timed epochs."""
        return self.epochs * len(sizes_of(self.images, self.batch_size))


def called_again(step: Step, device: torch.device) -> Step:
    """Stand in for a capture, on a CPU: warm up as a GPU would, then repeat the step by calling it."""
    for _ in range(3):
        step()
    return step


class Group(Protocol):
    """Runs that are trained together."""

    def epoch(self) -> None:
        """Train every run for an epoch."""

    def states(self) -> Mapping[int, State]:
        """Return each run's parameters and buffers."""


class Alone:
    """One run's epoch after another's, through the package's own loop and one worker's engines."""

    def __init__(self, setting: Setting, runs: Sequence[int]) -> None:
        images, capture = _images_and_capture(setting)
        data, recipe = run_data(images, Engines(capture)), setting.recipe
        self._trainings = {run: Training(_net(setting, run), data, recipe, _seeds(run)) for run in runs}

    def epoch(self) -> None:
        """Train every run for an epoch."""
        for training in self._trainings.values():
            training.epoch()

    def states(self) -> Mapping[int, State]:
        """Return each run's parameters and buffers."""
        return {run: training.model.state_dict() for run, training in self._trainings.items()}


class OnStreams:
    """Steps in turn, each run's on its own stream."""

    def __init__(self, setting: Setting, runs: Sequence[int]) -> None:
        if len(runs) > MOST_ON_STREAMS:
            raise RayUnlearnError(f"{len(runs)} runs on streams: torch has streams for {MOST_ON_STREAMS} at most")
        images, capture = _images_and_capture(setting)
        self._recipe, self._device = setting.recipe, images.pixels.device
        self._runs = {run: _Streamed(setting, run, images, capture) for run in runs}

    def epoch(self) -> None:
        """Train every run for an epoch."""
        with arithmetic(self._recipe.precision):
            for run in self._runs.values():
                run.begin()
            going = list(self._runs.values())
            while going:
                going = [run for run in going if run.step()]
            totals = [run.finish() for run in self._runs.values()]
            finish(self._device)  # reading would wait for the default stream, which waits for none of theirs
            _refuse_nonfinite(totals)

    def states(self) -> Mapping[int, State]:
        """Return each run's parameters and buffers."""
        return {index: run.model.state_dict() for index, run in self._runs.items()}


class _Streamed:
    """One run with an engine and a stream of its own."""

    def __init__(self, setting: Setting, run: int, images: ImageSet, capture: Capture) -> None:
        device, recipe = images.pixels.device, setting.recipe
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]
        self._order = _Order(setting, run, images)
        with self._on_stream():
            self.model = _net(setting, run).to(memory_format=torch.channels_last)
            self._optimizer = make_optimizer(self.model, recipe)
            full = max(1, len(images) // recipe.batch_size)
            self._engine = Engine(self.model, self._optimizer, images, recipe, recipe.batch_size, full, None, capture)

    def begin(self) -> None:
        with self._on_stream():
            draws, rates = self._order.epoch()
            self._engine.begin(self.model, self._optimizer, draws, rates, None)

    def step(self) -> bool:
        with self._on_stream():
            return self._engine.step()

    def finish(self) -> torch.Tensor:
        with self._on_stream():
            return self._engine.finish(self.model, self._optimizer)

    def _on_stream(self) -> contextlib.AbstractContextManager[object]:
        return contextlib.nullcontext() if self._stream is None else torch.cuda.stream(self._stream)


class AsOne:
    """All runs packed into one step."""

    def __init__(self, setting: Setting, runs: Sequence[int]) -> None:
        images, capture = _images_and_capture(setting)
        self._recipe, self._indexes = setting.recipe, list(runs)
        self._orders = [_Order(setting, run, images) for run in runs]
        nets = [_net(setting, run, trim=False) for run in runs]
        self._packed = Packed(nets, images, self._recipe, capture)

    def epoch(self) -> None:
        """Train every run for an epoch."""
        draws_K, rates = zip(*(order.epoch() for order in self._orders), strict=True)
        with arithmetic(self._recipe.precision):
            _refuse_nonfinite([self._packed.epoch(draws_K, rates[0])])

    def states(self) -> Mapping[int, State]:
        """Return each run's parameters and buffers."""
        return {run: self._packed.state(k) for k, run in enumerate(self._indexes)}


WAYS: Mapping[str, Callable[[Setting, Sequence[int]], Group]] = {"alone": Alone, "streams": OnStreams, "packed": AsOne}


class _Order:
    """A run's draws and rates, epoch by epoch, as `Training` has them."""

    def __init__(self, setting: Setting, run: int, images: ImageSet) -> None:
        self._images, self._recipe = images, setting.recipe
        self._generator = _seeds(run).torch("fit-retain")

    def epoch(self) -> tuple[Draws, list[float]]:
        """Return the next epoch's, on the device."""
        recipe = self._recipe
        drawn = draw(self._images, recipe.batch_size, recipe.augment, self._generator).on_device_of(self._images)
        return drawn, [recipe.lr] * len(sizes_of(len(self._images), recipe.batch_size))  # the schedule is constant


def _images_and_capture(setting: Setting) -> tuple[ImageSet, Capture]:
    device = torch.device(setting.device)
    images = random_images(setting.images, setting.image_size, device)
    finish(device)  # other streams are about to read them
    return images, cuda_graph if device.type == "cuda" else called_again


def _seeds(run: int) -> Seeds:
    return Seeds(study=0, population="sweep", run=run)


def _net(setting: Setting, run: int, *, trim: bool = True) -> nn.Module:
    spec = Model(arch=setting.arch, trim_dead_taps=trim)
    return models.build(spec, CLASSES, _seeds(run)).to(setting.device).train()


def _refuse_nonfinite(totals: Sequence[torch.Tensor]) -> None:
    """Look at every run's loss once an epoch, as the loop does; it waits for the device."""
    if not all(math.isfinite(value) for total in totals for value in total.flatten().tolist()):
        raise TrainingDiverged("the training loss of a run is not finite; a lower --lr may help")
