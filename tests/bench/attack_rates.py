"""How often attacks are right: simulated models of known truth, put through the evaluation's own attacks.

    uv run python tests/bench/attack_rates.py                  # the tables of evaluation/README.md: three CPU minutes

- `coverages`: intervals of the logistic attack and of SVC, means over runs, of the truth for these images; and of the
  mean over other draws of the images that are attacked.
- `shadow_attacks`: LiRA and RMIA on an original that was trained on half of the images, against the best possible
  attack; with a shift of 0, nothing is revealed.
- `u_lira`: models that unlearned an image against models that never saw it, which do not differ.
- `memorised`: images that no model memorises, called memorised.
"""

from __future__ import annotations

import argparse
from types import SimpleNamespace
from typing import Any

import numpy as np

from ray_unlearn.evaluation.confidence import probability_of
from ray_unlearn.evaluation.intervals import interval, standard_error, subsets
from ray_unlearn.evaluation.measures.logistic_attack import simple_attack
from ray_unlearn.evaluation.measures.memorisation import MEMORISED, by_chance, memorisation
from ray_unlearn.evaluation.measures.svc_efficacy import svc_forget_efficacy
from ray_unlearn.evaluation.outputs import Outputs, SplitOutputs
from ray_unlearn.evaluation.resampling import Draws, Settings
from ray_unlearn.evaluation.roc import roc
from ray_unlearn.evaluation.shadow_attacks import attacks_on, u_lira_of_pairs
from ray_unlearn.evaluation.shadow_fits import ShadowFit, Side
from ray_unlearn.evaluation.shadows import PairSplit

LEVELS = {"retain": 3.0, "test": 1.0, "forget": 1.5}
"""Mean of phi of a split; images differ by a standard deviation of 1.5, runs at an image by 1."""


def models(rng: np.random.Generator, runs: int, sizes: dict[str, int]) -> dict[str, np.ndarray]:
    """Return phi [runs, images] by split, of models of the same images: some of each are hard for all of them."""
    return {
        split: LEVELS[split] + 1.5 * rng.normal(size=size) + rng.normal(size=(runs, size))
        for split, size in sizes.items()
    }


def attacked(phi: dict[str, np.ndarray], seed: int) -> dict[str, np.ndarray]:
    """Return what both attacks get from each run; the seed draws the images that are attacked."""
    loss = {split: np.logaddexp(0.0, -phi_RN) for split, phi_RN in phi.items()}
    p = {split: np.exp(-loss_RN) for split, loss_RN in loss.items()}
    return {
        "logistic_attack": np.array(
            [
                simple_attack(*pair, np.random.default_rng(seed))
                for pair in zip(loss["forget"], loss["test"], strict=True)
            ]
        ),
        "svc_efficacy": np.array(
            [
                svc_forget_efficacy(*three, np.random.default_rng(seed))
                for three in zip(p["retain"], p["test"], p["forget"], strict=True)
            ]
        ),
    }


def coverages(
    studies: int, seed: int = 0, *, runs: int, pool: int = 400, draws: int = 6
) -> dict[str, dict[str, float]]:
    """Return for each attack how often the interval holds the truth, for these images and over draws of them.

    Args:
        studies: studies that are drawn from each pool of models.
        seed: draws all of it.
        runs: N.
        pool: models of the same images whose mean is the truth.
        draws: pools, each with images and a draw of its own; of the first pool, other draws, too.

    """
    rng, held = np.random.default_rng(seed), dict[str, list[tuple[bool, bool]]]()
    sizes = {"retain": 160, "test": 80, "forget": 40}
    for number in range(draws):
        phi = models(rng, pool, sizes)
        values = attacked(phi, number)
        few = {split: phi_RN[:60] for split, phi_RN in phi.items()}
        others = [attacked(few, 100 + other) for other in range(8)]
        for name, values_R in values.items():
            truth = float(values_R.mean())
            shift = float(np.mean([one[name].mean() for one in others])) - float(values_R[:60].mean())
            for study in range(studies):
                low, high = _interval(name, rng.permutation(values_R)[:runs], study)
                held.setdefault(name, []).append((low <= truth <= high, low <= truth + shift <= high))
    return {
        name: dict(zip(("these images", "other draws"), np.mean(found, axis=0).tolist(), strict=True))
        for name, found in held.items()
    }


def _interval(name: str, values_R: np.ndarray, study: int) -> tuple[float, float]:
    """Return the evaluation's interval of a mean over runs."""
    records: Any = tuple(SimpleNamespace(original=0, original_sha256="", method="a") for _ in values_R)
    side = Outputs("a", records, {})
    drawn = subsets(side, side, Settings(mode="exact", resamples=100, seed=study))
    means = np.array([values_R[rows].mean() for rows, _ in drawn.pairs])
    error = standard_error(name, Draws(values={name: means}, points_KE=np.empty((0, 0))), drawn, "exact")
    return interval(name, float(values_R.mean()), error)


