"""Epsilon: the official numbers, the definition attack by attack on small samples, and the laws that follow."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from confidences import BENCHMARK, GOLDEN, gaussian, hundredths

from ray_unlearn.errors import EvaluationError
from ray_unlearn.evaluation import compiled
from ray_unlearn.evaluation.attack_tables import attack_tables
from ray_unlearn.evaluation.blocks import Pooled
from ray_unlearn.evaluation.epsilon import example_epsilons
from ray_unlearn.evaluation.parity import Grid, Thresholds


def epsilon(unlearned: Any, retrained: Any, mode: str = "parity") -> float:
    """Return the epsilon of one example."""
    found = example_epsilons(np.asarray(unlearned)[:, None], np.asarray(retrained)[:, None], mode=mode)
    return float(found.epsilon_E[0])


@pytest.mark.parametrize("golden", GOLDEN, ids=lambda golden: f"{golden[0]:.2f}")
def test_golden_examples(golden: tuple[float, str, str]) -> None:
    """The official evaluator's epsilon, to its float32."""
    expected, unlearned, retrained = golden
    assert epsilon(hundredths(unlearned), hundredths(retrained)) == pytest.approx(expected, abs=1e-6)


def test_the_golden_examples_one_and_all(shared: Path) -> None:
    """All sixteen, undisturbed; one of them by the guard."""
    golden = np.load(shared / "golden" / "forgetting_quality_n32.npz")
    found = example_epsilons(golden["unlearned_NE"], golden["retrained_NE"])
    assert np.abs(found.epsilon_E - golden["epsilon_E"]).max() < 1e-6
    assert np.flatnonzero(found.guarded_E).tolist() == [5]
    assert not found.undecided_E.any()


def test_an_attack_s_epsilon_by_hand() -> None:
    """Of four retrained (rows) and four unlearned (columns), 3 and 1 inside are two errors of a quarter."""
    table = attack_tables(4, 4).retrained.reshape(5, 5)
    assert table[3, 1] == pytest.approx(math.log(0.74999 / 0.25), abs=1e-6)
    assert table[2, 1] == pytest.approx(math.log(0.49999 / 0.25), abs=1e-6)  # the other logarithm is log(0.74999 / 0.5)
    assert table[3, 2] == pytest.approx(math.log(0.49999 / 0.25), abs=1e-6)
    assert table[1, 3] == pytest.approx(math.log(0.24999 / 0.75), abs=1e-6)
    assert table[4, 0] == np.inf  # no error at all
    assert table[4, 1] == table[3, 0] == -np.inf  # one of two errors never made
    assert table[0, 4] == -np.inf  # logarithms of negative numbers only
    assert table[0, 1] == pytest.approx(math.log(0.74999), abs=1e-6)  # log(-0.00001) is ignored


def test_the_three_tables_are_two_directions_and_the_larger() -> None:
    """With different N, too: all of two retrained and none of three unlearned inside is perfect one way only."""
    tables = attack_tables(2, 3)
    retrained, unlearned, either = (
        table.reshape(3, 4) for table in (tables.retrained, tables.unlearned, tables.either)
    )
    assert retrained[2, 0] == np.inf
    assert unlearned[0, 3] == np.inf
    assert unlearned[2, 0] == -np.inf
    assert unlearned[1, 2] == pytest.approx(math.log(0.49999 * 3), abs=1e-6)  # FNR 1/3, FPR 1/2
    assert np.array_equal(either, np.maximum(retrained, unlearned))
    assert attack_tables(2, 3) is tables
    with pytest.raises(ValueError, match="read-only"):
        tables.either[0] = 0


