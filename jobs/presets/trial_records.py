"""What is kept of a tuning: every trial with its objective, and the chosen options as presets of the package.

    record = make_record(setup, results, controls, earlier=None)
    Path("jobs/presets/digits.json").write_text(record.model_dump_json(indent=1))
    Path("ray_unlearn/methods/presets/digits.json").write_text(presets_text(record))

The chosen trial of a method has the highest mean objective; the earlier one where two are equal, so that the published
values stay where nothing is better. A preset pins every option of the method's own: those that were searched, at the
chosen values, and all others at what they were in the trials, with the batch size that rates go with.

Does not cover: how trials come about (`trials`).
"""

from __future__ import annotations

import importlib.metadata
import json
import platform
import statistics
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import PurePath
from typing import Any

from objective import Judgement
from pydantic import BaseModel, ConfigDict
from trials import Result, options_of

from ray_unlearn.errors import StudyError
from ray_unlearn.methods import METHODS
from ray_unlearn.study.identity import diff
from ray_unlearn.study.recipe import INHERITED
from ray_unlearn.study.schema import Study
from ray_unlearn.wording import aligned

OBJECTIVE = (
    "mean over seeds of min(1, retain accuracy ratio) * min(1, validation accuracy ratio) * (1 - KS(forget, validation "
    "margins)); no test image, no forget label (jobs/presets/objective.py)"
)
_PACKAGES = ("ray-unlearn", "torch", "ray", "numpy")


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Score(_Value):
    """The objective over seeds, and the means of its factors; rounded to 4 digits."""

    objective_mean: float
    objective_sd: float | None
    """Standard deviation of the objective; None for a single seed, as deterministic methods have."""
    keeping_mean: float
    forgetting_mean: float
    seeds: int
    failed: int = 0
    """Runs that diverged; their objective is 0."""


class TrialRecord(_Value):
    """One trial: options, as JSON has them, and score."""

    number: int
    options: dict[str, Any]
    score: Score


class MethodRecord(_Value):
    """All trials of one method."""

    chosen: int
    fixed: dict[str, Any]
    """The options that were not searched and are the method's own: what they were in every trial."""
    trials: tuple[TrialRecord, ...]
    note: str = ""
    """Remark about the trials, such as that the method was corrected since."""

    @property
    def options(self) -> dict[str, Any]:
        """The chosen values of the options that were searched."""
        return self.trials[self.chosen].options


class Setup(_Value):
    """Setup that all trials of one record share; trials of another setup cannot be added to it."""

    setting: str
    sentence: str
    """The setting, for people."""
    study: dict[str, Any]
    """Study as validated, paths cut to their last part."""
    trials: int
    seeds: int
    seed: int
    objective: str = OBJECTIVE


class TuningRecord(_Value):
    """One setting's tuning."""

    setup: Setup
    controls: dict[str, Score]
    """The study's own populations, judged alike: what retraining gets, and what doing nothing gets."""
    methods: dict[str, MethodRecord]
    versions: dict[str, str]
    date: str
    """UTC; evidence only."""


