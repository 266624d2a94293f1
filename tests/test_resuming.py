"""Resuming inside a run: from a snapshot of any epoch, a method ends with the bytes that it ends with uninterrupted."""

from __future__ import annotations

import copy
import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
import torch
from samples import run_data, small_net
from test_live import net as net_with_dead_taps
from torch import nn

from ray_unlearn.data.images import RunData
from ray_unlearn.methods import METHODS
from ray_unlearn.methods.method import Method
from ray_unlearn.seeds import Seeds
from ray_unlearn.study.recipe import Augment, Recipe
from ray_unlearn.training import Batch, Training, cross_entropy, fit
from ray_unlearn.training.fast import live_taps
from ray_unlearn.training.resuming import NotResumable, Resuming, Snapshot

RNG = Seeds(study=0, population="test", run=3)
SHORT = {"epochs": 3.0, "batch_size": 10, "augment": Augment(crop=1, flip=True)}
OWN: dict[str, dict[str, Any]] = {
    "train": {"on": "retain"},
    "scrub": {"msteps": 2, "forget_batch_size": 4},
    "sun": {"epochs": 4.0, "final_lrs": (1e-3, 1e-3)},
    "forget": {"cycles": (1, 2)},
    "unsir": {"noise_steps": 2, "noise_batch_size": 4, "noise_batches": 1, "impair_epochs": 2.0},
    "toshi_marvel": {"variant": "pseudo_label", "scratch_epochs": 2.0, "entropy_threshold": 10.0, "lr": 0.05},
    "fanchuan": {"retain_batch_size": 8},
    "task_vector": {"repeats": 2, "lrs": (1e-3, 1e-2)},
    "noisy_finetune": {"steps": 5, "clip": 1.0},
    "noisy_finetune_reference": {"steps": 5, "clip": 1.0},
    "random_label": {"order": "sequential", "optimizer": "adam"},
    "finetune": {"optimizer": "adam"},
    "negative_gradient_plus": {"lr": 1e-3},
    "sfron": {"iterations": 9},
    "amun": {"steps": 2},
    "jit": {"samples": 2},
}
"""Options with which a method has several phases, and little to do in each."""
EVERY_EPOCH = {"train", "finetune", "scrub", "toshi_marvel"}
"""Methods that are resumed after each epoch; the others after one in their middle."""


@dataclass
class Execution:
    """One execution of a method on a copy of a net, with the snapshots that it made."""

    data: RunData
    start: nn.Module
    snapshots: list[Snapshot] = field(default_factory=list)
    trained: list[int] = field(default_factory=list)

    def save(self, snapshot: Snapshot) -> None:
        tensors = {name: tensor.clone() for name, tensor in snapshot.tensors.items()}
        self.snapshots.append(Snapshot(tensors, copy.deepcopy(snapshot.values)))

    def of(self, method: Method, options: Any, since: Snapshot | None = None) -> dict[str, torch.Tensor]:
        """Return the state that the method leaves, from its beginning or since a snapshot."""
        model, self.trained = copy.deepcopy(self.start), []
        resuming = Resuming(self.save, every_s=0.0, start=since)
        data = replace(self.data, resuming=resuming, on_images=self.trained.append)
        with RNG.global_state("method"):
            method.run(model, data, options, resuming.recorded(RNG))
        assert not resuming.behind
        return model.state_dict()


@pytest.fixture(scope="module")
def execution(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Execution]:
    """A small net with batch normalisation, and 26 images."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    net = small_net()
    yield Execution(run_data(tmp_path_factory.mktemp("data"), normalize="standard"), net)
    torch.set_num_threads(threads)


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    """Return whether two states are equal bit for bit."""
    return all(one[name].contiguous().numpy().tobytes() == other[name].contiguous().numpy().tobytes() for name in one)


def options_of(method: Method) -> Any:
    """Return options of three epochs, where the method has epochs."""
    short = {key: value for key, value in SHORT.items() if key in method.options.model_fields}
    if "iterations" in OWN.get(method.name, {}):
        del short["epochs"]
    return method.options(**short | OWN.get(method.name, {}))


def trains(name: str) -> bool:
    """Return whether a method trains in epochs; a script and a file of weights do not, and a mix has other methods."""
    return issubclass(METHODS[name].options, Recipe) and name != "mix"


@pytest.mark.parametrize("name", [name for name in METHODS.own if trains(name)])
def test_a_method_resumed_after_an_epoch_gives_the_same_bytes(execution: Execution, name: str) -> None:
    """Law: skipping the first k epochs and restoring the state after them changes no bit, for any k; and does skip.

    Holds for every method of the package: none says that it cannot.
    """
    method, execution.snapshots = METHODS[name], []
    assert method.why_no_resume == ""
    options = options_of(method)
    whole = execution.of(method, options)
    assert all(tensor.isfinite().all() for tensor in whole.values())
    epochs, snapshots = execution.trained, execution.snapshots[:]
    assert [snapshot.epoch for snapshot in snapshots] == list(range(1, len(epochs) + 1))
    last = len(snapshots) - 1
    chosen = range(last + 1) if name in EVERY_EPOCH else [last // 2]
    for k in chosen:
        again = execution.of(method, options, snapshots[k])
        assert execution.trained == epochs[k + 1 :]
        assert same(again, whole), f"resumed after epoch {k + 1} of {last + 1}"


def test_who_cannot_be_resumed_says_why() -> None:
    """Law: an installed method must declare that it can; a method without epochs has nothing to go on with."""
    installed = replace(METHODS["finetune"], distribution={"name": "theirs", "version": "1"})
    assert installed.why_no_resume == "the distribution that it is of does not say that it can"
    assert replace(installed, no_resume="").why_no_resume == ""
    assert METHODS["influence"].why_no_resume == "it trains no epochs"


class Drawing(nn.Module):
    """A net whose outputs depend on every kind of random number that code may draw while it trains."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(192, 3))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        factor = 1 + 0.1 * random.gauss() + 0.1 * float(np.random.rand()) + 0.1 * float(np.random.standard_normal())
        return factor * self.layers(images)


