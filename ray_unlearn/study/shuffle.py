"""`data.shuffle`: the order of an epoch's images.

    shuffle: full                                # every order of the set is as likely as every other: the default
    shuffle: blocks                              # for sets larger than memory: whole blocks are read, and mixed
    shuffle: {order: blocks, block_images: 128, buffer_blocks: 64}

`blocks` reads a set in blocks of images that follow one another, the blocks in a random order, and mixes the images of
`buffer_blocks` blocks at a time completely. Each image still comes once per epoch. How well it mixes: of the other
images of a batch, about one in `buffer_blocks` is of the same block as the first. So where neighbours are alike (a set
sorted by class), the number of images of a class in a batch of B has the variance of a full shuffle times
1 + (B - 1) / buffer_blocks, about: 2 with batches of 64 and the defaults. Where the source is in no order, classes are
mixed as by a full shuffle.

Does not cover: drawing an order (`ray_unlearn.data.order`).
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from ray_unlearn.study.identity import identity_of
from ray_unlearn.study.recipe import Block, Int


class Shuffle(Block):
    """The order of an epoch; it changes results, so it is part of an identity wherever it is not `full`."""

    order: Literal["full", "blocks"] = Field(
        "full", description="blocks: consecutive images are read together and mixed; for sets larger than memory."
    )
    block_images: Int = Field(128, ge=1, description="Images that follow one another in a set, read together.")
    buffer_blocks: Int = Field(64, ge=1, description="Blocks whose images are mixed; twice as many are in memory.")

    @model_validator(mode="after")
    def _numbers_of_blocks(self) -> Shuffle:
        fields = type(self).model_fields
        named = [name for name in ("block_images", "buffer_blocks") if getattr(self, name) != fields[name].default]
        if self.order == "full" and named:
            raise ValueError(f"{' and '.join(named)} belong to {{order: blocks}}; order: full has no blocks")
        return self

    @property
    def window(self) -> int:
        """Images that are mixed completely; 0 where all of them are."""
        return self.block_images * self.buffer_blocks if self.order == "blocks" else 0

    @property
    def identity(self) -> dict[str, Any]:
        """Entry in the study's identity; empty for `full`, which version 0.1.0 did not record."""
        return {"shuffle": identity_of(self)} if self.order == "blocks" else {}


def _by_name(value: Any) -> Any:
    """Accept `shuffle: blocks` for the full mapping."""
    return {"order": value} if isinstance(value, str) else value


AnyShuffle = Annotated[Shuffle, BeforeValidator(_by_name, json_schema_input_type=Literal["full", "blocks"] | Shuffle)]
