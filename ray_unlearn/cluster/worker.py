"""The worker as Ray's actors hold it: it knows which node it is on.

Does not cover: anything that the worker does (`ray_unlearn.run.worker`).
"""

from __future__ import annotations

import ray

from ray_unlearn.run import worker


class Worker(worker.Worker):
    """A worker on some node of a cluster."""

    def node(self) -> str:
        """Return the node's id, in hexadecimal digits."""
        return ray.get_runtime_context().get_node_id()
