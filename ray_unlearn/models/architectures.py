"""Architectures by name, and reading and writing their weights.

    model = build(study.model, num_classes=9, seeds=Seeds(study=0))
    load_weights(model, parse_weights(read_file("a.pth"), "a.pth"), where="a.pth")
    data = checkpoint_bytes(model, "fp32")       # safetensors; no pickle is ever written

Names: every torchvision classification model, `small_cnn` (built in), or `package.module:factory`, a callable
`factory(num_classes=..., **options)` that returns a module (`ray_unlearn.usercode.imports` finds it).

Does not cover: training (`ray_unlearn.training`), the places of checkpoints (`ray_unlearn.store`).
"""

from __future__ import annotations

import importlib
import io
import sys
import warnings
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from pyarrow import fs
from torch import nn

from ray_unlearn.data.files import open_filesystem
from ray_unlearn.data.reading import memory_limit
from ray_unlearn.errors import ModelError, did_you_mean
from ray_unlearn.seeds import Seeds
from ray_unlearn.store.disk import check_regular_file
from ray_unlearn.study.identity import canonical, diff, identity_of
from ray_unlearn.study.schema import Dtype, Model
from ray_unlearn.study.uris import error_line, label, labelled, without_keys
from ray_unlearn.training.fast.small_maps import trim
from ray_unlearn.usercode.imports import factory_identity, find_factory, forget
from ray_unlearn.usercode.offline import offline

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_WRAPPERS = ("state_dict", "model_state_dict", "model", "net")  # keys under which files hold a state dict


def small_cnn(num_classes: int, width: int = 16) -> nn.Module:
    """Return a three-stage convolutional net for images from 8x8: about 24k parameters at width 16."""

    def stage(inputs: int, outputs: int) -> list[nn.Module]:
        conv = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        return [conv, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True), nn.MaxPool2d(2)]

    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4 * width, num_classes)]
    return nn.Sequential(*stage(3, width), *stage(width, 2 * width), *stage(2 * width, 4 * width), *head)


BUILT_IN: Mapping[str, Callable[..., nn.Module]] = {"small_cnn": small_cnn}


def build(spec: Model, num_classes: int, seeds: Seeds) -> nn.Module:
    """Build a freshly initialised model on the CPU, its weights drawn from `seeds`.

    Raises:
        ModelError: there is no such architecture, or it does not accept its options.

    """
    factory = _factory(spec)
    with seeds.global_state("init"):
        try:
            with offline(f"model {spec.arch}:"):
                model = factory(num_classes=num_classes, **spec.options)
        except ModelError:
            raise
        except Exception as error:  # a factory may raise anything
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise ModelError(f"model {spec.arch}: does not take options {labelled(spec.options)}: {reason}") from error
    if not isinstance(model, nn.Module):
        raise ModelError(f"model {spec.arch}: expected a torch module; found {type(model).__name__}")
    return trim(model) if spec.trim_dead_taps else model


@torch.no_grad()
def try_on(model: nn.Module, image_size: int, num_classes: int) -> None:
    """Pass two blank images through a model, so that an unsuitable model is refused before any work.

    Raises:
        ModelError: the model fails on images of this size, or does not return one logit per class.

    """
    try:
        shape = list(model.eval()(torch.zeros(2, 3, image_size, image_size)).shape)
    except Exception as error:  # a module may raise anything
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ModelError(f"model: fails on images of {image_size}x{image_size} pixels: {reason}") from error
    if shape != [2, num_classes]:
        raise ModelError(f"model: expected {num_classes} logits per image, [2, {num_classes}] for two; found {shape}")


def identity(spec: Model) -> dict[str, Any]:
    """Return the identity of an architecture: its name and options, and the sha256 of a factory's source.

    Raises:
        ModelError: there is no such architecture.

    """
    forget()  # a file in the study's folder may have changed since this process imported it
    _factory(spec)
    found = identity_of(spec) | {"options": spec.options}  # unchanged: a plain form may hide NaN
    try:
        canonical(found)
    except (TypeError, ValueError) as error:
        raise ModelError(f"model.options: {spec.options}: expected plain finite values ({error})") from error
    return found | (factory_identity(spec.arch, spec.folder) if ":" in spec.arch else {})


def check_source(spec: Model, planned: Mapping[str, Any]) -> None:
    """Check that this machine imports a factory from the same source as the plan.

    Raises:
        ModelError: the source was edited since, or another module of its name comes first on this machine.

    """
    if ":" in spec.arch and (found := identity(spec)) != dict(planned):
        where = getattr(sys.modules[spec.arch.partition(":")[0]], "__file__", "")
        what = ", ".join(diff(dict(planned), found))
        raise ModelError(
            f"model.arch: {where} changed since the study was planned ({what}); restore it, or "
            "generate under another study name"
        )


def _factory(spec: Model) -> Callable[..., Any]:
    arch = spec.arch
    if ":" in arch:
        return find_factory(arch, spec.folder)
    if arch in BUILT_IN:
        return BUILT_IN[arch]
    from torchvision.models import get_model_builder, list_models

    names = list_models(module=importlib.import_module("torchvision.models"))
    if arch not in names:
        valid = [*BUILT_IN, *names]
        raise ModelError(f"model.arch: {arch!r} is neither built in nor torchvision's{did_you_mean(arch, valid)}")
    builder: Callable[..., Any] = get_model_builder(arch)
    return lambda **options: builder(weights=None, **options)


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
