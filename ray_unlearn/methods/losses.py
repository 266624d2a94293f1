"""Losses that several methods share, on logits; each returns a scalar, the mean over the batch, in nats.

    kl_to_teacher(student_BC, teacher_BC, temperature=2.0)
    kl_to_uniform(student_BC)
    entropy(logits_BC)                           # [B]
    contrastive(forget_BC, retain_DC, temperature=1.15)
    with_statistics_frozen(loss, model.modules())        # the same loss, batch normalisation in evaluation mode
    anchored(loss, model, strength=0.1)                  # plus strength / 2 * |weights - weights at the start|^2

Does not cover: cross-entropy on labels (`training.cross_entropy`).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 - its usual name

from ray_unlearn.training import Batch
from ray_unlearn.training.objective import Loss


def frozen_copy(model: nn.Module) -> nn.Module:
    """Return the model as it is now, as a teacher: evaluation mode, no gradients."""
    teacher = copy.deepcopy(model).eval()
    for parameter in teacher.parameters():
        parameter.requires_grad_(False)
    return teacher


def with_statistics_frozen(loss: Loss, modules: Iterable[nn.Module]) -> Loss:
    """Return the loss with these modules in evaluation mode: normalisation keeps its statistics, dropout is off."""
    frozen = list(modules)

    def evaluated(model: nn.Module, *batches: Batch) -> torch.Tensor:
        for module in frozen:
            module.training = False  # not eval(), which would reach the other modules inside
        return loss(model, *batches)

    return evaluated


def anchored(loss: Loss, model: nn.Module, strength: float) -> Loss:
    """Return the loss plus strength / 2 * the squared distance of the trained weights from where they are now."""
    if not strength:
        return loss
    starts = [(p, p.detach().clone()) for p in model.parameters() if p.requires_grad]

    def pulled(model: nn.Module, *batches: Batch) -> torch.Tensor:
        distance = torch.stack([(parameter - start).pow(2).sum() for parameter, start in starts]).sum()
        return loss(model, *batches) + strength / 2 * distance

    return pulled


def kl_to_teacher(
    student_BC: torch.Tensor, teacher_BC: torch.Tensor, temperature: float = 1.0, *, scaled: bool = True
) -> torch.Tensor:
    """Return KL(teacher ‖ student) of softened probabilities, `scaled` by T^2 (Hinton et al. 2015, section 2)."""
    log_student = F.log_softmax(student_BC / temperature, dim=1)
    log_teacher = F.log_softmax(teacher_BC / temperature, dim=1)
    divergence = F.kl_div(log_student, log_teacher, reduction="batchmean", log_target=True)
    return temperature**2 * divergence if scaled else divergence


def kl_to_uniform(student_BC: torch.Tensor) -> torch.Tensor:
    """Return KL(uniform ‖ softmax(student)) = -log C - mean_c log p_c."""
    log_p_BC = F.log_softmax(student_BC, dim=1)
    return -math.log(student_BC.shape[1]) - log_p_BC.mean()


def entropy(logits_BC: torch.Tensor) -> torch.Tensor:
    """Return the entropy of each prediction, [B]."""
    log_p_BC = F.log_softmax(logits_BC, dim=1)
    return -(log_p_BC.exp() * log_p_BC).sum(1)


def soft_cross_entropy(student_BC: torch.Tensor, teacher_BC: torch.Tensor, temperature: float = 1.0) -> torch.Tensor:
    """Return -sum_c q_c log p_c with both softened by the temperature, not scaled by T^2."""
    q_BC = F.softmax(teacher_BC / temperature, dim=1)
    return -(q_BC * F.log_softmax(student_BC / temperature, dim=1)).sum(1).mean()


def contrastive(forget_BC: torch.Tensor, retain_DC: torch.Tensor, temperature: float) -> torch.Tensor:
    """Return -mean log_softmax(forget retain^T / temperature): forget logits are drawn to all retain logits alike.

    The products are fp32 even under autocast: they are squares of logits, and bf16 would round them to whole units.
    """
    with torch.autocast(forget_BC.device.type, enabled=False):
        products_BD = forget_BC.float() @ retain_DC.float().T
    return -F.log_softmax(products_BD / temperature, dim=1).mean()
