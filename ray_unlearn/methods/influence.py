"""IU (WoodFisher): one influence step away from the forget set, with the Fisher matrix for the Hessian.

    populations:
      influence: {method: influence, count: 8, originals: 8, alpha: 0.2}         # as published: deterministic
      sampled:   {method: influence, count: 64, images: random}

Idea: to first order, leaving the forget set out moves the optimum along H^-1 (gradient on forget - on retain).

1. g_f and g_r: gradients of the mean cross-entropy on the forget and on the retain set; v = N_f / (N_f + N_r) *
   (g_f - g_r), with the numbers of images N.
2. k = v, o = gradient of the first of the single retain images; for each further one with gradient g: k = k - o (k . g)
   / (N + o . g), o = o - o (o . g) / (N + o . g), N being `gradients`. That is the published recursion; `recursion:
   exact` takes H^-1 v for H = damping * I + mean of g g^T, one rank-one (Woodbury) update per image.
3. Add alpha * k to the weights.

Source: Jia et al., Model Sparsity Can Simplify Machine Unlearning (NeurIPS 2023), baseline IU; the exact recursion:
Singh and Alistarh, WoodFisher (NeurIPS 2020). Read: OPTML-Group/Unlearn-Sparse and Unlearn-Saliency
Classification/unlearn/Wfisher.py (the authors'), xcadet/deepunlearn munl/unlearning/iu.py (a port).

Caveats:
- The published recursion keeps one running vector, so it is nearly the identity. Its damping is 1.
- The published recursion takes the first N + 2 retain images in order (here: in the set's order), so it is
  deterministic, and the official metric gives 0. `images: random` draws them with replacement; that spread is this
  package's addition.
- `recursion: exact` keeps a vector per image, 4 bytes * gradients * weights: 45 GB for ResNet-18 with 1000. Lower
  `gradients` for large nets.

Does not cover: l1-regularised or group influence; repair afterwards.
"""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import Field
from torch import nn

from ray_unlearn.data.images import ImageSet, RunData
from ray_unlearn.errors import MethodError
from ray_unlearn.methods.method import Method
from ray_unlearn.methods.published import pinned
from ray_unlearn.seeds import Seeds
from ray_unlearn.study.changes import Correction
from ray_unlearn.study.identity import Since
from ray_unlearn.study.recipe import Block, Float, Int
from ray_unlearn.training import cross_entropy
from ray_unlearn.training.gradients import mean_gradient


class InfluenceOptions(Block):
    """Defaults: the Unlearn-Sparse repository's."""

    alpha: Float = Field(0.2, description="Length of the step, in units of the product; to be tuned.")
    gradients: Int = Field(1000, ge=1, description="N: single-image gradients (published, two more are taken).")
    damping: Float = Field(
        1.0, gt=0, description="Added to the exact matrix's diagonal; 1 is the published recursion's."
    )
    recursion: Annotated[Literal["published", "exact"], Since("0.2", neutral="exact")] = Field(
        "published", description="published: the authors' running vector; exact: the inverse of the damped matrix."
    )
    images: Annotated[Literal["first", "random"], Since("0.2", neutral="random")] = Field(
        "first", description="Retain images of the recursion. first: in order (published); random: a draw per run."
    )


@torch.no_grad()
def influence(model: nn.Module, data: RunData, options: InfluenceOptions, rng: Seeds) -> None:
    """Add alpha * H^-1 (g_f - g_r) * N_f / (N_f + N_r) to the weights."""
    share = len(data.forget) / (len(data.forget) + len(data.retain))
    direction_P = share * (_gradient(model, data.forget) - _gradient(model, data.retain))
    exact = options.recursion == "exact"
    inverse: Running | WoodFisher = (
        WoodFisher(direction_P, options.gradients, options.damping)
        if exact
        else Running(direction_P, options.gradients)
    )
    for position in _positions(data, options, rng):
        inverse.add(_gradient(model, data.retain.subset(np.asarray([position]))))
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    parts = torch.split(inverse.product_P, [parameter.numel() for parameter in parameters])
    for parameter, part in zip(parameters, parts, strict=True):
        parameter.add_(part.view(parameter.shape), alpha=options.alpha)


