"""Outputs of populations -> scores: NumPy only.

    from ray_unlearn.evaluation import forgetting_quality, logit_scaled_confidence

    phi_RN = logit_scaled_confidence(logits_RNC, labels_N)
    forgetting_quality(unlearned_RN, retrained_RN, mode="parity").score

Does not cover: reading outputs from a store, and tables and pictures of scores (`ray_unlearn.report`).
"""

from ray_unlearn.evaluation.confidence import logit_scaled_confidence as logit_scaled_confidence
from ray_unlearn.evaluation.measures.forgetting_quality import ForgettingQuality as ForgettingQuality
from ray_unlearn.evaluation.measures.forgetting_quality import forgetting_quality as forgetting_quality
