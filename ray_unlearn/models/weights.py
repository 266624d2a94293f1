"""Weights: reading files that people bring, and the bytes of a checkpoint.

    load_weights(model, parse_weights(read_file("a.pth"), "a.pth"), where="a.pth")
    data = checkpoint_bytes(model, "fp32")       # safetensors; no pickle is ever written

Does not cover: architectures (`architectures`), the places of checkpoints (`ray_unlearn.store`).
"""

from __future__ import annotations

import io
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
import torch
from pyarrow import fs
from torch import nn

from ray_unlearn.data.files import open_filesystem
from ray_unlearn.data.reading import memory_limit
from ray_unlearn.errors import ModelError, did_you_mean
from ray_unlearn.store.disk import check_regular_file
from ray_unlearn.study.schema import Dtype
from ray_unlearn.study.uris import error_line, label, without_keys

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_WRAPPERS = ("state_dict", "model_state_dict", "model", "net")  # keys under which files hold a state dict


def read_file(path: str) -> bytes:
    """Return a weights file's bytes, local or on any pyarrow file system.

    Raises:
        ModelError: the file cannot be read.

    """
    try:
        filesystem, inside = open_filesystem(path)
        if isinstance(filesystem, fs.LocalFileSystem):
            check_regular_file(Path(inside))
        size_bytes, most = filesystem.get_file_info(inside).size or 0, memory_limit()
        if size_bytes > most:
            raise OSError(f"it has {size_bytes:,} bytes, and there are {most:,} of memory")
        with filesystem.open_input_stream(inside) as stream:
            return bytes(stream.read())
    except FileNotFoundError:
        raise ModelError(f"{label(path)}: no such file; expected weights, .safetensors or .pth") from None
    except OSError as error:
        raise ModelError(
            f"{label(path)}: cannot be read ({error_line(error, path)}); expected .safetensors or .pth"
        ) from error


def parse_weights(data: bytes, where: str) -> dict[str, torch.Tensor]:
    """Return a state dict from safetensors, or from a .pth read with `weights_only=True` alone.

    Raises:
        ModelError: the bytes are neither format, or hold more than tensors.

    """
    where = label(where)
    try:
        if where.endswith(".safetensors"):
            return safetensors.torch.load(data)
        _check_size(data)
        with warnings.catch_warnings(action="ignore"):  # about the pickle protocol; every real problem is an error
            loaded = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # torch's reader raises a dozen kinds on damaged bytes
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ModelError(f"{where}: not weights that can be read safely ({without_keys(reason)[:160]})") from error
    for wrapper in _WRAPPERS:
        if isinstance(loaded, dict) and isinstance(loaded.get(wrapper), dict):
            loaded = loaded[wrapper]
    if not isinstance(loaded, dict) or not all(isinstance(value, torch.Tensor) for value in loaded.values()):
        raise ModelError(f"{where}: expected a dictionary of tensors; found {type(loaded).__name__}")
    wrapped = all(str(key).startswith("module.") for key in loaded)  # saved from DataParallel
    return {str(key).removeprefix("module.") if wrapped else str(key): value for key, value in loaded.items()}


def _check_size(data: bytes) -> None:
    """Refuse an archive that unpacks to more bytes than it has: torch stores tensors without compression."""
    if zipfile.is_zipfile(io.BytesIO(data)):
        unpacked = sum(member.file_size for member in zipfile.ZipFile(io.BytesIO(data)).infolist())
        if unpacked > len(data):
            raise ModelError(f"a compressed archive: {len(data):,} bytes would unpack to {unpacked:,}")


def _check_plain(name: str, tensor: torch.Tensor, where: str) -> None:
    """Refuse a tensor that is complex, quantised, sparse or without data."""
    plain = tensor.layout == torch.strided and not (tensor.is_meta or tensor.is_quantized or tensor.is_complex())
    if not plain:
        kind = f"{tensor.dtype}, {tensor.layout}, on {tensor.device}".replace("torch.", "")
        raise ModelError(f"{where}: tensor {name!r}: expected plain numbers; found {kind}")


def load_weights(model: nn.Module, weights: Mapping[str, torch.Tensor], where: str) -> None:
    """Copy weights into a model, strictly: same names, same shapes. Buffers of counts keep their integer type.

    Raises:
        ModelError: a tensor is missing, surplus, of another shape, or not of plain numbers; the message names it.

    """
    own, where = model.state_dict(), label(where)
    for name, tensor in own.items():
        if name not in weights:
            hint = did_you_mean(name, weights)
            raise ModelError(f"{where}: no tensor {name!r}, which the model has{hint}; is model.arch the right one?")
        if weights[name].shape != tensor.shape:
            expected, found = list(tensor.shape), list(weights[name].shape)
            raise ModelError(f"{where}: tensor {name!r}: the model expects {expected}; the file has {found}")
        _check_plain(name, weights[name], where)
    surplus = sorted(set(weights) - set(own))
    if surplus:
        raise ModelError(
            f"{where}: tensor {surplus[0]!r} is not in the model ({len(surplus)} such); is model.arch the right one?"
        )
    model.load_state_dict(dict(weights))


@torch.no_grad()
def round_parameters(model: nn.Module, dtype: Dtype) -> None:
    """Round parameters in place to values that a checkpoint in `dtype` can hold; they stay float32."""
    if dtype != "fp32":
        for parameter in model.parameters():
            parameter.copy_(parameter.to(DTYPES[dtype]))


def checkpoint_bytes(model: nn.Module, dtype: Dtype) -> bytes:
    """Return the model's state as safetensors: parameters in `dtype`, buffers (running statistics) in their own."""
    parameters = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    state = {
        name: tensor.detach().to("cpu", DTYPES[dtype] if name in parameters else tensor.dtype).contiguous()
        for name, tensor in model.state_dict().items()
    }
    return safetensors.torch.save(_unshared(state))


def _unshared(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the state with tied tensors copied: safetensors refuses two names for the same memory."""
    seen: set[int] = set()
    for name, tensor in state.items():
        if tensor.data_ptr() in seen:
            state[name] = tensor.clone()
        seen.add(tensor.data_ptr())
    return state
