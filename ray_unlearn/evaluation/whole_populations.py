"""Scores of a population as a whole: indistinguishable, of how many originals.

    tests_of([(unlearned, reference)], settings) # {"energy": PermutationTest(p=...), ...}
    adjusted(populations)                        # the same, corrected for being several

Does not cover: the formulas (`permutation`, `originals`), equivalence (`equivalence`), and the order of populations
(`ranks`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import count

import numpy as np

from ray_unlearn.evaluation.looks import ALPHA
from ray_unlearn.evaluation.originals import buys_more, variance_shares
from ray_unlearn.evaluation.outputs import Outputs
from ray_unlearn.evaluation.permutation import LEAST_RUNS, compared_sizes, holm, least_p, stratified_tests
from ray_unlearn.evaluation.resampling import Settings
from ray_unlearn.evaluation.scores import Originals, PermutationTest, PopulationScores


def tests_of(sides: Sequence[tuple[Outputs, Outputs]], settings: Settings) -> dict[str, PermutationTest]:
    """Return the permutation tests of all runs of both sides; none with fewer than 3 a side.

    Args:
        sides: the population and the reference, for each forget set.
        settings: gives the draws.

    """
    if min(len(side) for pair in sides for side in pair) < LEAST_RUNS:
        return {}
    strata = [
        (ours.splits["forget"].phi_RN, theirs.splits["forget"].phi_RN, ours.originals_R) for ours, theirs in sides
    ]
    found = stratified_tests(strata, settings.rng("permutation", sides[0][0].population))
    least = least_p(compared_sizes(strata))
    return {name: PermutationTest(statistic=one.statistic, p=one.p, least=least) for name, one in found.items()}


def adjusted(populations: Mapping[str, PopulationScores]) -> dict[str, PopulationScores]:
    """Return the populations with Holm's correction over all their tests, at the level of their look.

    A test that finds nothing says at how many runs it could have, where it could not with these: Holm compares it
    with ALPHA over the number of tests that find nothing.
    """
    level = {name: found.look.level if found.look else ALPHA for name, found in populations.items()}
    every = {
        (name, test): min(1.0, one.p * ALPHA / level[name])
        for name, found in populations.items()
        for test, one in found.tests.items()
    }
    corrected = holm(every)
    open_tests = sum(p > ALPHA for p in corrected.values())

    def with_both(name: str, test: str, one: PermutationTest, sets: int) -> PermutationTest:
        wanted, needed = level[name] / max(1, open_tests), None
        if corrected[name, test] > ALPHA and one.least > wanted:
            needed = next(runs for runs in count(LEAST_RUNS) if least_p([(runs, runs)] * sets, 10**9) <= wanted)
        return one.model_copy(update={"adjusted": corrected[name, test], "least_runs": needed})

    return {
        name: found.model_copy(
            update={
                "tests": {
                    test: with_both(name, test, one, found.forget_sets.sets if found.forget_sets else 1)
                    for test, one in found.tests.items()
                }
            }
        )
        for name, found in populations.items()
    }


def variance_of(unlearned: Outputs, reference: Outputs) -> Originals | None:
    """Return where the variance over runs comes from; None with one original, or without times.

    An original is taken to train as long as a retrained model.
    """
    if len(reference) < LEAST_RUNS:
        return None
    phi_UE, phi_RE = (side.splits["forget"].phi_RN for side in (unlearned, reference))
    sd_E = np.where(np.ptp(phi_RE, axis=0) > 0, phi_RE.std(axis=0, ddof=1), 0)
    found = variance_shares(phi_UE, unlearned.originals_R, sd_E)
    if found is None:
        return None
    times = [[r.seconds["train"] for r in side.records if "train" in r.seconds] for side in (unlearned, reference)]
    if not all(times):
        return None  # imported runs, whose times are not known
    ours, theirs = (float(np.median(each)) for each in times)
    return Originals(
        originals=found.originals,
        runs_each=found.runs_each,
        original_share=found.original,
        run_share=found.run,
        buys_more=buys_more(found, original_s=theirs, run_s=ours),
    )
