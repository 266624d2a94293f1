"""How often each test and each bound claims something that is not so: simulated studies of known truth.

    uv run python tests/bench/error_rates.py                   # the tables of evaluation/README.md: 30 CPU minutes

All are at 5 %. The permutation tests' own rates and their power are `calibration.py --tests`.

- `families`: Holm's correction over both tests of three methods that are all retraining, with one reference.
- `looks`: a study without any difference, looked at 4 times; at 5 % each, and as alpha is spent.
- `audits`: single models that reveal nothing about their forget set, whose bound of epsilon is above 0.
- `bounds`: models that do not differ, whose lower bound of epsilon is above 0: of an image, and of any of 40.
- `places`: methods that are all alike, of which one is called better than another.
- `equivalences`: methods whose F is a fifth of the null below it, just as the margin says, called equivalent; and
  retrained models called equivalent, which is right.
"""

from __future__ import annotations

import argparse
import math
from dataclasses import replace

import numpy as np
from calibration import SCALE, Cell, F, f_alone

from ray_unlearn.evaluation.equivalence import equivalence, error_at_null
from ray_unlearn.evaluation.intervals import standard_error, subsets
from ray_unlearn.evaluation.looks import Looks
from ray_unlearn.evaluation.lower_bounds import epsilon_lower_bounds
from ray_unlearn.evaluation.measures.forgetting_quality import forgetting_quality
from ray_unlearn.evaluation.measures.measure import Mode
from ray_unlearn.evaluation.one_run import audited
from ray_unlearn.evaluation.permutation import holm, permutation_tests
from ray_unlearn.evaluation.ranks import ranks
from ray_unlearn.evaluation.resampling import Draws, Settings
from ray_unlearn.evaluation.scores import Equivalence, Estimate

LEVEL = 0.05
AT_THE_MARGIN: dict[tuple[Mode, int], float] = {
    ("exact", 8): 1.19,
    ("exact", 16): 0.76,
    ("exact", 32): 0.56,
    ("parity", 8): 0.96,
    ("parity", 16): 0.519,
    ("parity", 32): 0.383,
}
"""Shift in standard deviations at which F is a fifth below the null, by mode and N of the null."""
DESIGNS: list[tuple[Mode, int, int]] = [("exact", 16, 2), ("exact", 32, 2), ("exact", 16, 1), ("parity", 16, 2)]
"""Mode, N, and retrained models in N, of the studies of equivalence."""


def phi(rng: np.random.Generator, runs: int, images: int, rho: float) -> np.ndarray:
    """Return models that share `rho` of the variance of all images."""
    shared, own = rng.normal(size=(runs, 1)), rng.normal(size=(runs, images))
    return math.sqrt(rho) * shared + math.sqrt(1 - rho) * own


def families(studies: int, seed: int = 0, *, runs: int = 16, methods: int = 3) -> float:
    """Return the share of studies in which any of the tests, corrected, finds a difference."""
    rng, found = np.random.default_rng(seed), []
    for _ in range(studies):
        reference = phi(rng, 2 * runs, 40, 0.15)
        tests = {
            (method, name): one.p
            for method in range(methods)
            for name, one in permutation_tests(phi(rng, runs, 40, 0.15), reference, rng, 399).items()
        }
        found.append(min(holm(tests).values()) <= LEVEL)
    return float(np.mean(found))


def looks(studies: int, seed: int = 0, sizes: tuple[int, ...] = (6, 12, 18, 24)) -> tuple[float, float]:
    """Return the share of studies in which any look finds a difference, at 5 % each and as alpha is spent."""
    rng, levels, taken = np.random.default_rng(seed), [], Looks()
    for size in sizes:
        share = size / sizes[-1]
        taken, look = taken.take("a", runs=size, reference_runs=size, share=share, identity="a")
        levels.append(look.level)
    found = []
    for _ in range(studies):
        ours, theirs = (phi(rng, sizes[-1], 6, 0.14) for _ in range(2))
        found.append([permutation_tests(ours[:n], theirs[:n], rng, 399)["energy"].p for n in sizes])
    p = np.array(found)
    return float((p <= LEVEL).any(axis=1).mean()), float((p <= levels).any(axis=1).mean())


