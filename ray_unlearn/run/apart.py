"""Runs of scripts in processes of their own, seen from the worker: what they get, and what is taken from them.

    runs = RunsApart(job, device, sets, train)
    net = runs.made(run, rng, start, original, log)    # a fresh net with the run's weights; raises FailedApart

The worker's process imports no script, and nothing of it can be changed by one.

Does not cover: predicting and publishing (`worker`), how processes are forked and ended (`usercode.fork_server`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
import safetensors.torch
import torch
from torch import nn

from ray_unlearn.data.images import ImageSet, RunData
from ray_unlearn.data.reading import memory_limit
from ray_unlearn.errors import MethodError
from ray_unlearn.models import Template
from ray_unlearn.run.job import Job
from ray_unlearn.run.outcome import FailedApart
from ray_unlearn.run.probe import LOGITS, probe_images, tensors_of
from ray_unlearn.run.run_log import RunLog
from ray_unlearn.run.taken_back import compare, load
from ray_unlearn.seeds import Seeds
from ray_unlearn.study.plan import ORIGINAL, MethodUse, Run
from ray_unlearn.usercode.apart import EndedApart, result_of
from ray_unlearn.usercode.fork_server import Ended, ForkServer, ServerLost, fork_server
from ray_unlearn.usercode.wire import open_file_of

_CHILD = "ray_unlearn.run.child"
_MORE_BYTES = 2**24  # beyond a net's own tensors: names, and the probe's logits
_SHARE = 0.9
"""Share of the machine's memory, or of its control group's, that a script may hold where the study sets no limit."""


class RunsApart:
    """Makes runs of scripts of one job."""

    def __init__(self, job: Job, device: torch.device, sets: Mapping[str, ImageSet], train: ImageSet) -> None:
        self._job, self._device = job, device
        self._sets = {name: sets[name] for name in ("retain", "forget", "validation")} | {"train": train}
        self._probe_BCHW = probe_images(sets)
        self._sent: set[Run] = set()
        """Originals whose weights the server has, and the last shadow."""
        self.cpu_s = 0.0
        """CPU seconds of all processes of scripts so far."""

    def made(
        self, run: Run, rng: Seeds, start: Run, original: Template, log: RunLog, data: RunData | None = None
    ) -> nn.Module:
        """Execute a script for a run; return a fresh net, on the device, with the weights that came of it.

        Args:
            run: the run.
            rng: its streams.
            start: the run that it starts from.
            original: that run's net.
            log: takes what the script prints.
            data: the run's images, where it is limited to a part of the study's; None for all.

        Raises:
            FailedApart: the script raised an error, or its process ended without a result.
            MethodError: it left a net that its checkpoint does not describe.

        """
        use, net = self._job.plan.populations[run.population].method, original.copy()
        most_bytes = sum(tensor.nbytes for tensor in net.state_dict().values()) * 2 + _MORE_BYTES
        arguments = {
            "method": use.name,
            "source": use.source,
            "planned": use.identity["method"],
            "options": use.options.model_dump(mode="json"),
            "seeds": {"study": rng.study, "population": rng.population, "original": rng.original, "run": rng.run},
            "original": str(start),
        }
        try:
            with fork_server() as server:
                self._open(server, start, original)
                report, tensors = result_of(
                    server,
                    f"{_CHILD}:make",
                    arguments,
                    log=log.write,
                    most_bytes=most_bytes,
                    limit_s=self._job.plan.study.execution.run_timeout_s,
                    limit_bytes=self._limit_bytes(),
                    ended=self._count,
                    given=None if data is None else safetensors.numpy.save(_indices(_sets_of(data))),
                )
        except (EndedApart, ServerLost) as error:
            raise FailedApart(error=str(error)) from error
        if failure := report.get("failure"):
            raise FailedApart.parse(failure)
        return self._taken_back(net, use, report, tensors)

    def _count(self, ended: Ended) -> None:
        self.cpu_s += ended.cpu_s

    def _taken_back(self, net: nn.Module, use: MethodUse, report: Mapping[str, Any], data: bytes) -> nn.Module:
        where = f"method {use.name}"
        try:
            tensors = safetensors.torch.load(data)
        except Exception as error:  # a stranger's bytes
            raise MethodError(f"{where}: what its process sent are no tensors ({str(error)[:100]})") from error
        logits_BC = tensors.pop(LOGITS, None)
        load(net, tensors, where)
        if logits_BC is None:
            raise MethodError(
                f"{where}: the net as the script left it cannot predict: {str(report.get('probe'))[:300]}"
            )
        net.to(self._device)
        clues = [str(clue)[:200] for clue in report.get("clues") or ()]
        compare(net, logits_BC, self._probe_BCHW, self._device, where=where, clues=clues)
        return net

    def _limit_bytes(self) -> float:
        given = self._job.plan.study.execution.script_memory_gib
        return given * 2**30 if given is not None else _SHARE * memory_limit()

    def _open(self, server: ForkServer, start: Run, original: Template) -> None:
        """Let the server open this job, and an original, unless it has; and forget a shadow, which starts one run."""
        if server.owner is not self:
            self._do(server, "open_job", self._description(), safetensors.numpy.save(_indices(self._sets)))
            server.owner = self
            self._sent.clear()
        if start not in self._sent:
            shadows = {one for one in self._sent if one.population != ORIGINAL}
            names = {"name": str(start), "forgotten": [str(one) for one in shadows]}
            self._do(server, "add_original", names, safetensors.torch.save(tensors_of(original.copy())))
            self._sent = self._sent - shadows | {start}

    def _do(self, server: ForkServer, name: str, arguments: Mapping[str, Any], data: bytes) -> None:
        with open_file_of(data) as file:
            server.do(f"{_CHILD}:{name}", arguments, [file])

    def _description(self) -> dict[str, Any]:
        job, study = self._job, self._job.plan.study
        scaling = self._sets["train"].scaling
        return {
            "shards": [str(path) for path in job.data.paths(Path(job.cache))],
            "shuffle": job.data.shuffle.model_dump(mode="json"),
            "scaling": list(asdict(scaling).values()),
            "model": study.model.model_dump(mode="json"),
            "folder": study.model.folder,
            "num_classes": job.data.num_classes,
            "execution": study.execution.model_dump(mode="json"),
            "device": str(self._device),
        }


def _sets_of(data: RunData) -> dict[str, ImageSet]:
    sets = {"train": data.train, "retain": data.retain, "forget": data.forget}
    return sets | ({"validation": data.validation} if data.validation is not None else {})


def _indices(sets: Mapping[str, ImageSet]) -> dict[str, np.ndarray]:
    return {name: np.ascontiguousarray(images.indices) for name, images in sets.items()}
