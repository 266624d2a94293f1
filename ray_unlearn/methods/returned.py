"""What a script's function, or an installed method, returns: a net or a state dict instead of a change of its net.

    use_returned("mine.py:unlearning", returned, net, before)        # the net then holds what was returned

The competition's function returns nothing; many return their net all the same, some a copy, some a state dict, alone or
in a tuple or a dict with other values. A net that was left alone, beside a value that holds no weights, is refused:
nothing was unlearned.

Does not cover: calling the function (`script`), other tensors than the net's (`run.taken_back`).
"""

from __future__ import annotations

import inspect
import numbers
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from ray_unlearn.errors import MethodError

_PREFIXES = ("_orig_mod.", "module.")  # of torch.compile and DataParallel


def use_returned(method: str, returned: Any, net: nn.Module, before: Mapping[str, torch.Tensor]) -> None:
    """Copy what a function returned into the net that it got and left alone; do nothing where it changed that net.

    Args:
        method: its name, for errors.
        returned: what the function returned.
        net: the net that it got.
        before: the net's tensors before the call.

    Raises:
        MethodError: both the net and what was returned are changed, and differ; or the net cannot hold what was
            returned; or several other nets were returned; or the net was left alone, and what was returned holds no
            weights.

    """
    if inspect.isgenerator(returned) or inspect.isawaitable(returned):
        raise MethodError(f"method {method}: it returned a {type(returned).__name__}, of which no line was run")
    own = net.state_dict()
    weights = [(part, _state(part)) for part in _parts(returned) if _is_weights(part, own)]
    found = [(part, state) for part, state in weights if not _same(state, own)]
    changed = not _same(before, own)
    if len(found) < len(weights) and (changed or not found):  # the net itself is returned, perhaps with others
        return
    if len(found) == 1:
        part, state = found[0]
        what = "another net" if isinstance(part, nn.Module) else "a state dict"
        if changed:
            raise MethodError(
                f"method {method}: it changed the net that it got, and returned {what} with other values; which one is "
                "the result? Expected one of them: return nothing, or leave the first argument alone"
            )
        _load(method, net, state, what)
    elif found or (not changed and not _is_plain(returned)):
        what = f"{len(found)} nets or state dicts" if found else _described(returned)
        did = "changed the net that it got" if changed else "left the net that it got as it was"
        raise MethodError(
            f"method {method}: it {did}, and returned {what}; expected the net to be changed, or one net or one state "
            "dict to be returned"
        )


def tensors_of(net: nn.Module) -> dict[str, torch.Tensor]:
    """Return copies of a net's tensors, with which it is compared later."""
    return {name: value.clone() for name, value in net.state_dict().items() if isinstance(value, torch.Tensor)}


def _load(method: str, net: nn.Module, state: Mapping[str, torch.Tensor], what: str) -> None:
    try:
        net.load_state_dict(state)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:300]
        alone = state.keys() == {name for name, _ in net.named_parameters()}
        hint = (
            "; parameters alone are no state dict, which holds buffers, too: return net.state_dict()" if alone else ""
        )
        raise MethodError(
            f"method {method}: it returned {what} that the study's net cannot hold: {reason}{hint}"
        ) from error


def _parts(returned: Any) -> list[Any]:
    """Return the values of a tuple, list or dict; anything else alone."""
    if isinstance(returned, tuple | list):
        return list(returned)
    if isinstance(returned, Mapping) and not _state(returned):
        return list(returned.values())
    return [returned]


def _is_weights(part: Any, own: Mapping[str, Any]) -> bool:
    """Return whether a value is a net with tensors, or a dict of tensors with names of the net's."""
    state = _state(part)
    return bool(state) and (isinstance(part, nn.Module) or not own.keys().isdisjoint(state))


def _state(value: Any) -> dict[str, torch.Tensor]:
    """Return the tensors of a net or of a mapping, without the prefix of a wrapper; empty for anything else."""
    state = value.state_dict() if isinstance(value, nn.Module) else value
    if not isinstance(state, Mapping) or not state or not all(isinstance(one, torch.Tensor) for one in state.values()):
        return {}
    named = {str(name): tensor for name, tensor in state.items()}
    for prefix in _PREFIXES:
        if all(name.startswith(prefix) for name in named):
            named = {name.removeprefix(prefix): tensor for name, tensor in named.items()}
    return named


def _is_plain(value: Any) -> bool:
    """Return whether a value is nothing, or made of numbers and text: a loss, an accuracy, a history."""
    if isinstance(value, Mapping):
        return all(map(_is_plain, value.values()))
    if isinstance(value, tuple | list):
        return all(map(_is_plain, value))
    one_number = isinstance(value, torch.Tensor) and value.numel() == 1
    return value is None or one_number or isinstance(value, str | bytes | numbers.Number)


def _described(value: Any) -> str:
    """Return the type of a value, with those that are in it."""
    items = value.values() if isinstance(value, Mapping) else value if isinstance(value, tuple | list) else ()
    kinds = {type(one).__name__ for one in items}
    what = f"a {type(value).__name__}" + (f" of {', '.join(sorted(kinds))}" if kinds else "")
    return f"{what}, which holds no weights of it"


def _same(state: Mapping[str, torch.Tensor], other: Mapping[str, Any]) -> bool:
    return state.keys() == other.keys() and all(
        isinstance(other[name], torch.Tensor) and torch.equal(value.to(other[name].device), other[name])
        for name, value in state.items()
    )
