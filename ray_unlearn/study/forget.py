"""The `forget` block of a study file: which training images are to be forgotten.

    Forget.model_validate({"hardest": 500, "by": "memorisation", "of": "faces"})

Does not cover: drawing the images (`data.splits`), and which are hardest (`evaluation.memorisation`).
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from ray_unlearn.study.recipe import Block, Float, Int

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$"
POPULATION_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$"  # no dots: `--set populations.NAME.lr=...` addresses it
Fraction = Annotated[Float, Field(gt=0, lt=1)]


def _as_text(value: Any) -> Any:
    """Accept whole numbers in a list of ids."""
    if not isinstance(value, list | tuple):
        return value
    return [str(one) if isinstance(one, int) and not isinstance(one, bool) else one for one in value]


class Forget(Block):
    """The training images to forget, chosen in exactly one of these ways."""

    fraction: Fraction | None = Field(None, description="Fraction of the training images, drawn with the study's seed.")
    sets: Int = Field(
        1,
        ge=1,
        le=100,
        description="Number of forget sets, each drawn anew: run i of every population but the original forgets set i "
        "modulo this many. With fraction only.",
    )
    label: Int | str | None = Field(None, description="Every training image of this class (index or name).")
    group: str | None = Field(None, description="Whole groups (persons), by the name of the group column.")
    count: Int | None = Field(None, ge=1, description="Number of groups, drawn with the study's seed.")
    ids: Annotated[
        str | tuple[str, ...] | None,
        BeforeValidator(_as_text, json_schema_input_type=str | tuple[str | int, ...] | None),
    ] = Field(None, description="Ids or positions, or a file of them: CSV with a column `image_id`, .txt, .json, .npy.")
    given: bool | None = Field(
        None, description="true: the forget set that the source gives (the competition's forget.csv)."
    )
    hardest: Int | None = Field(
        None,
        ge=1,
        description="Number of images: those of another study's forget set, or of its train images, that its models "
        "memorised most.",
    )
    by: Literal["confidence_gap", "memorisation"] | None = Field(
        None,
        description="confidence_gap: mean probability of the label under originals minus under retrained models, of "
        "forget images. memorisation: share of shadows that are right about an image if they were trained on it, minus "
        "if not, of all train images.",
    )
    of: str | None = Field(
        None, pattern=NAME_PATTERN, description="The other study, in the same storage, already generated."
    )
    shadows: str | None = Field(
        None,
        pattern=POPULATION_PATTERN,
        description="The other study's population of shadows, for memorisation. Default: the one that it has.",
    )

    @model_validator(mode="after")
    def _one_way(self) -> Forget:
        names = ("fraction", "label", "group", "ids", "given", "hardest")
        ways = [name for name in names if getattr(self, name) is not None]
        if len(ways) != 1:
            raise ValueError(f"expected exactly one of {', '.join(names)}; found {ways or 'none'}")
        if self.shadows and self.by != "memorisation":
            raise ValueError("shadows belongs to by: memorisation")
        if self.hardest is None and (self.by or self.of):
            raise ValueError("by and of belong to hardest: {hardest: 500, by: confidence_gap, of: STUDY}")
        if self.hardest is not None and not (self.by and self.of):
            raise ValueError(
                "hardest needs by and of: {hardest: 500, by: confidence_gap, of: STUDY}, a study in the same "
                "storage whose original and retrained populations are made; images are chosen from its forget set. Or "
                "by: memorisation, of a study whose shadows are made; images are chosen from its train images"
            )
        if (self.group is None) != (self.count is None):
            raise ValueError("group and count belong together: {group: person_id, count: 15}")
        if self.sets > 1 and self.fraction is None:
            raise ValueError("sets belongs to fraction, which draws images: {fraction: 0.02, sets: 10}")
        if self.given is False:
            raise ValueError("given: may only be true; use fraction, label, group, ids or hardest instead")
        return self
