"""Every forget image by name under every population: its confidence, and its epsilon against the reference.

    table = image_table(study, store)            # pandas: one row per population and forget image

Columns: population, image_id, class, group, runs, confidence (mean probability of the image's class over runs),
confidence_sd (over runs; NaN of one), right (share of the runs that answer with the image's class), epsilon (against
the reference at `epsilon_n` runs a side; NaN where one side has fewer than 3, and of the original and of models on
halves of the images, which are not compared with it), guarded (epsilon is 50 by rule, because
the runs of one side hardly differ).

Does not cover: scores of whole populations (`evaluate`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ray_unlearn.errors import StoreError
from ray_unlearn.evaluation.epsilon import example_epsilons
from ray_unlearn.evaluation.measures.forgetting_quality import LEAST_TO_SCORE
from ray_unlearn.evaluation.measures.measure import Mode
from ray_unlearn.evaluation.outputs import ImageNames, Outputs, read_image_names, read_outputs
from ray_unlearn.evaluation.slices import class_name
from ray_unlearn.store import StudyStore
from ray_unlearn.study.plan import ORIGINAL
from ray_unlearn.study.schema import Evaluation, Study

if TYPE_CHECKING:
    import pandas as pd

FORGET = "forget"


def image_table(study: Study, store: StudyStore, *, mode: Mode | None = None) -> pd.DataFrame:
    """Return the table, of the runs that are made; in the study's order, then that of the splits file.

    Args:
        study: names the populations, the reference and the mode.
        store: the study's folder.
        mode: attacks of epsilon; default `evaluation.mode`.

    Raises:
        StoreError: outputs are damaged or missing, or a population has other images than the reference.

    """
    import pandas as pd

    wanted = study.evaluation or Evaluation()
    outputs = _outputs(study, store)
    reference = outputs.get(wanted.reference)
    rows: list[dict[str, Any]] = []
    splits = {name: str((store.held(name) or {})["identity"]["data"]["splits"]) for name in outputs}
    for name, found in outputs.items():
        alone = name in (wanted.reference, ORIGINAL) or study.populations[name].on_halves
        compared = None if alone else reference
        if compared is not None and splits[name] != splits[wanted.reference]:
            raise StoreError(
                f"{store.uri}: {name} and {wanted.reference} do not compare: their images are of splits "
                f"{splits[name][:12]} and {splits[wanted.reference][:12]}"
            )
        rows += _rows(found, compared, read_image_names(store, splits[name]), mode or wanted.mode)
    columns = ["population", "image_id", "class", "group", "runs", "confidence", "confidence_sd", "right"]
    return pd.DataFrame(rows, columns=[*columns, "epsilon", "epsilon_n", "guarded"])


def _outputs(study: Study, store: StudyStore) -> dict[str, Outputs]:
    """Return the outputs of every population with finished runs that saved those of its forget set."""
    found = {}
    for name, spec in study.populations.items():
        records = {index: record for index, record in store.made(name).items() if index < spec.planned}
        if records and FORGET in (outputs := read_outputs(store, name, records)).splits:
            found[name] = outputs
    return found


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
