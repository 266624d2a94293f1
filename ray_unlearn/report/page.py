"""Scores -> one self-contained HTML page: it needs no network and no other file.

    Path("report.html").write_text(html_page(scores, study), encoding="utf-8")     # study: the values of study.json

The page is the template `page.html`; this module fills in tables, pictures and sentences. The same scores give the same
bytes. The page's own policy forbids it to load anything and to run any script but `page.js`, which sorts tables.

Does not cover: computing scores (evaluation), writing the file (`publish`).
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from importlib.resources import files
from typing import Any, NamedTuple

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from ray_unlearn.evaluation.scores import PopulationScores, Scores
from ray_unlearn.report import curve_pictures, image_pictures, overview_pictures
from ray_unlearn.report.accuracy_tables import change_table, part_tables
from ray_unlearn.report.evidence_tables import evidence_table, images_table, part_quality_table
from ray_unlearn.report.ranking import (
    SPLITS,
    at_once,
    in_order,
    mode_words,
    originals_of,
    ranked,
    reference_of,
    shadows_of,
    warnings_of,
)
from ray_unlearn.report.score_tables import cost_table, glossary, left_out, measure_tables, ranking_table
from ray_unlearn.report.shadow_tables import shadow_tables
from ray_unlearn.report.table import Bar
from ray_unlearn.report.verdict import caveat, plain, sets_of, verdict
from ray_unlearn.report.worst_images import Shown
from ray_unlearn.wording import decimals, joined, percent, plural

_SELDOM = ("retain-", "validation-")
"""Splits whose classes and groups are folded away."""
_TERMS = {
    "F": "Forgetting quality, 0 to 1: how hard it is to tell unlearned models from retrained ones by their answers on "
    "the forgotten images. Higher is better.",
    "retraining itself": "Also called the null: F between two halves of the retrained models. A perfect method would "
    "get it; 1 is out of reach.",
    "N": "Models of one method; they differ by their random seed alone.",
    "[ ]": "95 % interval: the range in which the number would be with other seeds, 19 times out of 20.",
}
"""The terms of the first screen."""
_WORDS = {
    "N": "Runs: checkpoints that differ by seed alone. A number of two populations has N of each.",
    "null": "The same number between disjoint halves of the reference: what retraining gets against itself.",
    "95 % interval": "Over runs: what other seeds of the same study would do, not what other data would. "
    "From 4 originals on, over originals too; from 4 forget sets on, over forget sets too.",
    "p": "The share of random divisions of all runs into two groups that differ as much as method and reference do.",
    "φ": "A model's confidence in an image's true class: log of p / (1 - p).",
    "ε": "Per image: how well the best threshold or interval separates unlearned from retrained φ.",
}


class Picture(NamedTuple):
    """A figure of the page."""

    title: str
    note: str
    svg: str


def html_page(scores: Scores, study: Mapping[str, object], images: Sequence[Shown] = ()) -> str:
    """Return the report.

    Args:
        scores: the results of one evaluation.
        study: the study as plain JSON values, which the page shows unchanged.
        images: pictures of the images that each method forgot worst; none unless a person asks for them.

    """
    parts = [*part_tables(scores, "class"), *part_tables(scores, "group")]
    options = {one.population: {"method": one.method, **_plain_options(one)} for one in in_order(scores)}
    return template("page.html").render(
        policy=policy(),
        style=asset("page.css"),
        script=asset("page.js"),
        title=str(study.get("name", scores.study)),
        mode=scores.mode,
        mode_words=mode_words(scores),
        facts=_facts(scores),
        plain=_unbroken(plain(scores)),
        picture=_first_picture(scores),
        terms=_TERMS if ranked(scores) else {},
        verdict=_unbroken(verdict(scores)),
        caveat=caveat(scores),
        warnings=warnings_of(scores),
        ranking=ranking_table(scores),
        tests=evidence_table(scores),
        worst=images_table(scores),
        images=images,
        qualities=[one for by in ("class", "group") if (one := part_quality_table(scores, by))],
        overview=_overview(scores),
        histograms=_each(image_pictures.histogram, scores),
        distributions=_each(image_pictures.distributions, scores),
        growth=_each(curve_pictures.growth, scores),
        measures=measure_tables(scores),
        left_out=left_out(scores),
        rocs={
            label: _each(partial(curve_pictures.roc, attack=attack), scores)
            for attack, label in curve_pictures.ATTACKS.items()
        }
        | {
            label: _each(
                partial(curve_pictures.roc, attack=attack), scores, [*originals_of(scores), *shadows_of(scores)]
            )
            for attack, label in curve_pictures.KNOWN.items()
        },
        shadow_tables=shadow_tables(scores),
        changes=change_table(scores),
        parts=[one for one in parts if not one.name.startswith(_SELDOM)],
        folded_parts=[one for one in parts if one.name.startswith(_SELDOM)],
        stages=_each(curve_pictures.stages, scores, in_order(scores)),
        splits=SPLITS,
        cost=cost_table(scores),
        versions=", ".join(f"{name} {version}" for name, version in scores.versions.items()),
        glossary=_WORDS | glossary(),
        study_yaml=_as_yaml(dict(study)),
        options_yaml=_as_yaml(options),
    )


@cache
def template(name: str, room: str = "report") -> Template:
    """Return a template of a room's folder, with the functions that macros use."""
    environment = Environment(
        loader=PackageLoader("ray_unlearn", room), autoescape=True, undefined=StrictUndefined, auto_reload=False
    )
    environment.globals.update(on_scale=_on_scale, plural=plural, percent=percent)
    return environment.get_template(name)


