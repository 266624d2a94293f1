"""Every forget image by name under every population: its confidence, and its epsilon against the reference.

    table = image_table(study, store)            # pandas: one row per population and forget image

Columns: population, image_id, class, group, runs, confidence (mean probability of the image's class over runs),
confidence_sd (over runs; NaN of one), right (share of the runs that answer with the image's class), epsilon (against
the reference at `epsilon_n` runs a side; NaN where one side has fewer than 3, and of the original and of models on
halves of the images, which are not compared with it), guarded (epsilon is 50 by rule, because
the runs of one side hardly differ). Of a study with several forget sets, an image has a row for each set that it is in,
with the number of the set (forget_set); confidence and epsilon are of the runs about that set.

Does not cover: scores of whole populations (`evaluate`).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ray_unlearn.errors import StoreError
from ray_unlearn.evaluation.cache import Population
from ray_unlearn.evaluation.comparison import check_margins
from ray_unlearn.evaluation.epsilon import example_epsilons
from ray_unlearn.evaluation.measures.forgetting_quality import LEAST_TO_SCORE
from ray_unlearn.evaluation.measures.measure import Mode
from ray_unlearn.evaluation.other_stores import check_images, described, populations_of
from ray_unlearn.evaluation.outputs import Outputs, check_same_images, read_outputs
from ray_unlearn.evaluation.slices import class_name
from ray_unlearn.store import StudyStore
from ray_unlearn.store.membership import is_shadow
from ray_unlearn.store.splits import ImageNames, read_image_names
from ray_unlearn.study.plan import ORIGINAL
from ray_unlearn.study.schema import Evaluation, Study

if TYPE_CHECKING:
    import pandas as pd

FORGET = "forget"


def image_table(study: Study, store: StudyStore, *, mode: Mode | None = None) -> pd.DataFrame:
    """Return the table, of the runs that are made.

    Rows are in the study's order of populations, those of other stores at the end, then in that of the splits file.

    Args:
        study: names the populations, the reference and the mode.
        store: the study's folder.
        mode: attacks of epsilon; default `evaluation.mode`.

    Raises:
        StoreError: outputs are damaged or missing, or a population has other images than the reference.
        EvaluationError: one of both was imported as margins to the next class, and the other was not.

    """
    import pandas as pd

    wanted = study.evaluation or Evaluation()
    held = _populations(study, store)
    rows: list[dict[str, Any]] = []
    for population in held.values():
        reference = None if _is_alone(study, population, wanted.reference) else held.get(wanted.reference)
        if reference is not None:
            _check(store, population, reference)
        theirs = reference.by_set() if reference is not None else [None] * population.sets
        for number, (own, other) in enumerate(zip(population.by_set(), theirs, strict=True)):
            found, compared = (_outputs(store, one) if one is not None else None for one in (own, other))
            if found is None:
                continue
            if compared is not None:
                check_same_images(found, compared)
                check_margins(found, compared)
            of_images = _rows(found, compared, read_image_names(own.store or store, own.splits), mode or wanted.mode)
            rows += [{**row, "forget_set": number} for row in of_images]
    columns = ["population", "image_id", "class", "group", "runs", "confidence", "confidence_sd", "right"]
    several = ["forget_set"] if study.data.forget.sets > 1 else []
    return pd.DataFrame(rows, columns=[*columns, "epsilon", "epsilon_n", "guarded", *several])


def _populations(study: Study, store: StudyStore) -> dict[str, Population]:
    """Return the populations that have runs: the study's, then those of other stores."""
    found = {}
    for name, spec in study.populations.items():
        if records := {index: record for index, record in store.made(name).items() if index < spec.planned}:
            found[name] = described(name, spec.method_name, records, store)
    return found | populations_of(study)


def _is_alone(study: Study, population: Population, reference: str) -> bool:
    """Return whether a population is not compared with the reference."""
    spec = study.populations.get(population.name)
    shadows = is_shadow(next(iter(population.records.values()))) or (spec is not None and spec.on_halves)
    return population.name in (reference, ORIGINAL) or shadows


def _check(store: StudyStore, population: Population, reference: Population) -> None:
    if population.store or reference.store:
        check_images(store, population, reference)
    elif (population.splits, population.further) != (reference.splits, reference.further):
        raise StoreError(
            f"{store.uri}: {population.name} and {reference.name} do not compare: their images are of splits "
            f"{population.splits[:12]} and {reference.splits[:12]}"
        )


def _outputs(store: StudyStore, population: Population) -> Outputs | None:
    """Return the outputs of a population's runs about one forget set; None without those of its images."""
    if not population.records:
        return None
    outputs = read_outputs(population.store or store, population.source or population.name, population.records)
    return replace(outputs, population=population.name) if FORGET in outputs.splits else None


def _rows(found: Outputs, reference: Outputs | None, names: ImageNames, mode: Mode) -> list[dict[str, Any]]:
    split = found.splits[FORGET]
    unknown_RE = np.full_like(split.phi_RN, np.nan)
    probability_RE = unknown_RE if "probabilities" in split.lacks else np.exp(-split.loss_RN)
    right_RE = unknown_RE if "answers" in split.lacks else split.correct_RN
    runs = len(found)
    sd_E = probability_RE.std(0, ddof=1) if runs > 1 else unknown_RE[0]
    n = min(runs, len(reference)) if reference is not None else 0
    epsilons = None
    if reference is not None and n >= LEAST_TO_SCORE:
        epsilons = example_epsilons(split.phi_RN[:n], reference.splits[FORGET].phi_RN[:n], mode=mode)
    return [
        {
            "population": found.population,
            "image_id": str(names.ids[FORGET][position]),
            "class": class_name(names, int(label)),
            "group": str(names.groups[FORGET][position]) if names.groups else "",
            "runs": runs,
            "confidence": float(probability_RE[:, place].mean()),
            "confidence_sd": float(sd_E[place]),
            "right": float(right_RE[:, place].mean()),
            "epsilon": float(epsilons.epsilon_E[place]) if epsilons else float("nan"),
            "epsilon_n": n if epsilons else 0,
            "guarded": bool(epsilons.guarded_E[place]) if epsilons else False,
        }
        for place, (position, label) in enumerate(zip(split.positions_N, split.labels_N, strict=True))
    ]