def shadow_attacks(
    studies: int, seed: int = 0, *, shadows: int, shift: float, images: int = 400
) -> dict[str, tuple[float, float, float, float]]:
    """Return for each attack means over studies: its area, its standard deviation, and TPR at 1 % FPR over studies.

    phi of an image is 1 on average for models that were not trained on it, and `shift` more for models that were; of
    each image all models have the same standard deviation, 0.7 to 1.3. The last number is the best possible area.
    """
    rng, found = np.random.default_rng(seed), dict[str, list[tuple[float, float]]]()
    best = []
    for _ in range(studies):
        level_N, sd_N = 1 + 1.5 * rng.normal(size=images), rng.uniform(0.7, 1.3, images)
        level_T, sd_T = 1 + 1.5 * rng.normal(size=200), rng.uniform(0.7, 1.3, 200)
        outside, inside = rng.normal(size=(2, shadows // 2, images))
        outside, inside = level_N + sd_N * outside, level_N + shift + sd_N * inside
        test_2 = level_T + sd_T * rng.normal(size=(2, shadows // 2, 200))
        fits = {"retain": fit_of(inside, outside), "test": fit_of(*test_2, held_out=True)}
        members_N = rng.permutation(images) < images // 2
        phi_N = level_N + shift * members_N + sd_N * rng.normal(size=images)
        phi_T = level_T + sd_T * rng.normal(size=200)
        splits = {
            name: SplitOutputs(np.arange(len(phi)), np.zeros(len(phi), np.int64), phi[None], phi[None] > 0)
            for name, phi in (("retain", phi_N), ("test", phi_T))
        }
        target = Outputs("original", (), splits)
        for name, one in attacks_on(target, {"retain": members_N}, fits, lambda: np.random.default_rng(0)).items():
            curve = roc(one.members_E, one.others_T)
            found.setdefault(name, []).append((curve.auc, curve.tpr_at(0.01)))
        ratio_N = (phi_N - level_N - shift / 2) * shift / sd_N**2
        best.append(roc(ratio_N[members_N], ratio_N[~members_N]).auc)
    return {
        name: (*np.mean(values, axis=0).tolist(), float(np.std([a for a, _ in values], ddof=1)), float(np.mean(best)))
        for name, values in found.items()
    }


def fit_of(inside_KN: np.ndarray, outside_KN: np.ndarray, *, held_out: bool = False) -> ShadowFit:
    """Return what shadows make of N images; `held_out`: no shadow was trained on them."""
    both = [
        Side(median_N=np.median(phi_KN, 0), sd_N=phi_KN.std(0), probability_N=probability_of(phi_KN).mean(0))
        for phi_KN in (inside_KN, outside_KN)
    ]
    return ShadowFit(
        inside=None if held_out else both[0],
        outside=both[1],
        pairs=len(inside_KN),
        inside_spread=float(inside_KN.std()),
        outside_spread=float(outside_KN.std()),
    )


def u_lira(studies: int, seed: int = 0, *, pairs: int, images: int = 40) -> dict[str, tuple[float, float, float]]:
    """Return means over studies of area, accuracy and TPR at 1 % FPR, where unlearned models do not differ."""
    rng, found = np.random.default_rng(seed), dict[str, list[tuple[float, float, float]]]()
    for _ in range(studies):
        level_E = rng.normal(size=images)
        unlearned, shadows = (level_E + rng.normal(size=(2, pairs, images)) for _ in range(2))
        for name, one in u_lira_of_pairs((unlearned[0], unlearned[1]), (shadows[0], shadows[1]))[0].items():
            found.setdefault(name, []).append((one.auc or 0.0, one.accuracy or 0.0, one.tpr_1_percent or np.nan))
    return {name: tuple(np.mean(values, axis=0).tolist()) for name, values in found.items()}


def memorised(images: int, seed: int = 0, *, pairs: int, accuracy: float) -> tuple[float, float]:
    """Return the share of images called memorised that models know as often without them, and what is expected."""
    rng = np.random.default_rng(seed)
    zero, shape = np.zeros(images), (2, pairs, images)
    right_2KN = rng.random(shape) < accuracy
    each = (
        {
            "retain": PairSplit(
                positions_N=np.arange(images),
                labels_N=np.zeros(images, np.int64),
                inside_N=zero,
                outside_N=zero,
                inside_correct_N=inside,
                outside_correct_N=outside,
            )
        }
        for inside, outside in zip(*right_2KN, strict=True)
    )
    found = memorisation(each)["retain"]
    return float((found.score_N >= MEMORISED).mean()), by_chance(found) / images


def main() -> None:
    """Simulate and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=300)
    studies = parser.parse_args().studies
    for shadows in (16, 64):
        for shift in (0.0, 1.0):
            for name, (auc, rate, sd, best) in shadow_attacks(studies, shadows=shadows, shift=shift).items():
                numbers = f"AUC {auc:.3f} (sd {sd:.3f}; best {best:.3f}) TPR {rate:.2%}"
                print(f"{shadows} shadows, shift {shift}: {name} {numbers}")
    for pairs in (3, 8, 32):
        for name, (auc, right, rate) in u_lira(studies, pairs=pairs).items():
            print(f"{pairs} pairs: {name} AUC {auc:.3f} accuracy {right:.3f} TPR at 1 % {rate:.2%}")
    for pairs in (4, 8, 16, 32, 64):
        shares = [memorised(20_000, pairs=pairs, accuracy=accuracy)[0] for accuracy in (0.5, 0.8, 0.95)]
        print(f"{pairs} pairs: called memorised at accuracies 0.5, 0.8, 0.95:", *(f"{share:.2%}" for share in shares))
    for runs in (8, 16, 64):
        for name, held in coverages(studies, runs=runs).items():
            print(f"{runs} runs: {name} " + ", ".join(f"{what} {share:.1%}" for what, share in held.items()))


if __name__ == "__main__":
    main()
