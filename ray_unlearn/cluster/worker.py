"""The worker of Ray's actors: a worker that can name its node.

Does not cover: the work itself (`ray_unlearn.run.worker`).
"""

from __future__ import annotations

import ray

from ray_unlearn.run import worker


class Worker(worker.Worker):
    """A worker on some node of a cluster."""

    def node(self) -> str:
        """Return the node's id, in hexadecimal digits."""
        return ray.get_runtime_context().get_node_id()
