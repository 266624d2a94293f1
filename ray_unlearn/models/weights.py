"""Weights: reading files that people bring, and the bytes of a checkpoint.

    file = open_weights("a.pth")                 # also a list of shards, model.safetensors.index.json
    file.sha256                                  # of its content, not of its name
    loaded = load_weights(model, file.tree(), where="a.pth")
    data = checkpoint_bytes(model, "fp32")       # safetensors; no pickle is ever written

Does not cover: formats (`weight_files`), names of tensors (`state_dicts`), architectures (`architectures`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from pyarrow import fs
from torch import nn

from ray_unlearn.data.files import open_filesystem
from ray_unlearn.data.reading import memory_limit
from ray_unlearn.errors import DataError, ModelError
from ray_unlearn.models.state_dicts import Fitted, fitted
from ray_unlearn.models.weight_files import parse_weights
from ray_unlearn.store.disk import check_regular_file
from ray_unlearn.study.schema import Dtype
from ray_unlearn.study.uris import error_line, label

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_INDEX = ".index.json"


@dataclass(frozen=True, slots=True)
class WeightsFile:
    """A weights file's bytes, or those of its shards."""

    path: str
    parts: Mapping[str, bytes]
    """Path of each file -> its bytes; the list of shards is not among them."""

    @property
    def sha256(self) -> str:
        """sha256 of the file; of shards, sha256 over those of all, sorted."""
        each = sorted(hashlib.sha256(data).hexdigest() for data in self.parts.values())
        return each[0] if len(each) == 1 else hashlib.sha256("".join(each).encode()).hexdigest()

    def tree(self) -> dict[str, Any]:
        """Return the dictionary that the file holds.

        Raises:
            ModelError: it is of another format, or holds more than plain values.

        """
        return {key: value for path, data in self.parts.items() for key, value in parse_weights(data, path).items()}


def open_weights(path: str) -> WeightsFile:
    """Read a weights file, or all shards that a list of shards names.

    Raises:
        ModelError: a file cannot be read, or the list of shards is none.

    """
    data = read_file(path)
    if not path.endswith(_INDEX):
        return WeightsFile(path, {path: data})
    folder = path[: len(path) - len(path.replace("\\", "/").rpartition("/")[2])]
    return WeightsFile(path, {folder + name: read_file(folder + name) for name in _shards(data, label(path))})


def _shards(data: bytes, where: str) -> list[str]:
    """Return the names of the files in a list of shards; they are beside it."""
    try:
        names = sorted({*json.loads(data)["weight_map"].values()})
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ModelError(f"{where}: expected a list of shards, JSON with weight_map") from None
    for name in names:
        if not isinstance(name, str) or not name or "/" in name or "\\" in name:
            raise ModelError(f"{where}: expected shards beside the list; found {name!r}")
    return names


def read_file(path: str) -> bytes:
    """Return a weights file's bytes, local or on any pyarrow file system.

    Raises:
        ModelError: the file cannot be read.

    """
    if path.startswith(("http://", "https://")):
        raise ModelError(f"{label(path)}: weights are not downloaded; download the file, and name it here")
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
    except DataError:
        raise
    except Exception as error:  # hf:// and other file systems in Python raise any error of their clients
        raise ModelError(
            f"{label(path)}: cannot be read ({error_line(error, path)}); expected .safetensors or .pth"
        ) from error


