"""The `ray` backend: one long-lived actor per worker, on a cluster that exists or a local one that we start.

    backend = RayBackend(address=None, workers=2)
    pool = backend.pool(job)

Does not cover: the actors (`ray_pool`), starting clusters of machines (`cluster.yaml`), or stopping any cluster that we
did not start.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import ray

from ray_unlearn.driver.ray_pool import RayPool
from ray_unlearn.driver.ray_start import Start
from ray_unlearn.errors import ClusterError
from ray_unlearn.schedule.events import Sink
from ray_unlearn.study.schema import Study

if TYPE_CHECKING:  # they bring torch, which is imported while Ray starts
    from ray_unlearn.data.decode import DecodedSlice, DecodeJob
    from ray_unlearn.data.rows import Slice
    from ray_unlearn.worker import Job

_LARGE_ROWS = 16_000  # below, starting Ray Data takes longer than decoding
_OBJECT_STORE_BYTES = 512 * 2**20  # of a local cluster: images travel through shards, not through Ray


def _tell(line: str) -> None:
    """Say something on standard error."""
    sys.stderr.write(line + "\n")


class RayBackend:
    """A connection to Ray, made when it is first needed."""

    def __init__(
        self,
        *,
        address: str | None,
        workers: int | None,
        gpus_per_worker: float | None = None,
        tell: Callable[[str], None] = _tell,
    ) -> None:
        self._address, self._workers, self._tell = address, workers, tell
        self._gpus_per_worker = gpus_per_worker
        self._local = False
        self._start: Start | None = None
        """Where we connected; None where this process was connected before."""
        self._pool: RayPool | None = None

    @contextmanager
    def starting(self) -> Iterator[None]:
        """Start or join Ray while the block is executed; what breaks the block off cancels that."""
        if not ray.is_initialized():
            self._start = Start(self._join)
        try:
            yield
        except BaseException:
            if self._start is not None:
                self._start.cancel()
            raise

    def decode_all(self, slices: Sequence[Slice], job: DecodeJob) -> Iterable[DecodedSlice]:
        """Decode a large source as a Ray Data job, a small one in place."""
        from ray_unlearn.data.prepare import in_place

        if len(slices) < 2 or sum(part.num_rows for part in slices) < _LARGE_ROWS:
            return in_place(slices, job)
        from ray_unlearn.driver.ray_data import decode_with_ray

        self.connect()
        return decode_with_ray(slices, job)

    def pool(self, job: Job) -> RayPool:
        """Return a pool of actors for the job.

        Raises:
            ClusterError: a cluster of this machine's alone can never hold a worker.

        """
        self.connect()
        self._pool = RayPool(job, self._workers, self._tell, self._gpus_per_worker)
        missing = self._pool.missing() if self._local else ""
        if missing:  # elsewhere, such a node may join
            raise ClusterError(f"this machine: {missing}; lower execution.cpus_per_worker or --gpus-per-worker")
        return self._pool

    def sinks(self, study: Study) -> Sequence[Sink]:
        """Return the sink that counts on Ray's own Prometheus endpoint."""
        from ray_unlearn.driver.ray_metrics import RayMeters

        return [RayMeters(study)]

    def close(self) -> None:
        """Kill our actors; shut Ray down only where we connected, and give up a start that nobody waited for."""
        if self._pool is not None:
            self._pool.close()
        if self._start is not None:
            self._start.cancel()
            ray.shutdown()
            self._start.release()

    def connect(self) -> None:
        """Wait for the cluster, or connect to it now; nothing where this process is connected already.

        Raises:
            ClusterError: it cannot be reached or started.

        """
        if self._start is None and not ray.is_initialized():
            self._start = Start(self._join)
        if self._start is not None:
            self._start.wait()

    def _join(self) -> None:
        """Connect to the cluster, or start one on this machine."""
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault(
            "RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0"
        )  # workers share this environment; no `uv run` in each
        address = self._address or os.environ.get("RAY_ADDRESS") or "local"
        # At `warning`, Ray would say that a thread which is not the main one leaves its SIGTERM handler out: well so.
        options: dict[str, Any] = {"log_to_driver": False, "logging_level": "error"}
        if address == "local":
            # Ray's ports are guarded by a token, on by default for local clusters; its one warning says so.
            options |= {"include_dashboard": False, "object_store_memory": _OBJECT_STORE_BYTES}
        try:
            ray.init(address=address, **options)
        except Exception as error:  # Ray raises plain exceptions here, too
            reason = (str(error) or type(error).__name__).strip().splitlines()[0]
            raise ClusterError(
                f"Ray at {address}: cannot connect: {reason}; is the cluster up? --backend inline needs none"
            ) from error
        self._local = address == "local"
