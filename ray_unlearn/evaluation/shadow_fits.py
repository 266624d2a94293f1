"""What shadow models make of each image: those that were trained on it, and those that were not.

    fit = ShadowFit(inside=Side(...), outside=Side(...), pairs=32)
    fit.one_variance                             # with fewer than 64 shadows, one variance for all images

Does not cover: reading the shadows' outputs (`shadows`), and attacks (`measures.lira`, `measures.shadow_rmia`).
"""

from __future__ import annotations

from dataclasses import dataclass

from ray_unlearn.evaluation.populations import FloatArray

MANY_PAIRS = 32
"""Pairs from which each image has a variance of its own; LiRA advises one for all with fewer than 64 shadows."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Side:
    """phi and probability of N images under models that were all trained on them, or all not; one per pair."""

    median_N: FloatArray
    """Median of phi."""
    sd_N: FloatArray
    """Standard deviation of phi, ddof 0."""
    probability_N: FloatArray
    """Mean probability of the label."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ShadowFit:
    """Both sides of the images of one split."""

    outside: Side
    """Models that were not trained on the image."""
    inside: Side | None
    """Models that were; None for images that no shadow is trained on."""
    pairs: int
    """Pairs of shadows: models on each side."""
    inside_spread: float
    """Standard deviation of phi over all train images and the models that were trained on them, ddof 0."""
    outside_spread: float
    """The same over models that were not."""

    @property
    def one_variance(self) -> bool:
        """Whether the shadows are so few that one variance for all images is the better attack."""
        return self.pairs < MANY_PAIRS
