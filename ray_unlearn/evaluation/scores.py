"""What evaluation found out about a study, as plain values: the schema of scores.json, and the table made of it.

    scores = Scores.model_validate_json(storage.read("faces/scores.json"))
    scores.populations["kookmin"].measures["forgetting_quality"].value
    table = scores_table(scores)                 # pandas, one row per population and measure: scores.parquet

Every measure is an `Estimate`: never a number without its N, its interval and its null. A value that cannot be had is
None, and `missing` says why.

Does not cover: how a number is computed (the other modules of the room), nor how it is shown (`ray_unlearn.report`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict

if TYPE_CHECKING:
    import pandas as pd

FORMAT = 1

Mode = Literal["parity", "exact"]
Role = Literal["reference", "original", "unlearned"]


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Estimate(_Value):
    """One number that compares a population with the reference, and what it is worth."""

    value: float | None
    """At `n` runs a side."""
    low: float | None = None
    """Ends of the 95 % interval over runs."""
    high: float | None = None
    n: int
    """Runs on each side; for a number of single models, runs of the population."""
    at_null_n: float | None = None
    """The same number at `null_n` runs a side, the reference's being one half of it: comparable with `null`."""
    null: float | None = None
    """The same number between two disjoint halves of the reference, `null_n` runs a side: what retraining gets."""
    null_low: float | None = None
    """Smallest and largest `null` over the halvings."""
    null_high: float | None = None
    null_n: int = 0
    missing: str = ""
    """Why there is no value."""


class Summary(_Value):
    """A number that every single run has."""

    mean: float
    sd: float | None
    """Over runs, ddof 1; None for one run."""
    low: float | None
    """Ends of the 95 % t-interval of the mean."""
    high: float | None
    n: int


class Slice(_Value):
    """Accuracy and loss of a part of a split: everything, one class, or one group."""

    split: str
    by: Literal["all", "class", "group"]
    key: str
    """Class or group name; empty for everything."""
    images: int
    accuracy: Summary
    """0..1."""
    loss: Summary
    """Mean cross-entropy, nats."""


class Growth(_Value):
    """The forgetting quality at fewer runs: how many checkpoints one needs."""

    n: int
    value: float
    low: float
    """Smallest and largest over the subsets drawn."""
    high: float
    null: float | None = None
    """Between disjoint subsets of the reference of that size; None where it is too small for two."""


class ExampleScores(_Value):
    """phi of one forget image under every run of the population and of the reference."""

    image_id: str
    label: str
    epsilon: float
    unlearned: tuple[float, ...]
    retrained: tuple[float, ...]


class Curve(_Value):
    """An attack's ROC: positives are the population's runs (or members), negatives what it is told from."""

    false_positive_rate: tuple[float, ...] = ()
    true_positive_rate: tuple[float, ...] = ()
    null_false_positive_rate: tuple[float, ...] = ()
    """The same attack on one half of the reference."""
    null_true_positive_rate: tuple[float, ...] = ()


class Stage(_Value):
    """Means over runs after one epoch."""

    epoch: int
    n: int
    metrics: dict[str, float]
    """`<split>_accuracy`, `<split>_loss`, `train_loss`."""


class Cost(_Value):
    """Wall time of a run's training, against retraining."""

    seconds: Summary
    relative: float | None
    """Mean over the reference's mean."""
    efficient: bool | None
    """Whether that is at most 0.2, the challenge's limit."""


class PopulationScores(_Value):
    """Everything about one population."""

    population: str
    role: Role
    method: str
    options: dict[str, object]
    runs: int
    """Runs that were evaluated."""
    originals: int
    """Different originals that they start from; 0 from scratch."""
    measures: dict[str, Estimate] = {}
    """By the names of `MEASURES`; empty for the reference and the original."""
    slices: tuple[Slice, ...]
    epsilon_counts: tuple[int, ...] = ()
    """Forget images per bin of 0.5 of epsilon: [0, 0.5), [0.5, 1), ...; the last counts all above."""
    guarded: int = 0
    """Forget images whose runs hardly differ (ranges below 1 % of the other's): epsilon 50 by rule."""
    growth: tuple[Growth, ...] = ()
    examples: tuple[ExampleScores, ...] = ()
    curves: dict[str, Curve] = {}
    """ROC by attack: u_lira, rmia, logistic_attack, svc_efficacy."""
    stages: tuple[Stage, ...] = ()
    cost: Cost
    warnings: tuple[str, ...] = ()


class Scores(_Value):
    """One evaluation of a study."""

    format: int = FORMAT
    study: str
    mode: Mode
    reference: str
    seed: int
    images: dict[str, int]
    """Images per split."""
    class_names: tuple[str, ...]
    """As far as known, else the numbers as text."""
    populations: dict[str, PopulationScores]
    """In the study's order."""
    warnings: tuple[str, ...] = ()
    versions: dict[str, str]
    """Of the packages that made the runs, and of ray_unlearn that evaluated them."""


class Measure(_Value):
    """What a name of `measures` means, for tables and pages."""

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
            label=f"KLOM({sides})" + ("" if split == "forget" else f" on {split}"),
            better="low",
            meaning=f"95th percentile over {split} images of the KL divergence of binned margins, nats",
            source=source,
        )
        for split in ("forget", "retain", "validation", "test")
        for direction, (sides, source) in sources.items()
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
        for ending in ("0.1", "1"):
            found[f"{name}_tpr_{ending}"] = Measure(
                label=f"{label.split()[0]} TPR at {ending} % FPR",
                better="null",
                meaning=f"share of forget images recognised while {ending} % of test images are accused",
                source=source,
                upper=1.0,
            )
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
    "u_lira_tpr_0.1": Measure(
        label="U-LiRA TPR at 0.1 % FPR",
        better="null",
        meaning="share of unlearned models recognised while 0.1 % of retrained ones are accused",
        source="Hayes et al., SaTML 2025; Carlini et al., S&P 2022",
        upper=1.0,
    ),
    "u_lira_tpr_1": Measure(
        label="U-LiRA TPR at 1 % FPR",
        better="null",
        meaning="share of unlearned models recognised while 1 % of retrained ones are accused",
        source="Hayes et al., SaTML 2025; Carlini et al., S&P 2022",
        upper=1.0,
    ),
    "rmia_auc": Measure(
        label="RMIA AUC",
        better="null",
        meaning="robust membership inference: forget against test images of one model, retrained models as references",
        source="Zarifzadeh et al., Low-Cost High-Power Membership Inference Attacks, ICML 2024",
        upper=1.0,
    ),
    "rmia_tpr_0.1": Measure(
        label="RMIA TPR at 0.1 % FPR",
        better="null",
        meaning="share of forget images recognised while 0.1 % of test images are accused",
        source="Zarifzadeh et al., ICML 2024",
        upper=1.0,
    ),
    "rmia_tpr_1": Measure(
        label="RMIA TPR at 1 % FPR",
        better="null",
        meaning="share of forget images recognised while 1 % of test images are accused",
        source="Zarifzadeh et al., ICML 2024",
        upper=1.0,
    ),
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


def scores_table(scores: Scores) -> pd.DataFrame:
    """Return one row per population and measure: what scores.parquet holds."""
    import pandas as pd

    rows = [
        {
            "study": scores.study,
            "mode": scores.mode,
            "reference": scores.reference,
            "population": name,
            "method": found.method,
            "measure": measure,
            **estimate.model_dump(),
        }
        for name, found in scores.populations.items()
        for measure, estimate in found.measures.items()
    ]
    return pd.DataFrame(rows)
