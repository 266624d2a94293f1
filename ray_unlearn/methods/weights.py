"""Imported weights: an original that was trained elsewhere.

    populations:
      original: {weights: original.safetensors}            # or .pth, read with weights_only=True alone
      retrained: {weights: [r0.pth, r1.pth]}               # one file per checkpoint
    oracles: {weights: oracles/}                         # also a glob, or a .csv with columns path, seed, original
    averaged: {weights: timm.pth.tar, key: state_dict_ema}

The files' contents identify the population, not their names; another list of files is another population.

Does not cover: how they were trained; the study cannot know.
"""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, model_validator
from torch import nn

from ray_unlearn.data.images import RunData
from ray_unlearn.errors import ModelError
from ray_unlearn.methods.method import Method
from ray_unlearn.models import load_weights, open_weights
from ray_unlearn.seeds import Seeds
from ray_unlearn.study.identity import Since
from ray_unlearn.study.recipe import Block, Int
from ray_unlearn.study.uris import label


class WeightsOptions(Block):
    """The files, and the hashes of their contents when the study was planned."""

    weights: tuple[str, ...] = Field(min_length=1, description="One file per checkpoint.")
    key: Annotated[str | None, Since("0.2", neutral=None)] = Field(
        None,
        description="Key of the state dict in the files, or first part of its tensors' names: state_dict_ema, teacher. "
        "Default: the usual one.",
    )
    seeds: Annotated[tuple[Int, ...], Since("0.2", neutral=())] = Field(
        (), description="Seed of each file, where it is known; recorded, and nothing is drawn from it."
    )
    from_originals: Annotated[tuple[Int, ...], Since("0.2", neutral=())] = Field(
        (), description="Number of the original that each file was unlearned from, where it is known."
    )
    sha256: tuple[str, ...] = Field((), description="Filled in by the plan.")

    @model_validator(mode="after")
    def _one_each(self) -> Self:
        for name in ("seeds", "from_originals"):
            given = len(getattr(self, name))
            if given not in (0, len(self.weights)):
                raise ValueError(f"{name}: expected one per file, {len(self.weights)}; found {given}")
        return self


def import_weights(model: nn.Module, data: RunData, options: WeightsOptions, rng: Seeds) -> None:
    """Load the run's file; refuse one that changed since the plan was made."""
    path = options.weights[rng.run]
    file = open_weights(path)
    if file.sha256 != options.sha256[rng.run]:
        raise ModelError(f"{label(path)}: changed since the study was planned; run generate again")
    load_weights(model, file.tree(), path, options.key)


METHOD = Method(
    name="weights",
    run=import_weights,
    options=WeightsOptions,
    starts_from="scratch",
    summary="Import weights that were trained elsewhere, one file per checkpoint.",
    source="safetensors, or a .pth state dict read with weights_only=True",
    cost="none",
    inherits=(),
)