def test_two_samples_are_pooled_and_counted() -> None:
    """Two retrained and three unlearned, with a tie at 1: places are before, between and after different values."""
    pooled = Pooled.of(np.array([[1.0, 1.0, 3.0], [5.0, 6.0, 7.0]]), np.array([[0.0, 1.0], [8.0, 9.0]]))
    assert pooled.values_EV.tolist() == [[0, 1, 1, 1, 3], [5, 6, 7, 8, 9]]
    row, place = pooled.distinct()
    assert row.tolist() == [0] * 4 + [1] * 6
    assert place.tolist() == [0, 1, 4, 5, 0, 1, 2, 3, 4, 5]
    assert pooled.retrained_EC[row, place].tolist() == [0, 1, 2, 2, 0, 0, 0, 0, 1, 2]
    assert pooled.unlearned_EC[row, place].tolist() == [0, 0, 2, 3, 0, 1, 2, 3, 3, 3]


@pytest.mark.parametrize(("num_retrained", "num_unlearned"), [(3, 3), (16, 16), (52, 52), (512, 512), (5, 9)])
def test_epsilon_rises_with_positives_and_falls_with_negatives(num_retrained: int, num_unlearned: int) -> None:
    """Law that passing ends over rests on, in float32: of attacks with neither no error of one kind, nor empty."""
    tables = attack_tables(num_retrained, num_unlearned)
    for table, positive_first in ((tables.retrained, True), (tables.unlearned, False)):
        epsilon_PN = table.reshape(num_retrained + 1, num_unlearned + 1)
        kept_PN = (epsilon_PN if positive_first else epsilon_PN.T)[:-1, 1:]
        assert (np.diff(kept_PN, axis=0) >= 0)[:, :-1].all()
        assert (np.diff(kept_PN, axis=1) <= 0)[1:].all()
        assert table[0] == -np.inf  # an interval without models, or with crossed ends


def test_passing_ends_over_changes_nothing() -> None:
    """Law: parity's epsilon, to its last bit, is the largest of all 160,000 or 160,400 intervals and all thresholds."""
    rng = np.random.default_rng(11)
    for kind in ("plain", "rounded", "planted", "tiny", "clipped", "touching", "wide") * 4:
        unlearned_N, retrained_N = awkward(kind, rng)
        found = example_epsilons(unlearned_N[:, None], retrained_N[:, None])
        if not found.guarded_E[0]:
            expected = every_interval(np.sort(unlearned_N), np.sort(retrained_N))
            assert found.undecided_E[0] == np.isneginf(expected), kind
            assert found.epsilon_E[0] == (50 if np.isneginf(expected) else np.clip(expected, 0, 50)), kind


def every_interval(unlearned_N: np.ndarray, retrained_N: np.ndarray) -> float:
    """Return parity's epsilon of sorted samples before cap and guard, from every end on its grid."""
    runs = len(unlearned_N)
    tables, values = attack_tables(runs, runs), np.sort(np.concatenate([unlearned_N, retrained_N]))

    def below(ends: np.ndarray, side: str = "left") -> np.ndarray:
        return np.searchsorted(retrained_N, ends, side) * (runs + 1) + np.searchsorted(unlearned_N, ends, side)  # type: ignore[call-overload,no-any-return]

    above = np.median(retrained_N) > np.median(unlearned_N)
    grid = Thresholds.of(values[:1], values[-1:])
    num = int(grid.num_E[0])
    thresholds = grid.at(np.zeros(num, np.intp), np.arange(num))
    table, other = (tables.retrained, tables.unlearned) if above else (tables.unlearned, tables.retrained)
    single = table[runs * (runs + 2) - below(thresholds)].max()
    positive, negative = (retrained_N, unlearned_N) if above else (unlearned_N, retrained_N)
    narrow, table = (positive, table) if np.ptp(positive) < np.ptp(negative) else (negative, other)
    width = np.ptp(narrow)
    low, high = (narrow[0] + width) - 2, narrow[-1] + 2
    right_I = np.linspace(low, high, math.ceil((high - low) * 100))
    left_IJ = np.linspace((right_I - width) - 2, (right_I - width) + 2, 400, axis=-1)
    inside_IJ = below(right_I, "right")[:, None] - below(left_IJ)
    return float(max(single, table[np.maximum(inside_IJ, 0)].max()))


