"""Settings of a process on which a run's arithmetic depends: threads, gradients, determinism, precision.

    configure(torch.device("cpu"), study.execution)          # before every run
    arithmetic(torch.device("cpu"), study.execution)         # what a record says about them
    count_gpus_without_cuda()                    # in a process that forks others
    warm_up()                                    # once per process

Does not cover: seeds; the precision of one method's training (`training.precision`).
"""

from __future__ import annotations

import os

import torch
from torch import nn

from ray_unlearn.study.schema import Execution
from ray_unlearn.training.precision import allow_tensor_float_32, check_present


def configure(device: torch.device, execution: Execution) -> None:
    """Set threads, gradients, determinism and precision.

    Raises:
        ModelError: this machine has no such device.

    """
    check_present(device)
    torch.set_default_dtype(torch.float32)
    torch.set_grad_enabled(True)
    torch.set_num_threads(execution.cpus_per_worker)
    torch.use_deterministic_algorithms(device.type == "cuda" and execution.deterministic)
    if device.type == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # else cuBLAS may not repeat itself
        # Deterministic mode would fill every new tensor with NaN, a kernel each, to show bugs of operations.
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
        torch.backends.cudnn.benchmark = not execution.deterministic
        allow_tensor_float_32(False)  # `precision: tf32` allows it inside its training alone


def arithmetic(device: torch.device, execution: Execution) -> dict[str, str]:
    """Return the settings that a run's last bits depend on, without torch's version, device name and thread count.

    On a CPU, the instructions that torch chose; on a GPU, the versions of its libraries and the execution settings.
    """
    found = {"cpu_capability": torch.backends.cpu.get_cpu_capability()}
    if device.type == "cuda":
        found |= {
            "cuda": str(torch.version.cuda),
            "cudnn": str(torch.backends.cudnn.version()),  # type: ignore[no-untyped-call]
            "cuda_graph": str(execution.cuda_graph).lower(),
            "deterministic": str(execution.deterministic).lower(),
        }
    return found


def count_gpus_without_cuda() -> None:
    """Let this process, which forks others, count GPUs by NVML alone.

    `torch.cuda.is_available` asks CUDA, and torch then refuses CUDA to every process that is forked from this one.
    """
    os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"
    if hasattr(torch._C, "_cuda_getDeviceCount"):
        torch._C._cuda_getDeviceCount = _no_gpus  # asked where there is no NVML


def count_gpus_by_cuda() -> None:
    """Let a forked process count GPUs as every other process does."""
    if hasattr(torch._C, "_cuda_getDeviceCount"):
        torch._C._cuda_getDeviceCount = _counted_by_cuda


def _no_gpus() -> int:
    return 0


_counted_by_cuda = getattr(torch._C, "_cuda_getDeviceCount", _no_gpus)


def device_name(device: torch.device) -> str:
    """Return `cpu`, or the name of the GPU."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def warm_up() -> None:
    """Take one optimiser step on a dummy tensor: a process's first step imports torch._dynamo, which takes seconds.

    Otherwise the first run's record would include them, and its seconds are compared with those of retraining.
    """
    parameter = nn.Parameter(torch.zeros(1))
    parameter.grad = torch.zeros(1)
    torch.optim.SGD([parameter], lr=0.0).step()
