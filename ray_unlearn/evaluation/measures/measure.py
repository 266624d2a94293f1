"""What each number that compares a population with the reference means, for tables and pages.

    MEASURES["u_lira_auc"].label                 # "U-LiRA AUC"

Does not cover: how a number is computed (`comparison`).
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict


class Measure(BaseModel):
    """One of them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    label: str
    better: Literal["high", "low", "null"]
    """`null`: the closer to the null, the better."""
    meaning: str
    source: str
    upper: float | None = None
    """Largest possible value; the smallest is 0 for all."""


def _klom_measures() -> dict[str, Measure]:
    """Both directions, because published numbers use either; forget images first."""
    sources = {
        "retrained_to_unlearned": ("retrained || unlearned", "Georgiev et al., Attribute-to-Delete, 2024"),
        "unlearned_to_retrained": ("unlearned || retrained", "EasyDUB, 2026"),
    }
    return {
        f"klom_{direction}" + ("" if split == "forget" else f"_{split}"): Measure(
            label=f"KLOM ({sides})" + ("" if split == "forget" else f" on {split}"),
            better="low",
            meaning=f"95th percentile over {split} images of the KL divergence of binned margins, nats",
            source=source,
        )
        for split in ("forget", "retain", "validation", "test")
        for direction, (sides, source) in sources.items()
    }


def _rates(attack: str, label: str, recognised: str, accused: str, source: str) -> dict[str, Measure]:
    """Return an attack's true positive rates at false positive rates of 0.1 % and 1 %."""
    return {
        f"{attack}_tpr_{percent}": Measure(
            label=f"{label} TPR at {percent} % FPR",
            better="null",
            meaning=f"share of {recognised} recognised while {percent} % of {accused} are accused",
            source=source,
            upper=1.0,
        )
        for percent in ("0.1", "1")
    }


def _single_model_measures() -> dict[str, Measure]:
    """Attacks on one model at a time: their own number, and the true positive rates of forget against test images."""
    attacks = {
        "logistic_attack": (
            "logistic attack",
            "accuracy of a logistic regression that tells forget from test losses of one model",
            "NeurIPS 2023 Machine Unlearning Challenge, starting kit",
        ),
        "svc_efficacy": (
            "SVC efficacy",
            "share of forget images that an RBF SVC trained on retain against test images calls non-members",
            "Jia et al., Model Sparsity Can Simplify Machine Unlearning, NeurIPS 2023; Fan et al., SalUn, ICLR 2024",
        ),
    }
    found = {}
    for name, (label, meaning, source) in attacks.items():
        found[name] = Measure(label=label, better="null", meaning=meaning, source=source, upper=1.0)
        found |= _rates(name, label.split()[0], "forget images", "test images", source)
    return found


MEASURES: dict[str, Measure] = {
    "score": Measure(
        label="score",
        better="high",
        meaning="forgetting quality x retain ratio x test ratio: the challenge's number",
        source="NeurIPS 2023 Machine Unlearning Challenge, metric PDF",
    ),
    "forgetting_quality": Measure(
        label="F",
        better="high",
        meaning="how hard unlearned and retrained models are to tell apart on forget images, 0..1",
        source="NeurIPS 2023 Machine Unlearning Challenge, metric PDF",
        upper=1.0,
    ),
    "retain_ratio": Measure(
        label="RA ratio",
        better="high",
        meaning="mean retain accuracy over the reference's",
        source="NeurIPS 2023 Machine Unlearning Challenge, metric PDF",
    ),
    "test_ratio": Measure(
        label="TA ratio",
        better="high",
        meaning="mean test accuracy over the reference's",
        source="NeurIPS 2023 Machine Unlearning Challenge, metric PDF",
    ),
    "u_lira_auc": Measure(
        label="U-LiRA AUC",
        better="null",
        meaning="per-example likelihood-ratio attack: unlearned against retrained models; 0.5 is blind",
        source="Hayes et al., Inexact Unlearning Needs More Careful Evaluations, SaTML 2025",
        upper=1.0,
    ),
    **_rates(
        "u_lira", "U-LiRA", "unlearned models", "retrained ones", "Hayes et al., SaTML 2025; Carlini et al., S&P 2022"
    ),
    "rmia_auc": Measure(
        label="RMIA AUC",
        better="null",
        meaning="robust membership inference: forget against test images of one model, retrained models as references",
        source="Zarifzadeh et al., Low-Cost High-Power Membership Inference Attacks, ICML 2024",
        upper=1.0,
    ),
    **_rates("rmia", "RMIA", "forget images", "test images", "Zarifzadeh et al., ICML 2024"),
    **_single_model_measures(),
    **_klom_measures(),
    "mean_shift": Measure(
        label="shift of the mean",
        better="low",
        meaning="mean over forget images of |mean phi - the reference's| in the reference's standard deviations",
        source="this project",
    ),
    "spread_ratio": Measure(
        label="spread ratio",
        better="null",
        meaning="median over forget images of the standard deviation of phi over the reference's; 1 is equal",
        source="this project",
    ),
    "tug_of_war": Measure(
        label="ToW",
        better="high",
        meaning="product over forget, retain and test of 1 - |accuracy - the reference's mean|, mean over runs",
        source="Zhao et al., What Makes Unlearning Hard and What to Do About It (RUM), NeurIPS 2024",
        upper=1.0,
    ),
}