def test_thresholds_are_those_of_torch_linspace() -> None:
    """In float32, both ends included; one place if the range is below 0.01. Bit for bit where torch fuses as we do."""
    fused = torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512")
    for seed in range(40):
        rng = np.random.default_rng(seed)
        low = rng.normal(0, 30)
        high = low + rng.choice([1e-7, 0.005, 0.0101, 0.02, rng.exponential(10), 207.0])
        number = math.ceil((high - low) * 100)
        expected = torch.linspace(low, high, number).numpy()
        grid = Thresholds.of(np.array([low]), np.array([high]))
        found = grid.at(np.zeros(grid.num_E[0], np.intp), np.arange(grid.num_E[0]))
        assert found.shape == (number,), seed
        assert np.array_equal(found, found.astype(np.float32)), seed
        assert found[0] == np.float32(low), seed
        assert np.abs(found - expected).max() <= np.spacing(np.float32(max(abs(low), abs(high)))), seed
        assert not fused or np.array_equal(found, expected), seed


def right_ends(unlearned_N: np.ndarray, retrained_N: np.ndarray) -> np.ndarray:
    """Return the official right ends of intervals."""
    narrow = unlearned_N if np.ptp(unlearned_N) < np.ptp(retrained_N) else retrained_N
    low, high = (narrow.min() + np.ptp(narrow)) - 2, narrow.max() + 2
    return np.linspace(low, high, math.ceil((high - low) * 100))


def planted(rng: np.random.Generator, unlearned_N: np.ndarray, retrained_N: np.ndarray) -> np.ndarray:
    """Return the wider sample, retrained, with some values moved exactly onto ends of intervals."""
    width, right_I = np.ptp(unlearned_N), right_ends(unlearned_N, retrained_N)
    for run in range(1, len(retrained_N) - 1, 2):
        right = rng.choice(right_I)
        left_J = np.linspace((right - width) - 2.0, (right - width) + 2.0, 400)
        retrained_N[run] = rng.choice([right, rng.choice(left_J), left_J[-1]])
    return retrained_N


