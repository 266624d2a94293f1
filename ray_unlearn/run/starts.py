"""Nets that runs start from: fresh ones, originals and shadows; the weights of each are read once.

    starts = Starts(job)
    model = starts.model(run, rng)               # on the CPU, the run's own
    starts.sha256(run)                           # of the checkpoint that it starts from; empty from scratch

Does not cover: training them (`worker`).
"""

from __future__ import annotations

from torch import nn

from ray_unlearn import models
from ray_unlearn.models import Template
from ray_unlearn.run.job import Job
from ray_unlearn.seeds import Seeds
from ray_unlearn.store.records import CHECKPOINT, payload_of
from ray_unlearn.study.plan import ORIGINAL, Run


class Starts:
    """The nets that the runs of one job start from."""

    def __init__(self, job: Job) -> None:
        """Build the architecture.

        Raises:
            ModelError: it cannot be built on this machine.

        """
        self._job = job
        self.read: dict[Run, tuple[str, Template]] = {}
        """Originals read so far, and the last shadow: sha256 and model."""
        self.template = Template(self._fresh(Seeds(study=0)))

    def model(self, run: Run, rng: Seeds) -> nn.Module:
        """Return the net that a run starts from: a fresh one from its own streams, or a copy of its original."""
        start = self._job.plan.start_of(run)
        return self._fresh(rng) if start is None else self.original(start)[1].copy()

    def sha256(self, run: Run) -> str:
        """Return the sha256 of the checkpoint that a run starts from; empty from scratch."""
        start = self._job.plan.start_of(run)
        return "" if start is None else self.original(start)[0]

    def original(self, start: Run) -> tuple[str, Template]:
        """Return an original's sha256 and net, read once."""
        if start not in self.read:
            if start.population != ORIGINAL:  # a shadow starts one run of a population: hundreds would fill memory
                self.read = {one: kept for one, kept in self.read.items() if one.population == ORIGINAL}
            data = self._job.store.payload(start, CHECKPOINT)
            model = self.template.copy()
            weights = models.parse_weights(data, CHECKPOINT)
            models.load_weights(model, weights, where=f"{self._job.store.uri}/{start}")
            self.read[start] = payload_of(data).sha256, Template(model)
        return self.read[start]

    def _fresh(self, rng: Seeds) -> nn.Module:
        study = self._job.plan.study
        return models.build(study.model, self._job.data.num_classes, rng, study.data.image_size)