def audits(studies: int, seed: int = 0, *, images: int) -> float:
    """Return the share of models that reveal nothing and have a bound above 0."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(studies):
        forget, control = rng.normal(size=(2, images))
        found.append(audited(forget, control, rng) > 0)
    return float(np.mean(found))


def bounds(studies: int, seed: int = 0, *, runs: int) -> tuple[float, float]:
    """Return the share of images with a bound of their own above 0, and of studies with one for all above 0."""
    rng = np.random.default_rng(seed)
    found = [epsilon_lower_bounds(phi(rng, runs, 40, 0.15), phi(rng, runs, 40, 0.15), rng) for _ in range(studies)]
    return float(np.mean([one.each_E > 0 for one in found])), float(np.mean([one.all_E.any() for one in found]))


def places(cell: Cell, methods: int = 2) -> float:
    """Return the share of studies in which one of several equal methods is called better than another, by F."""
    rng, found = np.random.default_rng([cell.seed, cell.runs, cell.images, methods]), []
    for study in range(cell.studies):
        settings = Settings(mode=cell.mode, resamples=cell.resamples, seed=study)
        reference = cell.population("retrained", rng)
        estimates, draws = {}, {}
        for name in map(str, range(methods)):
            unlearned = replace(cell.population("unlearned", rng), population=name)
            drawn = subsets(unlearned, reference, settings)
            values, of_subsets = f_alone(unlearned, reference, drawn, cell.mode)
            error = standard_error(F, of_subsets, drawn, cell.mode)
            estimates[name] = Estimate(value=values[F], n=cell.runs, se=error.se, df=error.df)
            draws[name] = of_subsets.values[F].tolist()
        found.append(any(one.best > 1 for one in ranks(F, estimates, draws).values()))
    return float(np.mean(found))


def equivalences(
    studies: int,
    seed: int = 0,
    *,
    runs: int,
    shift: float,
    mode: Mode = "exact",
    rho: float = 0.15,
    reference_runs: int = 2,
    originals: int = 0,
    resamples: int = 100,
) -> list[Equivalence]:
    """Return the answers about methods whose images are all shifted.

    Args:
        studies: how many.
        seed: draws them.
        runs: N.
        shift: in standard deviations.
        mode: of F.
        rho: share of variance that images have in common.
        reference_runs: retrained models, in N.
        originals: those that runs start from, with a quarter of the variance; 0: one of its own for each run.
        resamples: halvings.

    """
    rng, found = np.random.default_rng([seed, runs, reference_runs]), []
    cell = Cell(mode=mode, runs=runs, images=40, world="perfect", rho=rho, originals=originals)
    size = min(runs, runs * reference_runs // 2)
    for study in range(studies):
        settings = Settings(mode=mode, resamples=resamples, seed=study)
        unlearned = cell.population("unlearned", rng)
        reference = replace(cell, runs=reference_runs * runs).population("retrained", rng)
        forget = unlearned.splits["forget"]
        moved = replace(forget, phi_RN=forget.phi_RN + SCALE * shift)
        unlearned = replace(unlearned, splits={"forget": moved})
        phi_RE = reference.splits["forget"].phi_RN
        ours = [rows for rows, _ in settings.halves("unlearned", runs, size)]
        halves = settings.halves("retrained", len(phi_RE), size)
        first, second = (np.concatenate([phi_RE[pair[k]] for pair in halves], axis=1) for k in (0, 1))
        mine = np.concatenate([moved.phi_RN[rows] for rows in ours], axis=1)
        points_KE = forgetting_quality(mine, first, mode).points_E.reshape(resamples, -1)
        error = error_at_null(unlearned, reference, size, Draws(values={}, points_KE=points_KE))
        if error is None:
            continue
        estimate = Estimate(
            value=0.0,
            n=runs,
            at_null_n=float(points_KE.mean()),
            at_null_se=error.se,
            at_null_df=error.df,
            null=forgetting_quality(second, first, mode).score,
            null_n=size,
        )
        answer = equivalence(estimate)
        found += [answer] if answer else []
    return found


def below(answers: list[Equivalence]) -> float:
    """Return how far F is below the null, as a share of the null, on average."""
    return -float(np.mean([one.difference for one in answers]) / (np.mean([one.margin for one in answers]) / 0.2))


def main() -> None:
    """Simulate and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=1500)
    studies = parser.parse_args().studies
    print(f"families {families(studies):.1%}")
    print("looks {:.1%} at 5 % each, {:.1%} as spent".format(*looks(studies)))
    for images in (21, 60, 200):
        print(f"audits of {images} images a side {audits(2 * studies, images=images):.1%}")
    for runs in (16, 32, 64):
        print("bounds, {} runs: {:.2%} of images, {:.1%} of studies".format(runs, *bounds(studies // 4, runs=runs)))
    for world, rho in (("perfect", 0.2), ("shift", 0.4)):
        for mode in ("exact", "parity"):
            cell = Cell(mode=mode, runs=16, images=40, world=world, rho=rho, studies=studies // 5)
            print(f"places, {mode}, 16 runs, {world} {rho}: {places(cell):.1%} of pairs")
    for mode, runs, twice in DESIGNS:
        for rho in (0.0, 0.15, 0.4):
            size = runs * twice // 2
            for moved in (AT_THE_MARGIN[mode, size], 0.0):
                design = f"{mode}, {runs} runs, {twice * runs} retrained, rho {rho}"
                answers = equivalences(studies // 5, runs=runs, shift=moved, mode=mode, rho=rho, reference_runs=twice)
                share = np.mean([one.equivalent for one in answers])
                print(f"equivalences, {design}, F {below(answers):.1%} below the null: {share:.1%} called equivalent")


if __name__ == "__main__":
    main()
