"""Nets of libraries by name, and their pretrained weights.

    factory = library_factory("timm:resnet10t")          # called as factory(num_classes, **options)
    library_weights("resnet18", {})                      # torchvision's; needs a network where they are not cached

`NAME` is torchvision's, `timm:NAME` timm's. `hf:NAME` is a type of net of Transformers (`hf:vit`), made from its
configuration with model.options, or a repository (`hf:google/vit-base-patch16-224`), whose configuration and weights
are read from huggingface_hub's cache, or downloaded. No code of a repository is executed, and no pickle of one is read.

Does not cover: putting weights into a net (`pretrained`), functions of a user's module (`usercode.imports`).
"""

from __future__ import annotations

import hashlib
import importlib
import socket
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import urlsplit

import torch

from ray_unlearn.errors import ModelError, did_you_mean, first_line
from ray_unlearn.study.model import Model

_PACKAGE = {"timm": "timm", "hf": "transformers"}
_OWN = {
    "timm": ("pretrained", "checkpoint_path", "pretrained_cfg", "pretrained_cfg_overlay", "cache_dir", "scriptable"),
    "hf": ("trust_remote_code", "code_revision", "num_labels", "cache_dir", "token", "torch_dtype", "dtype"),
}
"""Options of the libraries that fetch, run or replace what the study states elsewhere."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LibraryWeights:
    """Pretrained weights of a library."""

    name: str
    """The library's name for them."""
    state: Mapping[str, torch.Tensor]
    normalisation: tuple[tuple[float, ...], tuple[float, ...]] | None = None
    """Mean and standard deviation, of pixels in 0..1, that images were scaled by; None where it is not stated."""


def library_of(spec: Model) -> str:
    """Return the library that a name is of: timm, hf, or torchvision for a name alone; empty for a factory.

    A module `timm` or `hf` in the study's folder, and a function of the package timm, are factories.
    """
    prefix, colon, name = spec.arch.partition(":")
    if not colon:
        return "torchvision"
    own = bool(spec.folder) and any((Path(spec.folder) / place).exists() for place in (f"{prefix}.py", prefix))
    return prefix if prefix in _PACKAGE and not own and f"{prefix}:{name}" != "timm:create_model" else ""


def package_of(spec: Model) -> str:
    """Return the installed package that makes the net, apart from torchvision; empty for none."""
    return _PACKAGE.get(library_of(spec), "")


def library_factory(arch: str, options: Mapping[str, Any]) -> Callable[..., Any]:
    """Return the function that makes a net of a library without pretrained weights.

    Raises:
        ModelError: the library is not installed, has no such net, or an option is not the study's to set.

    """
    library, name = _split(arch)
    if refused := [key for key in options if key in _OWN.get(library, ())]:
        raise ModelError(
            f"model.options.{refused[0]}: not an option of a study; weights are named by model.pretrained, and the "
            "number of classes comes from the data"
        )
    return {"": _torchvision, "timm": _timm, "hf": _hf}[library](name)


def library_weights(arch: str, options: Mapping[str, Any]) -> LibraryWeights:
    """Return a library's pretrained weights for a net, from its cache, or else downloaded.

    Raises:
        ModelError: there are none, or they are neither in the cache nor to be downloaded.

    """
    library, name = _split(arch)
    with _fetching("model.pretrained", f"the weights of {arch}"):
        return {"": _torchvision_weights, "timm": _timm_weights, "hf": _hf_weights}[library](name, options)


def _split(arch: str) -> tuple[str, str]:
    """Return the prefix, empty for torchvision's, and the name."""
    prefix, colon, name = arch.partition(":")
    return (prefix, name) if colon else ("", arch)


@contextmanager
def _fetching(key: str, what: str) -> Iterator[None]:
    """Make one line of any error of a library that reads or downloads something."""
    try:
        yield
    except ModelError:
        raise
    except Exception as error:  # clients of hubs raise any error
        reason = first_line(error)
        raise ModelError(
            f"{key}: {what} are not in the library's cache on this machine, and cannot be downloaded: "
            f"{type(error).__name__}: {reason[:200]}; run this once with a network, or name a file: "
            "model.pretrained: FILE"
        ) from error


def _from_hub(repository: str, file: str) -> Path:
    """Return a file of a repository in huggingface_hub's cache, downloaded where it is missing."""
    hub = _imported("huggingface_hub", "hf")
    found = hub.try_to_load_from_cache(repository, file)
    if isinstance(found, str):
        return Path(found)
    host = urlsplit(hub.constants.ENDPOINT).hostname
    if not urllib.request.getproxies():  # the hub's own client would try again for half a minute
        with socket.create_connection((host, 443), timeout=10):
            pass
    return Path(hub.hf_hub_download(repository, file))


def sha256_of_state(state: Mapping[str, torch.Tensor]) -> str:
    """Return a sha256 over names, types, shapes and values of tensors."""
    found = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        found.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        found.update(tensor.reshape(-1).view(torch.uint8).numpy().data if tensor.numel() else b"")
    return found.hexdigest()


