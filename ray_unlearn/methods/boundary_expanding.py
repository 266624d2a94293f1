"""Boundary expanding: teach the forget images an extra class, and cut that class off again.

    populations:
      expand: {method: boundary_expanding, preset: published, count: 64}       # made for data.forget: {label: 3}

1. Widen the classifier by one class: its weights from Xavier's normal distribution, its bias zero.
2. Minimise cross-entropy on the forget set, all of whose images have the new class.
3. Cut the new class off.

Source: Chen et al., Boundary Unlearning (CVPR 2023), boundary expanding. Read: TY-LEE-KR/Boundary-Unlearning-Code
boundary_unlearning.py, models.py, main.py (the authors'), OPTML-Group/Unlearn-Saliency
Classification/unlearn/boundary_ex.py.

Caveats:
- The method is described for forgetting a whole class. Single forget images are pushed away from their classes in the
  same way.
- No step uses the retain set, so nothing protects its accuracy.
- The new row is drawn as in a layer of C + 1 outputs.
- Runs differ by that row and by the order of batches. Where the forget set fits one batch they hardly differ: choose a
  smaller `batch_size`.

Does not cover: a classifier that is read elsewhere than in its own call.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from pydantic import Field
from torch import nn

from ray_unlearn.data.images import RunData
from ray_unlearn.methods.method import Method
from ray_unlearn.methods.published import PLAIN, pinned
from ray_unlearn.methods.units import check_classifier, classifier
from ray_unlearn.seeds import Seeds
from ray_unlearn.study.recipe import Float, Optimizer, Recipe, Schedule
from ray_unlearn.training import fit


class BoundaryExpandingOptions(Recipe):
    """Defaults: the authors' code."""

    epochs: Float = Field(10.0, gt=0, description="Passes over forget.")
    optimizer: Optimizer = "sgd"
    lr: Float = Field(1e-5, gt=0)
    weight_decay: Float = Field(0.0, ge=0)
    schedule: Schedule = "constant"


def boundary_expanding(model: nn.Module, data: RunData, options: BoundaryExpandingOptions, rng: Seeds) -> None:
    """Widen the classifier, train the forget set towards the new class, and cut the class off.

    Raises:
        MethodError: the model's last linear layer does not have an output per class.

    """
    classes = data.num_classes
    head = classifier(model, classes)
    narrow = (head.weight, head.bias)
    std = math.sqrt(2 / (head.in_features + classes + 1))
    row = std * torch.randn((1, head.in_features), generator=rng.torch("new-class"))
    head.weight = _wider(head.weight, row)
    head.bias = None if head.bias is None else _wider(head.bias, torch.zeros(1))
    head.out_features = classes + 1
    wide = (head.weight, head.bias)
    try:
        fit(model, data, options, rng, sets=(data.forget.with_labels(np.full(len(data.forget), classes)),))
    finally:
        head.weight, head.bias = narrow
        head.out_features = classes
    with torch.no_grad():
        for own, trained in zip(narrow, wide, strict=True):
            if own is not None and trained is not None:
                own.copy_(trained[:classes])


def _wider(parameter: torch.Tensor, row: torch.Tensor) -> nn.Parameter:
    """Return a parameter with one more row, frozen if this one is."""
    wide = torch.cat([parameter.detach(), row.to(parameter)])
    return nn.Parameter(wide, requires_grad=parameter.requires_grad)


METHOD = Method(
    name="boundary_expanding",
    run=boundary_expanding,
    options=BoundaryExpandingOptions,
    check=check_classifier,
    starts_from="original",
    summary="Fine-tune on the forget set under an extra class, which is cut off afterwards.",
    source="Chen et al., Boundary Unlearning, CVPR 2023",
    opened="TY-LEE-KR/Boundary-Unlearning-Code boundary_unlearning.py, models.py, main.py (authors')",
    open=("single forget images: a method for whole classes",),
    cost="epochs on forget",
    published={"published": pinned(BoundaryExpandingOptions, PLAIN, batch_size=64)},
)
