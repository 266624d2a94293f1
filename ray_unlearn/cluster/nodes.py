"""The cluster's nodes as Ray reports them: nodes that stay, nodes that drain, nodes that are gone.

    nodes = Nodes()
    nodes.look()                                 # asks Ray, at most every two seconds
    nodes.staying                                # [{"CPU": 8.0, "GPU": 1.0, ...}, ...]
    nodes.leaving                                # {node id: Notice}

Does not cover: the workers on the nodes (`pool`).
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import ray

from ray_unlearn.schedule.resources import Resources

_EVERY_S = 2.0  # a spot market gives two minutes' notice, or half a minute


@dataclass(frozen=True, slots=True)
class Notice:
    """Notice that a node is drained: it accepts no new work, and will be removed."""

    address: str
    ends_at: float | None
    """Time of the removal in s, on this process's monotonic clock; None if it was not announced."""


class Nodes:
    """State of the nodes at the last look."""

    def __init__(self) -> None:
        self.leaving: dict[str, Notice] = {}
        """Nodes that drain, by id."""
        self._alive: dict[str, dict[str, Any]] = {}
        self._looked_at = float("-inf")

    def look(self, *, now: bool = False) -> None:
        """Ask Ray, if the last look is more than two seconds ago, or with `now`."""
        if not now and time.monotonic() - self._looked_at < _EVERY_S:
            return
        self._looked_at = time.monotonic()
        self._alive = {node["NodeID"]: node for node in ray.nodes() if node["Alive"]}
        draining = {node: end for node, end in _draining().items() if node in self._alive}
        self.leaving = {node: self.leaving.get(node) or self._notice(node, end) for node, end in draining.items()}

    def _notice(self, node: str, deadline_ms: int) -> Notice:
        # Ray's deadline is a time of day on another machine; the notice has a time of this machine's steady clock.
        left_s = deadline_ms / 1000 - time.time()
        address = str(self._alive[node].get("NodeManagerAddress", node))
        return Notice(address, time.monotonic() + left_s if deadline_ms else None)

    @property
    def staying(self) -> list[Resources]:
        """Resources of each node that stays."""
        return [node["Resources"] for name, node in self._alive.items() if name not in self.leaving]

    @property
    def free(self) -> list[Resources]:
        """Unused resources of each node that stays."""
        return [free for name, free in _free().items() if name in self._alive and name not in self.leaving]

    def is_going(self, node: str | None) -> bool:
        """Return whether a node drains or is gone; False for an unknown node."""
        return node is not None and (node in self.leaving or node not in self._alive)


def _free() -> dict[str, dict[str, float]]:
    """Return the free resources of each node; empty if this version of Ray lacks the private call for it."""
    try:
        from ray._private.state import available_resources_per_node

        return dict(available_resources_per_node())
    except (ImportError, AttributeError):
        return {}


def _draining() -> dict[str, int]:
    """Return each draining node -> its removal in ms since the Unix epoch; 0 if the time was not announced.

    Ray has no public call for it: its own training library reads this private state. With a version of Ray that lacks
    it, nodes are removed without notice.
    """
    try:
        from ray._private.state import state

        return dict(state.get_draining_nodes())
    except (ImportError, AttributeError):
        return {}
