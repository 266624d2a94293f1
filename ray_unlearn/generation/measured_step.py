"""Seconds of one image in training and in prediction, measured on this machine with blank images.

    step = measure_step(study, model, num_classes=10, device=torch.device("cpu"))

Takes about a second for a small net; two epochs of one batch, the first of which warms up.

Does not cover: methods that do more than a step of gradient descent, nor reading the images.
"""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pyarrow as pa
import torch
from torch import nn

from ray_unlearn.data.images import ImageSet, Pixels, RunData, Scaling
from ray_unlearn.data.shards import Shard
from ray_unlearn.generation.estimates import Step
from ray_unlearn.seeds import Seeds
from ray_unlearn.study.schema import Study
from ray_unlearn.training import fit, predict
from ray_unlearn.training.packed import Pack, Slot

_LEAST_S = 0.1
"""Seconds of the measured epoch; more steps are taken until they last that long."""
_MOST_IMAGES = 1024


def measure_step(study: Study, model: nn.Module, num_classes: int, device: torch.device) -> Step:
    """Train and predict blank images with the study's recipe; the model's weights change."""
    threads = torch.get_num_threads()
    torch.set_num_threads(study.execution.cpus_per_worker)
    try:
        size = study.training.batch_size
        count, seconds = size, _train_s(study, model, num_classes, device, size)
        while seconds < _LEAST_S and 2 * count <= _MOST_IMAGES:
            count *= 2
            seconds = _train_s(study, model, num_classes, device, count)
        data = _blank(study, num_classes, device, size)
        predict(model, data.retain)
        start = time.monotonic()
        predict(model, data.retain)
        predict_s = (time.monotonic() - start) / size
        pack = study.execution.pack
        packed_s = _train_s(study, model, num_classes, device, size, Pack(pack)) / pack if pack > 1 else 0.0
    finally:
        torch.set_num_threads(threads)
    numbers = sum(tensor.numel() for tensor in model.state_dict().values())
    return Step(train_s=seconds / count, predict_s=predict_s, parameters=numbers, packed_s=packed_s / size)


def _train_s(
    study: Study, model: nn.Module, num_classes: int, device: torch.device, count: int, pack: Pack | None = None
) -> float:
    """Return the seconds of the second of two epochs over `count` images; of all runs of a pack, where one is given."""
    ends: list[float] = []
    data = replace(
        _blank(study, num_classes, device, count),
        on_epoch=lambda model, epoch, loss: ends.append(time.monotonic()),
        slot=Slot(pack, 0) if pack else None,
    )
    recipe = study.training.model_copy(update={"epochs": 2.0, "class_weights": "none", "warmup_epochs": 0.0})
    recipe = recipe.model_copy(update={"precision": "fp32"}) if pack else recipe
    fit(model.to(device), data, recipe, Seeds(study=0))
    if pack:
        pack.train()
    return ends[1] - ends[0]


def _blank(study: Study, num_classes: int, device: torch.device, count: int) -> RunData:
    side = study.data.image_size
    pixels_NHWC = np.full((count, side, side, 3), 128, np.uint8)
    shard = Shard(pixels_NHWC, np.arange(count) % num_classes, pa.table({"age": np.zeros(count)}))
    images = ImageSet(Pixels([shard], device, float("inf")), np.arange(count), Scaling.of(study.data.normalize))
    return RunData(train=images, retain=images, forget=images, validation=None, num_classes=num_classes, device=device)
