"""Trials: one method with sampled options, a few seeds each; every trial is a population of one study.

    todo = make_trials({"finetune": {"lr": LogUniform(1e-4, 1e-1)}}, count=8, seed=0)
    study = with_trials(study, todo, seeds=3)    # an ordinary study; `generate` makes its populations
    results = judge_trials(study, todo)          # one per trial, from the outputs alone
    space_of(["lr=1e-4..1e-1", "steps=1,2,4"])   # {"lr": LogUniform(1e-4, 0.1), "steps": Choice((1, 2, 4))}

A method is one of the package, or a script's: path/to/script.py:function, whose keyword arguments are its options.
Trial 0 of a method has the published value of every option, or the default of the script's function. The others are a
Latin hypercube: each option's range is cut into as many strata as there are further trials, and each stratum is drawn
from once (McKay, Beckman and Conover 1979).
All draws come from (seed, method), so the same call gives the same trials, with any other methods.
A trial's runs draw from the streams of its own population, so trials differ by their options and by chance.

Does not cover: what is kept of trials (`trial_records`).
"""

from __future__ import annotations

import contextlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePath
from typing import Any

from objective import FAILED, Judgement, Seen, judge, seen_in

from ray_unlearn.errors import StoreError, StudyError, TrainingDiverged, did_you_mean
from ray_unlearn.methods import METHODS
from ray_unlearn.methods.keywords import literal_defaults
from ray_unlearn.seeds import Seeds
from ray_unlearn.store import FailedRecord, StudyStore
from ray_unlearn.store.records import OUTPUTS
from ray_unlearn.study.identity import digest
from ray_unlearn.study.plan import ORIGINAL, Run
from ray_unlearn.study.schema import PopulationSpec, Study
from ray_unlearn.study.yaml12 import parse_yaml
from ray_unlearn.usercode.imports import is_script, read_script

_SPLITS = {"retain", "forget", "validation"}
_ORIGINAL = Run(population=ORIGINAL, index=0)
_DIGITS = 2  # of a sampled number: presets are read by people, and no objective is that sharp


@dataclass(frozen=True, slots=True)
class LogUniform:
    """A number whose logarithm is uniform between two bounds."""

    low: float
    high: float

    def at(self, share: float) -> float:
        """Return the value below which a share in 0..1 of the range is, to two significant digits."""
        return float(f"{self.low * (self.high / self.low) ** share:.{_DIGITS}g}")


@dataclass(frozen=True, slots=True)
class Choice:
    """One of several values, each as likely."""

    values: tuple[Any, ...]

    def at(self, share: float) -> Any:
        """Return the value at a share in 0..1 of the list."""
        return self.values[min(int(share * len(self.values)), len(self.values) - 1)]


