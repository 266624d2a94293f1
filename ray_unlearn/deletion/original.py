"""Is the imported model the one that it is taken for? Wrong pixels or a wrong order of classes show in its accuracy.

    line = check(study, store)                   # "model.pth: accuracy 98.1 % on 1,338 retained images, ..."

Does not cover: whether weights fit the architecture (`models.load_weights`).
"""

from __future__ import annotations

import math
from pathlib import Path, PurePath

import numpy as np

from ray_unlearn.data.id_lists import read_ids
from ray_unlearn.deletion.files import earlier_request
from ray_unlearn.errors import ModelError, RayUnlearnError
from ray_unlearn.evaluation.outputs import SplitOutputs, read_outputs
from ray_unlearn.store import StudyStore
from ray_unlearn.study.loading import load_study
from ray_unlearn.study.plan import ORIGINAL
from ray_unlearn.study.schema import Study
from ray_unlearn.wording import percent, plural

_SURE = 3.0
"""Standard errors that a difference must have."""
_LEAST = 0.02
"""Share of the way from chance to no error, and difference from the expected accuracy, that always passes."""
_CAUSES = (
    "check data.image_size and data.normalize (as the model was trained), the order of the classes, which is that of "
    "the folders' names, and that these are its training images"
)


def check(study: Study, store: StudyStore) -> str:
    """Return one line with the original's accuracies; its outputs are made.

    Raises:
        ModelError: its accuracy on retained images is near chance, or on test images far from `expect_accuracy`.

    """
    splits = read_outputs(store, ORIGINAL, store.made(ORIGINAL)).splits
    retain, test = splits["retain"], splits.get("test")
    name = PurePath((study.populations[ORIGINAL].weights or ("the model",))[0]).name
    line = f"{name}: accuracy {_accuracy(retain)} % on {len(retain.labels_N):,} retained images"
    if test is not None:
        line += f", {_accuracy(test)} % on {len(test.labels_N):,} held-out images"
    _check_chance(line, retain)
    if test is not None and study.evaluation is not None and study.evaluation.expect_accuracy is not None:
        _check_expected(line, test, study.evaluation.expect_accuracy)
    return line


def warnings(study: Study) -> list[str]:
    """Return what the numbers of held-out images do not mean, and what an earlier request forgot."""
    lines = []
    if isinstance(study.data.test, float):
        lines.append(
            "no test images were given: the held-out ones are drawn from the training images, and the original was "
            "trained on them, so its accuracy on them measures memory; --test names images that it never saw"
        )
    return lines + _learned_again(study)


def _learned_again(study: Study) -> list[str]:
    """Return a line where the original is the result of an earlier request, whose images this one retains."""
    model = Path((study.populations[ORIGINAL].weights or ("",))[0])
    if (file := earlier_request(model)) is None or study.data.forget.ids is None:
        return []
    try:
        forgotten = {text for _, text in read_ids(load_study(file).data.forget.ids or ())}
        others = forgotten - {text for _, text in read_ids(study.data.forget.ids)}
    except RayUnlearnError:  # the earlier request's list is gone
        return []
    if not others:
        return []
    return [
        f"{model.name} was made to forget {plural(len(forgotten), 'image')} ({file}), and {len(others)} of them, such "
        f"as {min(others)!r}, are not in this list: where the training images still hold them, they are retained now, "
        "and both unlearned and retrained models are trained on them again; name them in this list too, or take them "
        "out of the training images"
    ]


def _accuracy(split: SplitOutputs) -> str:
    return percent(float(split.accuracy_R[0]))


def _check_chance(line: str, retain: SplitOutputs) -> None:
    """Refuse a model that does no better on its own training images than the answer with the largest class."""
    images = len(retain.labels_N)
    chance = float(np.bincount(retain.labels_N).max()) / images
    margin = max(_SURE * math.sqrt(chance * (1 - chance) / images), _LEAST * (1 - chance))
    if float(retain.accuracy_R[0]) < chance + margin:
        raise ModelError(
            f"{line}: near chance (the largest class is {percent(chance)} % of the retained images); {_CAUSES}"
        )


def _check_expected(line: str, test: SplitOutputs, expected: float) -> None:
    margin = max(_SURE * math.sqrt(expected * (1 - expected) / len(test.labels_N)), _LEAST)
    if abs(float(test.accuracy_R[0]) - expected) > margin:
        raise ModelError(f"{line}: expected {percent(expected)} % on held-out images (expect_accuracy); {_CAUSES}")
