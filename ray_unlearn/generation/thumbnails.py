"""Pictures of forgotten images, as they are decoded for the model, for a page that is asked for them.

    uris = thumbnails(study, {"00017.jpg": 0, "00342.jpg": 3})       # image id -> position in the forget set

Photographs may show people: nothing puts them on a page unless it is asked for.

Does not cover: which images are shown (`report.worst_images`, `deletion`).
"""

from __future__ import annotations

import io
from base64 import b64encode
from collections.abc import Mapping

import numpy as np

from ray_unlearn.generation.job import open_job
from ray_unlearn.study.schema import Study


def thumbnails(study: Study, positions: Mapping[str, int]) -> dict[str, str]:
    """Return PNG files as data URIs by image id.

    Args:
        study: the study, whose images are on this machine or decoded in its storage.
        positions: image id -> its position in the forget set, as the splits list it.

    Raises:
        DataError: the images cannot be read.

    """
    import torch
    from PIL import Image

    data = open_job(study).data
    indexes = data.splits.sets["forget"][np.array([*positions.values()], np.int64)]
    uris = {}
    for image_id, pixels in zip(positions, data.open(torch.device("cpu")).gather(indexes), strict=True):
        buffer = io.BytesIO()
        Image.fromarray(np.asarray(pixels)).save(buffer, "PNG")
        uris[image_id] = f"data:image/png;base64,{b64encode(buffer.getvalue()).decode()}"
    return uris
