"""Many subsets of the same runs, computed at once by compiled loops: the numbers of one after another by NumPy."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from ray_unlearn.evaluation import compiled
from ray_unlearn.evaluation.measures import TOGETHER, rmia
from ray_unlearn.evaluation.measures.measure import Mode, Pair
from ray_unlearn.evaluation.measures.shift_and_spread import shift_and_spread
from ray_unlearn.evaluation.measures.u_lira import u_lira
from ray_unlearn.evaluation.ordered import ordered_by_value
from ray_unlearn.evaluation.outputs import Outputs, SplitOutputs

IMAGES = {"forget": 30, "retain": 12, "validation": 9, "test": 14}
RUNS = 33


def phi_of(rng: np.random.Generator, images: int, scale: float, digits: int, shift: float) -> np.ndarray:
    """Return phi of runs that share a part, [RUNS, images]; the first images are hard ones."""
    mean, spread = rng.normal(1, 1, images), rng.lognormal(0, 0.5, images)
    noise = 0.9 * rng.normal(size=(RUNS, images)) + 0.4 * rng.normal(size=(RUNS, 1))
    phi = np.round(scale * (mean + shift + spread * noise), digits)
    phi[:, 0] = 3.0
    phi[:, 1] = np.where(rng.random(RUNS) < 0.5, 103.6, 60.0)
    phi[:, 2] = np.round(phi[:, 2])
    phi[:, 3] = 1 + 1e-4 * phi[:, 3]
    phi[:, 4] = 200 * shift + np.linspace(0, 1, RUNS)
    phi[:, 5] = np.where(rng.random(RUNS) < 0.9, 1.0, 1.005) + 0.003 * (shift > 0)
    phi[:, 6] = np.linspace(0, 4 / 399 * (RUNS - 1), RUNS)
    phi[:, 7] = -phi[:, 6]
    return phi


def population(name: str, seed: int, scale: float, digits: int, shift: float) -> Outputs:
    """Return outputs of all splits."""
    rng = np.random.default_rng(seed)
    records: Any = tuple(SimpleNamespace(method="m", options={}, original=0, original_sha256="") for _ in range(RUNS))
    splits = {}
    for split, images in IMAGES.items():
        phi = phi_of(rng, images, scale, digits, shift if split == "forget" else 0.0)
        splits[split] = SplitOutputs(np.arange(images), np.zeros(images, np.int64), phi, phi > 0)
    return Outputs(name, records, splits)


def pairs_of(sides: tuple[Outputs, Outputs], size: int, mode: Mode = "parity") -> list[Pair]:
    """Return eight subsets of both sides."""
    rng = np.random.default_rng(size)
    rows = [[np.sort(rng.permutation(RUNS)[:size]) for _ in sides] for _ in range(8)]
    taken = [[side.take(some) for side, some in zip(sides, both, strict=True)] for both in rows]
    return [Pair(ours, theirs, mode, lambda: np.random.default_rng(0)) for ours, theirs in taken]


def numbers(value: Any) -> Any:
    """Return the numbers of a result, also of the parts of a dataclass."""
    if isinstance(value, np.ndarray):
        return value.tolist()
    return {name: numbers(getattr(value, name)) for name in value.__dataclass_fields__}


@pytest.mark.parametrize("size", [3, 5, 16, 27])
@pytest.mark.parametrize(("scale", "digits"), [(1.0, 15), (1.0, 2), (3.0, 0), (0.02, 15), (30.0, 1)])
def test_subsets_together_are_those_one_by_one(
    size: int, scale: float, digits: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Law: to the last bit, with ties, equal and saturated runs, separate ones, guards, and values on interval ends."""
    pytest.importorskip("numba", reason="needs the extra fast: pip install 'ray-unlearn[fast]'")
    retrained = population("retrained", 2, scale, digits, 0.0)
    for other in (population("ours", 1, scale, digits, 0.4), retrained):
        pairs = pairs_of((other, retrained), size)
        for compute, together in TOGETHER.items():
            monkeypatch.setattr(compiled, "FROM", 0)
            found = together(pairs)
            assert found is not None
            monkeypatch.setattr(compiled, "FROM", 1 << 60)
            for pair, one in zip(pairs, found, strict=True):
                assert numbers(one) == numbers(compute(pair))