def awkward(kind: str, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return (unlearned, retrained) of one kind, 3 to 14 runs."""
    num, shift = int(rng.integers(3, 15)), rng.choice([0.0, 3.0, -103.6, 60.0])
    wide, narrow = rng.normal(shift, 1.5, num), rng.normal(shift + rng.normal(), 1.0, num)
    if kind == "rounded":  # ties within and across the samples
        return np.round(narrow, 1), np.round(wide, 1)
    if kind == "planted":
        wide[[0, -1]] = shift - 20, shift + 20
        return narrow, planted(rng, narrow, wide)
    if kind == "tiny":  # narrower than the grids are fine
        return 1e-3 * narrow, 1e-3 * wide
    if kind == "wide":
        return rng.uniform(-103.6, 103.6, num), rng.uniform(-103.6, 103.6, num)
    if kind == "clipped":
        return np.clip(40 * narrow, -103.616, 103.616), np.clip(40 * wide, -103.616, 103.616)
    if kind == "touching":  # a gap that single thresholds may step over
        return wide.max() + 0.004 + np.abs(narrow), wide
    return wide, narrow


@pytest.mark.parametrize("kind", ["plain", "rounded", "planted", "tiny", "wide", "clipped", "touching"])
def test_parity_is_its_definition(kind: str) -> None:
    """Bit for bit the same as comparing every sample with every end of every attack, also where values are on ends."""
    rng = np.random.default_rng(5)
    for _ in range(6):
        unlearned_N, retrained_N = awkward(kind, rng)
        defined = BENCHMARK.definition(unlearned_N, retrained_N)
        found = example_epsilons(unlearned_N[:, None], retrained_N[:, None])
        assert found.undecided_E[0] == math.isnan(defined)
        assert found.epsilon_E[0] == pytest.approx(50.0 if math.isnan(defined) else defined, abs=5e-7)


@pytest.mark.parametrize("num_right", [400, 401])
def test_both_sizes_of_the_grid_are_the_definition(num_right: int) -> None:
    """Rounding decides whether 4 units hold 400 or 401 right ends; most of eight unit ranges do not matter."""
    rng = np.random.default_rng(1)
    samples = (rng.normal(rng.uniform(-8, 8), 1.2, (2, 12)) for _ in itertools.count())
    of_this_size = (pair for pair in samples if len(right_ends(*pair)) == num_right)
    for unlearned_N, retrained_N in itertools.islice(of_this_size, 8):
        defined = BENCHMARK.definition(unlearned_N, retrained_N)
        assert epsilon(unlearned_N, retrained_N) == pytest.approx(defined, abs=5e-7)


@pytest.mark.parametrize(
    ("unlearned", "retrained", "expected"),
    [
        # Medians and ranges are equal: unlearned counts as above, and retrained's ends are followed. Else log 2.
        ([1.1, 0.5, -3.5], [-0.10000000000000009, 0.5, 4.5], 0.0),
        # (min + range) - 2 differs in its last bit from max - 2, and so does + 2. Else log 2.
        ([2.4, 0.9, 0.7, -2.7, -2.2], [-1, 0.4999999999999999, 0.7, 4.1000000000000005, 3.6000000000000005], 1.09861),
        # The left end 1.7 - (1.7 + 1.2) - 2, in this order, leaves out a planted value. Else log 3.
        ([1.7, -0.4, 0.7, -1.2], [6.5, -2.9944862155388474, -1.2000000000000002, -2.3127819548872184], 50.0),
        # The best interval starts at the last left end of its right end. Else 0.
        ([-3.4, 2.0, 3.4], [7.4, 2.0, 0.6000000000000001], math.log(2)),
    ],
)  # fmt: skip
def test_corners_of_the_definition(unlearned: list[float], retrained: list[float], expected: float) -> None:
    """Found by search: samples where a rule's tie or a last bit decides, down to the order of two subtractions."""
    assert BENCHMARK.definition(np.array(unlearned), np.array(retrained)) == pytest.approx(expected, abs=5e-5)
    assert epsilon(unlearned, retrained) == pytest.approx(expected, abs=5e-5)


def test_ends_are_those_of_linspace() -> None:
    """To the bit, the last one included, which 399 steps miss by a bit one time in seven."""
    low_E = np.random.default_rng(3).normal(0, 3, 200)
    grid, row, places = Grid.of(low_E, low_E + 2.7), np.arange(200)[:, None], np.arange(400)
    for one in range(200):
        right_I = np.linspace(grid.low_E[one], grid.high_E[one], grid.steps_E[one])
        assert np.array_equal(grid.right(np.array([one]), np.arange(grid.steps_E[one])), right_I)
    start_E = grid.right(row, np.array([7]))[:, 0] - grid.width_E
    expected = np.linspace(start_E - 2, start_E + 2, 400, axis=-1)
    assert np.array_equal(grid.left(row, np.array([7]), places), expected)


def every_block(unlearned_N: np.ndarray, retrained_N: np.ndarray) -> float:
    """Return exact's epsilon, one interval between two values and one comparison at a time, in float64."""
    values, best = sorted({*unlearned_N, *retrained_N}), -math.inf
    ranges = sorted([np.ptp(unlearned_N), np.ptp(retrained_N)])
    if ranges[0] < 0.01 * ranges[1] or ranges[1] == 0:
        return 50.0
    for low, high in itertools.combinations_with_replacement(values, 2):
        inside = [np.mean((low <= sample) & (sample <= high)) for sample in (unlearned_N, retrained_N)]
        for positive, negative in (inside, inside[::-1]):
            fnr, fpr = 1 - positive, negative
            if fnr == 0 and fpr == 0:
                return 50.0
            if fnr == 0 or fpr == 0:
                continue
            for top, bottom in ((1 - 1e-5 - fpr, fnr), (1 - 1e-5 - fnr, fpr)):
                best = max(best, math.log(top / bottom)) if top > 0 else best
    return min(max(best, 0.0), 50.0)


@pytest.mark.parametrize("kind", ["plain", "rounded", "tiny", "wide", "clipped", "touching"])
def test_exact_is_its_definition(kind: str) -> None:
    """Every interval between two values, in both directions, ties included."""
    rng = np.random.default_rng(6)
    for _ in range(12):
        unlearned_N, retrained_N = awkward(kind, rng)
        assert epsilon(unlearned_N, retrained_N, "exact") == pytest.approx(
            every_block(unlearned_N, retrained_N), abs=2e-6
        )


def test_exact_takes_different_numbers_of_runs() -> None:
    """The rates are then of different denominators."""
    rng = np.random.default_rng(7)
    for num_unlearned, num_retrained in ((3, 17), (17, 3), (8, 9)):
        unlearned_N, retrained_N = rng.normal(0.5, 1, num_unlearned), rng.normal(0, 1, num_retrained)
        assert epsilon(unlearned_N, retrained_N, "exact") == pytest.approx(
            every_block(unlearned_N, retrained_N), abs=2e-6
        )


def test_exact_by_hand() -> None:
    """r r r u u u r u: three of four r and one of four u in the first four places is the best block."""
    assert epsilon([3, 4, 5, 11], [0, 1, 2, 10], "exact") == pytest.approx(math.log(0.74999 / 0.25), abs=1e-6)


def test_exact_misses_no_block_at_the_edge_of_a_tile(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiles of three left ends see every block, and so do tiles of 64 where there are more than 64 values."""
    small, large = gaussian(8, num=7, examples=12), gaussian(9, num=100, examples=12)
    tiled = example_epsilons(*large, mode="exact").epsilon_E
    monkeypatch.setattr("ray_unlearn.evaluation.epsilon.TILE", 3)
    single = (
        [0, 1, 2, 3, 4, 5, 6, 7],
        [3, 3, 3, 9],
    )  # best is the block of 3 alone, the first of its tile: FNR 1/4, FPR 1/8
    assert epsilon(*single, mode="exact") == pytest.approx(math.log(0.74999 * 8), abs=1e-6)
    assert np.array_equal(example_epsilons(*large, mode="exact").epsilon_E, tiled)
    defined = [every_block(small[0][:, example], small[1][:, example]) for example in range(12)]
    assert example_epsilons(*small, mode="exact").epsilon_E == pytest.approx(defined, abs=2e-6)


@pytest.mark.parametrize("mode", ["parity", "exact"])
def test_exchanging_the_samples_changes_nothing(mode: str) -> None:
    """An attacker who distinguishes one from the other distinguishes the other from the one."""
    for seed in range(4):
        unlearned_NE, retrained_NE = gaussian(seed)
        one, other = (
            example_epsilons(*pair, mode=mode) for pair in itertools.permutations((unlearned_NE, retrained_NE))
        )
        assert np.array_equal(one.epsilon_E, other.epsilon_E)
        assert np.array_equal(one.guarded_E, other.guarded_E)


@pytest.mark.parametrize("mode", ["parity", "exact"])
def test_the_same_models_cannot_be_distinguished(mode: str) -> None:
    """Equal counts everywhere: epsilon is 0, not below."""
    sample_NE, _ = gaussian(1)
    assert (example_epsilons(sample_NE, sample_NE[::-1], mode=mode).epsilon_E == 0).all()


@pytest.mark.parametrize("mode", ["parity", "exact"])
@pytest.mark.parametrize("move", [20.0, -20.0])
def test_disjoint_samples_get_the_cap_without_the_guard(mode: str, move: float) -> None:
    """In both directions."""
    unlearned_NE, retrained_NE = gaussian(2)
    found = example_epsilons(unlearned_NE + move, retrained_NE, mode=mode)
    assert (found.epsilon_E == 50).all()
    assert not found.guarded_E.any()
    assert not found.undecided_E.any()


def test_a_gap_is_found_by_exact_however_narrow() -> None:
    """Two pairs 1e-12 apart; single thresholds step over it, intervals from the narrower sample's edge do not."""
    unlearned, retrained = [1.0, 2.0], [1.0 - 1e-12, 0.0]
    assert epsilon(unlearned, retrained, "exact") == 50


@pytest.mark.parametrize("mode", ["parity", "exact"])
@pytest.mark.parametrize("swap", [False, True])
def test_models_that_hardly_differ_are_guarded(mode: str, swap: bool) -> None:
    """A hundredth of the other's range is the limit; no range at all on either side is beyond it, and 50, not 0."""
    wide_NE = np.repeat(np.linspace(0.0, 1.0, 8)[:, None], 4, axis=1)
    narrow_NE = 0.5 + (wide_NE - 0.5) * [0.0, 0.0099, 0.0101, 1.0]
    pair = (narrow_NE, wide_NE) if swap else (wide_NE, narrow_NE)
    found = example_epsilons(*pair, mode=mode)
    assert found.guarded_E.tolist() == [True, True, False, False]
    assert found.epsilon_E[:2].tolist() == [50, 50]
    assert found.epsilon_E[3] == 0
    constant = example_epsilons(np.full((3, 1), 2.0), np.full((3, 1), 2.0), mode=mode)
    assert constant.guarded_E.tolist() == [True]
    assert constant.epsilon_E.tolist() == [50]


MAPS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "cube": lambda x: x**3,
    "sinh": np.sinh,
    "scale": lambda x: 37.5 * x,
    "shrink": lambda x: x / 512,
    "turn": lambda x: -x,
    "shift": lambda x: x + 55.5,
}


@pytest.mark.parametrize("name", MAPS)
def test_exact_depends_on_ranks_only(name: str) -> None:
    """A strictly monotone map of phi, turned round or not, changes nothing away from the guard."""
    unlearned_NE, retrained_NE = gaussian(3, num=40)
    found, mapped = (
        example_epsilons(change(unlearned_NE), change(retrained_NE), mode="exact")
        for change in (lambda x: x, MAPS[name])
    )
    assert not mapped.guarded_E.any()
    assert np.array_equal(found.epsilon_E, mapped.epsilon_E)


def test_parity_follows_a_shift_and_no_scale() -> None:
    """Its grid moves with the samples (here by steps that float32 holds), but has the unit of phi."""
    unlearned_NE, retrained_NE = gaussian(4, num=30, examples=12)
    found = example_epsilons(unlearned_NE, retrained_NE).epsilon_E
    shifted = example_epsilons(unlearned_NE - 16, retrained_NE - 16).epsilon_E
    scaled = example_epsilons(16 * unlearned_NE, 16 * retrained_NE).epsilon_E
    assert shifted == pytest.approx(found, abs=1e-6)
    assert np.abs(scaled - found).max() > 0.1


def test_exact_is_never_below_parity_nor_below_a_threshold() -> None:
    """Any interval on the line holds one block of values; so does a threshold."""
    for seed, num in itertools.product(range(3), (5, 24, 80)):
        unlearned_NE, retrained_NE = gaussian(seed, num=num, examples=10)
        exact = example_epsilons(unlearned_NE, retrained_NE, mode="exact").epsilon_E
        assert (exact >= example_epsilons(unlearned_NE, retrained_NE).epsilon_E).all()
        for example, threshold in itertools.product(range(10), (-1.0, 0.0, 1.0)):
            above = [int((sample[:, example] >= threshold).sum()) for sample in (retrained_NE, unlearned_NE)]
            assert exact[example] >= attack_tables(num, num).either[above[0] * (num + 1) + above[1]]


def test_an_example_that_no_attack_decides_is_flagged_and_not_forgotten() -> None:
    """Both samples fall between two neighbours of the grid (0.01): officially undefined. `exact` decides them."""
    unlearned_N, retrained_N = np.array([1.001, 1.002, 1.0035]), np.array([1.0015, 1.003, 1.0038])
    assert math.isnan(BENCHMARK.definition(unlearned_N, retrained_N))
    found = example_epsilons(unlearned_N[:, None], retrained_N[:, None])
    assert found.epsilon_E.tolist() == [50]
    assert found.undecided_E.tolist() == [True]
    assert found.guarded_E.tolist() == [False]
    assert not example_epsilons(unlearned_N[:, None], retrained_N[:, None], mode="exact").undecided_E.any()


def test_inputs_stay_as_they_are_and_their_order_does_not_matter() -> None:
    """Neither that of runs, nor that of bytes; examples do not see each other."""
    unlearned_NE, retrained_NE = gaussian(5)
    copies = unlearned_NE.copy(), retrained_NE.copy()
    found = example_epsilons(unlearned_NE, retrained_NE).epsilon_E
    assert np.array_equal(unlearned_NE, copies[0])
    assert np.array_equal(retrained_NE, copies[1])
    order = np.random.default_rng(0).permutation(len(unlearned_NE))
    assert np.array_equal(example_epsilons(unlearned_NE[order], np.asfortranarray(retrained_NE)).epsilon_E, found)
    assert epsilon(unlearned_NE[:, 2], retrained_NE[:, 2]) == found[2]


GOOD = np.array([[0.0, 1.0], [1.0, 2.0], [3.0, 0.0]])
NAN = np.array([[0.0, 1.0], [1.0, np.nan], [3.0, 0.0]])


@pytest.mark.parametrize(
    ("unlearned", "retrained", "mode", "message"),
    [
        (GOOD, GOOD, "exakt", "mode: expected parity or exact, found 'exakt' (did you mean 'exact'?)"),
        (GOOD, GOOD, None, "mode: expected parity or exact, found None"),
        (GOOD[:2], GOOD, "parity", "expected as many unlearned as retrained runs, found 2 and 3; pass the first 2"),
        (GOOD[:, :1], GOOD, "exact", "expected the same examples, found 1 and 2 columns"),
        (GOOD[:1], GOOD, "exact", "unlearned_NE: expected real numbers [runs, examples], 2 runs and 1 example or more"),
        (GOOD, GOOD[:, :0], "exact", "2 runs and 1 example or more, found float64 [3, 0]"),
        (GOOD, GOOD[0], "exact", "retrained_NE: expected real numbers [runs, examples], 2 runs and 1 example or more"),
        (GOOD[None], GOOD, "exact", "found float64 [1, 3, 2]"),
        (GOOD.astype(str), GOOD, "exact", "unlearned_NE: expected real numbers"),
        (NAN, GOOD, "exact", "unlearned_NE: expected finite values, found nan at run 1, example 1"),
        (GOOD, NAN - np.inf, "parity", "retrained_NE: expected finite values, found -inf at run 0, example 0"),
        (np.zeros((10_001, 1)), GOOD[:, :1], "exact", "unlearned_NE: expected 10000 runs at most, found 10001"),
        (GOOD, 1e9 * GOOD, "parity", "mode parity: expected values within +-10000, as phi is, found 3e+09"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line(unlearned: Any, retrained: Any, mode: Any, message: str) -> None:
    """What was expected, what was found, and where."""
    with pytest.raises(EvaluationError) as caught:
        example_epsilons(unlearned, retrained, mode=mode)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_without_numba_no_call_is_left_to_compiled_loops(monkeypatch: pytest.MonkeyPatch) -> None:
    """However large it is; and with Numba small calls are not either."""
    monkeypatch.setattr(compiled, "find_spec", lambda name: None)
    assert not compiled.pays(1 << 40)
    monkeypatch.setattr(compiled, "find_spec", lambda name: name)
    assert [compiled.pays(values) for values in (compiled.FROM - 1, compiled.FROM)] == [False, True]
