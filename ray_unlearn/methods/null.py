"""Null: the original itself, unchanged; every score must be compared with it.

    populations:
      untouched: {method: "null", count: 64, originals: 8}     # quoted: a bare null is YAML's nothing

Steps: none.

Source: the control of any experiment; no publication.

Caveats:
- All runs from one original are equal, so the official metric gives such a population 0 by its guard.
- With as many originals as runs (`originals: 8, count: 8`), runs differ as originals do. A score is then the distance
  of models that saw the forget set from models that did not.

Does not cover: anything; that is the point.
"""

from __future__ import annotations

from torch import nn

from ray_unlearn.data.images import RunData
from ray_unlearn.methods.method import Method
from ray_unlearn.seeds import Seeds
from ray_unlearn.study.recipe import Block


class NullOptions(Block):
    """There is nothing to choose."""


def null(model: nn.Module, data: RunData, options: NullOptions, rng: Seeds) -> None:
    """Leave the original as it is."""


METHOD = Method(
    name="null",
    run=null,
    options=NullOptions,
    starts_from="original",
    summary="The original, unchanged: the control.",
    source="the control of any experiment",
    cost="none",
    deterministic=True,
    inherits=(),
)
