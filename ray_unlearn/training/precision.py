"""`precision` on a device: autocast, TensorFloat-32, and checks that the device is present and supports it.

    check_present(torch.device("cuda"))             # ModelError if torch can use no GPU
    check_supported("tf32", device)                 # MethodError on a CPU, and on a GPU before Ampere
    with arithmetic("tf32", device):
        ...                                         # matrix products and convolutions may round to ten bits

fp32 is IEEE single precision everywhere. bf16 works on every CPU, slowly on those without AVX512-BF16 or AMX. A CPU has
no TensorFloat-32; running fp32 there instead would give another population than the study's, so it is refused.

Does not cover: the dtype of checkpoints (`models`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

from ray_unlearn.errors import MethodError, ModelError
from ray_unlearn.study.recipe import Precision

_AMPERE = (8, 0)  # the first compute capability with TensorFloat-32


def check_present(device: torch.device, instead: str = "set execution.device: cpu") -> None:
    """Check that torch can use the device.

    Args:
        device: the device.
        instead: end of the error message: the user's way out.

    Raises:
        ModelError: the device is a GPU, and torch can use none on this machine.

    """
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ModelError(f"device cuda: this machine has no GPU that torch can use; {instead}")


def check_supported(precision: Precision, device: torch.device) -> None:
    """Check that the device supports the precision.

    Raises:
        MethodError: it does not.

    """
    if precision == "tf32" and device.type != "cuda":
        raise MethodError(
            "precision tf32: a CPU has no TensorFloat-32; expected a GPU (execution.device: cuda), or precision: fp32"
        )
    if device.type != "cuda":
        return
    found = f"found {torch.cuda.get_device_name(device)}; set precision: fp32"
    if precision == "tf32" and torch.cuda.get_device_capability(device) < _AMPERE:
        raise MethodError(f"precision tf32: expected a GPU of compute capability 8.0 or more; {found}")
    if precision == "bf16" and not torch.cuda.is_bf16_supported(including_emulation=False):
        raise MethodError(f"precision bf16: expected a GPU that computes in bfloat16; {found}")


@contextlib.contextmanager
def arithmetic(precision: Precision) -> Iterator[None]:
    """Allow TensorFloat-32 in the block if the precision is tf32, and forbid it after the block."""
    allow_tensor_float_32(precision == "tf32")
    try:
        yield
    finally:
        allow_tensor_float_32(False)


def allow_tensor_float_32(allowed: bool) -> None:
    """Allow GPUs to round the factors of products and convolutions to ten bits, or forbid it."""
    name = "tf32" if allowed else "ieee"
    torch.backends.cuda.matmul.fp32_precision = name
    torch.backends.cudnn.conv.fp32_precision = name  # type: ignore[attr-defined]
    torch.backends.cudnn.rnn.fp32_precision = name  # type: ignore[attr-defined]


def autocast(precision: Precision, device: torch.device, *, cached: bool = True) -> torch.autocast:
    """Return the context of a forward pass; without `cached`, no cast outlives it (a captured step needs that)."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16", cache_enabled=cached)
