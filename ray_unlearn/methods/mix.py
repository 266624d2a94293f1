"""Mix: one population, composed of shares of several methods.

    populations:
      half_half:
        method: mix
        count: 64
        batch_size: 128                              # for every part that does not set its own
        parts:
          - {method: kookmin, share: 1, lr: 5.0e-4}
          - {method: sun, share: 1, preset: competition}

The run's index chooses the part, so that any first N runs are in proportion (`shares`). A part's options are what the
method takes in a population of its own: the study's `training` block, then the preset, then the part's own keys.

Citation: NeurIPS 2023 Machine Unlearning Challenge, 5th place (Toshi-K and Marvel), who mixed 246 and 266 of 512.

Caveats:
- Such a population is scored as if one method had made it; part of its spread is the distance between methods.
- With several originals the index also chooses the original: two equal shares and two originals give each original one
  method alone. Choose numbers without a common divisor.

Does not cover: scripts, methods that train from scratch, and mixes as parts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field, SerializeAsAny, ValidationError, model_validator
from torch import nn

from ray_unlearn.data.images import RunData
from ray_unlearn.errors import did_you_mean
from ray_unlearn.methods.method import Method
from ray_unlearn.methods.registry import METHODS
from ray_unlearn.methods.shares import part_of
from ray_unlearn.seeds import Seeds
from ray_unlearn.study.recipe import Batches, Block, Int
from ray_unlearn.study.wrong_keys import describe_first


class Part(Block):
    """One method and how many runs it makes."""

    method: str = Field(description="A name from `ray-unlearn methods`.")
    share: Int = Field(ge=1, description="Runs of this part in every sum(shares) runs.")
    options: SerializeAsAny[Block] = Field(description="Filled in from the part's other keys.")


class MixOptions(Batches):
    """The parts; the batch options hold for each part that does not set its own."""

    parts: tuple[Part, ...] = Field(min_length=1, description="{method, share, preset, options of the method ...}.")

    @model_validator(mode="before")
    @classmethod
    def _options_of_parts(cls, values: Any) -> Any:
        parts = values.get("parts") if isinstance(values, dict) else None
        if not isinstance(parts, list | tuple):
            return values
        shared = {name: value for name, value in values.items() if name != "parts"}
        return {**values, "parts": [_part(part, shared, f"parts.{i}") for i, part in enumerate(parts)]}


def _part(part: Any, shared: Mapping[str, Any], where: str) -> Any:
    """Return a part with its options validated; what is no mapping with a method is left to the schema.

    Raises:
        ValueError: the method cannot be a part, or an option is unknown or impossible; names the place.

    """
    if not isinstance(part, dict) or not isinstance(part.get("method"), str):
        return part
    name, implied = METHODS.called(part["method"])
    own = {key: value for key, value in part.items() if key not in ("method", "share", "preset")}
    method = _method(name, where)
    inherited = {
        name: shared[name] for name in method.inherits if name in shared and name in method.options.model_fields
    }
    try:
        options = method.options.model_validate({**inherited, **_preset(part, method, where), **implied, **own})
    except ValidationError as error:
        raise ValueError(f"{where}.{describe_first(error, method.options)} (method {method.name})") from None
    return {key: part[key] for key in ("method", "share") if key in part} | {"method": name, "options": options}


def _preset(part: Mapping[str, Any], method: Method, where: str) -> Mapping[str, Any]:
    if "preset" not in part:
        return {}
    name = str(part["preset"])
    if name not in method.presets:
        hint = did_you_mean(name, method.presets)
        raise ValueError(f"{where}.preset: method {method.name} has no preset {name!r}{hint}")
    return method.presets[name]


def _method(name: str, where: str) -> Method:
    valid = {known: method for known, method in METHODS.items() if known != "mix" and method.starts_from == "original"}
    if name not in valid:
        raise ValueError(f"{where}.method: no method {name!r} that starts from the original{did_you_mean(name, valid)}")
    return valid[name]


def mix(model: nn.Module, data: RunData, options: MixOptions, rng: Seeds) -> None:
    """Run the part that the run's index chooses."""
    part = options.parts[part_of(rng.run, [part.share for part in options.parts])]
    _method(part.method, "parts").apply(model, data, part.options, rng)


METHOD = Method(
    name="mix",
    run=mix,
    options=MixOptions,
    starts_from="original",
    summary="Compose a population of shares of methods; the run's index chooses.",
    source="NeurIPS 2023 Machine Unlearning Challenge, 5th place, whose 512 checkpoints were 246 of one method",
    cost="the parts', by share",
)
