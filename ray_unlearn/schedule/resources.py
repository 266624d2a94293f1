"""How many workers nodes have room for, one node at a time, and what is missing where there is none. No Ray in it.

    needs = Needs(cpus=1, gpus=0.25)
    needs.fit({"CPU": 8, "GPU": 2})              # 8 workers
    needs.missing([{"CPU": 64}, {"CPU": 8, "GPU": 1}])

Amounts are compared in Ray's own steps of 0.0001; a share of a GPU lies on one GPU, as Ray places it.

Does not cover: what the nodes are (`cluster.nodes`), nor who else uses them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ray_unlearn.errors import StudyError

Resources = Mapping[str, float]
"""Name (CPU, GPU, ...) -> amount."""

_STEPS = 10_000  # in one unit of a resource


def _steps(amount: float) -> int:
    return round(amount * _STEPS)


def check_share(gpus: float, where: str) -> float:
    """Return the GPUs of a worker, after refusing what Ray could not place.

    Raises:
        StudyError: it is negative, a share too small for Ray to tell from nothing, or one GPU and a part of another.

    """
    if gpus < 0 or 0 < gpus < 1 / _STEPS or (gpus > 1 and gpus != int(gpus)):
        raise StudyError(
            f"{where}: {gpus:g}; expected 0, a share of one GPU (0.25: four workers on each), or whole GPUs"
        )
    return gpus


@dataclass(frozen=True, kw_only=True, slots=True)
class Needs:
    """What one worker takes."""

    cpus: float
    gpus: float

    @property
    def amounts(self) -> dict[str, float]:
        """Name -> amount, of what it takes at all."""
        return {name: amount for name, amount in (("CPU", self.cpus), ("GPU", self.gpus)) if amount}

    def fit(self, resources: Resources) -> int:
        """Return how many workers a node with these resources holds."""
        room = _steps(resources.get("CPU", 0)) // _steps(self.cpus)
        if self.gpus >= 1:
            room = min(room, int(resources.get("GPU", 0)) // int(self.gpus))
        elif self.gpus:
            room = min(room, int(resources.get("GPU", 0)) * (_STEPS // _steps(self.gpus)))
        return room

    def missing(self, nodes: Sequence[Resources]) -> str:
        """Return what no node has; empty where one could hold a worker."""
        if any(self.fit(node) for node in nodes):
            return ""
        most = {name: max((node.get(name, 0) for node in nodes), default=0) for name in self.amounts}
        short = [
            f"{name} {amount:g} (at most {most[name]:g})"
            for name, amount in self.amounts.items()
            if most[name] < amount
        ]
        return "no node has " + (" or ".join(short) or " together with ".join(self.words))

    @property
    def words(self) -> list[str]:
        """`CPU 1`, `GPU 0.25`."""
        return [f"{name} {amount:g}" for name, amount in self.amounts.items()]


def waiting_line(needs: Needs, waiting: int, nodes: Sequence[Resources], free: Sequence[Resources]) -> str:
    """Return why workers still wait for a place; empty where there is room, so that they are only starting.

    Args:
        needs: of each worker.
        waiting: how many wait.
        nodes: what each node has, those left out that go away.
        free: what of it nobody uses.

    """
    each = f"waiting for room for {waiting} worker{'s' * (waiting != 1)} (each {', '.join(needs.words)}): "
    if missing := needs.missing(nodes):
        return f"{each}{missing}, so none can start until such a node joins"
    if any(needs.fit(node) for node in free):
        return ""
    able = [node for node in nodes if needs.fit(node)]
    have = ", ".join(f"{name} {_sum(free, name):g} free of {_sum(nodes, name):g}" for name in needs.amounts)
    return f"{each}of {len(nodes)} nodes {len(able)} could hold one, and all are busy; in all {have}"


def _sum(nodes: Sequence[Resources], name: str) -> float:
    return sum(node.get(name, 0) for node in nodes)
