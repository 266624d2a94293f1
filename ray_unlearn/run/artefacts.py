"""Files of a finished run: outputs, checkpoint, stages, and the record that names them.

    writer = RunWriter(run=run, population=population, study=study, sets=output_sets(study, sets), all_sets=sets)
    method(..., on_epoch=writer.on_epoch)
    writer.predict(model)                        # logits and metrics
    payloads = writer.finish(model)              # {"model.safetensors": bytes, "outputs.arrow": bytes}

Does not cover: the format of outputs.arrow (`store.outputs`), storing the bytes (`ray_unlearn.store`).
"""

from __future__ import annotations

import copy
import functools
import importlib.metadata
import platform
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import nn

from ray_unlearn import __version__
from ray_unlearn.data.images import ImageSet
from ray_unlearn.errors import StudyError
from ray_unlearn.models import checkpoint_bytes, package_of
from ray_unlearn.seeds import Seeds
from ray_unlearn.store.outputs import SplitLogits, encode_outputs
from ray_unlearn.store.records import CHECKPOINT, LOG, OUTPUTS, Record
from ray_unlearn.study.plan import Population, Run
from ray_unlearn.study.schema import Study
from ray_unlearn.study.uris import labelled
from ray_unlearn.training import accuracy_and_loss, predict

_PACKAGES = ("torch", "torchvision", "ray", "numpy", "pyarrow")


def output_sets(study: Study, sets: Mapping[str, ImageSet]) -> dict[str, ImageSet]:
    """Return the sets whose logits are saved: the non-empty ones of `outputs.splits`, retain perhaps sampled.

    Raises:
        StudyError: a split that the study lists in `outputs.splits` is empty.

    """
    chosen: dict[str, ImageSet] = {}
    asked = study.outputs.splits if "splits" in study.outputs.model_fields_set else ()
    for name in study.outputs.splits:
        images = sets[name]
        if not len(images):
            if name in asked:
                raise StudyError(f"outputs.splits: {name} has no images in this study; leave it out of the list")
            continue
        limit = study.outputs.retain_sample
        if name == "retain" and limit is not None and limit < len(images):
            rng = Seeds(study=study.seed).numpy("retain-sample")
            positions = np.sort(rng.choice(len(images), limit, replace=False))
            images = ImageSet(images.pixels, images.indices[positions], images.scaling)
        chosen[name] = images
    return chosen


