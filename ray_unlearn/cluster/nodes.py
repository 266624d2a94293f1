"""The cluster's nodes as Ray sees them: those that stay, those that drain, those that are gone.

    nodes = Nodes()
    nodes.look()                                 # asks Ray, at most every two seconds
    nodes.staying                                # [{"CPU": 8.0, "GPU": 1.0, ...}, ...]
    nodes.leaving                                # {node id: Notice}

Does not cover: who works on them (`pool`).
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
    """A node is drained: it takes nothing new, and goes away."""

    address: str
    ends_at: float | None
    """On this process's monotonic clock, s; None where nobody said when."""


class Nodes:
    """What was seen at the last look."""

    def __init__(self) -> None:
        self.leaving: dict[str, Notice] = {}
        """Nodes that drain, by id."""
        self._alive: dict[str, dict[str, Any]] = {}
        self._looked_at = float("-inf")

    def look(self, *, now: bool = False) -> None:
        """Ask Ray, if that is some time ago, or if it must be now."""
        if not now and time.monotonic() - self._looked_at < _EVERY_S:
            return
        self._looked_at = time.monotonic()
        self._alive = {node["NodeID"]: node for node in ray.nodes() if node["Alive"]}
        draining = {node: end for node, end in _draining().items() if node in self._alive}
        self.leaving = {node: self.leaving.get(node) or self._notice(node, end) for node, end in draining.items()}

    def _notice(self, node: str, deadline_ms: int) -> Notice:
        # The deadline is a time of day of another machine's; from here on, this machine's steady clock counts.
        left_s = deadline_ms / 1000 - time.time()
        address = str(self._alive[node].get("NodeManagerAddress", node))
        return Notice(address, time.monotonic() + left_s if deadline_ms else None)

    @property
    def staying(self) -> list[Resources]:
        """What each node has that does not go away."""
        return [node["Resources"] for name, node in self._alive.items() if name not in self.leaving]

    @property
    def free(self) -> list[Resources]:
        """What of it nobody uses now."""
        return [free for name, free in _free().items() if name in self._alive and name not in self.leaving]

    def is_going(self, node: str | None) -> bool:
        """Return whether a node drains or is gone; no for one that nobody knows."""
        return node is not None and (node in self.leaving or node not in self._alive)


def _free() -> dict[str, dict[str, float]]:
    """Return what is free on each node; nothing where this Ray does not say, for it has no public way to ask."""
    try:
        from ray._private.state import available_resources_per_node

        return dict(available_resources_per_node())
    except (ImportError, AttributeError):
        return {}


def _draining() -> dict[str, int]:
    """Return the nodes that drain -> the time of day, ms, when they go; 0 where nobody said.

    Ray has no public way to ask: its own training library reads this private state. A Ray without it is a cluster
    whose nodes go without notice.
    """
    try:
        from ray._private.state import state

        return dict(state.get_draining_nodes())
    except (ImportError, AttributeError):
        return {}
