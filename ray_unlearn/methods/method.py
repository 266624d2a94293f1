"""What a method is: a function, its options, and what people should know about it.

    METHOD = Method(name="finetune", run=finetune, options=FinetuneOptions, starts_from="original", ...)

Options of training methods extend `Recipe`: they replace what `INHERITED` does not take from the study's `training`.

Does not cover: finding a method by name (`resolve`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel
from torch import nn

from ray_unlearn.data.images import RunData
from ray_unlearn.seeds import Seeds
from ray_unlearn.study.changes import Correction
from ray_unlearn.study.plan import StartsFrom
from ray_unlearn.study.recipe import INHERITED
from ray_unlearn.study.schema import Study


@dataclass(frozen=True, kw_only=True, slots=True)
class Method:
    """A registered method."""

    name: str
    run: Callable[[nn.Module, RunData, Any, Seeds], None]
    """(model on the device, what the run may see, options, the run's generators) -> None."""
    options: type[BaseModel]
    starts_from: StartsFrom
    summary: str
    """One sentence."""
    source: str
    """Where it is described."""
    cost: str
    """Passes over the data, in words: `epochs on retain`, `8 x (1 on retain + 1 on forget)`."""
    deterministic: bool = False
    """Whether all runs from one original are equal: no spread, for which the official metric gives 0."""
    presets: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Options by name: `competition` and `published...` are what was published; the registry adds tuned ones."""
    tuned_on: Mapping[str, str] = field(default_factory=dict)
    """By the name of a tuned preset: the setting that it was tuned on, in words."""
    corrections: tuple[Correction, ...] = ()
    """Changes that give other results on purpose, oldest first. Each makes another population: older runs of the method
    are refused with its reason."""
    inherits: tuple[str, ...] = INHERITED
    """Option names that default to the study's `training` block."""

    @property
    def revision(self) -> int:
        """1 as the method was first released, and one more with every correction."""
        return 1 + len(self.corrections)

    def defaults(self, study: Study) -> dict[str, Any]:
        """Return the options that the study's `training` block gives where the population is silent."""
        return {name: getattr(study.training, name) for name in self.inherits if name in self.options.model_fields}

    def preset_source(self, preset: str) -> str:
        """Return where a preset's values come from."""
        if preset in self.tuned_on:
            return f"tuned on validation data: {self.tuned_on[preset]}; trials in jobs/tuned/{preset}.json"
        return "as published"
