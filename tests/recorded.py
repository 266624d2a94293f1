"""A stand-in for CUDA graphs on a CPU: it records a step's operations once, and repeats them on the same memory.

    engines = Engines(record)                        # recorded(step, device) -> replay

As in a graph, addresses and all values that the step took from Python are frozen; nothing of the step's Python runs
again. What a graph could not hold fails here, too: reads of a number by the host, shapes that depend on numbers, draws
of a generator on the CPU, and tensors made from Python's numbers (a copy from the host).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

WARM_UP = 1  # a GPU needs three; each costs as much as a step
_READS = ("_local_scalar_dense", "is_nonzero", "nonzero", "masked_select", "_unique2", "unique_dim", "equal")
_COPIES = ("lift_fresh", "lift_fresh_copy")


class HostRead(AssertionError):
    """A step does what no graph can hold."""


class Recorder(TorchDispatchMode):
    """Notes every operation with the tensors that it reads and writes."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[tuple[Any, Any, Any, list[torch.Tensor]]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        _check(func, args, kwargs or {})
        result = func(*args, **(kwargs or {}))
        self.operations.append((func, args, kwargs or {}, _tensors(result)))
        return result

    @torch.no_grad()
    def replay(self) -> None:
        """Repeat all operations, and put their results where they were."""
        for func, args, kwargs, places in self.operations:
            inputs = {each.untyped_storage()._cdata for each in _tensors((args, kwargs))}
            for place, found in zip(places, _tensors(func(*args, **kwargs)), strict=True):
                if found.untyped_storage()._cdata not in inputs:  # no view, and not written in place
                    place.detach().copy_(found)


def record(step: Callable[[], None], device: torch.device) -> Callable[[], None]:
    """Warm up as a GPU would, record a step, and return its replay; torch's random state is restored."""
    with torch.random.fork_rng(devices=[]):
        for _ in range(WARM_UP):
            step()
        recorder = Recorder()
        with recorder:
            step()
    return recorder.replay


def _tensors(values: Any) -> list[torch.Tensor]:
    return [each for each in tree_leaves(values) if isinstance(each, torch.Tensor)]


def _check(func: Any, args: Any, kwargs: Any) -> None:
    name = func.overloadpacket.__name__
    leaves = tree_leaves((args, kwargs))
    by_mask = name in ("index", "index_put", "index_put_") and any(
        one is not None and one.dtype in (torch.bool, torch.uint8) for one in args[1]
    )
    if name in _READS or by_mask:
        raise HostRead(f"{func} reads numbers on the host")
    if name in _COPIES:
        raise HostRead(f"{func} copies numbers from the host")
    if any(isinstance(each, torch.Generator) for each in leaves):
        raise HostRead(f"{func} draws on the CPU")
