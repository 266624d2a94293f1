"""Trials as a Ray Tune experiment: as many at a time as the cluster has room for, results in the order asked for.

    results = tune_trials(study, trials, seeds=3, address=None)

Tune searches nothing here: trials are drawn beforehand (`tuning`), so that their options depend neither on the number
of workers nor on which trial ends first. Tune places them, keeps worker processes, and reports progress.

Does not cover: what a trial does.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Sequence
from typing import Any

from ray import tune

from ray_unlearn.cluster.backend import RayBackend
from ray_unlearn.driver.tuning import Result, Trial, run_trial
from ray_unlearn.errors import ClusterError
from ray_unlearn.study.schema import Study


class _Progress(tune.Callback):
    """Counts trials."""

    def __init__(self, total: int) -> None:
        self._done, self._total = 0, total

    def __getstate__(self) -> dict[str, Any]:
        """Return the counts: Tune pickles the experiment's state."""
        return {"_done": self._done, "_total": self._total}

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Say how far the experiment is."""
        self._done += 1
        sys.stderr.write(f"{self._done}/{self._total} trials\n")


def tune_trials(study: Study, trials: Sequence[Trial], *, seeds: int, address: str | None = None) -> list[Result]:
    """Run every trial; the study's original must be there.

    Raises:
        ClusterError: the cluster cannot be had, or a trial failed for another reason than its numbers.

    """
    os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")  # the record is ours
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")

    def trainable(config: dict[str, Any]) -> dict[str, Any]:
        result = run_trial(study, trials[config["trial"]], seeds)
        return {"objective": result.mean, "result": result}

    backend = RayBackend(address=address, workers=None)
    backend.connect()
    try:
        # Tune pickles its own state; it is of no use to anybody after the experiment, and none of it goes into a store.
        with tempfile.TemporaryDirectory() as state:
            grid = tune.Tuner(
                tune.with_resources(trainable, {"CPU": study.execution.cpus_per_worker}),
                param_space={"trial": tune.grid_search(list(range(len(trials))))},
                tune_config=tune.TuneConfig(metric="objective", mode="max", reuse_actors=True),
                run_config=tune.RunConfig(
                    name=f"{study.name}-ray-tune",
                    storage_path=state,
                    verbose=0,
                    callbacks=[_Progress(len(trials))],
                    failure_config=tune.FailureConfig(fail_fast=True),
                ),
            ).fit()
    finally:
        backend.close()
    if grid.errors:
        raise ClusterError(f"a trial failed: {str(grid.errors[0]).strip().splitlines()[-1]}")
    done = [grid[i] for i in range(len(grid))]
    reported = [(each.config or {}, each.metrics or {}) for each in done]
    found = {config["trial"]: metrics["result"] for config, metrics in reported if "result" in metrics}
    if len(found) < len(trials):  # Tune takes SIGINT as a wish to end early, and says nothing
        raise ClusterError(f"tuning was interrupted after {len(found)} of {len(trials)} trials; their runs are kept")
    return [found[number] for number in range(len(trials))]