def test_generators_of_python_numpy_and_torch_go_on(execution: Execution) -> None:
    """Law: a net that draws from the global generators, and a loss from the run's own, get the numbers that follow."""

    def run(model: nn.Module, data: RunData, options: Recipe, rng: Seeds) -> None:
        own, noise = rng.numpy("own"), rng.torch("noise")

        def loss(model: nn.Module, batch: Batch) -> torch.Tensor:
            shifted = batch.images + 0.1 * torch.randn(batch.images.shape, generator=noise)
            return cross_entropy()(model, replace(batch, images=shifted)) * (1 + own.random())

        fit(model, data, options, rng, loss=loss)

    own = Execution(execution.data, Drawing())
    method = replace(METHODS["finetune"], run=run)
    whole = own.of(method, Recipe(**SHORT))
    for since in own.snapshots[:2]:
        assert same(own.of(method, Recipe(**SHORT), since), whole)


def test_the_mode_is_that_after_the_epoch(execution: Execution) -> None:
    """Law: metrics of a stage leave the net in evaluation mode, and so does a restored epoch."""

    def run(model: nn.Module, data: RunData, options: Recipe, rng: Seeds) -> None:
        training = Training(model, replace(data, on_epoch=lambda model, *_: model.eval()), options, rng)
        while not training.done:
            training.epoch()
        modes.append(model.training)

    modes, own, method = list[bool](), Execution(execution.data, execution.start), replace(METHODS["finetune"], run=run)
    own.of(method, Recipe(**SHORT))
    own.of(method, Recipe(**SHORT), own.snapshots[2])
    assert modes == [False, False]


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_live_taps_take_part(execution: Execution, monkeypatch: pytest.MonkeyPatch, optimizer: str) -> None:
    """Law: where only the taps that meet a pixel are stepped, their momentum and that of the dead ones are restored."""
    monkeypatch.setattr(live_taps, "_PAYS", 1)
    used = []
    real = live_taps.LiveTaps.epoch
    monkeypatch.setattr(live_taps.LiveTaps, "epoch", lambda *given: used.append(1) or real(*given))
    own, options = (
        Execution(execution.data, net_with_dead_taps()),
        Recipe(**SHORT | {"optimizer": optimizer, "batch_size": 20}),
    )
    method = replace(METHODS["finetune"], run=fit)
    whole = own.of(method, options)
    assert len(used) == 3
    assert same(own.of(method, options, own.snapshots[1]), whole)


def test_a_snapshot_of_another_method_is_refused(execution: Execution) -> None:
    """Law: other streams, other trainings or another number of epochs are an error, never a state by halves."""
    execution.snapshots = []
    execution.of(METHODS["finetune"], options_of(METHODS["finetune"]))
    snapshot = execution.snapshots[1]
    for name, options, why in [
        ("scrub", options_of(METHODS["scrub"]), "trainings"),
        ("kookmin", options_of(METHODS["kookmin"]).model_copy(update={"epochs": 5.0}), "a training is at"),
        ("seif", options_of(METHODS["seif"]), "other streams"),
    ]:
        with pytest.raises(NotResumable, match=why):
            execution.of(METHODS[name], options, snapshot)


def test_snapshots_are_due_by_the_clock() -> None:
    """Law: none before `every_s` has passed since the last one, or since the start."""
    clock, saved = itertools.count(0, 10), list[int]()
    resuming = Resuming(lambda snapshot: saved.append(snapshot.epoch), every_s=25.0, clock=lambda: next(clock))

    class Done:
        model, done = nn.Linear(1, 1), False

        def optimizers(self) -> dict[str, torch.optim.Optimizer]:
            return {}

        stream_tensors = position = optimizers

    training = Done()
    resuming.opened(training)
    for _ in range(7):
        resuming.trained(training)
    assert saved == [3, 6]
