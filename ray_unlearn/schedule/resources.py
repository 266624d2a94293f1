"""Number of workers that fit on each node, and the resource that is missing where none fits. Without Ray.

    needs = Needs(cpus=1, gpus=0.25)
    needs.fit({"CPU": 8, "GPU": 2})              # 8 workers
    needs.missing([{"CPU": 64}, {"CPU": 8, "GPU": 1}])

Amounts are compared in Ray's own steps of 0.0001; a share of a GPU is taken from a single GPU, as Ray does it.

Does not cover: finding the nodes (`cluster.nodes`), other users of the same nodes.
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
    """Return the GPUs of a worker, after checking that Ray can place them.

    Raises:
        StudyError: the number is negative, a share below Ray's step of 0.0001, or one GPU and a part of another.

    """
    if gpus < 0 or 0 < gpus < 1 / _STEPS or (gpus > 1 and gpus != int(gpus)):
        raise StudyError(
            f"{where}: {gpus:g}; expected 0, a share of one GPU (0.25: four workers on each), or whole GPUs"
        )
    return gpus


@dataclass(frozen=True, kw_only=True, slots=True)
class Needs:
    """Resources of one worker."""

    cpus: float
    gpus: float

    @property
    def amounts(self) -> dict[str, float]:
        """Name -> amount, without resources of amount 0."""
        return {name: amount for name, amount in (("CPU", self.cpus), ("GPU", self.gpus)) if amount}

    def fit(self, resources: Resources) -> int:
        """Return the number of workers that fit on a node with these resources."""
        workers = _steps(resources.get("CPU", 0)) // _steps(self.cpus)
        if self.gpus >= 1:
            workers = min(workers, int(resources.get("GPU", 0)) // int(self.gpus))
        elif self.gpus:
            workers = min(workers, int(resources.get("GPU", 0)) * (_STEPS // _steps(self.gpus)))
        return workers

    def missing(self, nodes: Sequence[Resources]) -> str:
        """Return the resources that no node has enough of; empty if a worker fits on some node."""
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


def waiting_line(
    needs: Needs, waiting: int, nodes: Sequence[Resources], free: Sequence[Resources], *, own: int = 0
) -> str:
    """Return why workers still wait for a place; empty if they fit, so that they are only starting.

    Args:
        needs: resources of each worker.
        waiting: number of workers that wait.
        nodes: resources of each node, without nodes that are being removed.
        free: unused resources of each node.
        own: number of own workers, waiting or not. One that imports its modules has a place already, and cannot say so.

    """
    waiting = min(waiting, own - _placed(needs, nodes, free, own)) if own else waiting
    if not waiting:
        return ""
    each = f"waiting for room for {waiting} worker{'s' * (waiting != 1)} (each {', '.join(needs.words)}): "
    if missing := needs.missing(nodes):
        return f"{each}{missing}, so none can start until such a node joins"
    if any(needs.fit(node) for node in free):
        return ""
    able = [node for node in nodes if needs.fit(node)]
    have = ", ".join(f"{name} {_sum(free, name):g} free of {_sum(nodes, name):g}" for name in needs.amounts)
    return f"{each}of {len(nodes)} nodes {len(able)} could hold one, and all are busy; in all {have}"


def _placed(needs: Needs, nodes: Sequence[Resources], free: Sequence[Resources], own: int) -> int:
    """Return how many own workers have a place, where nothing but they can explain what is used; else 0."""
    used = {name: _steps(_sum(nodes, name)) - _steps(_sum(free, name)) for name in needs.amounts}
    counts = {round(used[name] / _steps(amount), 3) for name, amount in needs.amounts.items()}
    count = counts.pop()
    return int(count) if not counts and count == int(count) and 0 <= count <= own else 0


def _sum(nodes: Sequence[Resources], name: str) -> float:
    return sum(node.get(name, 0) for node in nodes)
