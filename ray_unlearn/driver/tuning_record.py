"""What is kept of a tuning: every trial with its objective, and the chosen options as presets of the package.

    record = make_record(setting="digits", sentence="...", study=study, results=results, controls=controls, ...)
    Path("jobs/tuned/digits.json").write_text(record.model_dump_json(indent=1))
    Path("ray_unlearn/methods/tuned.py").write_text(module_text([record, other]))

The chosen trial of a method has the highest mean objective; the earlier one where two are equal, so that the published
values stay where nothing is better. A preset holds every option that was searched, and the batch size that rates go
with.

Does not cover: how trials come about (`tuning`).
"""

from __future__ import annotations

import importlib.metadata
import json
import platform
import statistics
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import PurePath
from typing import Any

from pydantic import BaseModel, ConfigDict

from ray_unlearn.driver.objective import Judgement
from ray_unlearn.driver.tuning import Result
from ray_unlearn.errors import StudyError
from ray_unlearn.methods import METHODS
from ray_unlearn.study.identity import difference
from ray_unlearn.study.schema import Study
from ray_unlearn.wording import aligned

OBJECTIVE = (
    "mean over seeds of min(1, retain accuracy ratio) * min(1, validation accuracy ratio) * (1 - KS(forget, validation "
    "margins)); no test image, no forget label (ray_unlearn/driver/objective.py)"
)
_PACKAGES = ("ray-unlearn", "torch", "ray", "numpy")


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Score(_Value):
    """The objective over seeds, and the means of its factors; rounded to 4 digits."""

    objective_mean: float
    objective_sd: float | None
    """None for a single seed, as deterministic methods have."""
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
    trials: tuple[TrialRecord, ...]

    @property
    def options(self) -> dict[str, Any]:
        """The chosen options."""
        return self.trials[self.chosen].options


class Setup(_Value):
    """What trials of one record have in common; trials of another setup cannot be added to it."""

    setting: str
    sentence: str
    """The setting, for people."""
    study: dict[str, Any]
    """As validated, paths cut to their last part."""
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
    refuse_other_setup(setup, earlier)
    by_method: dict[str, list[Result]] = {}
    for result in results:
        by_method.setdefault(result.trial.method, []).append(result)
    methods = dict(earlier.methods) if earlier else {}
    methods |= {name: _method_record(own) for name, own in by_method.items()}
    return TuningRecord(
        setup=setup,
        controls={name: score(judgements) for name, judgements in controls.items()},
        methods={name: methods[name] for name in METHODS if name in methods},
        versions={"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in _PACKAGES},
        date=datetime.now(UTC).date().isoformat(),
    )


def refuse_other_setup(setup: Setup, earlier: TuningRecord | None) -> None:
    """Refuse to add trials to a record of other ones.

    Raises:
        StudyError: study, trials, seeds or objective differ.

    """
    if earlier is not None and earlier.setup != setup:
        lines = difference(earlier.setup.model_dump(mode="json"), setup.model_dump(mode="json"))
        raise StudyError(
            f"jobs/tuned/{setup.setting}.json is of another study, or other trials and seeds ({'; '.join(lines[:3])}); "
            "tune all methods anew, or give --record FILE"
        )


def _method_record(results: Sequence[Result]) -> MethodRecord:
    trials = tuple(
        TrialRecord(
            number=each.trial.number,
            options=json.loads(json.dumps(dict(each.trial.options))),
            score=score(each.judgements, each.failed),
        )
        for each in results
    )
    best = max(trials, key=lambda one: (one.score.objective_mean, -one.number))
    return MethodRecord(chosen=best.number, trials=trials)


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
    """Return the options that a method's preset of this setting holds."""
    options = dict(record.methods[method].options)
    if "batch_size" in METHODS[method].options.model_fields:
        options = {"batch_size": record.setup.study["training"]["batch_size"], **options}
    return options


_HEADER = '''"""Presets that were tuned, written by `jobs/tune.py` from the records in jobs/tuned; do not edit.

    METHODS["finetune"].presets["digits"]        # where `methods/__init__.py` puts them

Chosen by retain and validation images with their labels and by forget images without: the objective stands in
`ray_unlearn/driver/objective.py`. The choice saw neither a test image nor a forget label (a method that is tried may
train on the labels of the images that it forgets). Jobs, records and studies lie beside the package, in jobs/.

Does not cover: your data. The same job tunes on a study of your own.
"""

from collections.abc import Mapping
from typing import Any

'''


def module_text(records: Sequence[TuningRecord]) -> str:
    """Return the source of `ray_unlearn/methods/tuned.py`."""
    lines = ["SETTINGS: Mapping[str, str] = {"]
    lines += [f'    "{record.setup.setting}": "{record.setup.sentence}",' for record in records]
    lines += ["}", '"""What each setting is."""', "", "TUNED: Mapping[str, Mapping[str, Mapping[str, Any]]] = {"]
    for record in records:
        lines.append(f'    "{record.setup.setting}": {{')
        lines += [f'        "{name}": {_literal(preset(record, name))},' for name in record.methods]
        lines.append("    },")
    lines += ["}", '"""Setting -> method -> options."""', ""]
    return _HEADER + "\n".join(lines)


def _literal(value: Any) -> str:
    """Return a Python literal, formatted as ruff does on one line."""
    if isinstance(value, dict):
        return "{" + ", ".join(f'"{key}": {_literal(each)}' for key, each in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_literal, value)) + "]"
    return f'"{value}"' if isinstance(value, str) else repr(value)


def table_lines(record: TuningRecord) -> list[str]:
    """Return the record as lines for people: what was published, what was chosen, and what it gained."""
    rows = [["", "objective", "published", "chosen"]]
    rows += [[name, f"{one.objective_mean:.3f}", "", ""] for name, one in record.controls.items()]
    for name, method in record.methods.items():
        best, published = method.trials[method.chosen].score, method.trials[0].score
        options = ", ".join(f"{key} {_literal(value)}" for key, value in method.options.items())
        rows.append([name, f"{best.objective_mean:.3f}", f"{published.objective_mean:.3f}", options])
    return aligned(rows)
