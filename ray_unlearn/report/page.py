"""Scores -> one HTML page that needs nothing else: no network, no other file.

    Path("report.html").write_text(html_page(scores, study), encoding="utf-8")     # study: the values of study.json

The same scores give the same bytes. The page's own policy forbids it to load anything.

Does not cover: computing scores (evaluation), where the file goes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import partial
from html import escape
from importlib.resources import files
from typing import Any, Literal

import yaml

from ray_unlearn.evaluation.measures import MEASURES
from ray_unlearn.evaluation.scores import PopulationScores, Scores
from ray_unlearn.report import curve_pictures, image_pictures, overview_pictures
from ray_unlearn.report.accuracy_tables import change_grid, part_grids
from ray_unlearn.report.markup import code, folded, key, panels, section, table, titled
from ray_unlearn.report.measure_tables import left_out, measure_grids
from ray_unlearn.report.ranking import SPLITS, caveat, in_order, mode_words, ranked, reference_of, verdict, warnings_of
from ray_unlearn.report.score_tables import cost_grid, ranking_grid
from ray_unlearn.wording import decimals, joined, plural

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"
_PARTS: tuple[Literal["class", "group"], ...] = ("class", "group")
_SELDOM = ("retain-", "validation-")
"""Splits whose classes and groups are folded away."""
_MOST_WARNINGS = 5
"""More are folded, so that the ranking stays on the first screen."""
_SECTIONS = {
    "standing": "Ranking",
    "forgetting": "Forgetting, image by image",
    "attacked": "Attacks",
    "accuracy": "Accuracy",
    "costs": "Cost",
    "about": "The study",
}


def html_page(scores: Scores, study: Mapping[str, object]) -> str:
    """Return the report.

    Args:
        scores: one evaluation.
        study: plain JSON values, shown as they are.

    """
    title = str(study.get("name", scores.study))
    contents = {
        "standing": _standing(scores),
        "forgetting": _forgetting(scores),
        "attacked": _attacked(scores),
        "accuracy": _accuracy(scores),
        "costs": table(cost_grid(scores)),
        "about": _about(scores, study),
    }
    body = "".join(section(name, _SECTIONS[name], content) for name, content in contents.items())
    links = "".join(f'<a href="#{name}">{escape(_SECTIONS[name])}</a>' for name, content in contents.items() if content)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta name="color-scheme" content="light dark"><title>{escape(title)}: unlearning report</title>'
        f"<style>{_asset('page.css')}</style></head><body>\n{_header(scores, title)}"
        f'<nav aria-label="Contents">{links}</nav>\n<main>{body}</main>\n'
        f"<script>{_asset('page.js')}</script></body></html>\n"
    )


def _asset(name: str) -> str:
    return files("ray_unlearn.report").joinpath(name).read_text(encoding="utf-8")


def _header(scores: Scores, title: str) -> str:
    reference = reference_of(scores)
    runs = f" (N = {reference.runs})" if reference else ""
    images = scores.images.get("forget")
    facts = [f"reference {scores.reference}{runs}"]
    facts += [f"{images:,} forget images"] if images else []
    facts += [f"{len(scores.class_names)} classes", f"seed {scores.seed}"]
    return (
        f'<header><p class="eyebrow">Unlearning report</p><h1>{escape(title)}</h1>'
        f'<p class="facts"><strong class="mode">{scores.mode} mode</strong> {escape(mode_words(scores))} '
        f"<span>· {escape(' · '.join(facts))}</span></p>"
        f'<p class="verdict">{_emphasised(verdict(scores))}</p><p class="caveat">{escape(caveat(scores))}</p>'
        f"{_warnings(scores)}</header>"
    )


def _emphasised(said: str) -> str:
    """Set the first sentence, which names the closest population, apart from its reservations."""
    said = re.sub(r"(?<=\d), (?=\d)", ",\N{NO-BREAK SPACE}", said).replace(
        "N = ", "N\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}"
    )
    first, dot, rest = said.partition(". ")
    return f"<strong>{escape(first)}{dot}</strong>{escape(rest)}" if dot else escape(said)


def _warnings(scores: Scores) -> str:
    lines = warnings_of(scores)
    items = "".join(f"<li>{escape(line)}</li>" for line in lines)
    state = " open" if len(lines) <= _MOST_WARNINGS else ""
    summary = f"<summary>{plural(len(lines), 'warning')}</summary>"
    return f'<aside aria-label="Warnings"><details{state}>{summary}<ul>{items}</ul></details></aside>' if lines else ""


def _standing(scores: Scores) -> str:
    pictures = [
        (
            "How close each comes to retraining",
            "dot: F and 95 % interval · diamond: at the null's N · band: retraining against itself",
            overview_pictures.forest(scores),
        ),
        ("Accuracy against forgetting", "up and to the right is better", overview_pictures.plane(scores)),
    ]
    return table(ranking_grid(scores), sorted_by=0) + panels(pictures, "pair")


def _each(
    draw: Callable[[Scores, PopulationScores], str], scores: Scores, populations: list[PopulationScores] | None = None
) -> str:
    """Return one picture per population that has one, the unlearned ones where no others are named."""
    found = ranked(scores) if populations is None else populations
    return panels((one.population, _facts(one), draw(scores, one)) for one in found)


def _facts(found: PopulationScores) -> str:
    quality = found.measures.get("forgetting_quality")
    said = "" if quality is None or quality.value is None else f"F {decimals(quality.value)}"
    return joined(f"N {found.runs}", said, f"{found.guarded} guarded" * bool(found.guarded), by=" · ")


def _forgetting(scores: Scores) -> str:
    return (
        titled(
            "How many images are forgotten how well",
            "Each forget image has an ε: how far its unlearned and retrained models can be told apart. Left is good: "
            "0.5 more halves what an image adds to F. Guarded images, whose runs hardly differ, are in the last bar.",
            _each(image_pictures.histogram, scores),
        )
        + titled(
            "A few images",
            "Grey: retrained models. Line: unlearned ones. The better they cover each other, the smaller ε. "
            "Each shape is scaled to its own height; what lies beyond the axis is counted at its end.",
            _each(image_pictures.distributions, scores),
        )
        + titled(
            "How many runs it takes",
            "F with fewer runs, and its range over the subsets drawn. Dashed grey: the null at that N.",
            _each(curve_pictures.growth, scores),
        )
    )


def _attacked(scores: Scores) -> str:
    curves = [
        titled(
            f"ROC of {label}",
            "Both axes are logarithmic. Dashed grey: the same attack on retrained models; dotted: guessing.",
            _each(partial(curve_pictures.roc, attack=attack), scores),
        )
        for attack, label in curve_pictures.ATTACKS.items()
    ]
    said = "".join(f'<p class="explained">{escape(line)}</p>' for line in [" ".join(left_out(scores))] if line)
    return "".join([*(table(grid) for grid in measure_grids(scores)), said, *curves])


def _accuracy(scores: Scores) -> str:
    change = change_grid(scores)
    grids = [grid for by in _PARTS for grid in part_grids(scores, by)]
    return (
        (table(change) if change else "")
        + "".join(table(grid) for grid in grids if not grid.name.startswith(_SELDOM))
        + "".join(folded(grid.caption, table(grid)) for grid in grids if grid.name.startswith(_SELDOM))
        + titled(
            "Epoch by epoch",
            "Accuracy, mean over runs, while a run trains.",
            _stages(scores),
        )
    )


def _stages(scores: Scores) -> str:
    pictures = _each(curve_pictures.stages, scores, in_order(scores))
    return key(SPLITS) + pictures if pictures else ""


def _about(scores: Scores, study: Mapping[str, object]) -> str:
    options = {one.population: {"method": one.method, **_plain_options(one)} for one in in_order(scores)}
    versions = ", ".join(f"{name} {version}" for name, version in scores.versions.items())
    return (
        f'<p class="versions">Made with {escape(versions)}.</p>'
        + folded("How to read this page", _glossary())
        + folded("The study file, defaults filled in", code(_as_yaml(dict(study))))
        + folded("Options of every population", code(_as_yaml(options)))
    )


def _plain_options(found: PopulationScores) -> dict[str, Any]:
    """Return options as JSON has them: YAML's safe form knows no other types."""
    options: dict[str, Any] = found.model_dump(mode="json", include={"options"})["options"]
    return options


def _as_yaml(values: dict[str, Any]) -> str:
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=100)


def _glossary() -> str:
    items = {
        "N": "Runs: checkpoints that differ by seed alone. A number of two populations has N of each.",
        "null": "The same number between disjoint halves of the reference: what retraining gets against itself.",
        "95 % interval": "Over runs: what other seeds of the same study would do, not what other data would.",
        "φ": "A model's confidence in an image's true class: log of p / (1 - p).",
        "ε": "Per image: how far apart the best threshold or interval tells unlearned from retrained φ.",
    }
    items |= {one.label: f"{one.meaning}. {one.source}." for one in MEASURES.values()}
    return "<dl>" + "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in items.items()) + "</dl>"
