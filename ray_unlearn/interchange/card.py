"""The card of an exported data set: what hubs show, and what a reader must know before using the numbers.

    text = card(store, study, by_forget_set(store, ["retrained"])[0], "cc-by-4.0", {"retrained": None})

Does not cover: the files that it describes (`hub`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import yaml

from ray_unlearn import __version__
from ray_unlearn.errors import StoreError
from ray_unlearn.evaluation.evaluate import read_scores
from ray_unlearn.evaluation.scores import Estimate, Scores
from ray_unlearn.interchange.sets import OfSet
from ray_unlearn.report.ranking import at_once, quoted
from ray_unlearn.store import Record, StudyStore
from ray_unlearn.store.outputs import Margin
from ray_unlearn.store.records import IMPORTED
from ray_unlearn.study.schema import Study
from ray_unlearn.study.uris import labelled
from ray_unlearn.wording import MISSING

_MINUS: Mapping[Margin, str] = {
    "log_odds": "the logarithm of the summed exponentials of the others",
    "top_two": "the largest of the others",
}


def split_name(population: str) -> str:
    """Return a population's name as a hub takes it for a split: letters, digits, underscores."""
    return re.sub(r"\W", "_", population)


def card(store: StudyStore, study: Study, of: OfSet, licence: str, margins: Mapping[str, Margin | None]) -> str:
    """Return README.md: the settings that hubs read, then the text for people.

    Args:
        store: the study's folder, with its scores.
        study: the study.
        of: the runs, of one forget set.
        licence: identifier of the licence.
        margins: kind of each population's margins; None where it has logits.

    """
    outputs = [{"split": split_name(name), "path": f"outputs/{name}/*.parquet"} for name in of.records]
    settings = {
        "license": licence,
        "pretty_name": study.name,
        "tags": ["machine-unlearning", "ray-unlearn"],
        "configs": [
            {"config_name": "outputs", "data_files": outputs, "default": True},
            {"config_name": "runs", "data_files": "runs/*.parquet"},
            {"config_name": "images", "data_files": "images/*.parquet"},
        ],
    }
    head = yaml.safe_dump(settings, sort_keys=False)
    return f"---\n{head}---\n\n" + "\n\n".join(_sections(store, study, of, licence, margins)) + "\n"


def _sections(
    store: StudyStore, study: Study, of: OfSet, licence: str, margins: Mapping[str, Margin | None]
) -> list[str]:
    scores, made = _scores(store), of.records
    imported = [name for name, records in made.items() if next(iter(records.values())).method == IMPORTED]
    recipe = labelled(study.model_dump(mode="json", include={"seed", "model", "training", "data"}))
    for role in ("train", "test", "validation"):
        recipe["data"].pop(role, None)  # paths of this machine
    recipe["data"]["forget"].pop("ids", None)
    sizes = ", ".join(f"{name} ({len(records)})" for name, records in made.items())
    known = [name for name in made if name not in imported]
    return [
        f"# {study.name}",
        f"Outputs of populations of models, each with runs that differ by seed: {sizes}. Written by ray-unlearn "
        f"{__version__}.",
        *([f"Of forget set {of.number}, from 0, of {of.sets}; scores are means over all sets."] if of.folder else []),
        "```python\nfrom datasets import load_dataset\n\n"
        + "\n".join(f'load_dataset("NAME", "outputs", split="{split_name(name)}")' for name in made)
        + '\nload_dataset("NAME", "runs")\nload_dataset("NAME", "images")\n```',
        _populations(made, scores),
        _null(scores),
        *(
            [
                f"Imported: {', '.join(imported)}. Another program made these runs; their seeds, recipe, originals and "
                "times are not known."
            ]
            if imported
            else []
        ),
        *(f"`margin` of {name} is the label's logit minus {_MINUS[kind]}." for name, kind in margins.items() if kind),
        *([f"## Recipe\n\n```yaml\n{yaml.safe_dump(recipe, sort_keys=False)}```"] if known else []),
        f"## Licence\n\n{licence}. The images are not part of this data set; the licence of their source covers them.",
    ]


def _scores(store: StudyStore) -> Scores | None:
    try:
        return quoted(read_scores(store))
    except StoreError:
        return None


def _populations(made: Mapping[str, Mapping[int, Record]], scores: Scores | None) -> str:
    """Return a table: N, method, F, score, digest."""
    lines = ["| population | N | method | F | score | digest |", "| --- | ---: | --- | ---: | ---: | --- |"]
    for name, records in made.items():
        first = next(iter(records.values()))
        measures = scores.populations[name].measures if scores and name in scores.populations else {}
        cells = [_estimate(measures.get(measure)) for measure in ("forgetting_quality", "score")]
        lines.append(f"| {name} | {len(records)} | {first.method} | {' | '.join(cells)} | `{first.digest[:16]}` |")
    return "\n".join(lines)


def _estimate(found: Estimate | None) -> str:
    if found is None or found.value is None:
        return MISSING
    within = f" [{found.low:.3f}, {found.high:.3f}]" if found.low is not None and found.high is not None else ""
    return f"{found.value:.3f}{within} (N = {found.n})"


def _null(scores: Scores | None) -> str:
    """Return what retraining gets when it is scored like a method."""
    if scores is None:
        return "Not evaluated when it was exported: there is no null, and no score."
    estimates = (one.measures.get("forgetting_quality") for one in scores.populations.values())
    found = next((one for one in estimates if one is not None and one.null is not None), None)
    if found is None or found.null is None:
        return f"Reference: {scores.reference}. Too few runs for a null."
    return (
        f"Null: {scores.reference} against itself, {found.null_n} runs a side, reaches F {found.null:.3f} "
        f"({found.null_low:.3f} to {found.null_high:.3f} over halvings), {scores.mode} mode. Compare F at that N with "
        f"it. The intervals are of 95 %{at_once(scores)}."
    )
