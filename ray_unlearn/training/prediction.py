"""predict(): logits of a set of images, and their accuracy and loss.

    logits_NC = predict(model, data.forget)                      # float32, on the CPU
    accuracy, loss = accuracy_and_loss(logits_NC, data.forget.labels_N)

The batch size is fixed, so that logits do not depend on any setting; arithmetic is fp32, also after a training in bf16.

Does not cover: any score that compares models (evaluation).
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 - its usual name

from ray_unlearn.data.images import ImageSet


@torch.no_grad()
def predict(model: nn.Module, images: ImageSet) -> np.ndarray:
    """Return float32 logits [N, C]; the model is in evaluation mode afterwards."""
    model.eval()
    logits = [model(images_BCHW).float() for images_BCHW, _ in images.in_order()]
    return torch.cat(logits).cpu().numpy()


def accuracy_and_loss(logits_NC: np.ndarray, labels_N: np.ndarray) -> tuple[float, float]:
    """Return the share of right answers (0..1) and the mean cross-entropy in nats."""
    logits, labels = torch.from_numpy(logits_NC).double(), torch.from_numpy(labels_N)
    accuracy = (logits.argmax(1) == labels).double().mean()
    return float(accuracy), float(F.cross_entropy(logits, labels))
