"""Resuming inside a run: its state after an epoch, and the same method executed again from there.

    resuming = Resuming(save, every_s=600.0)     # save(snapshot) is called after an epoch, when one is due
    method.run(model, dataclasses.replace(data, resuming=resuming), options, resuming.recorded(rng))
    Resuming(save, every_s=600.0, start=snapshot)            # skips the epochs up to the snapshot's

A method is a Python function, whose variables no file can hold. A run is resumed by executing it from its beginning:
what it does between epochs is done again (its random numbers are the same), epochs up to the snapshot's are skipped,
and after the last skipped one everything that epochs change is restored: weights, buffers, optimisers, schedules, the
place in every stream of batches, the state of every generator. A training that had ended before the snapshot gets its
final weights back where it ended, so that a method may compute from them.

A method whose variables depend on an unfinished training in other ways (it counts its own steps, or decides by what a
net predicts between epochs) cannot be resumed: `Method.no_resume` says so.

Does not cover: where a snapshot is kept, and when one is too old to be used (`run.unfinished`).
"""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from ray_unlearn.errors import RayUnlearnError
from ray_unlearn.seeds import RecordedSeeds, Seeds, generator_states, restore_generators
from ray_unlearn.training.loop import Training

Tensors = dict[str, torch.Tensor]


class NotResumable(RayUnlearnError):
    """A snapshot does not fit the training that it should be restored into."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """State of a run after an epoch: tensors by name, and all else as JSON values."""

    tensors: Mapping[str, torch.Tensor]
    values: Mapping[str, Any]

    @property
    def epoch(self) -> int:
        """Number of epochs trained so far, over all trainings of the run."""
        return int(self.values["epoch"])


@dataclass
class Resuming:
    """Follows the trainings of one execution of a method; saves their state, or restores it."""

    save: Callable[[Snapshot], None]
    every_s: float
    """Seconds between two snapshots, at least; 0: one after every epoch."""
    start: Snapshot | None = None
    """Snapshot to go on from; None to train from the beginning."""
    clock: Callable[[], float] = time.monotonic
    epoch: int = 0
    """Number of epochs trained or skipped so far."""
    _trainings: list[weakref.ref[Training]] = field(default_factory=list)
    _final: dict[int, Tensors] = field(default_factory=dict)
    """Weights and buffers of trainings that have ended, by number."""
    _handed: RecordedSeeds | None = None

    def __post_init__(self) -> None:
        self._saved_at = self.clock()
        if self.start is not None:
            self._final = {
                number: _below(self.start.tensors, f"final.{number}.") for number in self.start.values["final"]
            }

    @property
    def behind(self) -> bool:
        """Whether the method has not reached the snapshot's epoch yet."""
        return self.start is not None and self.epoch < self.start.epoch

    def recorded(self, rng: Seeds) -> Seeds:
        """Return the same streams; the state of every generator that they hand out is part of a snapshot."""
        self._handed = RecordedSeeds(study=rng.study, population=rng.population, original=rng.original, run=rng.run)
        return self._handed

    def opened(self, training: Training) -> None:
        """Register a training; the order of calls is its number."""
        self._trainings.append(weakref.ref(training))

    def skips(self, training: Training) -> bool:
        """Skip the training's next epoch if the snapshot is from this epoch or a later one; return whether it did.

        Raises:
            NotResumable: the snapshot is of other trainings.

        """
        if not self.behind:
            return False
        self.epoch += 1
        training.skip()
        number = self._number(training)
        if training.done and number in self._final:
            _copy_into(_state(training.model), self._final[number], f"the model of training {number}")
        if self.start is not None and self.epoch == self.start.epoch:
            self._restore(self.start)
        return True

    def trained(self, training: Training) -> None:
        """Count an epoch, and save a snapshot if one is due."""
        self.epoch += 1
        if training.done:
            self._final[self._number(training)] = {name: t.clone() for name, t in _state(training.model).items()}
        if self.clock() - self._saved_at >= self.every_s:
            self.save(self._snapshot())
            self._saved_at = self.clock()

    def _number(self, training: Training) -> int:
        return next(i for i, one in enumerate(self._trainings) if one() is training)

    def _alive(self) -> dict[int, Training]:
        return {i: training for i, one in enumerate(self._trainings) if (training := one()) is not None}

    def _snapshot(self) -> Snapshot:
        alive = self._alive()
        tensors: Tensors = {}
        for owner, model in _distinct({i: each.model for i, each in alive.items()}).items():
            tensors |= {f"model.{owner}.{name}": tensor for name, tensor in _state(model).items()}
        for owner, optimizer in _distinct(_optimizers(alive)).items():
            tensors |= {f"optimizer.{owner}.{name}": tensor for name, tensor in _state_of(optimizer).items()}
        for i, each in alive.items():
            tensors |= {f"streams.{i}.{name}": tensor for name, tensor in each.stream_tensors().items()}
        for number, final in self._final.items():
            tensors |= {f"final.{number}.{name}": tensor for name, tensor in final.items()}
        draws, states = generator_states(self._handed)
        tensors |= draws
        values = {
            "epoch": self.epoch,
            "trainings": {str(i): each.position() for i, each in alive.items()},
            "modes": {str(i): each.model.training for i, each in alive.items()},
            "final": sorted(self._final),
            "generators": states,
        }
        return Snapshot(tensors, values)

    def _restore(self, snapshot: Snapshot) -> None:
        """Copy a snapshot into the trainings there are now."""
        tensors, values, alive = snapshot.tensors, snapshot.values, self._alive()
        known = {int(i): position for i, position in values["trainings"].items()}
        if alive.keys() != known.keys():
            raise NotResumable(f"the method has the trainings {sorted(alive)}, the snapshot {sorted(known)}")
        for owner, model in _distinct({i: each.model for i, each in alive.items()}).items():
            _copy_into(_state(model), _below(tensors, f"model.{owner}."), f"the model of training {owner}")
        for owner, optimizer in _distinct(_optimizers(alive)).items():
            _restore_optimizer(optimizer, _below(tensors, f"optimizer.{owner}."))
        try:
            for i, each in alive.items():
                each.restore(known[i], _below(tensors, f"streams.{i}."))
                each.model.train(values["modes"][str(i)])
            restore_generators(self._handed, tensors, values["generators"])
        except ValueError as error:
            raise NotResumable(str(error)) from error


