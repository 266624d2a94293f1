"""Made runs -> the trackers that a study names: TensorBoard, MLflow, Weights & Biases, Trackio.

    execution: {track: [tensorboard, "mlflow=http://tracking:5000"]}

    with tracked(study, store, log) as sinks:
        for event in schedule(...):
            for sink in sinks:
                sink(event)

A population is a run of the tracker, a run of the population a step of it, its index from 0. Values are those of
metrics.parquet: `<split>_accuracy`, `<split>_loss`, `seconds_train`, `seconds_predict`. Each tracker has a thread of
its own, so that a slow server delays no run; one that fails is left out from then on, with one line.

Does not cover: the trackers' own calls (`trackers`), Prometheus (`cluster.prometheus`).
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from ray_unlearn.errors import StudyError
from ray_unlearn.monitor.trackers import TRACKERS, Tracker, is_installed
from ray_unlearn.schedule.events import Event, Made, Sink
from ray_unlearn.store import StudyStore
from ray_unlearn.study.plan import Run
from ray_unlearn.study.schema import Study
from ray_unlearn.study.uris import without_keys

CLOSING_S = 30.0
"""Seconds that a tracker has, after the last run, for what it has not written yet."""
_WAITING = 100_000

Values = Mapping[str, float]


def check_trackers(study: Study) -> None:
    """Check that the packages of a study's trackers are installed here.

    Raises:
        StudyError: one is not.

    """
    for entry in study.execution.track:
        name = entry.partition("=")[0]
        if not is_installed(name):
            raise StudyError(
                f"execution.track: {name} needs a package that is not installed here: pip install 'ray-unlearn[{name}]'"
            )


@contextmanager
def tracked(study: Study, store: StudyStore, log: Callable[[str], None]) -> Iterator[Sequence[Sink]]:
    """Yield a sink for each tracker of the study; at the end, wait for what they have not written yet.

    Args:
        study: the study; `execution.track` names its trackers.
        store: its store; trackers without a place of their own write beside it, below `trackers/`.
        log: called with a line when a tracker fails.

    Raises:
        StudyError: a tracker's package is not installed, or the storage is no folder and a tracker has no other place.

    """
    check_trackers(study)
    threads = [_Thread(entry, _opened(entry, study, store), log) for entry in study.execution.track]
    try:
        yield threads
    finally:
        for thread in threads:
            thread.close()


def _opened(entry: str, study: Study, store: StudyStore) -> Callable[[], Tracker]:
    name, _, where = entry.partition("=")
    if not where:
        local = store.storage.local
        if local is None:
            why = f"because {store.storage.uri} is no folder: {name}=FOLDER, or a URI"
            raise StudyError(f"execution.track: {name} needs a place of its own, {why}")
        where = str(local / "trackers" / name)
    return lambda: TRACKERS[name](study.name, where)


class _Thread:
    """A sink that hands a tracker each made run, in a thread of the tracker's own."""

    def __init__(self, entry: str, make: Callable[[], Tracker], log: Callable[[str], None]) -> None:
        self._name, self._make, self._log = entry.partition("=")[0], make, log
        self._waiting: queue.Queue[tuple[Run, Values] | None] = queue.Queue(_WAITING)
        self._failed = False
        self._thread = threading.Thread(target=self._work, name=f"track-{self._name}", daemon=True)
        self._thread.start()

    def __call__(self, event: Event) -> None:
        """Queue a made run."""
        if isinstance(event, Made) and not self._failed:
            self._put((event.outcome.run, values_of(event)))

    def close(self) -> None:
        """Wait until everything is written, for half a minute at most."""
        if not self._put(None):
            return
        self._thread.join(CLOSING_S)
        if self._thread.is_alive():
            self._log(f"{self._name} did not take everything within {CLOSING_S:.0f} s; the store has it all")

    def _put(self, one: tuple[Run, Values] | None) -> bool:
        """Queue a run, or None for the end; return whether there was room. A full queue leaves the tracker out."""
        try:
            self._waiting.put_nowait(one)
        except queue.Full:
            if not self._failed:
                self._failed = True
                self._log(f"{self._name} is too slow and is left out; the store has it all")
            return False
        return True

    def _work(self) -> None:
        try:
            tracker = self._make()
            try:
                while (one := self._waiting.get()) is not None:
                    tracker.log(*one)
            finally:
                tracker.close()
        except BaseException as error:  # a tracker may raise anything, and no run may fail of it
            self._failed = True
            reason = without_keys(" ".join(str(error).split()))[:200]
            self._log(f"{self._name} failed and is left out: {type(error).__name__}: {reason}")


def values_of(event: Made) -> Values:
    """Return the numbers of a made run by the names of metrics.parquet."""
    spent = event.outcome.spent
    seconds = {f"seconds_{name}": value for name, value in (spent.seconds if spent else {}).items()}
    return {**event.outcome.metrics, **seconds}