Space = Mapping[str, LogUniform | Choice]
"""Option name -> what to draw it from."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Trial:
    """One method with the options to try."""

    method: str
    number: int
    """0: the published values."""
    options: Mapping[str, Any]

    @property
    def population(self) -> str:
        """The trial's population; the name holds the options' digest, so another tuning in the storage has others."""
        tried = digest(json.loads(json.dumps(dict(self.options))))[:8]
        name = PurePath(self.method.rpartition(":")[0]).stem if is_script(self.method) else self.method
        return f"{re.sub('[^A-Za-z0-9]', '_', name)[:40]}-{self.number:02d}-{tried}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """Result of a trial."""

    trial: Trial
    judgements: Sequence[Judgement]
    """Judgement of each seed; runs that diverged have zeros."""
    failed: int
    """Number of runs that diverged."""


def make_trials(spaces: Mapping[str, Space], *, count: int, seed: int) -> list[Trial]:
    """Return `count` trials of every method, method by method.

    Raises:
        StudyError: no such method, or no such option, or fewer than one trial.

    """
    if count < 1:
        raise StudyError(f"--trials: expected at least 1; found {count}")
    return [trial for method, space in spaces.items() for trial in _trials_of(method, space, count, seed)]


def space_of(texts: Sequence[str]) -> dict[str, LogUniform | Choice]:
    """Return the ranges that `KEY=LOW..HIGH` (a logarithmic range) and `KEY=A,B,C` (one of these) mean.

    Raises:
        StudyError: a text has neither form.

    """
    return {text.partition("=")[0].strip(): _range_of(text) for text in texts}


def _range_of(text: str) -> LogUniform | Choice:
    key, _, value = text.partition("=")
    with contextlib.suppress(ValueError):
        low, high = map(float, value.split("..")) if ".." in value else (0.0, 0.0)
        if 0 < low < high < math.inf:
            return LogUniform(low, high)
    values = [parse_yaml(one) for one in value.split(",")] if ".." not in value else []
    if not (key.strip() and values and all(isinstance(one, int | float | str) and one != "" for one in values)):
        raise StudyError(f"--space {text}: expected KEY=LOW..HIGH with 0 < LOW < HIGH, or KEY=A,B,C")
    return Choice(tuple(values))


def with_fixed(trials: Sequence[Trial], texts: Sequence[str]) -> list[Trial]:
    """Return the trials with options set to one value, `KEY=VALUE`, in each whose method has the option.

    Raises:
        StudyError: a text has another form, or no method has the option.

    """
    fixed = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not (equals and any(key in options_of(trial.method) for trial in trials)):
            raise StudyError(f"--fix {text}: expected KEY=VALUE with an option that one of the methods has")
        fixed[key] = parse_yaml(value)
    own = [{key: one for key, one in fixed.items() if key in options_of(trial.method)} for trial in trials]
    return [replace(trial, options={**trial.options, **more}) for trial, more in zip(trials, own, strict=True)]


def options_of(method: str) -> dict[str, Any]:
    """Return the options of a method that may be searched, with their published or default values.

    Raises:
        StudyError: no such method.
        MethodError: a script cannot be read.

    """
    if is_script(method):
        return literal_defaults(method, read_script(method))
    if method not in METHODS:
        raise StudyError(f"tuning: no method {method!r}{did_you_mean(method, METHODS)}")
    return {name: field.default for name, field in METHODS[method].options.model_fields.items()}


def _trials_of(method: str, space: Space, count: int, seed: int) -> list[Trial]:
    options, shown = options_of(method), PurePath(method).name
    for name in space:
        if name not in options:
            raise StudyError(f"tuning: method {shown} has no option {name!r}{did_you_mean(name, options)}")
    rng = Seeds(study=seed, population=shown).numpy("tuning")
    shares = {name: (rng.permutation(count - 1) + rng.random(count - 1)) / max(count - 1, 1) for name in space}
    tried = [{name: one.at(float(shares[name][n])) for name, one in space.items()} for n in range(count - 1)]
    published = {name: options[name] for name in space}
    return [Trial(method=method, number=n, options=one) for n, one in enumerate([published, *tried])]


def check_study(study: Study) -> None:
    """Refuse a study that cannot be tuned on.

    Raises:
        StudyError: it has test images, or its outputs lack what the objective needs.

    """
    if study.data.test is not None or set(study.outputs.splits) != _SPLITS or study.data.validation is None:
        raise StudyError(
            f"study {study.name}: to tune on, it must have data.validation, no data.test, and "
            "outputs: {splits: [retain, forget, validation]}"
        )


def with_trials(study: Study, trials: Sequence[Trial], seeds: int) -> Study:
    """Return the study with a population per trial in addition to its own; a deterministic method's has one run.

    Raises:
        StudyError: the study cannot be tuned on.

    """
    check_study(study)
    populations = dict(study.populations)
    for trial in trials:
        count = 1 if trial.method in METHODS and METHODS[trial.method].deterministic else seeds
        populations[trial.population] = PopulationSpec.model_validate(
            {"method": trial.method, "count": count, "keep_checkpoints": False, **trial.options}
        )
    execution = study.execution.model_copy(update={"fail_fast": False})  # every seed that diverges is counted
    return study.model_copy(update={"populations": populations, "evaluation": None, "execution": execution})


def judge_trials(study: Study, trials: Sequence[Trial]) -> list[Result]:
    """Judge every trial of a study from `with_trials` that `generate` made; runs that diverged count as nothing.

    Raises:
        StoreError: a run is missing, or failed for another reason than its numbers.

    """
    store = StudyStore.of(study)
    original = _seen(store, _ORIGINAL)
    return [_result(store, study, trial, original) for trial in trials]


def _result(store: StudyStore, study: Study, trial: Trial, original: Seen) -> Result:
    name = trial.population
    made, failures = store.made(name), store.failures(name)
    judgements = []
    for index in range(study.populations[name].planned):
        if index in made:
            judgements.append(judge(_seen(store, Run(population=name, index=index)), original))
        elif index in failures and _diverged(failures[index]):
            judgements.append(FAILED)
        else:
            reason = failures[index].traceback.strip().rpartition("\n")[2] if index in failures else "it was not made"
            raise StoreError(f"trial {name}/{index:05d}: {reason}; run the job again")
    return Result(trial=trial, judgements=judgements, failed=sum(each == FAILED for each in judgements))


def judge_population(study: Study, population: str) -> list[Judgement]:
    """Judge every run of one of the study's own populations; the controls show how the objective judges them."""
    store = StudyStore.of(study)
    original = _seen(store, _ORIGINAL)
    return [judge(_seen(store, Run(population=population, index=i)), original) for i in store.made(population)]


def _diverged(failure: FailedRecord) -> bool:
    last = failure.traceback.strip().rpartition("\n")[2]
    return last.startswith(f"{TrainingDiverged.__module__}.{TrainingDiverged.__name__}:")


def _seen(store: StudyStore, run: Run) -> Seen:
    return seen_in(store.payload(run, OUTPUTS))
