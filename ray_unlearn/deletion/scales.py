"""Are the pixels scaled as the imported model was trained? With the wrong scale a model is worse, and nothing fails.

    check_scale(study, store)                    # ModelError, if another usual scale gives a much better accuracy

Does not cover: a model near chance, or far from the accuracy that it should have (`original`).
"""

from __future__ import annotations

import numpy as np

from ray_unlearn.errors import ModelError
from ray_unlearn.seeds import Seeds
from ray_unlearn.store import StudyStore
from ray_unlearn.store.records import CHECKPOINT
from ray_unlearn.study.plan import ORIGINAL, Run
from ray_unlearn.study.schema import Normalize, Study
from ray_unlearn.usercode.exits import stays
from ray_unlearn.wording import percent

USUAL: dict[str, str | Normalize] = {
    "raw": "raw",
    "unit": "unit",
    "standard": "standard",
    "{mean: [0.5, 0.5, 0.5], std: [0.5, 0.5, 0.5]}": Normalize(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)),
    "{mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225]}": Normalize(
        mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)
    ),
}
"""Scales by their text in a study file: 0..255, 0..1, this package's, torchvision's examples' two."""
_IMAGES = 256
_SURE = 0.1
"""Difference of accuracy that shows another scale: three standard errors of a half, over 256 images."""


def check_scale(study: Study, store: StudyStore) -> None:
    """Check that no other usual scale of pixels gives the original a much better accuracy on retained images.

    A study that states `expect_accuracy` is not looked at, because `original.check` compares that.

    Raises:
        ModelError: one does; the message has the `normalize` to give.

    """
    stated = study.evaluation.expect_accuracy if study.evaluation else None
    ours = store.made(ORIGINAL)[0].metrics["retain_accuracy"]
    if stated is not None or ours > 1 - _SURE:
        return
    with stays(f"model {study.model.arch}"):
        found = _accuracies(study, store)
    best = max(USUAL, key=lambda name: found[name])
    if found[best] > found["ours"] + _SURE:
        raise ModelError(
            f"the original's accuracy on retained images is {percent(found['ours'])} % with this data.normalize, and "
            f"{percent(found[best])} % with {best} (on {_IMAGES} images or all): the pixels are not scaled as the "
            f"model was trained; give --normalize '{best}' (data.normalize in a study file), or, where the scale is "
            "right, --expect-accuracy"
        )


def _accuracies(study: Study, store: StudyStore) -> dict[str, float]:
    """Return the original's accuracy on some retained images by scale; `ours` is the study's."""
    import torch

    from ray_unlearn import models
    from ray_unlearn.data.images import ImageSet, Scaling
    from ray_unlearn.generation.job import open_job
    from ray_unlearn.training import accuracy_and_loss, predict

    data = open_job(study).data
    model = models.build(study.model, data.num_classes, Seeds(study=0), study.data.image_size)
    weights = models.parse_weights(store.payload(Run(population=ORIGINAL, index=0), CHECKPOINT), CHECKPOINT)
    models.load_weights(model, weights, where=store.uri)
    pixels, retained = data.open(torch.device("cpu")), data.splits.sets["retain"]
    some = np.sort(Seeds(study=study.seed).numpy("scale-check").permutation(retained)[:_IMAGES])
    scales = {**USUAL, "ours": study.data.normalize}
    images = {name: ImageSet(pixels, some, Scaling.of(scale)) for name, scale in scales.items()}
    return {name: accuracy_and_loss(predict(model, one), one.labels_N)[0] for name, one in images.items()}
