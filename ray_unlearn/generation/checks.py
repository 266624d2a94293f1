"""Everything that `generate` refuses, found without decoding an image and without starting a worker.

    checks = Checks(study)
    checks.before_torch()                        # storage, sources, the forget list, earlier runs: a second
    checks.with_torch()                          # methods and their options, originals, the architecture, weights
    checks.problems                              # {message: exit code}; every problem, not only the first

Where the images are decoded already, digests are compared with the store's, as `generate` does it.

Does not cover: what only decoding shows (broken images, labels beyond the classes; the number of classes where neither
the study nor its source states it, and with it whether the net's head and imported weights fit), nor other machines.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from ray_unlearn.data.decode import DecodedSlice, DecodeJob
from ray_unlearn.data.id_lists import read_ids
from ray_unlearn.data.rows import OpenSource, Role, Slice
from ray_unlearn.data.study_data import StudyData, check_columns, open_role, prepare_study
from ray_unlearn.errors import PopulationChanged, RayUnlearnError, StoreError, StoreReadOnly, StudyError
from ray_unlearn.evaluation.memorisation import hardest_of
from ray_unlearn.generation.job import check_sets, check_storage
from ray_unlearn.generation.preflight import check_device, check_precision, import_what_runs_need
from ray_unlearn.generation.records import check_kept, check_packs, differences
from ray_unlearn.monitor.tracking import check_trackers
from ray_unlearn.store import StudyStore
from ray_unlearn.store.disk import existing
from ray_unlearn.study.plan import ORIGINAL, Ingredients, MethodUse, Plan, Population, make_plan
from ray_unlearn.study.schema import Source, Study
from ray_unlearn.usercode.exits import stays

if TYPE_CHECKING:  # it brings torch
    from torch import nn


T = TypeVar("T")
_ROLES: tuple[Role, ...] = ("train", "test", "validation")


class _NotDecoded(Exception):
    """Raised in place of decoding."""


def _refuse_to_decode(slices: Sequence[Slice], job: DecodeJob) -> Iterable[DecodedSlice]:
    raise _NotDecoded


class Checks:
    """The checks of one study."""

    def __init__(self, study: Study) -> None:
        self.study = study
        self.problems: dict[str, int] = {}
        """Message, with the study's file and line where it is about a key -> exit code."""
        self.store: StudyStore | None = None
        self.sources: dict[str, OpenSource] = {}
        self.data: StudyData | None = None
        """The prepared data, where they are decoded already."""
        self.plan: Plan | None = None
        """The populations whose methods were accepted; its digests hold only where `data` is known."""
        self.model: nn.Module | None = None

    def before_torch(self) -> None:
        """Check what needs no torch."""
        data = self.study.data
        self.store = self._checked(self._open_store)
        for role in _ROLES:
            if isinstance(spec := getattr(data, role), Source):
                source = self._checked(partial(open_role, data, role, spec), f"data.{role}")
                self.sources |= {role: source} if source else {}
        self._checked(partial(check_trackers, self.study))
        if isinstance(data.forget.ids, str):
            self._checked(partial(read_ids, data.forget.ids), "data.forget.ids")
        whole = len(self.sources) == sum(isinstance(getattr(data, role), Source) for role in _ROLES)
        if whole:
            self._checked(partial(check_columns, data), "data.columns")
        if self.store and whole:
            self.data = self._checked(partial(self._decoded, self.store), "data")
        if self.store and not self.data:  # else digests are compared, once there is a plan
            self._checked(partial(_check_values, self.study, self.store))

    def _open_store(self) -> StudyStore:
        check_storage(self.study.storage)
        store = StudyStore.of(self.study)
        _check_writable(store)
        return store

    def _decoded(self, store: StudyStore) -> StudyData | None:
        hardest = hardest_of(self.study, store.storage)
        try:
            return prepare_study(self.study, store.storage, _refuse_to_decode, opened=self.sources, hardest=hardest)
        except _NotDecoded:
            return None

    def with_torch(self) -> None:
        """Check methods, originals, the architecture and weights; imports torch, which takes seconds."""
        before = len(self.problems)
        self._checked(import_what_runs_need)
        if len(self.problems) > before:
            return
        from ray_unlearn import models
        from ray_unlearn.generation.inline import inline_device

        found = self._methods()
        identity = self._checked(partial(models.identity, self.study.model), "model.arch")
        if identity is not None and not (ORIGINAL in self.study.populations and ORIGINAL not in found):
            data = self.data.identity if self.data else {}
            self.plan = self._plan(Ingredients(data=data, model=identity, methods=found))
            self.model = self._checked(self._build, "model.arch")
        for population in self.plan.populations.values() if self.plan else ():
            if self.model is not None:
                self._checked(partial(self._try_weights, population), f"populations.{population.name}.weights")
        if self.plan:
            device = inline_device(self.study.execution)
            self._checked(partial(check_precision, self.plan, device, self.plan.populations))
        if self.plan and self.data:
            self._checked(partial(check_sets, self.plan, self.data))
            if self.store:
                self._checked(partial(_check_held, self.plan, self.store))

    def _methods(self) -> dict[str, MethodUse]:
        """Return the methods that are accepted, by population; a refusal that several share is one problem."""
        from ray_unlearn.methods.resolve import resolve

        found, refused, codes = {}, dict[str, list[str]](), dict[str, int]()
        for name in self.study.populations:
            try:
                found[name] = resolve(self.study, name)
            except RayUnlearnError as error:
                for line in str(error).split("\n") if isinstance(error, StudyError) else [str(error)]:
                    text = line.removeprefix(f"populations.{name}: ")
                    refused.setdefault(text, []).append(name)
                    codes[text] = error.exit_code
        for text, names in refused.items():
            several = f" (populations {', '.join(names)})" if len(names) > 1 else ""
            of_training = several and text.startswith("training.")
            key = "" if of_training else f"populations.{names[0]}"
            self._note(f"{text}{several}", key, codes[text])
        return found

    def _plan(self, ingredients: Ingredients) -> Plan | None:
        """Return the plan of the populations that can start; each that cannot is a problem of its own."""
        names = list(ingredients.methods)
        specs = self.study.populations
        needed = {name: [specs[name].starts_from or ORIGINAL, name] for name in names}
        alone = {name: self._checked(partial(make_plan, self._only(needed[name]), ingredients)) for name in names}
        startable = [name for name, plan in alone.items() if plan]
        return make_plan(self._only(startable), ingredients) if startable else None

    def _only(self, names: Sequence[str]) -> Study:
        chosen = {name: spec for name, spec in self.study.populations.items() if name in names}
        return self.study.model_copy(update={"populations": chosen})

    @property
    def num_classes(self) -> int:
        """Number of classes; 10 for estimates where it is not known yet."""
        return self._known_classes or 10

    @property
    def _known_classes(self) -> int | None:
        """Number of classes: of the decoded images, else of the study or the source's names; else None."""
        if self.data is not None:
            return self.data.num_classes
        named, source = self.study.data.classes, self.sources.get("train")
        if named is not None:
            return named if isinstance(named, int) else len(named)
        return len(source.class_names) if source and source.class_names else None

    def _build(self) -> nn.Module:
        from ray_unlearn import models
        from ray_unlearn.generation.trial import noise, trains
        from ray_unlearn.seeds import Seeds

        spec, count = self.study.model, self.num_classes
        model = models.build(spec, count, Seeds(study=0), self.study.data.image_size)
        trained = any(map(trains, self.plan.populations.values() if self.plan else ()))
        if self._known_classes:
            models.try_net(
                model, *noise(self.study, count), num_classes=count, arch=spec.arch, trains=trained, folder=spec.folder
            )
        return model

    def _try_weights(self, population: Population) -> None:
        from ray_unlearn import models
        from ray_unlearn.generation.trial import check_weights
        from ray_unlearn.methods.weights import WeightsOptions

        options = population.method.options
        if self.model is None or not isinstance(options, WeightsOptions):
            return
        if self._known_classes:
            list(check_weights(self.study, self._known_classes, self.model, options))
        else:
            for path in options.weights:
                models.open_weights(path).tree()

    def _checked(self, check: Callable[[], T], key: str = "") -> T | None:
        """Return the value of a check; None where it fails, which is noted: with `key`, where it names no key."""
        try:
            with stays(key or "the study's own code"):
                return check()
        except RayUnlearnError as error:
            self._note(str(error), key, error.exit_code)
            return None

    def _note(self, text: str, key: str, exit_code: int) -> None:
        """Add a problem, with its place in the file; it begins with `key`, where it names no key itself."""
        named = not key or text.startswith((key, f"{key.partition('.')[0]}."))
        self.problems[self.study.places.before(text if named else f"{key}: {text}")] = exit_code


def _check_values(study: Study, store: StudyStore) -> None:
    """Refuse a study whose runs were made from other values."""
    if any(store.indexes(name) for name in study.populations) and (lines := differences(study, store)):
        made = "\n".join(f"  {line}" for line in lines)
        raise PopulationChanged(f"{store.uri} has runs that were made from other values than the study has:\n{made}")


def _check_held(plan: Plan, store: StudyStore) -> None:
    """Compare the plan with the runs that are there."""
    from ray_unlearn.generation.inline import inline_device

    store.check(plan, differences(plan.study, store))
    held = {name: store.records(name, p.digest) for name, p in plan.populations.items()}
    check_kept(plan, store, held)
    check_packs(plan, store, held)
    check_device(plan, inline_device(plan.study.execution), held)


def _check_writable(store: StudyStore) -> None:
    """Refuse a folder on this machine in which this user may not write; an object store shows it at the first write."""
    if store.storage.local is None:
        return
    folder = existing(store.storage.local)
    if not folder.is_dir():
        raise StoreError(f"storage: {folder}: is not a folder; name another with --set storage=...")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise StoreReadOnly(f"storage: {folder}: this user may not write there; name another with --set storage=...")
