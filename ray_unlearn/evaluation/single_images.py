"""Scores of single forget images of a population: the worst, the surely known, F by class and group.

    numbers = image_numbers([side])              # {"epsilon": [E], ...}; a side per forget set
    quantiles_of(numbers, [side])                # (ImageQuantiles(number="epsilon", ...), ...), without nulls
    epsilon_bounds([side], settings)
    with_quality(slices, unlearned, names, quality)              # slices of the forget set with their own F

Does not cover: the formulas (`worst_images`, `lower_bounds`, `measures`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from ray_unlearn.evaluation.attack_tables import DELTA
from ray_unlearn.evaluation.epsilon import CAP
from ray_unlearn.evaluation.lower_bounds import LEAST_RUNS, attacks_on, joint_bounds
from ray_unlearn.evaluation.measures.forgetting_quality import ForgettingQuality
from ray_unlearn.evaluation.measures.measure import Pair
from ray_unlearn.evaluation.one_run import (
    ERROR,
    LEAST_IMAGES,
    audited,
    audited_images,
    guessed,
    largest_epsilon,
    standardised,
)
from ray_unlearn.evaluation.outputs import Outputs
from ray_unlearn.evaluation.populations import FloatArray
from ray_unlearn.evaluation.resampling import Settings
from ray_unlearn.evaluation.scores import EpsilonBounds, ImageQuantiles, OneRunAudit, Slice
from ray_unlearn.evaluation.slices import forget_keys
from ray_unlearn.evaluation.worst_images import joined, quantiles
from ray_unlearn.store.splits import ImageNames
from ray_unlearn.wording import plural

Number = Literal["epsilon", "u_lira_auc", "klom"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Side:
    """What the images of one forget set are judged by."""

    unlearned: Outputs
    reference: Outputs
    images: Mapping[str, FloatArray]
    """Numbers that each forget image has (`worst_images`): at the null's N, or of all runs without a null."""
    image_runs: int
    """Runs a side that these are of."""
    names: ImageNames

    def phi(self) -> tuple[FloatArray, FloatArray]:
        """Return phi of both sides on the forget images."""
        return self.unlearned.splits["forget"].phi_RN, self.reference.splits["forget"].phi_RN

    def ids(self) -> list[str]:
        """Return the ids of the forget images, in order."""
        return [str(self.names.ids["forget"][place]) for place in self.unlearned.splits["forget"].positions_N]


def image_numbers(sides: Sequence[Side]) -> dict[str, FloatArray]:
    """Return the numbers that each image has, of the images of one forget set after the other."""
    return joined([side.images for side in sides])


def quantiles_of(numbers: Mapping[str, FloatArray], sides: Sequence[Side]) -> tuple[ImageQuantiles, ...]:
    """Return quantiles over the images of all forget sets; the null's are added later (`nulls.with_null`)."""
    ids = [name for side in sides for name in side.ids()]
    return tuple(
        ImageQuantiles(
            number=number,
            n=sides[0].image_runs,
            quantiles=quantiles(numbers[number]),
            worst=ids[int(numbers[number].argmax())],
        )
        for number in get_args(Number)
        if number in numbers
    )


def epsilon_bounds(sides: Sequence[Side], settings: Settings) -> EpsilonBounds | None:
    """Return lower bounds of epsilon, of all runs of both sides; None with too few to choose and to judge on.

    Those that hold for all images hold for those of all forget sets.
    """
    if min(len(one) for side in sides for one in (side.unlearned, side.reference)) < LEAST_RUNS:
        return None
    rng, ids = settings.rng("epsilon-bounds", sides[0].unlearned.population), [i for side in sides for i in side.ids()]
    found = joint_bounds([attacks_on(*side.phi(), rng) for side in sides])
    return EpsilonBounds(
        shown=found.shown,
        largest=float(found.all_E.max()),
        median=float(np.median(found.each_E)),
        ceiling=found.ceiling,
        worst=ids[int(found.all_E.argmax())] if found.shown else "",
    )


def one_run_audit(
    unlearned: Outputs, reference: Outputs, controls: Sequence[str], why: str, settings: Settings
) -> OneRunAudit:
    """Return the audits of all unlearned runs, each alone, or why there are none.

    Args:
        unlearned: the population.
        reference: retrained models, which saw neither forget nor control images.
        controls: splits that were drawn from the forget set's own pool; the first with outputs is taken.
        why: reason why there are none.
        settings: gives the draws.

    """
    if not controls:
        return OneRunAudit(missing=why)
    control = next((name for name in controls if name in unlearned.splits and name in reference.splits), None)
    if control is None:
        wanted = ", ".join([*unlearned.splits, controls[0]])
        return OneRunAudit(missing=f"needs outputs of {' or '.join(controls)}: outputs: {{splits: [{wanted}]}}")
    images = audited_images(*(len(unlearned.splits[split].labels_N) for split in ("forget", control)))
    if images < LEAST_IMAGES or len(reference) < 2:
        has = f"{plural(images, 'image')} and {len(reference)}"
        return OneRunAudit(missing=f"needs {LEAST_IMAGES} images and 2 retrained models, and has {has}")
    forget_RE, control_RC = (
        standardised(unlearned.splits[split].phi_RN, reference.splits[split].phi_RN) for split in ("forget", control)
    )
    rng = settings.rng("one-run", unlearned.population)
    all_right = tuple(2 * half for half in guessed(images))
    bounds = [audited(mine, others, rng) for mine, others in zip(forget_RE, control_RC, strict=True)]
    return OneRunAudit(
        control=control,
        runs=len(bounds),
        images=images,
        median=float(np.median(bounds)),
        shown=int(np.count_nonzero(bounds)),
        ceiling=largest_epsilon(images, all_right, all_right, DELTA, ERROR),
    )


def with_quality(
    slices: Sequence[Slice], outputs: Outputs, names: ImageNames, quality: ForgettingQuality | None
) -> tuple[Slice, ...]:
    """Return the slices, those of the forget set with F over their images alone."""
    if quality is None:
        return tuple(slices)
    keys = forget_keys(outputs, names)
    return tuple(
        one.model_copy(update={"quality": float(quality.points_E[keys[one.by] == one.key].mean())})
        if one.split == "forget"
        else one
        for one in slices
    )


def missed(pair: Pair, quality: ForgettingQuality | None) -> int:
    """Return the number of images where no run of one side is within the other's range, and epsilon is below 50.

    An interval separates such populations without any error. The official grid, 0.01 apart, may have no end there.
    """
    if quality is None:
        return 0
    unlearned_UE, retrained_RE = pair.phi("forget")
    apart_E = _outside(unlearned_UE, retrained_RE) | _outside(retrained_RE, unlearned_UE)
    return int((apart_E & (quality.epsilon_E < CAP)).sum())


def _outside(one_RE: np.ndarray, other_RE: np.ndarray) -> np.ndarray:
    """Return for each image whether no run of the one is within the other's range, bool [E]."""
    within_RE = (one_RE >= other_RE.min(axis=0)) & (one_RE <= other_RE.max(axis=0))
    return np.asarray(~within_RE.any(axis=0))