def make_record(
    setup: Setup, results: Sequence[Result], controls: Mapping[str, Sequence[Judgement]], earlier: TuningRecord | None
) -> TuningRecord:
    """Return the record of these trials, joined to those of an earlier record for other methods.

    Raises:
        StudyError: the earlier record is of another setup.

    """
    check_same_setup(setup, earlier)
    by_method: dict[str, list[Result]] = {}
    for result in results:
        by_method.setdefault(PurePath(result.trial.method).name, []).append(result)
    methods = dict(earlier.methods) if earlier else {}
    methods |= {name: _method_record(own[0].trial.method, own) for name, own in by_method.items()}
    return TuningRecord(
        setup=setup,
        controls={name: score(judgements) for name, judgements in controls.items()},
        methods={name: methods[name] for name in [*METHODS, *(set(methods) - set(METHODS))] if name in methods},
        versions={"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in _PACKAGES},
        date=datetime.now(UTC).date().isoformat(),
    )


def check_same_setup(setup: Setup, earlier: TuningRecord | None) -> None:
    """Refuse to add trials to a record of other ones.

    Raises:
        StudyError: study, trials, seeds or objective differ.

    """
    if earlier is not None and earlier.setup != setup:
        lines = diff(earlier.setup.model_dump(mode="json"), setup.model_dump(mode="json"))
        raise StudyError(
            f"jobs/presets/{setup.setting}.json is of another study, or other trials and seeds "
            f"({'; '.join(lines[:3])}); tune all methods anew, or give --record FILE"
        )


def _method_record(method: str, results: Sequence[Result]) -> MethodRecord:
    trials = tuple(
        TrialRecord(
            number=each.trial.number,
            options=json.loads(json.dumps(dict(each.trial.options))),
            score=score(each.judgements, each.failed),
        )
        for each in results
    )
    best = max(trials, key=lambda one: (one.score.objective_mean, -one.number))
    return MethodRecord(chosen=best.number, fixed=_fixed(method, best.options), trials=trials)


def _fixed(method: str, searched: Mapping[str, Any]) -> dict[str, Any]:
    """Return the defaults of the options that are the method's own and were not searched, as JSON has them."""
    if method not in METHODS:  # a script: the defaults of its function
        return {key: value for key, value in options_of(method).items() if key not in searched}
    defaults = METHODS[method].options.model_validate(dict(searched)).model_dump(mode="json")
    return {key: value for key, value in defaults.items() if key not in (*searched, *INHERITED)}


def score(judgements: Sequence[Judgement], failed: int = 0) -> Score:
    """Summarise runs over seeds."""
    values = [each.objective for each in judgements]
    return Score(
        objective_mean=round(statistics.fmean(values), 4),
        objective_sd=round(statistics.stdev(values), 4) if len(values) > 1 else None,
        keeping_mean=round(statistics.fmean(each.keeping for each in judgements), 4),
        forgetting_mean=round(statistics.fmean(each.forgetting for each in judgements), 4),
        seeds=len(values),
        failed=failed,
    )


def portable(study: Study) -> dict[str, Any]:
    """Return a study as JSON values without storage, and with no more of a path than its last part."""
    tree = study.model_dump(mode="json", exclude_unset=True, exclude={"storage"})
    source = tree["data"]["train"]
    if isinstance(source, dict) and isinstance(source.get("path"), str):
        source["path"] = PurePath(source["path"]).name
    return dict(tree)


def preset(record: TuningRecord, method: str) -> dict[str, Any]:
    """Return the options that a method's preset of this setting holds: the searched ones first."""
    own = record.methods[method]
    options = {**own.options, **own.fixed}
    if "batch_size" in METHODS[method].options.model_fields:
        options = {"batch_size": record.setup.study["training"]["batch_size"], **options}
    return options


def presets_text(record: TuningRecord) -> str:
    """Return the data file of a setting in `ray_unlearn/methods/presets`: a method's preset is a line."""
    lines = [f" {json.dumps(name)}: {json.dumps(preset(record, name))}" for name in record.methods]
    return f'{{"sentence": {json.dumps(record.setup.sentence)},\n"presets": {{\n' + ",\n".join(lines) + "\n}}\n"


def chosen_lines(record: TuningRecord, methods: Iterable[str]) -> list[str]:
    """Return one line per method with the population to write into a study."""
    names = [PurePath(method).name for method in methods]
    return [f"for a study: {json.dumps({'method': name, **record.methods[name].options})}" for name in names]


def table_lines(record: TuningRecord) -> list[str]:
    """Return the record as lines for people: what was published, what was chosen, and what it gained."""
    rows = [["", "objective", "published", "chosen"]]
    rows += [[name, f"{one.objective_mean:.3f}", "", ""] for name, one in record.controls.items()]
    for name, method in record.methods.items():
        best, published = method.trials[method.chosen].score, method.trials[0].score
        options = ", ".join(f"{key} {json.dumps(value)}" for key, value in method.options.items())
        rows.append([name, f"{best.objective_mean:.3f}", f"{published.objective_mean:.3f}", options])
    return aligned(rows)