def library_identity(spec: Model) -> dict[str, str]:
    """Return what a library's name alone does not say: the sha256 of a repository's configuration."""
    name = spec.arch.partition(":")[2]
    if library_of(spec) != "hf" or "/" not in name:
        return {}
    return {"config_sha256": hashlib.sha256(Path(_cached_folder(name), "config.json").read_bytes()).hexdigest()}


def _imported(package: str, extra: str) -> ModuleType:
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise ModelError(
            f"model.arch: {extra}:NAME needs the package {package} ({error}): pip install 'ray-unlearn[{extra}]' on "
            "every node"
        ) from error


# torchvision


def _torchvision(name: str) -> Callable[..., Any]:
    from torchvision.models import get_model_builder

    builder: Callable[..., Any] = get_model_builder(name)
    return lambda **options: builder(weights=None, **options)


def torchvision_names() -> list[str]:
    """Return the names of torchvision's classifiers."""
    from torchvision.models import list_models

    return list(list_models(module=importlib.import_module("torchvision.models")))


def _torchvision_weights(name: str, options: Mapping[str, Any]) -> LibraryWeights:
    from torchvision.models import get_model_weights

    if name not in torchvision_names():
        raise ModelError(f"model.pretrained: {name} has no pretrained weights; name a file: model.pretrained: FILE")
    weights = get_model_weights(name).DEFAULT
    state = weights.get_state_dict(progress=False, check_hash=True, weights_only=True)
    scaling = weights.transforms()
    return LibraryWeights(name=str(weights), state=state, normalisation=(tuple(scaling.mean), tuple(scaling.std)))


# timm


def _timm(name: str) -> Callable[..., Any]:
    timm = _imported("timm", "timm")
    if not timm.is_model(name):
        raise ModelError(f"model.arch: timm has no model {name!r}{did_you_mean(name, timm.list_models())}")

    def make(num_classes: int, **options: Any) -> Any:
        return timm.create_model(name, pretrained=False, num_classes=num_classes, **options)

    return make


def _timm_weights(name: str, options: Mapping[str, Any]) -> LibraryWeights:
    timm = _imported("timm", "timm")
    if not timm.is_model_pretrained(name):
        with_weights = timm.list_models(pretrained=True)
        raise ModelError(f"model.pretrained: timm has no weights for {name!r}{did_you_mean(name, with_weights)}")
    about = timm.get_pretrained_cfg(name).to_dict()
    if not about.get("hf_hub_id"):
        raise ModelError(
            f"model.pretrained: the weights of timm:{name} are in no repository of the hub, and no pickle of another "
            "place is read; name a file: model.pretrained: FILE"
        )
    file = _from_hub(about["hf_hub_id"], "model.safetensors")
    net = timm.create_model(name, pretrained=True, pretrained_cfg_overlay={"file": str(file)}, **options)
    tag = f".{about['tag']}" if about.get("tag") else ""
    scales = (tuple(about["mean"]), tuple(about["std"])) if about.get("mean") and about.get("std") else None
    return LibraryWeights(name=f"timm {about['architecture']}{tag}", state=net.state_dict(), normalisation=scales)


# Transformers


def _hf(name: str) -> Callable[..., Any]:
    transformers = _imported("transformers", "hf")
    types = _types(transformers)
    if "/" not in name and name not in types:
        raise ModelError(
            f"model.arch: Transformers has no image classifier of type {name!r}{did_you_mean(name, types)}; expected a "
            "type of net, such as hf:vit, or a repository, such as hf:google/vit-base-patch16-224"
        )

    folder = _cached_folder(name) if "/" in name else ""

    def make(num_labels: int, **options: Any) -> Any:
        config = _config(transformers, name, folder, options, num_labels=num_labels)
        return transformers.AutoModelForImageClassification.from_config(config)

    return make


def _types(transformers: ModuleType) -> list[str]:
    mapping = transformers.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING
    return sorted({config.model_type for config in mapping})


def _cached_folder(name: str) -> str:
    """Return the folder of a repository in the hub's cache, with its configuration."""
    with _fetching("model.arch", f"the files of hf:{name}"):
        return str(_from_hub(name, "config.json").parent)


def _config(transformers: ModuleType, name: str, folder: str, options: Mapping[str, Any], **more: Any) -> Any:
    made = transformers.AutoConfig.from_pretrained if folder else transformers.AutoConfig.for_model
    known = made(folder or name)
    if unknown := [key for key in options if not hasattr(known, key)]:  # it would be kept, and read by nothing
        raise ModelError(
            f"model.options.{unknown[0]}: not in the configuration of hf:{name}{did_you_mean(unknown[0], vars(known))}"
        )
    return made(folder or name, **options, **more)


def _hf_weights(name: str, options: Mapping[str, Any]) -> LibraryWeights:
    if "/" not in name:
        raise ModelError(
            f"model.pretrained: hf:{name} is a type of net, which has no weights; name a repository, such as "
            "hf:google/vit-base-patch16-224, or a file: model.pretrained: FILE"
        )
    transformers, folder = _imported("transformers", "hf"), _cached_folder(name)
    _from_hub(name, "model.safetensors")
    net = transformers.AutoModelForImageClassification.from_pretrained(
        folder, config=_config(transformers, name, folder, options), use_safetensors=True
    )
    return LibraryWeights(name=f"hf {name}@{Path(folder).name[:12]}", state=net.state_dict())