def load_weights(
    model: nn.Module,
    tree: Mapping[str, Any],
    where: str,
    key: str | None = None,
    num_classes: int | None = None,
    but: Collection[str] = (),
) -> Fitted:
    """Copy weights into a model: every tensor by name and shape (`state_dicts` says which names are the same).

    Args:
        model: changed in place; its dtypes stay.
        tree: what the file holds.
        where: the file, for messages.
        key: key of the state dict in the file; None for the usual one.
        num_classes: the model's, for the message about a head of another size.
        but: names of tensors that keep the model's values, whether the file has them or not.

    Returns:
        The tensors, and lines about what was done.

    Raises:
        ModelError: a tensor is missing, surplus, of another shape, or not of plain numbers; the message names it.

    """
    own, where = model.state_dict(), label(where)
    found = fitted(tree, model, where, key, but)
    found = replace(found, state={**found.state, **{name: own[name] for name in but}})
    _check_shapes(own, found.state, where, num_classes)
    for name, tensor in found.state.items():
        _check_plain(name, tensor, where)
    for name, tensor in own.items():
        if tensor.is_floating_point():
            _check_values(name, found.state[name], tensor, where)
    model.load_state_dict(dict(found.state))
    return Fitted(
        state=found.state,
        notes=tuple(f"{where}: {note}" for note in (*found.notes, *_casts(own, found.state))),
        normalisation=found.normalisation,
        named=found.named,
    )


def _check_shapes(
    own: Mapping[str, torch.Tensor], state: Mapping[str, torch.Tensor], where: str, num_classes: int | None
) -> None:
    """Check that all tensors have the model's shapes; a head of another number of classes is named as such."""
    others = [name for name in own if state[name].shape != own[name].shape]
    if not others:
        return
    name = others[0]
    expected, found = list(own[name].shape), list(state[name].shape)
    more = f" ({len(others)} tensors differ)" if len(others) > 1 else ""
    message = f"{where}: tensor {name!r}: the model expects {expected}; the file has {found}{more}"
    if _is_head(own, state, others, num_classes):
        message += (
            f": the file's net has {found[0]} classes, and the study {expected[0]}; import weights of a net with "
            f"{expected[0]} classes, or set data.classes: {found[0]} if the study's classes are among them"
        )
    raise ModelError(message)


def _is_head(
    own: Mapping[str, torch.Tensor], state: Mapping[str, torch.Tensor], others: list[str], num_classes: int | None
) -> bool:
    """Return whether tensors that differ do so by the number of classes alone."""
    return len(others) <= 4 and all(
        own[name].dim() == state[name].dim() >= 1
        and own[name].shape[1:] == state[name].shape[1:]
        and own[name].shape[0] == (num_classes or own[others[0]].shape[0])
        and state[name].shape[0] == state[others[0]].shape[0]
        for name in others
    )


def _check_plain(name: str, tensor: torch.Tensor, where: str) -> None:
    """Refuse a tensor that is complex, quantised, sparse or without data, and a variance below 0."""
    plain = tensor.layout == torch.strided and not (tensor.is_meta or tensor.is_quantized or tensor.is_complex())
    if not plain:
        kind = f"{tensor.dtype}, {tensor.layout}, on {tensor.device}".replace("torch.", "")
        dense = "; tensor.to_dense() makes it one" if tensor.layout != torch.strided else ""
        raise ModelError(f"{where}: tensor {name!r}: expected plain numbers; found {kind}{dense}")
    if name.endswith("running_var") and (tensor < 0).any():
        raise ModelError(f"{where}: tensor {name!r} has values below 0, which no variance is: the file is damaged")


def _check_values(name: str, tensor: torch.Tensor, own: torch.Tensor, where: str) -> None:
    """Refuse whole numbers for fractions, NaN, and what is infinite as the model's type."""
    if not tensor.is_floating_point():
        kind = str(tensor.dtype).removeprefix("torch.")
        raise ModelError(
            f"{where}: tensor {name!r}: expected fractions; found {kind}, as in a net that was quantised: name the "
            "weights that it was made from"
        )
    if not torch.isfinite(tensor.to(own.dtype)).all():
        raise ModelError(f"{where}: tensor {name!r} holds NaN or infinity")


def _casts(own: Mapping[str, torch.Tensor], state: Mapping[str, torch.Tensor]) -> list[str]:
    """Return a line for each type of numbers that is not the model's."""
    pairs = [(state[name].dtype, own[name].dtype) for name in own if state[name].dtype != own[name].dtype]
    return [
        f"{pairs.count((found, ours))} tensors are {str(found)[6:]}, cast to {str(ours)[6:]}"
        for found, ours in dict.fromkeys(pairs)
    ]


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
