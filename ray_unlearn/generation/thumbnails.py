"""Pictures of training images, as they are decoded for the model, for a page that is asked for them.

    made_of = store.held("finetune")["identity"]["data"]
    uris = thumbnails(study, made_of, ["00017.jpg", "00342.jpg"])
    shown = worst_pictures(study, store, print)  # of the images that each method forgot worst

Photographs may show people: nothing puts them on a page unless it is asked for.

Does not cover: which images are the worst (`report.worst_images`), or of a deletion request (`deletion`).
"""

from __future__ import annotations

import io
from base64 import b64encode
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np

from ray_unlearn.errors import StoreError
from ray_unlearn.evaluation.evaluate import read_scores
from ray_unlearn.generation.prepare import prepare
from ray_unlearn.report.worst_images import Shown, shown_images, worst_images
from ray_unlearn.store import StudyStore
from ray_unlearn.study.schema import Study


def thumbnails(study: Study, made_of: Mapping[str, Any], image_ids: Collection[str]) -> dict[str, str]:
    """Return PNG files as data URIs by image id.

    Args:
        study: the study, whose source of training images is where it was.
        made_of: the data of the runs that a page is about, as their population.json identifies them.
        image_ids: training images.

    Raises:
        DataError: the images cannot be read.
        StoreError: the study has other images, or other forget sets, than the runs were made of.

    """
    import torch
    from PIL import Image

    data = prepare(study, backend="inline")
    if other := [key for key in ("images", "splits") if made_of.get(key) != data.identity[key]]:
        raise StoreError(
            f"study {study.name}: pictures would be of other images: its {' and '.join(other)} are not those that its "
            "runs were made of; give the study file and the images of the runs, or no pictures"
        )
    known = [image_id for table in data.train.columns() for image_id in table["image_id"].to_pylist()]
    index_of = {image_id: index for index, image_id in enumerate(known)}  # training images are the first of the index
    indexes = np.array([index_of[image_id] for image_id in image_ids], np.int64)
    uris = {}
    for image_id, pixels in zip(image_ids, data.open(torch.device("cpu")).gather(indexes), strict=True):
        buffer = io.BytesIO()
        Image.fromarray(np.asarray(pixels)).save(buffer, "PNG")
        uris[image_id] = f"data:image/png;base64,{b64encode(buffer.getvalue()).decode()}"
    return uris


def worst_pictures(study: Study, store: StudyStore, log: Callable[[str], None]) -> Sequence[Shown]:
    """Return pictures of the images that each method forgot worst; log a line where no image has an epsilon.

    Raises:
        StoreError: there is no evaluation, or the study has other images than its runs were made of.

    """
    found = worst_images(study, store, read_scores(store))
    image_ids = dict.fromkeys(one.image_id for images in found.values() for one in images)
    if not image_ids:
        log("warning: no image has an epsilon, which takes 3 runs of a method and of the reference: no pictures")
        return []
    population = next(name for name, images in found.items() if images)  # all that are compared have the same images
    made_of = (store.held(population) or {})["identity"]["data"]
    return shown_images(found, thumbnails(study, made_of, image_ids))
