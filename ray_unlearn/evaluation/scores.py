"""Scores of a study as plain values: the schema of scores.json.

    scores = Scores.model_validate_json(storage.read("faces/scores.json"))
    scores.populations["kookmin"].measures["forgetting_quality"].value

Every measure is an `Estimate`: never a number without its N, its interval and its null. A value that cannot be computed
is None, and `missing` gives the reason.

Does not cover: how a number is computed (the other modules of the room), its table
(`scores_table`), nor how it is shown (`ray_unlearn.report`).
"""

from __future__ import annotations

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, model_validator

from ray_unlearn.evaluation.looks import Look
from ray_unlearn.evaluation.measures.forgetting_quality import LEAST_TO_SCORE
from ray_unlearn.evaluation.measures.measure import Mode
from ray_unlearn.evaluation.shadow_values import Memorisation, ShadowAttack

FORMAT: Literal[6] = 6
"""Rises with every change of the schema, and of any number: kept parts of another format are computed again.

6: intervals from the shift that images have in common; tests and intervals over originals; shares of the error of
bounds of epsilon; the order of one-run audits. 5: equivalence by the standard error of the difference itself; audits of
one run and bounds of epsilon by exact joint probabilities. 4: U-LiRA of single images leaves models of one original out
together, as the measure does. 3: calibrated intervals, permutation tests, ranks that admit ties; attacks divide test
images at random. 2: populations of fewer runs than can be scored have no F and no score; in 1 these were 0.
Files of earlier formats are read with a warning.
"""

OLDER = (
    "these scores are of an earlier version, which computed some numbers in another way: `ray-unlearn evaluate` "
    "computes them anew from the same outputs"
)
"""The warning of a file of an earlier format."""
Role = Literal["reference", "original", "unlearned", "shadow", "unlearned shadow"]
"""What a population is to the evaluation; an unlearned shadow started from shadows, and is compared with them."""


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Estimate(_Value):
    """One number that compares a population with the reference, with interval, null and N."""

    value: float | None
    """Value at `n` runs a side."""
    low: float | None = None
    """Ends of the 95 % interval over runs; over originals and runs where there are 4 originals or more."""
    high: float | None = None
    se: float | None = None
    """Standard error over runs."""
    se_apart: float = 0.0
    """Part of `se` that images have alone, which more runs hardly reduce; of F and the score only."""
    df: float | None = None
    """Degrees of freedom of the t distribution that the interval is of."""
    n: int
    """Runs on each side; for a number of single models, runs of the population."""
    at_null_n: float | None = None
    """The same number at `null_n` runs a side, the reference's being one half of it: comparable with `null`."""
    at_null_se: float | None = None
    """Standard error of `at_null_n` minus 0.8 `null`, and its degrees of freedom; of F of one forget set only."""
    at_null_df: float | None = None
    null: float | None = None
    """The same number between two disjoint halves of the reference, `null_n` runs a side: what retraining gets."""
    null_low: float | None = None
    """Smallest and largest `null` over the halvings."""
    null_high: float | None = None
    null_n: int = 0
    missing: str = ""
    """Reason why there is no value."""


class Summary(_Value):
    """A number that every single run has."""

    mean: float
    sd: float | None
    """Standard deviation over runs, ddof 1; None for one run."""
    low: float | None
    """Ends of the 95 % t-interval of the mean; over originals where runs (of each forget set) start from 4 or more."""
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
    """Accuracy, 0..1."""
    loss: Summary | None
    """Mean cross-entropy, nats; None where imported margins do not give it."""
    quality: float | None = None
    """F over these forget images alone; None on other splits, and for the reference and the original."""


class Growth(_Value):
    """The forgetting quality at fewer runs: how many checkpoints one needs."""

    n: int
    value: float
    low: float
    """Ends of the 95 % range of one study with so many runs; at N itself, of the interval of F."""
    high: float
    null: float | None = None
    """F between disjoint subsets of the reference of that size; None where it is too small for two."""


class ExampleScores(_Value):
    """phi of one forget image under every run of the population and of the reference."""

    image_id: str
    label: str
    epsilon: float
    unlearned: tuple[float, ...]
    retrained: tuple[float, ...]


