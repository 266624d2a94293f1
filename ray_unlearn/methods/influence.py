"""IU (WoodFisher): one influence step away from the forget set, with the Fisher matrix for the Hessian.

    populations:
      influence: {method: influence, count: 64, alpha: 0.2, gradients: 1000}

Idea: to first order, leaving the forget set out moves the optimum along H^-1 (gradient on forget - on retain).

1. g_f and g_r: gradients of the mean cross-entropy on the forget and on the retain set.
2. H = damping * I + mean of g g^T over `gradients` single retain images drawn at random; H^-1 (g_f - g_r) by
   WoodFisher's recursion, one rank-one (Woodbury) update per image, without ever forming H.
3. Add alpha * H^-1 (g_f - g_r) to the weights.

Citation: Jia et al., Model Sparsity Can Simplify Machine Unlearning (NeurIPS 2023), baseline IU; the recursion:
Singh and Alistarh, WoodFisher (NeurIPS 2020).

Caveats: alpha is to be tuned. The description names no damping; 1 is our choice, with which the step is never longer
than alpha * |g_f - g_r|. Images are drawn with replacement, so that runs differ even where the retain set is smaller
than `gradients`; they differ by that draw alone: watch the metric's guard. The recursion is exact and
keeps a vector per image: 4 bytes * gradients * weights (ResNet-18 with 1000: 45 GB); lower `gradients` for large nets.

Does not cover: l1-regularised or group influence; repair afterwards.
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import nn

from ray_unlearn.data.images import ImageSet, RunData
from ray_unlearn.errors import MethodError
from ray_unlearn.methods.method import Method
from ray_unlearn.seeds import Seeds
from ray_unlearn.study.recipe import Block, Float, Int
from ray_unlearn.training import cross_entropy
from ray_unlearn.training.gradients import mean_gradient


class InfluenceOptions(Block):
    """Defaults: the Unlearn-Sparse repository's, but for the damping."""

    alpha: Float = Field(0.2, description="Length of the step, in units of H^-1 (g_f - g_r); to be tuned.")
    gradients: Int = Field(1000, ge=1, description="Single-image gradients in the Fisher matrix.")
    damping: Float = Field(1.0, gt=0, description="Added to its diagonal; our choice, none is published.")


@torch.no_grad()
def influence(model: nn.Module, data: RunData, options: InfluenceOptions, rng: Seeds) -> None:
    """Add alpha * H^-1 (g_f - g_r) to the weights."""
    direction_P = _gradient(model, data.forget) - _gradient(model, data.retain)
    fisher = WoodFisher(direction_P, options.gradients, options.damping)
    for positions in rng.numpy("gradients").integers(len(data.retain), size=(options.gradients, 1)):
        fisher.add(_gradient(model, data.retain.subset(positions)))
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    parts = torch.split(fisher.product_P, [parameter.numel() for parameter in parameters])
    for parameter, part in zip(parameters, parts, strict=True):
        parameter.add_(part.view(parameter.shape), alpha=options.alpha)


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
    summary="One influence-function step, theta + alpha * H^-1 (g_forget - g_retain), H by WoodFisher.",
    source="Jia et al., Model Sparsity Can Simplify Machine Unlearning, NeurIPS 2023 (IU); WoodFisher, NeurIPS 2020",
    cost="1 on retain + 1 on forget + `gradients` single images, and their pairwise products",
    inherits=(),
)
