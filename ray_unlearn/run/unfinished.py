"""State of a run between epochs, kept in the store: a preempted run goes on from its last one, to the same bytes.

    keeper = Keeper(store, run, conditions, writer, every_s=600.0, spent=lambda: (train_s, cpu_s))
    model = keeper.trained(train, data, rng)     # train(data, rng) executes the method on a fresh starting model
    keeper.note                                  # "went on after epoch 12", or why a state was ignored; else empty
    keeper.before                                # seconds and CPU seconds of earlier processes that count for the run

A state is used only where digest, code of the package, versions, device, threads and instructions are those of now;
otherwise the run begins anew, and the note names what differs.

Does not cover: what a state holds of a training (`training.resuming`), its file (`store.unfinished`).
"""

from __future__ import annotations

import functools
import hashlib
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import nn

import ray_unlearn
from ray_unlearn.data.images import RunData
from ray_unlearn.errors import DamagedFile, NewerFormat, StoreError
from ray_unlearn.run.artefacts import RunWriter
from ray_unlearn.run.finite import check_weights
from ray_unlearn.seeds import Seeds
from ray_unlearn.store import StudyStore
from ray_unlearn.store.unfinished import publish_state, read_state, remove_state
from ray_unlearn.study.plan import Run
from ray_unlearn.training.resuming import NotResumable, Resuming, Snapshot

_FILES = "file."
"""Prefix of the tensors that hold the bytes of stage files."""

Train = Callable[[RunData, Seeds], nn.Module]


@functools.cache
def code_sha256() -> str:
    """Return the sha256 of the package's source text: a state of other code may mean something else to this one."""
    root, found = Path(ray_unlearn.__file__).parent, hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        found.update(f"{path.relative_to(root)}\n".encode() + path.read_bytes())
    return found.hexdigest()


@dataclass(kw_only=True)
class Keeper:
    """Saves and restores one run's state."""

    store: StudyStore
    run: Run
    conditions: Mapping[str, str]
    """What a state must have in common with the process that goes on from it, by name."""
    writer: RunWriter
    every_s: float
    spent: Callable[[], tuple[float, float]]
    """Returns seconds and CPU seconds of this process for the run so far."""
    clock: Callable[[], float] = time.monotonic
    note: str = ""
    before: tuple[float, float] = (0.0, 0.0)
    kept: bool = False
    """Whether the store holds a state of the run."""

    def trained(self, train: Train, data: RunData, rng: Seeds) -> nn.Module:
        """Return the run's model, trained from its state if it has one that fits, else from the beginning."""
        snapshot = self._found()
        if snapshot is not None:
            resuming = Resuming(self._save, self.every_s, snapshot, self.clock)
            try:
                model = self._execute(train, data, rng, resuming)
                if not resuming.behind:
                    check_weights(model)
                    return model
                error: Exception | str = f"the method ended before epoch {snapshot.epoch}"
            except Exception as raised:
                if not (resuming.behind or isinstance(raised, NotResumable)):
                    with suppress(StoreError):  # the next attempt begins anew: the state may be why it failed
                        remove_state(self.store, self.run)
                    raise
                error = raised
            self._ignore(f"{type(error).__name__}: {error}" if isinstance(error, Exception) else error)
        return self._execute(train, data, rng, Resuming(self._save, self.every_s, clock=self.clock))

    def made(self) -> None:
        """Remove the state of a run that is made; one that cannot be removed goes with the next `generate`."""
        if self.kept:
            with suppress(StoreError):
                remove_state(self.store, self.run)

    def _execute(self, train: Train, data: RunData, rng: Seeds, resuming: Resuming) -> nn.Module:
        return train(replace(data, resuming=resuming), resuming.recorded(rng))

    def _found(self) -> Snapshot | None:
        """Return the stored state, with its part of the writer's restored; None, and a note, where it does not fit."""
        try:
            found = read_state(self.store, self.run)
            if found is None:
                return None
            self.kept = True
            content, data = found
            self._check(content)
            return self._restored(content, safetensors.torch.load(data))
        except (DamagedFile, NewerFormat, StoreError, _Differs, safetensors.SafetensorError) as error:
            why = " ".join(str(error).split())
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            why = f"it lacks what a state has ({type(error).__name__}: {error})"
        self.kept = True
        self._ignore(why)
        return None

    def _restored(self, content: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> Snapshot:
        """Return the snapshot of a state, and restore what the writer has of it."""
        files = {name: bytes(t.numpy()) for name, t in tensors.items() if name.startswith(_FILES)}
        snapshot = Snapshot({name: t for name, t in tensors.items() if name not in files}, content["training"])
        self.before = float(content["seconds"]), float(content["cpu_seconds"])
        self.note = f"went on after epoch {snapshot.epoch}"
        self.writer.restore(content["writer"], {name.removeprefix(_FILES): each for name, each in files.items()})
        return snapshot

    def _check(self, content: Mapping[str, Any]) -> None:
        held, here = content["conditions"], self.conditions
        differing = sorted(name for name in held.keys() | here.keys() if held.get(name) != here.get(name))
        if content["run"] != str(self.run):
            raise _Differs(f"it is of run {content['run']}")
        if differing:
            pairs = (f"{name} (then {_short(held.get(name))}, now {_short(here.get(name))})" for name in differing)
            raise _Differs(f"it was made with another {', '.join(pairs)}")

    def _ignore(self, why: str) -> None:
        """Begin anew, and note why."""
        self.before, self.note = (0.0, 0.0), f"began anew, because its state was ignored: {why}"
        self.writer.restore({"epoch_loss": [], "stages": [], "images": 0}, {})

    def _save(self, snapshot: Snapshot) -> None:
        """Write the state; a storage that refuses it is noted, and the training goes on."""
        values, files = self.writer.state()
        seconds, cpu_seconds = (earlier + now for earlier, now in zip(self.before, self.spent(), strict=True))
        content = {
            "run": str(self.run),
            "conditions": dict(self.conditions),
            "epoch": snapshot.epoch,
            "seconds": seconds,
            "cpu_seconds": cpu_seconds,
            "writer": values,
            "training": snapshot.values,
        }
        as_tensors = {
            f"{_FILES}{name}": torch.frombuffer(bytearray(data), dtype=torch.uint8) for name, data in files.items()
        }
        tensors = {name: tensor.cpu().contiguous().clone() for name, tensor in snapshot.tensors.items()}
        try:
            publish_state(self.store, self.run, content, safetensors.torch.save({**tensors, **as_tensors}))
            self.kept = True
        except StoreError as error:
            self.note = f"its state after epoch {snapshot.epoch} could not be saved: {error}"


class _Differs(Exception):
    """A state is of another run, or was made under other conditions."""


def _short(value: object) -> str:
    text = "none" if value is None else str(value)
    return text if len(text) <= 20 else f"{text[:12]}..."


def conditions_of(
    digest: str, stages: str, original: str, packages: Mapping[str, str], arithmetic: Mapping[str, str]
) -> dict[str, str]:
    """Return what must be the same for a state to be used, by name.

    Args:
        digest: digest of the run's population, which does not cover `stages`.
        stages: the study's section, as JSON: a state has the stage files and metrics of its epochs, and no others.
        original: sha256 of the checkpoint that the run starts from; empty from scratch.
        packages: versions of Python and of packages, by name.
        arithmetic: device, threads, instructions and settings (`store.arithmetic`).

    """
    own = {"digest": digest, "stages": stages, "original": original, "source text of ray-unlearn": code_sha256()}
    return {**own, **{f"version of {name}": version for name, version in packages.items()}, **arithmetic}