@pytest.mark.parametrize(("scale", "digits"), [(1.0, 15), (1.0, 2), (3.0, 0), (0.02, 15), (30.0, 1)])
def test_one_pair_is_that_of_numpy(scale: float, digits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Law: RMIA, U-LiRA and distances to the last bit, of some runs and of all, with ties and certain images."""
    pytest.importorskip("numba", reason="needs the extra fast: pip install 'ray-unlearn[fast]'")
    sides = population("ours", 1, scale, digits, 0.4), population("retrained", 2, scale, digits, 0.0)
    found: list[list[object]] = []
    for start in (0, 1 << 60):
        monkeypatch.setattr(compiled, "FROM", start)
        pairs = [*pairs_of(sides, 5)[:2], Pair(*sides, "parity", lambda: np.random.default_rng(0))]
        attacks = [rmia.summary(pair) for pair in pairs]
        assert all(attack is not None and attack.non_members == 7 for attack in attacks)
        results = [[one.auc_U.tolist(), {fpr: tpr.tolist() for fpr, tpr in one.tpr.items()}] for one in attacks if one]
        others = [numbers(compute(*pair.phi("forget"))) for pair in pairs for compute in (u_lira, shift_and_spread)]
        areas = [u_lira(*pair.phi("forget")).auc for pair in pairs]
        found.append([repr(results), repr(others), areas])
    assert found[0] == found[1]


def test_ratios_that_differ_are_told_apart() -> None:
    """Law: NumPy is left no target whose ratios all differ, and those that have some in common."""
    pytest.importorskip("numba", reason="needs the extra fast: pip install 'ray-unlearn[fast]'")
    from ray_unlearn.evaluation.compiled.likelihoods import separations

    rng, half = np.random.default_rng(4), np.arange(12) % 2 == 0
    forget, test = rng.random((5, 6)), rng.random((5, 12))
    test[3, 0] = test[3, 1] = 0.5
    test[4, 1] = test[4, 3] = 0.5  # no image of the population is among these
    found = separations((forget, np.ones(6)), (test, np.ones(12)), np.arange(5), half, (0.01,))
    assert found.left_U.tolist() == [False, False, False, True, False]


def test_other_pairs_go_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Law: where Numba does not pay, runs are not finite, or pairs are few or not of the same runs."""
    sides = population("ours", 1, 1.0, 15, 0.4), population("retrained", 2, 1.0, 15, 0.0)
    pairs = pairs_of(sides, 5)
    assert [together(pairs) for together in TOGETHER.values()] == [None] * len(TOGETHER)
    monkeypatch.setattr(compiled, "FROM", 0)
    monkeypatch.setattr(compiled, "find_spec", lambda name: name == "numba")
    mixed = [*pairs[:6], *pairs_of((population("ours", 1, 1.0, 15, 0.4), sides[1]), 5)]
    assert [together(some) for together in TOGETHER.values() for some in (pairs[:3], mixed)] == [None] * 2 * len(
        TOGETHER
    )
    for split in sides[0].splits.values():
        split.phi_RN[1, 1] = np.inf
    assert [together(pairs) for together in TOGETHER.values()] == [None] * len(TOGETHER)


def test_runs_are_in_order() -> None:
    """Law: values rise in each image, and are those of the runs that are named."""
    phi_RN = np.random.default_rng(0).integers(0, 5, (9, 300)).astype(np.float64)
    ordered = ordered_by_value(phi_RN)
    assert (np.diff(ordered.values_EN, axis=1) >= 0).all()
    assert (np.sort(ordered.run_EN, axis=1) == np.arange(9)).all()
    assert np.array_equal(np.take_along_axis(phi_RN.T, ordered.run_EN.astype(np.int64), axis=1), ordered.values_EN)
