"""The calls of each tracker: open it, log a run's values, close it.

    tracker = TRACKERS["tensorboard"]("faces", "/studies/trackers/tensorboard")
    tracker.log(run, {"test_accuracy": 0.97})
    tracker.close()

Each needs its package, an extra of this distribution, which is imported here and nowhere else. A tracker is used by one
thread.

Does not cover: which values, and when (`tracking`).
"""

from __future__ import annotations

import contextvars
import importlib.util
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from ray_unlearn.study.plan import Run

_PACKAGES = {"tensorboard": "tensorboard", "mlflow": "mlflow", "wandb": "wandb", "trackio": "trackio"}


class Tracker(Protocol):
    """An open tracker."""

    def log(self, run: Run, values: Mapping[str, float]) -> None:
        """Log one run's values."""
        ...

    def close(self) -> None:
        """Write what is not written yet."""
        ...


def is_installed(name: str) -> bool:
    """Return whether a tracker's package is installed here; it is not imported."""
    return importlib.util.find_spec(_PACKAGES[name]) is not None


class TensorBoard:
    """Event files, a folder for each population: `tensorboard --logdir WHERE`."""

    def __init__(self, study: str, where: str) -> None:
        from tensorboard.summary import Writer

        self._folder, self._open = Path(where) / study, Writer
        self._writers: dict[str, Any] = {}

    def log(self, run: Run, values: Mapping[str, float]) -> None:
        """Add a scalar for each value, at the run's index."""
        if run.population not in self._writers:
            self._writers[run.population] = self._open(str(self._folder / run.population))
        for name, value in values.items():
            self._writers[run.population].add_scalar(name, value, run.index)
        self._writers[run.population].flush()

    def close(self) -> None:
        """Close every file."""
        for writer in self._writers.values():
            writer.close()


class MLflow:
    """An experiment of the study's name with a run for each population; WHERE is a folder or a tracking server."""

    def __init__(self, study: str, where: str) -> None:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        from mlflow import MlflowClient

        if "://" not in where:
            Path(where).mkdir(parents=True, exist_ok=True)
            where = f"sqlite:///{Path(where).absolute() / 'mlflow.db'}"
        self._client: Any = MlflowClient(tracking_uri=where)
        found = self._client.get_experiment_by_name(study)
        self._experiment = found.experiment_id if found else self._client.create_experiment(study)
        self._runs: dict[str, str] = {}

    def log(self, run: Run, values: Mapping[str, float]) -> None:
        """Log a metric for each value, at the run's index."""
        identity = self._runs.get(run.population) or self._begun(run.population)
        for name, value in values.items():
            self._client.log_metric(identity, name, value, step=run.index)

    def _begun(self, population: str) -> str:
        """Return the id of the population's run: that of an earlier command, or a new one."""
        earlier = self._client.search_runs([self._experiment], f"attributes.run_name = '{population}'", max_results=1)
        made = earlier[0] if earlier else self._client.create_run(self._experiment, run_name=population)
        self._runs[population] = str(made.info.run_id)
        return self._runs[population]

    def close(self) -> None:
        """Mark every run as finished."""
        for identity in self._runs.values():
            self._client.set_terminated(identity)


class WeightsAndBiases:
    """A project of the study's name with a run for each population; offline unless WANDB_MODE says otherwise."""

    def __init__(self, study: str, where: str) -> None:
        import wandb

        Path(where).mkdir(parents=True, exist_ok=True)
        self._study, self._where, self._wandb = study, where, wandb
        self._mode = os.environ.get("WANDB_MODE", "offline")
        self._runs: dict[str, Any] = {}

    def log(self, run: Run, values: Mapping[str, float]) -> None:
        """Log the values with the run's index as `run`, their horizontal axis: runs end in any order."""
        if run.population not in self._runs:
            how = {"mode": self._mode, "dir": self._where, "reinit": "create_new"}
            settings = self._wandb.Settings(console="off", silent=True)
            begun = self._wandb.init(project=self._study, name=run.population, settings=settings, **how)
            begun.define_metric("*", step_metric="run")
            self._runs[run.population] = begun
        self._runs[run.population].log({"run": run.index, **values})

    def close(self) -> None:
        """Finish every run."""
        for run in self._runs.values():
            run.finish()


class Trackio:
    """A project of the study's name with a run for each population: `TRACKIO_DIR=WHERE trackio show`."""

    def __init__(self, study: str, where: str) -> None:
        os.environ.setdefault("TRACKIO_DIR", where)  # it is read when the package is imported
        import trackio

        self._study, self._trackio = study, trackio
        self._runs: dict[str, Any] = {}

    def log(self, run: Run, values: Mapping[str, float]) -> None:
        """Log the values at the run's index."""
        if run.population not in self._runs:
            self._runs[run.population] = contextvars.Context().run(self._begun, run.population)
        self._runs[run.population].log(dict(values), step=run.index)

    def _begun(self, population: str) -> Any:
        """Begin a run; in a context of its own, because each would end the one before it."""
        quiet = {"embed": False, "auto_log_cpu": False, "auto_log_gpu": False}
        return self._trackio.init(project=self._study, name=population, resume="allow", **quiet)

    def close(self) -> None:
        """Finish every run."""
        for run in self._runs.values():
            run.finish()


TRACKERS: Mapping[str, Callable[[str, str], Tracker]] = {
    "tensorboard": TensorBoard,
    "mlflow": MLflow,
    "wandb": WeightsAndBiases,
    "trackio": Trackio,
}
