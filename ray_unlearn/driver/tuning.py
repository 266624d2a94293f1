"""Trials: one method with sampled options, a few seeds each, all from one original of a study without a test set.

    todo = make_trials({"finetune": {"lr": LogUniform(1e-4, 1e-1)}}, count=8, seed=0)
    prepare_original(study)                      # data, original and controls, once
    result = run_trial(study, todo[0], seeds=3)  # ordinary runs, made inline
    result.mean                                  # of the objective, over seeds

Trial 0 of a method has the published value of every option. The others are a Latin hypercube: each option's range is
cut into as many strata as there are further trials, and each stratum is drawn from once (McKay, Beckman and Conover
1979).
All draws come from (seed, method), so the same call gives the same trials, whichever methods are tuned beside it.

Does not cover: where trials run (`ray_tune`), what is kept of them (`tuning_record`).
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ray_unlearn.driver.objective import FAILED, Judgement, Seen, judge, seen_in
from ray_unlearn.errors import StoreError, StudyError, TrainingDiverged, did_you_mean
from ray_unlearn.generation.driver import generate
from ray_unlearn.methods import METHODS
from ray_unlearn.seeds import Seeds
from ray_unlearn.store import FailedRecord, StudyStore, open_storage
from ray_unlearn.store.records import CHECKPOINT, OUTPUTS
from ray_unlearn.study.identity import digest
from ray_unlearn.study.plan import ORIGINAL, Run
from ray_unlearn.study.schema import PopulationSpec, Study

_SPLITS = {"retain", "forget", "validation"}
_DIGITS = 2  # of a sampled number: presets are read by people, and no objective is that sharp


@dataclass(frozen=True, slots=True)
class LogUniform:
    """A number whose logarithm is uniform between two bounds."""

    low: float
    high: float

    def at(self, share: float) -> float:
        """Return the value below which a share in 0..1 of the range lies, to two significant digits."""
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


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """What became of a trial."""

    trial: Trial
    judgements: Sequence[Judgement]
    """One per seed; runs that diverged have zeros."""
    failed: int
    """Runs that diverged."""

    @property
    def mean(self) -> float:
        """Mean objective over seeds."""
        return statistics.fmean(each.objective for each in self.judgements)

    @property
    def sd(self) -> float | None:
        """Standard deviation of the objective over seeds; None for a single one."""
        values = [each.objective for each in self.judgements]
        return statistics.stdev(values) if len(values) > 1 else None


def make_trials(spaces: Mapping[str, Space], *, count: int, seed: int) -> list[Trial]:
    """Return `count` trials of every method, method by method.

    Raises:
        StudyError: no such method, or no such option, or fewer than one trial.

    """
    if count < 1:
        raise StudyError(f"--trials: expected at least 1; found {count}")
    return [trial for method, space in spaces.items() for trial in _trials_of(method, space, count, seed)]


def _trials_of(method: str, space: Space, count: int, seed: int) -> list[Trial]:
    if method not in METHODS:
        raise StudyError(f"tuning: no method {method!r}{did_you_mean(method, METHODS)}")
    fields = METHODS[method].options.model_fields
    for name in space:
        if name not in fields:
            raise StudyError(f"tuning: method {method} has no option {name!r}{did_you_mean(name, fields)}")
    rng = Seeds(study=seed, population=method).numpy("tuning")
    shares = {name: (rng.permutation(count - 1) + rng.random(count - 1)) / max(count - 1, 1) for name in space}
    published = Trial(method=method, number=0, options={name: fields[name].default for name in space})
    return [published] + [
        Trial(
            method=method, number=n + 1, options={name: one.at(float(shares[name][n])) for name, one in space.items()}
        )
        for n in range(count - 1)
    ]


def prepare_original(study: Study) -> None:
    """Decode the images, draw the splits, and make the study's own populations: the original and the controls.

    Raises:
        StudyError: the study is not one to tune on.
        StoreError: a run of it failed.

    """
    if study.data.test is not None or set(study.outputs.splits) != _SPLITS or study.data.validation is None:
        raise StudyError(
            f"study {study.name}: to tune on, it must have data.validation, no data.test, and "
            "outputs: {splits: [retain, forget, validation]}"
        )
    summary = generate(study, backend="inline")
    if summary.exit_code:
        raise StoreError("; ".join(summary.lines()))


def judge_population(study: Study, population: str) -> list[Judgement]:
    """Judge every run of one of the study's own populations; the controls show what the objective says of them."""
    store, original = _store(study), _original(study)
    runs = [Run(population=population, index=index) for index in store.made(population)]
    return [judge(_seen(store, run), original) for run in runs]


def trial_study(study: Study, trial: Trial, seeds: int) -> Study:
    """Return a trial as a study of its own: the same data, the original imported, one population named as the method.

    Runs of all trials of a method draw from the same streams, so that options are compared, not luck.
    """
    store = _store(study)
    weights = f"{store.storage.uri}/{store.layout.run(Run(population=ORIGINAL, index=0))}/{CHECKPOINT}"
    count = 1 if METHODS[trial.method].deterministic else seeds
    populations = {
        ORIGINAL: PopulationSpec.model_validate({"weights": weights}),
        trial.method: PopulationSpec.model_validate(
            {"method": trial.method, "count": count, "keep_checkpoints": False, **trial.options}
        ),
    }
    tried = digest(json.loads(json.dumps(dict(trial.options))))[:8]  # another tuning in this storage tries others
    name = f"{study.name}-{trial.method}-{trial.number:02d}-{tried}"
    return study.model_copy(update={"name": name, "populations": populations, "evaluation": None})


def run_trial(study: Study, trial: Trial, seeds: int) -> Result:
    """Make a trial's runs in this process and judge them.

    Raises:
        RayUnlearnError: the options are refused, or a run failed for another reason than its numbers.

    """
    own = trial_study(study, trial, seeds)
    summary = generate(own, backend="inline")
    store, original = _store(own), _original(study)
    diverged = {index for index, failure in store.failures(trial.method).items() if _diverged(failure)}
    if summary.blocked or any(run.index not in diverged for run in summary.failed):
        raise StoreError(f"trial {own.name}: " + "; ".join(summary.lines()))
    runs = [Run(population=trial.method, index=i) for i in range(own.populations[trial.method].planned)]
    judgements = [FAILED if run.index in diverged else judge(_seen(store, run), original) for run in runs]
    return Result(trial=trial, judgements=judgements, failed=sum(each == FAILED for each in judgements))


def _diverged(failure: FailedRecord) -> bool:
    last = failure.traceback.strip().rpartition("\n")[2]
    return last.startswith(f"{TrainingDiverged.__module__}.{TrainingDiverged.__name__}:")


def _store(study: Study) -> StudyStore:
    return StudyStore(open_storage(study.storage), study.name)


def _original(study: Study) -> Seen:
    return _seen(_store(study), Run(population=ORIGINAL, index=0))


def _seen(store: StudyStore, run: Run) -> Seen:
    return seen_in(store.payload(run, OUTPUTS))
