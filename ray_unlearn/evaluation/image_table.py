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

from typing import TYPE_CHECKING, Any

import numpy as np

from ray_unlearn.errors import StoreError
from ray_unlearn.evaluation.epsilon import example_epsilons
from ray_unlearn.evaluation.measures.forgetting_quality import LEAST_TO_SCORE
from ray_unlearn.evaluation.measures.measure import Mode
from ray_unlearn.evaluation.outputs import ImageNames, Outputs, read_image_names, read_outputs
from ray_unlearn.evaluation.slices import class_name
from ray_unlearn.store import StudyStore
from ray_unlearn.store.forget_sets import splits_held
from ray_unlearn.study.forget_sets import runs_by_set
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
    held = {name: store.held(name) or {} for name in study.populations}
    splits = {name: splits_held(one)[: 1 if name == ORIGINAL else None] for name, one in held.items()}
    rows: list[dict[str, Any]] = []
    for name, spec in study.populations.items():
        alone = name in (wanted.reference, ORIGINAL) or spec.on_halves
        for number, digest in enumerate(splits[name]):
            found = _outputs(study, store, name, number, len(splits[name]))
            if found is None:
                continue
            compared = None if alone else _outputs(study, store, wanted.reference, number, len(splits[name]))
            if compared is not None and splits[name] != splits[wanted.reference]:
                theirs = splits[wanted.reference][0]
                raise StoreError(
                    f"{store.uri}: {name} and {wanted.reference} do not compare: their images are of splits "
                    f"{digest[:12]} and {theirs[:12]}"
                )
            of_images = _rows(found, compared, read_image_names(store, digest), mode or wanted.mode)
            rows += [{**row, "forget_set": number} for row in of_images]
    columns = ["population", "image_id", "class", "group", "runs", "confidence", "confidence_sd", "right"]
    several = ["forget_set"] if study.data.forget.sets > 1 else []
    return pd.DataFrame(rows, columns=[*columns, "epsilon", "epsilon_n", "guarded", *several])


def _outputs(study: Study, store: StudyStore, name: str, number: int, sets: int) -> Outputs | None:
    """Return the outputs of a population's finished runs about one forget set; None without those of its images."""
    planned = study.populations[name].planned if name in study.populations else 0
    indexes = runs_by_set((index for index in store.made(name) if index < planned), sets)[number]
    records = {index: record for index, record in store.made(name).items() if index in indexes}
    if not records:
        return None
    outputs = read_outputs(store, name, records)
    return outputs if FORGET in outputs.splits else None


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
