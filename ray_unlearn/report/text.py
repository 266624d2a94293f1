"""Tables and lists as lines of text, for the command line and for job logs.

    for line in status_lines(study_status(study, store), store.uri): ...
    for line in score_lines(scores): ...         # what `evaluate` prints
    for line in growth_lines(scores): ...        # shorter, while N grows

Scores take at most 100 columns, unless a warning, or a list of names, is longer.

Does not cover: pictures (`curves`), machine-readable forms (`--json`, metrics.parquet).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from ray_unlearn.evaluation.measures import MEASURES
from ray_unlearn.evaluation.scores import PopulationScores, Scores
from ray_unlearn.report.ranking import (
    SPLITS,
    estimate,
    mode_words,
    null_of,
    places_line,
    quoted,
    ranked,
    warnings_of,
    why_no_null,
)
from ray_unlearn.report.score_tables import HEADLINE, estimate_cell, ranking_lines_table
from ray_unlearn.report.shadow_tables import shadow_lines
from ray_unlearn.report.table import Cell, Table
from ray_unlearn.report.verdict import sets_line, test_line
from ray_unlearn.store.metrics import PopulationStatus
from ray_unlearn.study.recipe import Recipe
from ray_unlearn.wording import aligned, decimals, joined, listed, plural, short, span

if TYPE_CHECKING:  # they bring torch and pandas, which `status` does not need
    import pandas as pd

    from ray_unlearn.data.study_data import StudyData
    from ray_unlearn.methods import Method

WIDTH = 100
_GAP = 2


def status_lines(found: Sequence[PopulationStatus], uri: str) -> list[str]:
    """Return one line per population, then why runs failed."""
    rows = [["population", "planned", "done", "failed", "to make"]]
    for one in found:
        to_make = one.planned - one.done
        rows.append([one.population, *map(str, (one.planned, one.done, len(one.failed), to_make))])
    lines = [f"store {uri}", *aligned(rows)]
    for one in found:
        if one.more:
            are = "is" if one.more == 1 else "are"
            lines.append(f"{one.population}: {plural(one.more, 'run')} beyond the planned {one.planned} {are} kept")
        if one.unfinished:
            after = {index: f" after epoch {epoch}" for index, epoch in one.epochs.items()}
            runs = listed([f"{index:05d}{after.get(index, '')}" for index in one.unfinished])
            lines.append(f"{one.population}: {plural(len(one.unfinished), 'run')} will go on inside: {runs}")
        lines += [
            f"failed: {one.population}/{index:05d} after {plural(failure.attempts, 'attempt')}: {failure.error}"
            for index, failure in one.failed.items()
        ]
    return lines


def accuracy_lines(table: pd.DataFrame) -> list[str]:
    """Return accuracies in percent, mean +- standard deviation over runs, with N."""
    splits = [split for split in SPLITS if f"{split} mean" in table]
    rows = [["accuracy, %", "N", *splits]]
    for row in table.to_dict("records"):
        rows.append([str(row["population"]), str(row["N"]), *(_mean_and_spread(row, split) for split in splits)])
    return [*aligned(rows), "mean ± standard deviation over N runs"]


def _mean_and_spread(row: dict[Any, Any], split: str) -> str:
    mean, spread = row[f"{split} mean"], row[f"{split} sd"]
    if math.isnan(mean):
        return "-"
    return f"{100 * mean:.1f}" if math.isnan(spread) else f"{100 * mean:.1f} ± {100 * spread:.1f}"


def score_lines(scores: Scores) -> list[str]:
    """Return the ranking as a table, what the null is, why values are missing, and all warnings."""
    table = ranking_lines_table(scores)
    return [
        f"{scores.study}: {scores.mode} mode, {mode_words(scores)}",
        *table_lines(table),
        table.explained,
        *([places] if (places := places_line(scores)) else []),
        *null_lines(scores),
        *([sets] if (sets := sets_line(scores)) else []),
        *([tested] if (tested := test_line(scores)) else []),
        *shadow_lines(scores),
        *_audit_lines(ranked(scores)),
        *_missing_lines(ranked(scores)),
        *(f"warning: {warning}" for warning in warnings_of(scores)),
    ]


def table_lines(table: Table) -> list[str]:
    """Return headings and rows; rows' names lose their middle if the table would be wider than `WIDTH` columns."""
    rows = [[column.label for column in table.columns], *([_entry(cell) for cell in row] for row in table.rows)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    first_width = max(WIDTH - sum(widths[1:]) - _GAP * (len(widths) - 1), 12)
    return aligned([[short(first, first_width), *rest] for first, *rest in rows])


def _entry(cell: Cell) -> str:
    """Return a cell on a terminal: value, interval, and N if it differs from the row's."""
    return joined(cell.text, cell.interval, f"N={cell.n}" * (cell.n is not None))


def plan_lines(scores: Scores) -> list[str]:
    """Return what more runs would buy: widths of intervals by N, and the N that separates neighbours."""
    found = scores.plan
    if found is None:
        return ["no plan: it takes intervals, which 6 runs have, and populations of one N"]
    label = MEASURES[found.measure].label
    rows = [["width of the interval, by N", *map(str, found.sizes)]]
    rows += [[name, *map(decimals, widths)] for name, widths in found.widths.items()]
    lines = ["", f"{label} with more runs a side, extrapolated from N={found.n}", *aligned(rows)]
    for one in found.separations:
        far = f"{found.sizes[-1]} runs a side do not show it"
        many = far if one.runs is None else f"{plural(one.runs, 'run')} a side show it"
        lines.append(f"{one.first} - {one.second} = {decimals(one.difference)}: {many}")
    spent = any(one.look and one.look.share == 1 for one in scores.populations.values())
    return [
        *lines,
        "in 80 % of studies, for all pairs at once, if F goes on changing as it did at the last doubling",
        *["tests of these runs have spent their 5 %: plan more runs in a study with another seed"] * spent,
    ]


def growth_lines(scores: Scores) -> list[str]:
    """Return one line per scored population: N, score and F with intervals of all at once, and the null's F."""
    return [f"N={one.runs} {one.population}: {_growth_words(one)}" for one in ranked(quoted(scores))]


def _growth_words(found: PopulationScores) -> str:
    quality = estimate(found, "forgetting_quality")
    if quality.value is None:
        return f"no score: {quality.missing}"
    score, f = (_entry(estimate_cell(estimate(found, key), found.runs)) for key in HEADLINE)
    null = f"null F {decimals(quality.null)} at {quality.null_n}" if quality.null is not None else ""
    return joined(f"score {score}", f"F {f}", null, by=", ")


def _audit_lines(found: Sequence[PopulationScores]) -> list[str]:
    """Return what single runs show of their forget set, where the audit of one run applies."""
    audits = {one.population: one.one_run for one in found if one.one_run and not one.one_run.missing}
    if not audits:
        return []
    each = ", ".join(f"{name} {decimals(one.median)} ({one.shown} of {one.runs} > 0)" for name, one in audits.items())
    first = next(iter(audits.values()))
    what = f"median; forget against {first.control} images; 1 in 20 > 0 by chance"
    return [f"epsilon of single runs, at least ({what}): {each}"]


def null_lines(scores: Scores) -> list[str]:
    """Return where the null is, or why there is none."""
    null = null_of(scores, "forgetting_quality")
    if null is None:
        return [f"no null, which is how close retraining comes to itself: {why_no_null(scores)}"]
    ends = span(null.null_low, null.null_high)
    value = decimals(null.null) + f" ({ends} over halvings)" * bool(ends)
    return [f"null F: {scores.reference} against itself, {value}; compare F at {null.null_n} with it"]


def _missing_lines(found: list[PopulationScores]) -> list[str]:
    """Return each reason for a missing score once, after the names of the populations that lack the score."""
    about: dict[str, list[str]] = {}
    for one in found:
        if (score := estimate(one, "score")).value is None:
            about.setdefault(score.missing, []).append(one.population)
    return [f"{listed(names)}: no score: {missing}" for missing, names in about.items()]


def data_lines(data: StudyData) -> list[str]:
    """Return the prepared data: classes, sizes of splits, sources, skipped images and warnings."""
    sizes = data.splits.sizes()
    names = f" ({', '.join(data.class_names)})" if data.class_names else ""
    lines = [
        f"{data.num_classes} classes{names}",
        ", ".join(f"{name} {size:,}" for name, size in sizes.items()),
    ]
    for source in data.sources:
        manifest = source.manifest
        lines.append(f"{manifest.source}: {manifest.num_images:,} images in {source.storage.uri}/{source.folder}")
        lines += [f"skipped: {skip['where']}: {skip['reason']}" for skip in manifest.skipped]
    return lines + [f"warning: {warning}" for warning in data.warnings]


def method_values(method: Method) -> dict[str, Any]:
    """Return the description of a method, as plain JSON values."""
    options = []
    for name, field in method.options.model_fields.items():
        default: Any = None if field.default is PydanticUndefined else field.get_default(call_default_factory=True)
        options.append(
            {
                "name": name,
                "default": default.model_dump() if isinstance(default, BaseModel) else default,
                "required": field.is_required(),
                "choices": choices(field.annotation),
                "from_training": name in method.inherits,
                "description": field.description or _usual_description(name),
            }
        )
    return {
        "name": method.name,
        "summary": method.summary,
        "source": method.source,
        "opened": method.opened,
        "aliases": {alias: dict(implied) for alias, implied in method.aliases.items()},
        "distribution": dict(method.distribution),
        "open": list(method.open),
        "guarantee": method.guarantee,
        "starts_from": method.starts_from,
        "cost": method.cost,
        "deterministic": method.deterministic,
        "no_resume": method.why_no_resume,
        "not_captured": method.why_not_captured,
        "presets": {name: dict(options) for name, options in method.presets.items()},
        "preset_sources": {name: method.preset_source(name) for name in method.presets},
        "options": options,
    }


def choices(annotation: object) -> list[str]:
    """Return the words that an option may be; empty for one that may be anything else, too."""
    return [str(each) for each in get_args(annotation)] if get_origin(annotation) is Literal else []


def _usual_description(option: str) -> str:
    """Return the description of an option of `Recipe` that a method's own default hides."""
    usual = Recipe.model_fields.get(option)
    return (usual.description or "") if usual else ""


def _cost(method: Method) -> str:
    """Return the cost in passes over the data, with the defaults of the options that it names."""
    words = set(re.findall(r"\w+", method.cost))
    fields = {name: field for name, field in method.options.model_fields.items() if name in words}
    numbers = [f"{name} {field.default:g}" for name, field in fields.items() if isinstance(field.default, int | float)]
    inherited = [f"{name} as in the study's training" for name in fields if name in method.inherits]
    defaults = inherited or numbers
    return method.cost + (f" (by default {', '.join(defaults)})" if defaults else "")


def method_list(methods: Sequence[Method]) -> list[str]:
    """Return a line per method, and how to learn more."""
    width = max(len(method.name) for method in methods)
    lines = [f"{method.name:<{width}}  {method.summary}" for method in methods]
    lines.append(
        "path/to/script.py:function  a function of the competition's form; each run has a process of its own, with an "
        "empty working folder"
    )
    return [*lines, "", "`ray-unlearn methods NAME`: source, cost, presets and options; --json: all of every method"]


def method_lines(method: Method) -> list[str]:
    """Return one method's page."""
    values = method_values(method)
    lines = [
        method.name,
        f"  {method.summary}",
        f"  starts from: {method.starts_from}",
        f"  source: {method.source}",
    ]
    for alias, implied in method.aliases.items():
        with_options = "".join(f" with {key}: {value}" for key, value in implied.items())
        lines.append(f"  also called: {alias}{with_options}")
    if method.distribution:
        files = method.distribution.get("files_sha256", "")
        editable = f" (editable; its files, {files[:12]}, are part of the identity)" if files else ""
        lines.append(f"  installed with: {method.distribution['name']} {method.distribution['version']}{editable}")
    lines += [f"  read: {method.opened}"] * bool(method.opened)
    lines += [f"  open: {each}" for each in method.open]
    lines += [f"  states: {method.guarantee}"] * bool(method.guarantee)
    lines.append(f"  cost: {_cost(method)}" + ("; deterministic: its runs have no spread" * method.deterministic))
    lines.append(f"  goes on inside a run (execution.resume_every_minutes): {_yes_or(method.why_no_resume)}")
    lines.append(f"  steps captured as CUDA graphs on a GPU: {_yes_or(method.why_not_captured)}")
    for name, options in values["presets"].items():
        lines.append(f"  preset {name}: {_settings(method, options)}  # {values['preset_sources'][name]}")
    for option in values["options"]:
        default = "(required)" if option["required"] else f"= {in_yaml(option['default'])}"
        default = "= the study's training." + option["name"] if option["from_training"] else default
        words = [*[f"One of: {', '.join(option['choices'])}."] * (len(option["choices"]) > 1), option["description"]]
        lines.append(f"  {option['name']} {default}" + f"  # {' '.join(filter(None, words))}" * any(words))
    return lines


def _yes_or(why_not: str) -> str:
    return f"no: {why_not}" if why_not else "yes"


def _settings(method: Method, options: Mapping[str, Any]) -> str:
    """Return what a preset sets, but for values that are the method's defaults, too."""
    own = {name: value for name, value in options.items() if not _is_default(method, name, value)}
    settings = [f"{name}: {in_yaml(value)}" for name, value in own.items()]
    return ", ".join([*settings, *["the rest as below"] * (len(own) < len(options))])


def _is_default(method: Method, name: str, value: object) -> bool:
    default = method.options.model_fields[name].get_default(call_default_factory=True)
    return name not in method.inherits and in_yaml(value) == in_yaml(default)


def in_yaml(value: object) -> str:
    """Return an option's value as it is written in a study file."""
    if isinstance(value, BaseModel):
        value = value.model_dump()
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {in_yaml(each)}" for key, each in value.items() if each != ()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(in_yaml, value)) + "]"
    return (
        {None: "null", True: "true", False: "false"}[value] if value is None or isinstance(value, bool) else str(value)
    )
