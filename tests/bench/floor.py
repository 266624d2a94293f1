"""The least time that a training step can take on a device, from its FLOPs and bytes and what the device reaches.

    floor = measure_floor(model, image_size=32, num_classes=9, batch_size=64, device="cpu", precision="bf16", threads=2)
    floor.seconds_per_step                       # the longer of the two: FLOPs / peak, bytes / peak

FLOPs: convolutions and matrix products of forward and backward, counted by torch's FlopCounterMode (a multiplication
and an addition are two). Bytes: fp32 parameters are read by forward and by backward, gradients written; the SGD update
reads parameters, gradients and momenta and writes parameters and momenta: 8 x 4 bytes a parameter. Peaks are measured,
not looked up: the best of many large matrix products, and of many copies too large for a cache.

Does not cover: activations, loading of images, logits and files; all of them come on top of the floor. Nets that fit
in a cache can beat the bytes.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 - its usual name
from torch.utils.flop_counter import FlopCounterMode

from ray_unlearn.training.precision import arithmetic

_PASSES = 8  # over all parameters in fp32: see the module's docstring
_BYTES = 4
_MATRIX = {"cpu": 2048, "cuda": 8192}
_COPY_FLOATS = {"cpu": 2**26, "cuda": 2**28}  # 256 MiB and 1 GiB
_PATIENCE_S = 1.5


@dataclass(frozen=True, kw_only=True, slots=True)
class Floor:
    """What a step needs, and what the device reaches."""

    precision: str
    flops_per_image: float
    """Forward and backward."""
    flops_per_step: float
    bytes_per_step: float
    flops_per_s: float
    bytes_per_s: float

    @property
    def seconds_per_step(self) -> float:
        """The longer of computing and moving, as if one hid behind the other."""
        return max(self.flops_per_step / self.flops_per_s, self.bytes_per_step / self.bytes_per_s)


def training_flops(model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> int:
    """Return the FLOPs of one forward and backward pass over a batch."""
    model.train()
    with FlopCounterMode(display=False) as counter:
        F.cross_entropy(model(images), labels).backward()  # type: ignore[no-untyped-call]
    model.zero_grad(set_to_none=True)
    return int(counter.get_total_flops())


def step_bytes(model: nn.Module) -> int:
    """Return the bytes of parameters, gradients and momenta that a step of SGD with momentum moves."""
    return _PASSES * _BYTES * sum(parameter.numel() for parameter in model.parameters())


def measure_floor(
    model: nn.Module, *, image_size: int, num_classes: int, batch_size: int, device: str, precision: str, threads: int
) -> Floor:
    """Count on the CPU and measure on the device, with as many threads as it has cores."""
    size = 4  # any batch that batch normalisation takes
    images, labels = torch.zeros(size, 3, image_size, image_size), torch.arange(size) % num_classes
    per_image = training_flops(model.cpu(), images, labels) / size
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        flops_per_s, bytes_per_s = peak_flops(device, precision), peak_bytes(device)
    finally:
        torch.set_num_threads(before)
    return Floor(
        precision=precision,
        flops_per_image=per_image,
        flops_per_step=per_image * batch_size,
        bytes_per_step=step_bytes(model),
        flops_per_s=flops_per_s,
        bytes_per_s=bytes_per_s,
    )


def peak_flops(device: str, precision: str) -> float:
    """Return the FLOP/s of a large square matrix product in the precision."""
    size, dtype = _MATRIX[device], torch.bfloat16 if precision == "bf16" else torch.float32
    left, right = (torch.ones(size, size, device=device, dtype=dtype) for _ in range(2))
    product = torch.empty_like(left)
    with arithmetic("tf32" if precision == "tf32" else "fp32"):
        return 2 * size**3 / _least_seconds(lambda: torch.mm(left, right, out=product), device)


def peak_bytes(device: str) -> float:
    """Return the bytes/s of a large copy, reading and writing counted."""
    source = torch.ones(_COPY_FLOATS[device], device=device)
    target = torch.empty_like(source)
    return 2 * source.nbytes / _least_seconds(lambda: target.copy_(source), device)


def _least_seconds(call: Callable[[], object], device: str) -> float:
    """Return the shortest of the calls that fit the patience; the first, which warms up, is not counted."""
    found: list[float] = []
    _timed(call, device)
    end = time.monotonic() + _PATIENCE_S
    while not found or time.monotonic() < end:
        found.append(_timed(call, device))
    return min(found)


def _timed(call: Callable[[], object], device: str) -> float:
    begin = time.perf_counter()
    call()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - begin
