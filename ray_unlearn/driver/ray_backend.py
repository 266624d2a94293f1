"""The `ray` backend: one long-lived actor per worker, on a cluster that exists or a local one that we start.

    backend = RayBackend(address=None, workers=2)
    pool = backend.pool(job)

Does not cover: the actors (`ray_pool`), starting clusters of machines (`cluster.yaml`), or stopping any cluster that we
did not start.
"""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

import ray

from ray_unlearn.driver.ray_local import LocalCluster
from ray_unlearn.driver.ray_pool import RayPool
from ray_unlearn.driver.ray_watch import RayWatch
from ray_unlearn.errors import ClusterError, Interrupted
from ray_unlearn.terminal import say_error

if TYPE_CHECKING:  # they bring torch, which is imported while Ray starts
    from ray_unlearn.data.decode import DecodedSlice, DecodeJob
    from ray_unlearn.data.rows import Slice
    from ray_unlearn.worker import Job

_LARGE_ROWS = 16_000  # below, starting Ray Data takes longer than decoding
_OBJECT_STORE_BYTES = 512 * 2**20  # of a local cluster: images travel through shards, not through Ray


class RayBackend:
    """A connection to Ray, made when it is first needed."""

    def __init__(
        self,
        *,
        address: str | None,
        workers: int | None,
        gpus_per_worker: float | None = None,
        arm: Callable[[], None] = lambda: None,
        tell: Callable[[str], None] = say_error,
    ) -> None:
        self._address, self._workers, self._arm, self._tell = address, workers, arm, tell
        self._gpus_per_worker = gpus_per_worker
        self._ours = False
        self._cluster: LocalCluster | None = None
        self._watch: RayWatch | None = None
        self._pool: RayPool | None = None

    def begin(self) -> None:
        """Connect, or start a cluster: mostly waiting, so that something else can be done beside it."""
        self.connect()

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
        self._pool = RayPool(job, self._workers, self._tell, self._gpus_per_worker, check=self.check)
        missing = self._pool.missing() if self._cluster else ""
        if missing:  # elsewhere, such a node may join
            raise ClusterError(f"this machine: {missing}; lower execution.cpus_per_worker or --gpus-per-worker")
        return self._pool

    def check(self) -> None:
        """Do nothing while Ray lives.

        Raises:
            ClusterLost: it has died.

        """
        if self._watch is not None:
            self._watch.check()

    def close(self) -> None:
        """Kill our actors; shut Ray down only where we connected. The logs of a Ray that died stay for a look."""
        lost = self._watch is not None and self._watch.lost
        if self._watch is not None:
            self._watch.stop()
        if self._pool is not None and not lost:
            self._pool.close()
        if self._cluster is not None:
            self._cluster.end(keep_logs=lost)
        elif self._ours:
            ray.shutdown()

    def connect(self) -> None:
        """Connect to the cluster, or start one on this machine; nothing where this process is connected already.

        Raises:
            ClusterError: it cannot be reached or started.

        """
        if ray.is_initialized():
            self._watch = self._watch or RayWatch(local=False, tell=self._tell)
            return
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault(
            "RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0"
        )  # workers share this environment; no `uv run` in each
        address = self._address or os.environ.get("RAY_ADDRESS") or "local"
        try:
            self._start(address)
        except ClusterError:
            raise
        except SystemExit as error:  # of Ray's own SIGTERM handler, which is in force until ours is armed again
            raise Interrupted(signal.SIGTERM) if error.code == signal.SIGTERM else error from None
        except Exception as error:  # Ray raises plain exceptions here, too
            reason = (str(error) or type(error).__name__).strip().splitlines()[0]
            raise ClusterError(
                f"Ray at {address}: cannot connect: {reason}; is the cluster up? --backend inline needs none"
            ) from error
        self._watch = RayWatch(local=self._cluster is not None, tell=self._tell)
        self._arm()

    def _start(self, address: str) -> None:
        """Connect to the cluster, or start one of our own."""
        if address == "local":
            self._cluster = LocalCluster()
            self._cluster.start(
                self._tell,
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,  # Ray's one warning says that its ports ask for a token
                object_store_memory=_OBJECT_STORE_BYTES,
            )
        else:
            ray.init(address=address, log_to_driver=False, logging_level=logging.WARNING)
        self._ours = True
