"""Published presets, whole: what a source does is pinned, so that nothing of it comes from a study's `training`.

    published={"competition": pinned(KookminOptions, COMPETITION)}
    published={"published": pinned(SalunOptions, SPARSE, lr=0.013)}

A preset holds every option of its method but `precision` and `channels_last`, which are how a machine computes. Values
that a preset does not name are the options' defaults.

Does not cover: presets that were tuned (`presets`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

UNPINNED = frozenset({"precision", "channels_last"})
"""Options that no preset holds."""

PLAIN: Mapping[str, Any] = {"class_weights": "none", "augment": {"crop": 0, "flip": False}}
"""Unweighted cross-entropy on images as they are."""

COMPETITION: Mapping[str, Any] = {"batch_size": 64, **PLAIN}
"""NeurIPS 2023 Machine Unlearning Challenge: loaders of 64, no class weights, no augmentation (official notebook)."""

SPARSE: Mapping[str, Any] = {
    "batch_size": 256,
    "class_weights": "none",
    "augment": {"crop": 4, "flip": True},
    "optimizer": "sgd",
    "momentum": 0.9,
    "weight_decay": 5e-4,
    "schedule": "constant",
}
"""OPTML-Group/Unlearn-Sparse and Unlearn-Saliency, arg_parser.py, unlearn/impl.py and dataset.py (the authors'), and
kairanzhao/RUM, whose files are theirs; drops of the rate at epochs 91 and 136 are never reached."""


def pinned(options: type[BaseModel], *shared: Mapping[str, Any], **values: Any) -> dict[str, Any]:
    """Return a preset with every option: those of `shared` and `values`, later ones first, the rest by default."""
    named: dict[str, Any] = {}
    for block in (*shared, values):
        named |= {name: value for name, value in block.items() if name in options.model_fields or block is values}
    return options.model_validate(named).model_dump(exclude=set(UNPINNED))
