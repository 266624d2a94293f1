"""What scores.json holds of shadow models: attacks on models whose training images are known, and memorised images.

    scores.populations["original"].attacks["lira_online"].auc
    scores.populations["shadows"].memorisation.hardest[0].image_id

Does not cover: attacks by shadows on unlearned models, which are estimates like other measures (`scores`).
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class ShadowAttack(_Value):
    """A membership attack by shadow models, on models whose training images are known."""

    auc: float | None = None
    """Area under the ROC, a mean over the attacked models; of U-LiRA, over all models and images together."""
    tpr_01_percent: float | None = None
    """True positive rate at a false positive rate of 0.1 %, and of 1 %; None with too few negatives for it."""
    tpr_1_percent: float | None = None
    accuracy: float | None = None
    """Of U-LiRA: share of models and images on their own side of the likelihood ratio 1."""
    targets: int
    """Models that were attacked."""
    members: int = 0
    """Images that a model was trained on, of the first model; of U-LiRA, models and images together."""
    non_members: int = 0
    """Images that it was not trained on."""
    shadows: int
    """Shadow models that the attack was fitted to."""
    missing: str = ""
    """Reason why there is no value."""


class MemorisedImage(_Value):
    """One of the images memorised most."""

    image_id: str
    split: str
    label: str
    inside: float
    """Share of the models trained on it that are right about it, and of those not trained on it."""
    outside: float


class Memorisation(_Value):
    """How much better models know images that they were trained on (Feldman and Zhang 2020)."""

    images: int
    """Train images with outputs."""
    models: int
    """Shadows, half of which were trained on each image."""
    mean: float
    quantiles: tuple[float, ...]
    """Scores at the quantiles 0.5, 0.9, 0.99 and 1, over images."""
    memorised: int
    """Images with a score of 0.25 or more."""
    by_chance: float | None = None
    """Images that would have such a score if none was memorised; None in scores of earlier versions."""
    hardest: tuple[MemorisedImage, ...]
    """Up to ten images with the largest scores."""