def _distinct(owned: Mapping[Any, Any]) -> dict[Any, Any]:
    """Return each object once, under its first key."""
    found: dict[int, Any] = {}
    for key, value in owned.items():
        found.setdefault(id(value), (key, value))
    return dict(found.values())


def _optimizers(alive: Mapping[int, Training]) -> dict[str, torch.optim.Optimizer]:
    """Return the optimisers of all trainings by name; two trainings may share one."""
    return {f"{i}.{name}": each for i, training in alive.items() for name, each in training.optimizers().items()}


def _state(model: nn.Module) -> Tensors:
    """Return all tensors of a model, including buffers that no checkpoint holds."""
    return {name: t.detach() for name, t in (*model.named_parameters(), *model.named_buffers())}


def _state_of(optimizer: torch.optim.Optimizer) -> Tensors:
    """Return an optimiser's tensors: `<number of the parameter>.<name>`."""
    parameters = [each for group in optimizer.param_groups for each in group["params"]]
    return {
        f"{i}.{name}": tensor
        for i, parameter in enumerate(parameters)
        for name, tensor in optimizer.state.get(parameter, {}).items()
        if isinstance(tensor, torch.Tensor)
    }


def _restore_optimizer(optimizer: torch.optim.Optimizer, tensors: Tensors) -> None:
    state: dict[int, dict[str, torch.Tensor]] = {}
    for name, tensor in tensors.items():
        number, _, key = name.partition(".")
        state.setdefault(int(number), {})[key] = tensor.clone()
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _below(tensors: Mapping[str, torch.Tensor], prefix: str) -> Tensors:
    return {name.removeprefix(prefix): each for name, each in tensors.items() if name.startswith(prefix)}


@torch.no_grad()
def _copy_into(own: Tensors, saved: Tensors, where: str) -> None:
    """Copy saved tensors into a model's own.

    Raises:
        NotResumable: they have other names or shapes.

    """
    if {name: each.shape for name, each in own.items()} != {name: each.shape for name, each in saved.items()}:
        raise NotResumable(f"{where} has other tensors than the snapshot")
    for name, tensor in own.items():
        tensor.copy_(saved[name])
