"""Pretrained weights for a fresh net, all but its head: `model.pretrained`.

    found = pretrained_of(spec)                  # a library's weights, or a file's; read once per process
    put(model, found, head)                      # the head keeps its first values, which come from the run's seed
    found.identity                               # {"sha256": ...}: no path of a machine

The head is the tensors whose shape depends on the number of classes (`architectures` finds them). It is always new,
also where the file's has as many classes: they may be others. A net without such a tensor is noted.

Does not cover: weights of a population (`methods.weights`), which replace all of a net.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from ray_unlearn.errors import ModelError
from ray_unlearn.models.libraries import library_of, library_weights, sha256_of_state
from ray_unlearn.models.state_dicts import Fitted
from ray_unlearn.models.weights import load_weights, open_weights
from ray_unlearn.study.model import Model
from ray_unlearn.study.uris import label

_NO_HEAD = (
    "model.pretrained: no tensor of the net depends on the number of classes, so its head starts from the pretrained "
    "weights, too, in retrained models as well; let the factory take num_classes"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Pretrained:
    """Weights to start from."""

    where: str
    """The file, or the library's name, for messages."""
    tree: Mapping[str, Any]
    identity: Mapping[str, str]
    normalisation: tuple[tuple[float, ...], tuple[float, ...]] | None = None


def pretrained_of(spec: Model) -> Pretrained | None:
    """Return the weights that a net starts from; None where it starts from random ones.

    Raises:
        ModelError: they cannot be read, or the library has none.

    """
    if spec.pretrained is False:
        return None
    if isinstance(spec.pretrained, str):
        return _of_file(spec.pretrained)
    if not library_of(spec):
        raise ModelError(
            f"model.pretrained: true means the weights of torchvision, timm or Transformers, and {spec.arch} is "
            "of none of them; name a file: model.pretrained: FILE"
        )
    if spec.stem != "imagenet":
        raise ModelError(
            "model.pretrained: true with stem: cifar: the library's weights are of a net with the stem imagenet, whose "
            "first convolution is 7x7; name a file of a net with this stem, or leave stem out"
        )
    return _of_library(spec.arch, json.dumps(spec.options, sort_keys=True, default=repr))


@functools.lru_cache(maxsize=1)  # every run from scratch starts from them
def _of_file(path: str) -> Pretrained:
    file = open_weights(path)
    return Pretrained(where=label(path), tree=file.tree(), identity={"sha256": file.sha256})


@functools.lru_cache(maxsize=1)
def _of_library(arch: str, options: str) -> Pretrained:
    found = library_weights(arch, json.loads(options))
    identity = {"weights": found.name, "sha256": sha256_of_state(found.state)}
    return Pretrained(where=found.name, tree=found.state, identity=identity, normalisation=found.normalisation)


def put(model: nn.Module, found: Pretrained, head: Collection[str]) -> Fitted:
    """Copy pretrained weights into a model, in place, except for its head; return what was done.

    Raises:
        ModelError: a tensor is missing, surplus or of another shape; the message names it.

    """
    loaded = load_weights(model, found.tree, found.where, but=head)
    notes = loaded.notes if head else (*loaded.notes, _NO_HEAD)
    return replace(loaded, notes=notes, normalisation=loaded.normalisation or found.normalisation)
