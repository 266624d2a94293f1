"""Pictures of forgotten images, as they are decoded for the model, for a page that is asked for them.

    uris = thumbnails(study, ["00017.jpg", "00342.jpg"])             # image id -> data URI

Photographs may show people: nothing puts them on a page unless it is asked for.

Does not cover: which images are shown (`report.worst_images`, `deletion`).
"""

from __future__ import annotations

import io
from base64 import b64encode
from collections.abc import Collection

import numpy as np

from ray_unlearn.generation.job import open_job
from ray_unlearn.store.arrow import read_table
from ray_unlearn.store.membership import HALVED
from ray_unlearn.study.schema import Study


def thumbnails(study: Study, wanted: Collection[str]) -> dict[str, str]:
    """Return PNG files as data URIs by image id.

    Args:
        study: the study, whose images are on this machine or decoded in its storage.
        wanted: ids of training images, of any of the study's forget sets.

    Raises:
        DataError: the images cannot be read.

    """
    import torch
    from PIL import Image

    data = open_job(study).data
    table = read_table(data.arrows[data.splits.digest]).select(["split", "image_id"]).to_pydict()
    listed = zip(table["split"], table["image_id"], np.concatenate([*data.splits.sets.values()]).tolist(), strict=True)
    index_of = {image_id: index for split, image_id, index in listed if split in HALVED}  # a test image may have its id
    indexes = np.array([index_of[image_id] for image_id in wanted], np.int64)
    uris = {}
    for image_id, pixels in zip(wanted, data.open(torch.device("cpu")).gather(indexes), strict=True):
        buffer = io.BytesIO()
        Image.fromarray(np.asarray(pixels)).save(buffer, "PNG")
        uris[image_id] = f"data:image/png;base64,{b64encode(buffer.getvalue()).decode()}"
    return uris