def _positions(data: RunData, options: InfluenceOptions, rng: Seeds) -> np.ndarray:
    """Return which retain images the recursion runs over."""
    count = options.gradients + (0 if options.recursion == "exact" else 2)
    if options.images == "random":
        return rng.numpy("gradients").integers(len(data.retain), size=count)
    return np.arange(min(count, len(data.retain)))


class Running:
    """The published recursion: one running vector replaces all gradients so far."""

    def __init__(self, vector_P: torch.Tensor, count: int) -> None:
        self.product_P = vector_P.clone()
        self._count = count
        self._running_P: torch.Tensor | None = None

    def add(self, gradient_P: torch.Tensor) -> None:
        """Take one more gradient into the product; the first one starts the running vector."""
        if self._running_P is None:
            self._running_P = gradient_P.clone()
            return
        overlap = self._running_P @ gradient_P
        self.product_P = self.product_P - self._running_P * ((self.product_P @ gradient_P) / (self._count + overlap))
        self._running_P = self._running_P * (1 - overlap / (self._count + overlap))


class WoodFisher:
    """H^-1 v for H = damping * I + (1 / count) * sum of g g^T, one g at a time.

    With u_n = H_(n-1)^-1 g_n and c_n = count + g_n . u_n, each gradient subtracts u_n u_n^T / c_n from the inverse:
    so H_n^-1 x = x / damping - sum over m <= n of u_m (u_m . x) / c_m, for x = v and for the next gradient alike.
    """

    def __init__(self, vector_P: torch.Tensor, count: int, damping: float) -> None:
        self.product_P = vector_P / damping
        """H^-1 v after the gradients so far."""
        self._vector_P, self._damping, self._done = vector_P, damping, 0
        try:
            self._updates_NP = vector_P.new_empty(count, len(vector_P))
        except RuntimeError:
            size = 4e-9 * count * len(vector_P)
            raise MethodError(f"influence: {count} gradients need {size:.0f} GB; lower `gradients`") from None
        self._scales_N = vector_P.new_empty(count)

    def add(self, gradient_P: torch.Tensor) -> None:
        """Take one more gradient into the inverse."""
        n = self._done
        before_NP = self._updates_NP[:n]
        update_P = gradient_P / self._damping - before_NP.T @ ((before_NP @ gradient_P) / self._scales_N[:n])
        self._updates_NP[n] = update_P
        self._scales_N[n] = len(self._scales_N) + gradient_P @ update_P
        self.product_P = self.product_P - update_P * ((update_P @ self._vector_P) / self._scales_N[n])
        self._done += 1


def _gradient(model: nn.Module, images: ImageSet) -> torch.Tensor:
    """Return the gradient of the mean cross-entropy, flat."""
    with torch.enable_grad():
        gradients = mean_gradient(model, images, cross_entropy())
    return torch.cat([gradient.flatten() for gradient in gradients.values()])


METHOD = Method(
    name="influence",
    run=influence,
    options=InfluenceOptions,
    starts_from="original",
    corrections=(
        Correction("0.2", "the step lacked the factor N_f / N, so it was 10 to 50 times too long"),
        Correction(
            "0.2",
            "the inverse was exact over random images; the published recursion keeps one vector over the first ones",
            ("recursion", "images"),
        ),
    ),
    summary="Add alpha * N_forget / N * H^-1 (g_forget - g_retain) to the weights, H by WoodFisher.",
    source="Jia et al., Model Sparsity Can Simplify Machine Unlearning, NeurIPS 2023 (IU); WoodFisher, NeurIPS 2020",
    opened="OPTML-Group/Unlearn-Sparse and Unlearn-Saliency Wfisher.py (authors'); xcadet/deepunlearn iu.py (port)",
    open=("alpha: 0.2 is the authors' default; their README leaves it to be searched",),
    cost="1 on retain + 1 on forget + `gradients` single images",
    deterministic=True,
    varies=lambda options: options.images == "random",
    published={"published": pinned(InfluenceOptions)},
    inherits=(),
)
