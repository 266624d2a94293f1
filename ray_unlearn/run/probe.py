"""A few images on which two forms of a net are compared: as a script left it, and fresh from its checkpoint.

    images_BCHW = probe_images(sets)
    logits_BC = probe_logits(net, images_BCHW, device)       # evaluation mode, no autocast, seeded
    clues(net, fresh)                            # ["a forward hook on layer1.0", ...]

Does not cover: what is done where they differ (`taken_back`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import torch
from torch import nn

from ray_unlearn.data.images import ImageSet
from ray_unlearn.errors import MethodError
from ray_unlearn.seeds import Seeds

LOGITS = "\0logits"
"""Name of the probe's logits among the tensors of a net: no module can have an attribute of this name."""
_IMAGES = 4  # of each of two sets
_MOST_CLUES = 5
_SHOWN = 80  # characters of a module's text


def probe_images(sets: Mapping[str, ImageSet]) -> torch.Tensor:
    """Return the first few forget and retain images, float32 [B, 3, H, W], scaled, on the CPU."""
    batches = []
    for name in ("forget", "retain"):
        images = sets[name]
        rows = images.pixels.gather(images.indices[:_IMAGES])
        batches.append(images.scaling.apply(torch.from_numpy(rows)))
    return torch.cat(batches).contiguous()


def probe_logits(net: nn.Module, images_BCHW: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Return float32 logits [B, C] on the CPU; the net is in evaluation mode afterwards.

    A net that draws random numbers in evaluation mode, too, draws the same ones at every call.
    """
    net.eval()
    with torch.no_grad(), torch.autocast(device.type, enabled=False), Seeds(study=0).global_state("probe"):
        found = net(images_BCHW.to(device, copy=True))
        return found.float().cpu().contiguous()  # type: ignore[no-any-return]


def tensors_of(net: nn.Module) -> dict[str, torch.Tensor]:
    """Return a net's state on the CPU, each tensor with memory of its own.

    Raises:
        MethodError: a part of the state is no tensor.

    """
    state = net.state_dict()
    for name, value in state.items():
        if not isinstance(value, torch.Tensor):
            raise MethodError(f"the net's state holds {name!r}, a {type(value).__name__}; expected tensors alone")
    return {name: value.detach().cpu().contiguous().clone() for name, value in state.items()}


def clues(net: nn.Module, fresh: nn.Module) -> list[str]:
    """Return differences of two nets that their state does not hold, in words; a few at most."""
    found = [*_global_hooks(), *_differences(dict(net.named_modules()), dict(fresh.named_modules()))]
    return found[:_MOST_CLUES]


def _global_hooks() -> Iterator[str]:
    module = torch.nn.modules.module
    for name in ("_global_forward_hooks", "_global_forward_pre_hooks"):
        if getattr(module, name, None):
            yield "a forward hook for all modules"


def _differences(here: Mapping[str, nn.Module], there: Mapping[str, nn.Module]) -> Iterator[str]:
    for name, module in here.items():
        where = f"module {name or 'net'}"
        other = there.get(name)
        if other is None:
            yield f"{where}: a new {type(module).__name__}"
            continue
        if len(module._forward_hooks) > len(other._forward_hooks):
            yield f"{where}: a forward hook"
        if len(module._forward_pre_hooks) > len(other._forward_pre_hooks):
            yield f"{where}: a forward pre-hook"
        if type(module) is not type(other):
            yield f"{where}: {type(module).__name__} instead of {type(other).__name__}"
        elif "forward" in vars(module) and "forward" not in vars(other):
            yield f"{where}: another forward function"
        elif (text := module.extra_repr()) != (before := other.extra_repr()):
            yield f"{where}: {type(module).__name__}({text[:_SHOWN]}) instead of ({before[:_SHOWN]})"


def largest_difference(logits_BC: np.ndarray, others_BC: np.ndarray) -> float:
    """Return the largest difference of logits relative to the largest logit; 0 where both are NaN or infinite."""
    if logits_BC.shape != others_BC.shape:
        return float("inf")
    same = (logits_BC == others_BC) | (np.isnan(logits_BC) & np.isnan(others_BC))
    if same.all():
        return 0.0
    finite = np.isfinite(logits_BC) & np.isfinite(others_BC)
    if not (same | finite).all():
        return float("inf")
    scale = max(1.0, float(np.abs(others_BC[finite]).max()))
    return float(np.abs(logits_BC - others_BC)[finite].max()) / scale
