"""Architectures by name.

    model = build(study.model, num_classes=9, seeds=Seeds(study=0))

Names: every torchvision classification model, `small_cnn` and `resnet9` (built in), `timm:NAME` and `hf:NAME`
(`libraries`), or `package.module:factory`, a callable `factory(num_classes=..., **options)` that returns a module
(`usercode.imports` finds it, `calling` calls it).

Does not cover: whether a net can be trained (`trial`), weights (`weights`).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from ray_unlearn.errors import ModelError, did_you_mean
from ray_unlearn.models.adapted import as_grey, freeze, with_cifar_stem
from ray_unlearn.models.calling import call
from ray_unlearn.models.libraries import library_factory, library_identity, library_of, torchvision_names
from ray_unlearn.models.logits import materialise, plain_logits, returns_more
from ray_unlearn.models.pretrained import pretrained_of, put
from ray_unlearn.models.resnet9 import resnet9
from ray_unlearn.models.state_dicts import Fitted
from ray_unlearn.models.trial import check_kind
from ray_unlearn.seeds import Seeds
from ray_unlearn.study.identity import canonical, diff, identity_of
from ray_unlearn.study.model import Model
from ray_unlearn.training.fast.small_maps import trim
from ray_unlearn.usercode.imports import factory_identity, find_factory, forget

_WITH_HEADS = ("googlenet", "inception_v3")
"""Torchvision's architectures that return more than logits in training."""
_tried: dict[tuple[int, str, int, int], tuple[Callable[..., Any], bool]] = {}
"""Factories that this process tried, by id, options, classes and pixels: itself, and whether it returns more."""
_heads: dict[tuple[int, str, str, int], tuple[Callable[..., Any], list[str]]] = {}
"""Factories, by id (0 for a library's), architecture, options and classes: itself, and the names of the tensors of
heads. A user's file that changed is imported anew, as another function."""


def small_cnn(num_classes: int, width: int = 16) -> nn.Module:
    """Return a three-stage convolutional net for images from 8x8: about 24k parameters at width 16."""

    def stage(inputs: int, outputs: int) -> list[nn.Module]:
        conv = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        return [conv, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True), nn.MaxPool2d(2)]

    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4 * width, num_classes)]
    return nn.Sequential(*stage(3, width), *stage(width, 2 * width), *stage(2 * width, 4 * width), *head)


BUILT_IN: Mapping[str, Callable[..., nn.Module]] = {"small_cnn": small_cnn, "resnet9": resnet9}


def build(spec: Model, num_classes: int, seeds: Seeds, image_size: int | None = None) -> nn.Module:
    """Build a freshly initialised model on the CPU, its weights drawn from `seeds`.

    Args:
        spec: the architecture and its options.
        num_classes: number of logits.
        seeds: the run's streams.
        image_size: pixels per side, which lazy modules need, and with which a factory's net that returns more than
            logits is found; None leaves both out.

    Raises:
        ModelError: there is no such architecture, or it does not accept its options.

    """
    factory = _factory(spec)
    model = _made(spec, factory, num_classes, seeds, image_size)
    if (weights := pretrained_of(spec)) is not None:
        put(model, weights, _head_of(model, spec, factory, num_classes, image_size))
    if spec.grey:
        as_grey(model, spec.arch)
    freeze(model, spec.freeze)
    if _needs_adapter(spec, factory, num_classes, image_size, model):
        model.register_forward_hook(plain_logits)
    return trim(model) if spec.trim_dead_taps else model


def started_from(spec: Model, num_classes: int, image_size: int) -> Fitted | None:
    """Return what is read from a net's pretrained weights, and how; None where it starts from random ones.

    Raises:
        ModelError: they do not fit.

    """
    if (weights := pretrained_of(spec)) is None:
        return None
    factory = _factory(spec)
    model = _made(spec, factory, num_classes, Seeds(study=0), image_size)
    return put(model, weights, _head_of(model, spec, factory, num_classes, image_size))


def _made(
    spec: Model, factory: Callable[..., Any], num_classes: int, seeds: Seeds, image_size: int | None
) -> nn.Module:
    """Return a net with random weights, and with the study's stem."""
    with seeds.global_state("init"):
        model = call(spec.arch, factory, num_classes, spec.options, spec.folder)
        check_kind(model, spec.arch)
        materialise(model, image_size, spec.arch)
        if spec.stem == "cifar":
            with_cifar_stem(model, spec.arch)
    return model  # type: ignore[no-any-return]


def _head_of(
    model: nn.Module, spec: Model, factory: Callable[..., Any], num_classes: int, image_size: int | None
) -> list[str]:
    """Return the names of the tensors whose shape depends on the number of classes; none where it is fixed."""
    key = 0 if library_of(spec) else id(factory), spec.arch, repr(spec.options), num_classes
    if key not in _heads:
        other, own = _made(spec, factory, num_classes + 1, Seeds(study=0), image_size).state_dict(), model.state_dict()
        _heads[key] = factory, [name for name in own if name in other and other[name].shape != own[name].shape]
    return _heads[key][1]


def _needs_adapter(
    spec: Model, factory: Callable[..., Any], num_classes: int, image_size: int | None, model: nn.Module
) -> bool:
    """Return whether the net returns more than logits; a user's factory is tried once per process.

    Raises:
        ModelError: the factory makes one net and returns it again, so that a run would start from another's weights.

    """
    if library := library_of(spec):
        return library == "hf" or spec.arch in _WITH_HEADS
    if image_size is None:
        return False
    key = id(factory), repr(spec.options), num_classes, image_size
    if key not in _tried:
        with Seeds(study=0).global_state("init"):
            net = call(spec.arch, factory, num_classes, spec.options, spec.folder)
            if net is model:
                raise ModelError(
                    f"model {spec.arch}: the factory returns the same net every time; expected a new one at each call, "
                    "since every run starts from weights of its own"
                )
            more = isinstance(net, nn.Module) and returns_more(net, image_size)
        _tried[key] = factory, more
    return _tried[key][1]


def identity(spec: Model) -> dict[str, Any]:
    """Return the identity of an architecture: name, options, and sha256 of a factory's source and of weights.

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
    if (weights := pretrained_of(spec)) is not None:
        found["pretrained"] = dict(weights.identity)
    return found | (library_identity(spec) if library_of(spec) else factory_identity(spec.arch, spec.folder))


def check_source(spec: Model, planned: Mapping[str, Any]) -> None:
    """Check that this machine imports a factory from the same source as the plan.

    Raises:
        ModelError: the source was edited since, or another module of its name comes first on this machine.

    """
    if library_of(spec) == "torchvision" and spec.pretrained is False:
        return
    if (found := identity(spec)) != dict(planned):
        module = sys.modules.get(spec.arch.partition(":")[0])
        where = getattr(module, "__file__", "") if not library_of(spec) else spec.pretrained or spec.arch
        what = ", ".join(diff(dict(planned), found))
        raise ModelError(
            f"model.arch: {where} changed since the study was planned ({what}); restore it, or "
            "generate under another study name"
        )


def _factory(spec: Model) -> Callable[..., Any]:
    arch = spec.arch
    if not (library := library_of(spec)):
        return find_factory(arch, spec.folder)
    if arch in BUILT_IN:
        return BUILT_IN[arch]
    if library == "torchvision" and arch not in (names := torchvision_names()):
        valid = [*BUILT_IN, *names]
        raise ModelError(f"model.arch: {arch!r} is neither built in nor torchvision's{did_you_mean(arch, valid)}")
    return library_factory(arch, spec.options)
