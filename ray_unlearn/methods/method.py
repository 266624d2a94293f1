"""What a method is: a function, its options, and what people should know about it.

    METHOD = Method(name="finetune", run=finetune, options=FinetuneOptions, starts_from="original", ...)

Options of training methods extend `Recipe`: they replace what `INHERITED` does not take from the study's `training`.

Does not cover: finding a method by name (`resolve`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from pydantic import BaseModel
from torch import nn

from ray_unlearn.data.images import RunData
from ray_unlearn.methods.presets import settings, tuned_presets
from ray_unlearn.methods.returned import tensors_of, use_returned
from ray_unlearn.seeds import Seeds
from ray_unlearn.study.changes import Correction
from ray_unlearn.study.plan import StartsFrom
from ray_unlearn.study.recipe import INHERITED, Batches
from ray_unlearn.study.schema import Study


@dataclass(frozen=True, kw_only=True, slots=True)
class Method:
    """A registered method."""

    name: str
    run: Callable[[nn.Module, RunData, Any, Seeds], object]
    """(model on the device, what the run may see, options, the run's generators) -> None; of an installed distribution,
    what a script's function may return, too (`returned`)."""
    options: type[BaseModel]
    check: Callable[[nn.Module, Any, int], object] | None = None
    """(model, options, number of classes): raises MethodError where the net lacks what the method changes; called
    before any run, with a net that it leaves as it is."""
    starts_from: StartsFrom
    summary: str
    """One sentence."""
    source: str
    """Publication that describes the method."""
    opened: str = ""
    """Source read to write it: repository and file, and whether it is the authors', a port, slides or prose."""
    open: tuple[str, ...] = ()
    """Open questions that no source settles, each with the choice made here."""
    cost: str
    """Passes over the data, in words: `epochs on retain`, `8 x (1 on retain + 1 on forget)`."""
    deterministic: bool = False
    """Whether all runs from one original are equal by default: no spread, for which the official metric gives 0."""
    varies: Callable[[Any], bool] | None = None
    """(options) -> whether runs differ all the same; None where no option makes them."""
    published: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Presets as published, by name: `competition...` or `published...`."""
    corrections: tuple[Correction, ...] = ()
    """Changes that give other results on purpose, oldest first. Each makes another population, or one of defaults alone
    other defaults: older runs of the method are refused with its reason."""
    aliases: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Other names of it in the literature, each with the options that the name implies."""
    guarantee: str = ""
    """Statement that its options `epsilon` and `delta` make, and about which population; empty where there is none."""
    reference: tuple[str, Mapping[str, Any]] | None = None
    """Population that the guarantee compares with: its method, and the options in which it differs."""
    distribution: Mapping[str, str] = field(default_factory=dict)
    """Name and version of the installed distribution that it is of, and the digest of its files where the installation
    is editable, set by the registry; empty for the package's."""
    no_resume: str | None = None
    """Why a run of it cannot go on from an epoch in its middle (`training.resuming`); empty: it can. None says nothing,
    which means that it can for the package's own methods, and that it cannot for an installed one."""
    packs: bool = False
    """Whether its runs can be trained in one step (`training.packed`): the last thing that it does is one `fit` of
    cross-entropy on one set, with nothing of its own."""
    not_captured: str | None = None
    """Why its steps are not captured as CUDA graphs, for a method that cannot keep the contract of `training.step`;
    empty: they are. None says nothing, which means that those of the package's own methods are, and that those of an
    installed one are not."""
    inherits: tuple[str, ...] = INHERITED
    """Option names that default to the study's `training` block."""

    @property
    def revision(self) -> int:
        """1 as the method was first released, and one more with every correction of all nets but those of defaults."""
        return 1 + sum(one.revises for one in self.corrections)

    @property
    def why_no_resume(self) -> str:
        """Why a run cannot go on from an epoch in its middle; empty where it can."""
        if not issubclass(self.options, Batches):
            return "it trains no epochs"
        if self.no_resume is None:
            return "the distribution that it is of does not say that it can" if self.distribution else ""
        return self.no_resume

    @property
    def why_not_captured(self) -> str:
        """Why the steps of its trainings are not captured as CUDA graphs; empty where they are."""
        if not issubclass(self.options, Batches):
            return "it trains no epochs"
        if self.not_captured is None:
            return "the distribution that it is of does not say that they can be" if self.distribution else ""
        return self.not_captured

    def apply(self, model: nn.Module, data: RunData, options: BaseModel, rng: Seeds) -> None:
        """Run it; without captured steps where it does not promise what they need.

        Raises:
            MethodError: it is of an installed distribution, and returned what is no result (`use_returned`).

        """
        before = tensors_of(model) if self.distribution else {}
        returned = self.run(model, replace(data, engines=None) if self.why_not_captured else data, options, rng)
        if self.distribution:
            use_returned(self.name, returned, model, before)

    def defaults(self, study: Study) -> dict[str, Any]:
        """Return the options that the study's `training` block gives where the population is silent."""
        return {name: getattr(study.training, name) for name in self.inherits if name in self.options.model_fields}

    @property
    def presets(self) -> Mapping[str, Mapping[str, Any]]:
        """Options by the name of a preset: the published ones, then those that were tuned."""
        return {**self.published, **tuned_presets(self.name)}

    def is_deterministic(self, options: BaseModel) -> bool:
        """Return whether all runs from one original are equal with these options."""
        return self.deterministic and not (self.varies is not None and self.varies(options))

    def preset_source(self, preset: str) -> str:
        """Return where a preset's values come from."""
        if preset in self.published:
            return "as published"
        return f"tuned on validation data: {settings()[preset].sentence}; trials in jobs/presets/{preset}.json"
