"""What a script's function returns: a net or a state dict instead of a change of the net that it got.

    use_returned("mine.py:unlearning", returned, net, before)        # the net then holds what was returned

The competition's function returns nothing; many return their net all the same, some a copy, some a state dict.

Does not cover: calling the function (`script`), other tensors than the net's (`run.taken_back`).
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from ray_unlearn.errors import MethodError

_PREFIXES = ("_orig_mod.", "module.")  # of torch.compile and DataParallel


def use_returned(method: str, returned: Any, net: nn.Module, before: Mapping[str, torch.Tensor]) -> None:
    """Copy what a function returned into the net that it got and left alone; do nothing where it returned no weights.

    Args:
        method: the script's name, for errors.
        returned: what the function returned.
        net: the net that it got.
        before: the net's tensors before the call.

    Raises:
        MethodError: both the net and what was returned are changed, and differ; or the net cannot hold what was
            returned; or a generator or a coroutine was returned, of which no line was run.

    """
    if inspect.isgenerator(returned) or inspect.isawaitable(returned):
        raise MethodError(f"method {method}: it returned a {type(returned).__name__}, of which no line was run")
    state = _plain(returned.state_dict() if isinstance(returned, nn.Module) else returned)
    if not state or returned is net or _same(state, net.state_dict()):
        return
    what = "another net" if isinstance(returned, nn.Module) else "a state dict"
    if not _same(before, net.state_dict()):
        raise MethodError(
            f"method {method}: it changed the net that it got, and returned {what} with other values; which one is the "
            "result? Expected one of them: return nothing, or leave the first argument alone"
        )
    try:
        net.load_state_dict(state)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:300]
        raise MethodError(f"method {method}: it returned {what} that the study's net cannot hold: {reason}") from error


def _plain(state: Any) -> dict[str, torch.Tensor]:
    """Return a mapping of tensors without the prefix of a wrapper; empty for anything else."""
    if not isinstance(state, Mapping) or not state or not all(isinstance(one, torch.Tensor) for one in state.values()):
        return {}
    named = {str(name): value for name, value in state.items()}
    for prefix in _PREFIXES:
        if all(name.startswith(prefix) for name in named):
            named = {name.removeprefix(prefix): value for name, value in named.items()}
    return named


def _same(state: Mapping[str, torch.Tensor], other: Mapping[str, Any]) -> bool:
    return state.keys() == other.keys() and all(
        isinstance(other[name], torch.Tensor) and torch.equal(value.to(other[name].device), other[name])
        for name, value in state.items()
    )