class Curve(_Value):
    """An attack's ROC: positives are the population's runs (or members), negatives what it is separated from."""

    false_positive_rate: tuple[float, ...] = ()
    true_positive_rate: tuple[float, ...] = ()
    null_false_positive_rate: tuple[float, ...] = ()
    """The same attack on one half of the reference."""
    null_true_positive_rate: tuple[float, ...] = ()

    @model_validator(mode="after")
    def _pairs(self) -> Self:
        for name in ("", "null_"):
            false, true = (len(getattr(self, f"{name}{kind}_positive_rate")) for kind in ("false", "true"))
            if false != true:
                raise ValueError(f"a curve of {false} {name}false and {true} {name}true positive rates")
        return self


class PermutationTest(_Value):
    """One permutation test of "indistinguishable from retraining"."""

    statistic: float
    p: float
    adjusted: float | None = None
    """Holm's correction over both tests and all populations of the evaluation; None where only a part is known."""
    least: float = 0.0
    """Smallest p that so few runs can give."""
    least_runs: int | None = None
    """Runs a side, of each forget set, at which it could find a difference; None where it could with these."""

    @property
    def corrected(self) -> float:
        """The p after Holm's correction, where it is known, else p alone."""
        return self.p if self.adjusted is None else self.adjusted


class Equivalence(_Value):
    """Whether F is at most a margin below what retraining gets against itself, at the null's N."""

    difference: float
    """F at the null's N - null."""
    low: float
    """One-sided lower 95 % bound of the difference."""
    margin: float
    equivalent: bool
    """Whether `low` is above -margin."""


class Originals(_Value):
    """Sources of the variance of phi over a population's runs."""

    originals: int
    runs_each: float
    original_share: float
    run_share: float
    """Share of the variance between runs of one original; both shares add up to 1."""
    buys_more: Literal["originals", "runs"]
    """Better use of the next hour of training."""


class ForgetSets(_Value):
    """Values on each of several forget sets, of the measures that populations are ranked by."""

    sets: int
    runs_each: int
    """Runs a side of each set: the N of all measures."""
    sampled: bool
    """Whether intervals are over sets too, as a draw of many; else they hold for these sets alone."""
    values: dict[str, tuple[float, ...]]
    """Value on each set, in order, by measure."""
    set_share: dict[str, float]
    """Share of the variance between values on sets that is of the sets; the rest is of runs. By measure."""


class ImageQuantiles(_Value):
    """Quantiles over forget images of a number that each image has; larger is worse."""

    number: Literal["epsilon", "u_lira_auc", "klom"]
    n: int
    """Runs a side."""
    quantiles: tuple[float, ...]
    """Quantiles at `worst_images.QUANTILES`: median, 90 %, 99 %, the worst image."""
    null: tuple[float, ...] = ()
    """The same between two halves of the reference; empty without a null."""
    beyond_null: float | None = None
    """Share of images above the null's 95 % quantile: 0.05 where nothing differs."""
    worst: str
    """Id of the worst image."""


class EpsilonBounds(_Value):
    """Lower bounds of epsilon that hold with confidence."""

    shown: int
    """Forget images whose epsilon is above 0, with 95 % confidence that it is that of all of them (Holm)."""
    largest: float
    """The largest of bounds that hold for all images at once, with 95 % confidence."""
    median: float
    """Median over images of the bounds that hold for each image alone."""
    ceiling: float
    """Largest possible value of `largest` with so many runs."""
    worst: str
    """Id of the image with the largest bound; empty where none is shown."""


class OneRunAudit(_Value):
    """What single unlearned models show of which images they were made to forget (`one_run`)."""

    missing: str = ""
    """Reason why the audit does not apply; all other fields are then empty."""
    control: str = ""
    """Split that the forget images are distinguished from; drawn at random from the same images."""
    runs: int = 0
    """Runs that were audited, each alone."""
    images: int = 0
    """Images of both sets that took part in each audit."""
    median: float = 0.0
    """Median over runs of the lower bounds of epsilon, each with 95 % confidence."""
    shown: int = 0
    """Runs with a bound above 0; one in twenty where nothing is revealed."""
    ceiling: float = 0.0
    """Bound of a run whose images are all guessed right."""


class Rank(_Value):
    """Which places a population may have, given the runs; and its interval when all populations are looked at."""

    best: int
    worst: int
    """Places 1, 2, ...: 1 + how many are surely better, and how many are not surely worse."""
    low: float
    """Ends of an interval that holds for all populations together with 95 % confidence: that of the best, too."""
    high: float


