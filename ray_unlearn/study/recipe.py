"""How a model is trained: the study's `training` block, and the base of every training method's options.

    class FinetuneOptions(Recipe):
        lr: Float = Field(1e-3, gt=0)

Does not cover: the loop that follows a recipe (`ray_unlearn.training`).
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, Strict

from ray_unlearn.study.identity import Since

Int = Annotated[int, Strict()]
"""A whole number; neither `true` nor "64" passes for one."""
Float = Annotated[float, Strict()]
"""A number; 1 passes for 1.0."""

Optimizer = Literal["sgd", "adam", "adamw"]
Schedule = Literal["constant", "cosine", "step", "linear"]
Precision = Literal["fp32", "tf32", "bf16"]


class Block(BaseModel):
    """A frozen block of the study file that refuses unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class HalfOf(Block):
    """A random half of a split for each run: runs 2k and 2k+1 are trained on one half and on the rest."""

    half_of: Annotated[Literal["train"], Since("0.2", neutral=None)] = Field(
        description="The split to halve: retain and forget images, each halved by itself."
    )
    balanced: Annotated[Literal[True], Since("0.2", neutral=None)] = Field(
        True, description="true: each image is in one half of every pair of runs, so in exactly half of them."
    )


class Transform(Block):
    """One of torchvision's transforms."""

    name: Annotated[str, Since("0.2", neutral=None)] = Field(
        description="Name of a class of torchvision.transforms.v2."
    )
    options: Annotated[dict[str, Any], Since("0.2", neutral=None)] = Field(
        default_factory=dict, description="Its arguments."
    )


def short_transform(value: Any) -> Any:
    """Accept `RandAugment` and `{ColorJitter: {brightness: 0.2}}` for the full mapping."""
    if isinstance(value, str):
        return {"name": value}
    if isinstance(value, dict) and len(value) == 1 and "name" not in value:
        name, options = next(iter(value.items()))
        return {"name": name, "options": {} if options is None else options}
    return value


AnyTransform = Annotated[
    Transform,
    BeforeValidator(short_transform, json_schema_input_type=str | dict[str, dict[str, Any] | None] | Transform),
]


class Augment(Block):
    """Augmentation of training batches: crops and flips on the device, then transforms on the CPU."""

    crop: Int = Field(0, ge=0, description="Pixels of zero padding before a random crop back to size.")
    flip: bool = Field(False, description="Mirror each image with probability one half.")
    transforms: Annotated[tuple[AnyTransform, ...], Since("0.2", neutral=())] = Field(
        (),
        description="torchvision.transforms.v2 by name, for each image on the CPU: [RandAugment, {ColorJitter: "
        "{brightness: 0.2}}].",
    )


class Batches(Block):
    """How batches are made and computed."""

    batch_size: Int = Field(64, ge=1)
    class_weights: Literal["none", "inverse"] | tuple[Annotated[Float, Field(ge=0)], ...] = Field(
        "none", description="inverse: 1 / images of the class in the set trained on, not normalised (official)."
    )
    augment: Augment = Augment()
    precision: Precision = Field(
        "fp32", description="bf16: autocast, weights stay fp32; tf32: GPUs round factors to ten bits, CPUs refuse."
    )
    channels_last: bool = True


class Recipe(Batches):
    """How a model is trained; the study's `training` block, and the base of every training method's options."""

    epochs: Float = Field(30.0, gt=0, description="Passes over the set; fractions stop inside an epoch.")
    optimizer: Optimizer = "adam"
    lr: Float = Field(1e-4, gt=0)
    momentum: Float = Field(0.9, ge=0, lt=1, description="SGD only.")
    weight_decay: Float = Field(5e-3, ge=0)
    schedule: Schedule = "cosine"
    schedule_per: Literal["epoch", "batch"] = Field(
        "epoch", description="How often the rate changes (official: epoch)."
    )
    step_epochs: Float = Field(10.0, gt=0, description="`step` multiplies the rate by `gamma` this often.")
    gamma: Float = Field(0.1, gt=0, le=1)
    warmup_epochs: Float = Field(0.0, ge=0, description="Linear warm-up from zero, always per batch.")


def unused(default: float, instead: str) -> AfterValidator:
    """Return the validator of an option of `Recipe` that a method does not use: it accepts the default alone."""

    def check(value: float) -> float:
        if value != default:
            raise ValueError(f"the method does not use it; set {instead}")
        return value

    return AfterValidator(check)


# Options that a method inherits from the study's `training` block unless its population overrides them: how batches
# are made and computed. Rates, epochs and optimisers are the method's own.
INHERITED = tuple(Batches.model_fields)