def asset(name: str) -> str:
    """Return the text of a file of this folder."""
    return files("ray_unlearn.report").joinpath(name).read_text(encoding="utf-8")


def policy() -> str:
    """Return the page's Content-Security-Policy: nothing is loaded, and no script runs but the one with this hash."""
    digest = base64.b64encode(hashlib.sha256(asset("page.js").encode()).digest()).decode()
    return f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; img-src data:"


def _on_scale(bar: Bar, value: float) -> float:
    """Return a value's position on a bar, in CSS pixels from its left end: 4 for `bar.bottom`, 108 for `bar.top`."""
    share = (value - bar.bottom) / ((bar.top - bar.bottom) or 1.0)
    return round(4 + 104 * min(max(share, 0), 1), 1)


def _facts(scores: Scores) -> list[str]:
    reference, images = reference_of(scores), scores.images.get("forget")
    facts = [f"reference {scores.reference}" + (f" (N = {reference.runs})" if reference else "")]
    sets = sets_of(scores)
    several = f"{sets.sets} forget sets of " if sets else ""
    facts += [f"{several}{images:,} forget images"] if images else []
    return [*facts, f"{len(scores.class_names)} classes", f"seed {scores.seed}"]


def _unbroken(text: str) -> str:
    """Return a sentence whose numbers do not break between lines."""
    text = re.sub(r"(?<=\d), (?=\d)", ",\N{NO-BREAK SPACE}", text)
    for letter in ("N", "p"):
        text = text.replace(f"{letter} = ", f"{letter}\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}")
    return text


def _first_picture(scores: Scores) -> list[Picture]:
    note = "right: harder to tell from retraining · up: more accurate on new images · square: retraining itself"
    found = Picture("How close to retraining, at what cost in accuracy", note, overview_pictures.plane(scores))
    return [found] if found.svg else []


def _overview(scores: Scores) -> list[Picture]:
    pictures = [
        Picture(
            "How close each comes to retraining",
            f"dot: F and 95 % interval{at_once(scores)} · diamond: at the null's N · band: retraining against itself",
            overview_pictures.forest(scores),
        ),
    ]
    return [one for one in pictures if one.svg]


def _each(
    draw: Callable[[Scores, PopulationScores], str], scores: Scores, populations: list[PopulationScores] | None = None
) -> list[Picture]:
    """Return one picture per population that has one, of the unlearned populations where no others are named."""
    found = ranked(scores) if populations is None else populations
    pictures = [Picture(one.population, _note(one), draw(scores, one)) for one in found]
    return [one for one in pictures if one.svg]


def _note(found: PopulationScores) -> str:
    quality = found.measures.get("forgetting_quality")
    quality_text = "" if quality is None or quality.value is None else f"F {decimals(quality.value)}"
    return joined(f"N {found.runs}", quality_text, f"{found.guarded} guarded" * bool(found.guarded), by=" · ")


def _plain_options(found: PopulationScores) -> dict[str, Any]:
    """Return options as JSON has them: YAML's safe form knows no other types."""
    options: dict[str, Any] = found.model_dump(mode="json", include={"options"})["options"]
    return options


def _as_yaml(values: dict[str, Any]) -> str:
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=100)