class Separation(_Value):
    """How many runs would show the difference of two neighbours in the ranking."""

    first: str
    second: str
    difference: float
    """Difference of the measure now, not below 0."""
    runs: int | None
    """Runs a side that show it in 80 % of studies; None: 16 times the runs do not."""


class Plan(_Value):
    """What more runs would buy, extrapolated from this evaluation (`planning`)."""

    measure: str
    n: int
    """Runs a side now."""
    sizes: tuple[int, ...]
    """Runs a side that `widths` are for."""
    widths: dict[str, tuple[float, ...]]
    """Widths of 95 % intervals by population."""
    separations: tuple[Separation, ...] = ()


class Stage(_Value):
    """Means over runs after one epoch."""

    epoch: int
    n: int
    metrics: dict[str, float]
    """`<split>_accuracy`, `<split>_loss`, `train_loss`."""


class Cost(_Value):
    """Time of a run's training, against retraining."""

    seconds: Summary | None
    """Wall time; None for imported runs, whose times are not known."""
    relative: float | None
    """Median over the reference's median; of CPU times for runs on CPUs whose records have them, else of wall times."""
    efficient: bool | None
    """Whether the relative cost is at most 0.2, the challenge's limit."""


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
    """Estimates by the names of `measures.MEASURES`; empty for the reference and the original."""
    slices: tuple[Slice, ...]
    epsilon_counts: tuple[int, ...] = ()
    """Forget images per bin of 0.5 of epsilon: [0, 0.5), [0.5, 1), ...; the last counts all above."""
    guarded: int = 0
    """Forget images whose runs hardly differ (ranges below 1 % of the other's): epsilon 50 by rule."""
    undecided: int = 0
    """Forget images for which the official rules leave no attack: epsilon 50, too; parity only."""
    missed: int = 0
    """Number of forget images that an interval separates without error, and the official grid does not; parity only."""
    look: Look | None = None
    """Which look at the growing populations this is; None in scores of earlier versions, and for the reference."""
    tests: dict[str, PermutationTest] = {}
    equivalence: Equivalence | None = None
    variance: Originals | None = None
    forget_sets: ForgetSets | None = None
    """None of a study with one."""
    worst_images: tuple[ImageQuantiles, ...] = ()
    epsilon_bounds: EpsilonBounds | None = None
    one_run: OneRunAudit | None = None
    growth: tuple[Growth, ...] = ()
    examples: tuple[ExampleScores, ...] = ()
    curves: dict[str, Curve] = {}
    """ROC by attack, named as its measure or as in `attacks`."""
    attacks: dict[str, ShadowAttack] = {}
    """Attacks by shadows on originals, on shadows, and on models that started from shadows, by name."""
    memorisation: Memorisation | None = None
    """Of shadows alone."""
    stages: tuple[Stage, ...] = ()
    cost: Cost
    warnings: tuple[str, ...] = ()


NOT_SAVED = "not saved"
"""Beginning of the warning of a read-only store."""


class Scores(_Value):
    """One evaluation of a study."""

    format: Literal[1, 2, 3, 4, 5, 6] = FORMAT
    study: str
    mode: Mode
    reference: str
    seed: int
    images: dict[str, int]
    """Images per split."""
    class_names: tuple[str, ...]
    """Names of the classes as far as known, else the numbers as text."""
    populations: dict[str, PopulationScores]
    """Scores by population, in the study's order."""
    ranks: dict[str, dict[str, Rank]] = {}
    """Ranks by measure (score, forgetting_quality) and population; empty where populations differ in runs."""
    plan: Plan | None = None
    warnings: tuple[str, ...] = ()
    versions: dict[str, str]
    """Versions of the packages that made the runs, and of ray_unlearn that evaluated them."""

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        """Refuse names that disagree, and a file of format 1 with 0 for an F that has no value."""
        for name, one in self.populations.items():
            if one.population != name:
                raise ValueError(f"{name}: the scores of {one.population}")
            quality = one.measures.get("forgetting_quality")
            if quality and quality.value is not None and quality.n < LEAST_TO_SCORE:
                raise ValueError(f"{one.population}: F of {quality.n} runs a side")
        return self

    @property
    def saved(self) -> bool:
        """Whether the scores were saved; a read-only store saves none."""
        return not any(line.startswith(NOT_SAVED) for line in self.warnings)
