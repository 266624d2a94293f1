"""The `ray` backend: one long-lived actor per worker, on an existing cluster, or on a local one that it starts.

    backend = RayBackend(address=None, workers=2)
    pool = backend.pool(job)

Does not cover: the actors (`pool`), starting clusters of machines (`cluster.yaml`), stopping a cluster that existed
before.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import ray
from ray._private import ray_constants

from ray_unlearn.cluster.liveness import RayWatch
from ray_unlearn.cluster.local import LocalCluster
from ray_unlearn.cluster.pool import RayPool
from ray_unlearn.cluster.start import Start
from ray_unlearn.errors import ClusterError, first_line
from ray_unlearn.schedule.events import Event, Sink
from ray_unlearn.study.schema import Study
from ray_unlearn.terminal import print_error

if TYPE_CHECKING:  # they bring torch, which is imported while Ray starts
    from ray_unlearn.data.decode import DecodedSlice, DecodeJob
    from ray_unlearn.data.rows import Slice
    from ray_unlearn.run.job import Job

_OBJECT_STORE_BYTES = 512 * 2**20  # of a local cluster: images travel through shards, not through Ray


class RayBackend:
    """A connection to Ray, made when it is first needed."""

    connects, why = True, ""

    def __init__(
        self,
        *,
        address: str | None,
        workers: int | None,
        gpus_per_worker: float | None = None,
        log: Callable[[str], None] = print_error,
    ) -> None:
        self._address, self._workers, self._log = address, workers, log
        self._gpus_per_worker = gpus_per_worker
        self._start: Start | None = None
        """Start of Ray by this backend; None if this process was connected before."""
        self._cluster: LocalCluster | None = None
        self._watch: RayWatch | None = None
        self._pool: RayPool | None = None

    @contextmanager
    def starting(self) -> Iterator[None]:
        """Start or join Ray while the block is executed; an exception that leaves the block cancels the start."""
        self.begin()
        try:
            yield
        except BaseException:
            if self._start is not None:
                self._start.cancel()
            raise

    def begin(self) -> None:
        """Begin to start or join Ray in the background, unless this process is connected."""
        if self._start is None and not ray.is_initialized():
            self._start = Start(self._join)

    @property
    def has_begun(self) -> bool:
        """Whether Ray is connected, or could not be: `pool` will not wait."""
        return self._start is None or self._start.is_done

    def decode_all(self, slices: Sequence[Slice], job: DecodeJob) -> Iterable[DecodedSlice]:
        """Decode a large source as a Ray Data job, a small one in place."""
        from ray_unlearn.data.prepare import in_place, is_large

        if not is_large(slices):
            return in_place(slices, job)
        from ray_unlearn.cluster.decoding import decode_with_ray

        self.connect()
        return decode_with_ray(slices, job)

    def chosen(self, job: Job, work: object) -> RayBackend:
        """Return this backend."""
        return self

    def pool(self, job: Job) -> RayPool:
        """Return a pool of actors for the job.

        Raises:
            ClusterError: the local cluster of this machine is too small for a worker.

        """
        self.connect()
        self._pool = RayPool(job, self._workers, self._log, self._gpus_per_worker, check=self.check)
        missing = self._pool.missing() if self._cluster else ""
        if missing:  # a larger node may join any other cluster
            raise ClusterError(f"this machine: {missing}; lower execution.cpus_per_worker or --gpus-per-worker")
        return self._pool

    def sinks(self, study: Study, earlier: Sequence[tuple[float, Event]] = ()) -> Sequence[Sink]:
        """Return the sink for Ray's own Prometheus endpoint, which has counted earlier events, each with its time."""
        from ray_unlearn.cluster.prometheus import RayMeters

        meters = RayMeters(study)
        for at_s, event in earlier:
            meters.note(event, at_s)
        return [meters]

    def check(self) -> None:
        """Do nothing while Ray lives.

        Raises:
            ClusterLost: Ray has died.

        """
        if self._watch is not None:
            self._watch.check()

    def close(self) -> None:
        """Kill the actors; shut Ray down if this backend connected, even while it starts. A dead Ray's logs stay."""
        lost = self._watch is not None and self._watch.lost
        if self._watch is not None:
            self._watch.stop()
        if self._pool is not None and not lost:
            self._pool.close()
        if self._start is not None:
            self._start.cancel()
            if self._cluster is not None:
                self._cluster.end(keep_logs=lost)
            else:
                ray.shutdown()
            self._start.release()
            self._start = None

    def connect(self) -> None:
        """Wait for the cluster, or connect to it now; do nothing if this process is connected already.

        Raises:
            ClusterError: the cluster cannot be reached or started.

        """
        self.begin()
        if self._start is not None:
            self._start.wait()
        self._watch = self._watch or RayWatch(local=self._cluster is not None, log=self._log)

    def _join(self) -> None:
        """Connect to the cluster, or start one on this machine; runs in a thread of its own."""
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        _share_environment()
        address = self._address or os.environ.get("RAY_ADDRESS") or "local"
        try:
            self._init(address)
        except ClusterError:
            raise
        except Exception as error:  # Ray raises plain exceptions here, too
            reason = first_line(error)
            raise ClusterError(
                f"Ray at {address}: cannot connect: {reason}; is the cluster up? --backend inline needs none"
            ) from error

    def _init(self, address: str) -> None:
        """Connect to the cluster, or start a local one."""
        # At `warning`, Ray would print that its SIGTERM handler is not installed outside the main thread.
        if address == "local":
            self._cluster = LocalCluster()
            self._cluster.start(
                self._log,
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
                object_store_memory=_OBJECT_STORE_BYTES,
                _metrics_export_port=metrics_port(),
            )
        else:
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)


def metrics_port() -> int | None:
    """Return the port of a local cluster's Prometheus endpoint: RAY_UNLEARN_METRICS_PORT, or None: Ray chooses one.

    Raises:
        ClusterError: it is no port that a user may open.

    """
    given = os.environ.get("RAY_UNLEARN_METRICS_PORT", "")
    if not given:
        return None
    if not (given.isascii() and given.isdecimal() and 1024 <= int(given) <= 65535):
        raise ClusterError(f"RAY_UNLEARN_METRICS_PORT: {given!r}; expected a port from 1024 to 65535")
    return int(given)


def _share_environment() -> None:
    """Let workers run in this process's environment, also where `uv run` started it, unless the user asks otherwise.

    Ray would start every worker by `uv run` in a copy of the working folder, which builds an environment of its own
    there. Ray reads its variable when it is imported, which is before; so its constant is set, too.
    """
    if "RAY_ENABLE_UV_RUN_RUNTIME_ENV" not in os.environ:
        os.environ["RAY_ENABLE_UV_RUN_RUNTIME_ENV"] = "0"
        ray_constants.RAY_ENABLE_UV_RUN_RUNTIME_ENV = False
