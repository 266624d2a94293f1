"""A job: all that a worker needs to make the runs of a plan.

    job = Job(plan=plan, data=data, store=store, cache="~/.cache/ray_unlearn")

Does not cover: making it (`generation.job`), doing it (`worker`).
"""

from __future__ import annotations

from dataclasses import dataclass

from ray_unlearn.data.study_data import StudyData
from ray_unlearn.store import StudyStore
from ray_unlearn.study.plan import Plan, Run


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """Everything that a worker needs; picklable, without pixels."""

    plan: Plan
    data: StudyData
    store: StudyStore
    cache: str
    """Folder on each node for shards of a remote storage; a node's RAY_UNLEARN_CACHE takes precedence."""
    marker: str = ""
    """Name of a file that the driver keeps in the storage while it works; a worker without it has another storage."""
    remarks: tuple[str, ...] = ()
    """Lines about scripts' arguments, the net and imported weights, found before any run."""
    alone: bool = False
    """Whether the process is one run's own, so that the run needs no other."""
    verbose: bool = False
    """Whether outcomes of published runs include the run's log; those of failed runs always do."""

    def isolates(self, run: Run) -> bool:
        """Return whether a run has a process of its own because its net is a stranger's code (a factory's).

        A run of a script has one in any case (`apart`).
        """
        study, script = self.plan.study, self.plan.populations[run.population].method.source
        return study.execution.isolate == "all" and ":" in study.model.arch and not script and not self.alone

    @property
    def isolates_any(self) -> bool:
        """Whether it isolates any run."""
        return any(self.isolates(Run(population=name, index=0)) for name in self.plan.populations)