@dataclass(kw_only=True)
class RunWriter:
    """Collects the payloads and the record of one run."""

    run: Run
    population: Population
    study: Study
    sets: Mapping[str, ImageSet]
    """Sets whose logits are saved."""
    all_sets: Mapping[str, ImageSet]
    """Every set of the study; stage metrics are computed on all of them."""
    forget_set: int = 0
    """Number of the forget set that the run is about."""
    membership: str = ""
    """Fingerprint of the half of the train split that the run is limited to; empty for all of it."""
    epoch_loss: list[float] = field(default_factory=list)
    stages: list[dict[str, float]] = field(default_factory=list)
    payloads: dict[str, bytes] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    logits: dict[str, np.ndarray] = field(default_factory=dict)
    images: int = 0
    """Number of images trained on so far, counted once per epoch."""

    def on_images(self, count: int) -> None:
        """Add the number of images that an epoch trained on."""
        self.images += count

    def on_epoch(self, model: nn.Module, epoch: int, loss: float) -> None:
        """Note the epoch's loss, and add the payloads that the study's `stages` ask for."""
        wanted = self.study.stages
        self.epoch_loss.append(loss)
        number = len(self.epoch_loss)  # counts on through a method that fits twice
        if wanted.metrics:
            logits = {name: predict(model, images) for name, images in self.all_sets.items() if len(images)}
            self.stages.append({"epoch": float(number), "train_loss": loss, **_metrics(logits, self.all_sets)})
        if number in wanted.outputs:
            self.payloads[f"stage-{number:04d}.arrow"] = self._encoded(self._logits(model))
        if number in wanted.checkpoints:
            self.payloads[f"stage-{number:04d}.safetensors"] = checkpoint_bytes(model, self.study.checkpoint_dtype)

    def state(self) -> tuple[dict[str, Any], dict[str, bytes]]:
        """Return what epochs left here, as JSON values and files by name."""
        values = {"epoch_loss": self.epoch_loss, "stages": self.stages, "images": self.images}
        return copy.deepcopy(values), dict(self.payloads)

    def restore(self, values: Mapping[str, Any], payloads: Mapping[str, bytes]) -> None:
        """Take over what `state` returned."""
        self.epoch_loss, self.stages, self.images = [*values["epoch_loss"]], [*values["stages"]], values["images"]
        self.payloads = dict(payloads)

    def predict(self, model: nn.Module) -> None:
        """Keep the finished model's logits and metrics."""
        self.logits = self._logits(model)
        self.metrics = _metrics(self.logits, self.sets)

    def finish(self, model: nn.Module, log: bytes = b"") -> dict[str, bytes]:
        """Return all payloads by file name; may be called in another thread than the other methods."""
        self.payloads[OUTPUTS] = self._encoded(self.logits)
        if self.population.keep_checkpoints:
            self.payloads[CHECKPOINT] = checkpoint_bytes(model, self.study.checkpoint_dtype)
        if log:
            self.payloads[LOG] = log
        return self.payloads

    def record(
        self,
        rng: Seeds,
        *,
        attempt: int,
        started_at: str,
        original_sha256: str,
        seconds: dict[str, float],
        cpu_seconds: dict[str, float],
        device: str,
        threads: int,
        arithmetic: Mapping[str, str],
        shards: Mapping[str, str],
    ) -> Record:
        """Return the record, which names no payloads yet."""
        return Record(
            population=self.run.population,
            index=self.run.index,
            original=self.run.original,
            digest=self.population.digest,
            method=str(self.population.identity["method"]),
            options=labelled(dict(self.population.identity["options"])),
            seeds={"study": rng.study, "original": rng.original, "run": rng.run},
            original_sha256=original_sha256,
            shards=dict(shards),
            membership=self.membership,
            forget_set=self.forget_set,
            payloads={},
            metrics=self.metrics,
            epoch_loss=self.epoch_loss,
            stages=self.stages,
            seconds={name: round(value, 4) for name, value in seconds.items()},
            cpu_seconds={name: round(value, 4) for name, value in cpu_seconds.items()},
            started_at=started_at,
            device=device,
            threads=threads,
            arithmetic=dict(arithmetic),
            host=socket.gethostname(),
            versions=dict(versions(package_of(self.study.model))),
            attempt=attempt,
            checksum="",
        )

    def _encoded(self, logits: Mapping[str, np.ndarray]) -> bytes:
        return encode_outputs(split_logits(logits, self.sets, self.all_sets))

    def _logits(self, model: nn.Module) -> dict[str, np.ndarray]:
        return {name: predict(model, images) for name, images in self.sets.items()}


def _metrics(logits: Mapping[str, np.ndarray], sets: Mapping[str, ImageSet]) -> dict[str, float]:
    metrics = {}
    for name, logits_NC in logits.items():
        metrics[f"{name}_accuracy"], metrics[f"{name}_loss"] = accuracy_and_loss(logits_NC, sets[name].labels_N)
    return metrics


def split_logits(
    logits: Mapping[str, np.ndarray], sets: Mapping[str, ImageSet], all_sets: Mapping[str, ImageSet]
) -> dict[str, SplitLogits]:
    """Return logits float32 [N, C] of every split with labels and positions; `sets` may be samples of `all_sets`."""
    return {
        name: SplitLogits(np.searchsorted(all_sets[name].indices, sets[name].indices), sets[name].labels_N, logits_NC)
        for name, logits_NC in logits.items()
    }


@functools.cache
def versions(library: str) -> Mapping[str, str]:
    """Return the versions of Python and of the packages that affect the numbers, by name: the net's library, too."""
    found = {"python": platform.python_version(), "ray-unlearn": __version__}
    for package in (*_PACKAGES, *filter(None, [library])):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue  # the inline backend runs without Ray
    return found
