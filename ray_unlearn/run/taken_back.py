"""What is taken from a script's process: tensors that the study's own net can hold, and outputs that they give.

    load(net, tensors, where="method mine.py:unlearning")    # MethodError names the tensors that differ
    compare(net, logits_BC, images_BCHW, device, where=..., clues=[...])      # MethodError names what else differs

A run publishes what its checkpoint gives in a fresh net, so everything that the checkpoint does not hold is refused.

Does not cover: how the tensors come (`apart`).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import torch
from torch import nn

from ray_unlearn.errors import MethodError
from ray_unlearn.run.probe import largest_difference, probe_logits
from ray_unlearn.wording import plural

_TOLERANCE = 1e-3
"""Relative difference of logits from which on two nets are not the same: another memory format or a compiled form
changes a few of the last bits, 1e-6; a hook or another eps much more."""
_SHOWN = 3  # names in a message
_HINTS = {
    "_mask": "torch.nn.utils.prune.remove(module, 'weight') makes pruning permanent",
    "_orig": "torch.nn.utils.prune.remove(module, 'weight') makes pruning permanent",
    "_g": "torch.nn.utils.remove_weight_norm(module) takes a weight norm away",
    "parametrizations": "torch.nn.utils.parametrize.remove_parametrizations(module, 'weight') takes them away",
}


def load(net: nn.Module, tensors: Mapping[str, torch.Tensor], where: str) -> None:
    """Copy tensors into a fresh net, strictly: the same names, shapes and types.

    Raises:
        MethodError: they are others; the message names them.

    """
    own = net.state_dict()
    common = own.keys() & tensors.keys()
    problems = [
        *_names("without", own.keys() - tensors.keys()),
        *_names("with", tensors.keys() - own.keys()),
        *_others("shape", {name: (list(own[name].shape), list(tensors[name].shape)) for name in common}),
        *_others("type", {name: (_type(own[name]), _type(tensors[name])) for name in common}),
    ]
    if problems:
        raise MethodError(
            f"{where}: the net as it was left does not fit model.arch: {'; '.join(problems)}; "
            f"expected the tensors of the net that it got, with other values{_hint(tensors.keys() - own.keys())}"
        )
    net.load_state_dict(dict(tensors))


def _names(what: str, names: Collection[str]) -> list[str]:
    if not names:
        return []
    shown = ", ".join(map(repr, sorted(names)[:_SHOWN])) + (", ..." if len(names) > _SHOWN else "")
    return [f"it is {what} {plural(len(names), 'tensor')} {shown}"]


def _others(what: str, pairs: Mapping[str, tuple[object, object]]) -> list[str]:
    differ = [(name, *pair) for name, pair in sorted(pairs.items()) if pair[0] != pair[1]]
    if not differ:
        return []
    name, before, now = differ[0]
    more = f" ({len(differ)} such)" if len(differ) > 1 else ""
    hint = "; net.float() at the end gives it back" if before == "float32" else ""
    return [f"tensor {name!r} has the {what} {now} instead of {before}{more}{hint}"]


def _type(tensor: torch.Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _hint(surplus: Collection[str]) -> str:
    for sign, hint in _HINTS.items():
        if any(name.endswith(sign) or sign in name.split(".") for name in surplus):
            return f"; {hint}"
    return ""


def compare(
    net: nn.Module,
    logits_BC: torch.Tensor,
    images_BCHW: torch.Tensor,
    device: torch.device,
    *,
    where: str,
    clues: Sequence[str],
) -> None:
    """Check that a fresh net gives the outputs that the net gave as a script left it.

    Raises:
        MethodError: it gives others.

    """
    fresh_BC = probe_logits(net, images_BCHW, device)
    difference = largest_difference(logits_BC.float().numpy(), fresh_BC.numpy())
    if difference > _TOLERANCE:
        found = f". Found: {'; '.join(clues)}" if clues else ""
        raise MethodError(
            f"{where}: the net as it was left gives other outputs than its weights in a fresh net (logits differ by "
            f"{difference:.2g} of the largest), and a checkpoint holds weights alone; leave no hooks, replaced "
            f"functions or changed settings on the net, and register tensors as buffers{found}"
        )
