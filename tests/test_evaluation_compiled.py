"""Compiled loops give NumPy's numbers to the last bit; skipped, saying so, without Numba."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from test_epsilon import awkward

from ray_unlearn.evaluation import compiled
from ray_unlearn.evaluation.attack_errors import from_rates
from ray_unlearn.evaluation.epsilon import ExampleEpsilons, example_epsilons
from ray_unlearn.evaluation.lower_bounds import _best_pair, epsilon_lower_bounds
from ray_unlearn.evaluation.measures.klom import klom
from ray_unlearn.evaluation.measures.logistic_attack import _fit
from ray_unlearn.evaluation.measures.rmia import rmia
from ray_unlearn.evaluation.measures.svc_efficacy import svc_forget_efficacy, svc_scores
from ray_unlearn.evaluation.measures.u_lira import u_lira
from ray_unlearn.evaluation.roc import roc, separation, tpr_on_halves

pytest.importorskip("numba", reason="needs the extra fast: pip install 'ray-unlearn[fast]'")
from ray_unlearn.evaluation.compiled.sums import DEPTH, pairwise

Draw = Callable[[np.random.Generator], tuple[np.ndarray, np.ndarray]]


def alike(runs: int, digits: int | None = None, scale: float = 1.0) -> Draw:
    """Return a draw of 12 images, rounded to so many digits: with ties, and values on the ends of intervals."""

    def draw(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        mean, spread = rng.normal(2, 3, 12), rng.lognormal(0, 0.6, 12)
        both = scale * (mean + spread * rng.normal(size=(2, runs, 12)) + [[[0.0]], [[rng.choice([0.0, 0.1, 1.0])]]])
        return tuple(both if digits is None else np.round(both, digits))  # type: ignore[return-value]

    return draw


def small(kind: str) -> Draw:
    """Return a draw of one image of 3 to 14 runs that is hard on rounding."""
    return lambda rng: tuple(sample_N[:, None] for sample_N in awkward(kind, rng))  # type: ignore[return-value]


DRAWS = {
    **{kind: (small(kind), 30) for kind in ("plain", "rounded", "planted", "tiny", "wide", "clipped", "touching")},
    "64 runs": (alike(64), 4),
    "33 runs with ties": (alike(33, 1), 4),
    "100 runs on hundredths": (alike(100, 2), 2),
    "40 runs, far apart": (alike(40, None, 30.0), 2),
    "300 runs close together": (alike(300, 3, 0.05), 2),
}


def with_values(
    monkeypatch: pytest.MonkeyPatch, start: int, draws: list[tuple[np.ndarray, ...]], mode: str
) -> list[ExampleEpsilons]:
    """Return the epsilons of all draws, compiled from so many values on."""
    monkeypatch.setattr(compiled, "FROM", start)
    return [example_epsilons(*pair, mode=mode) for pair in draws]


@pytest.mark.parametrize("mode", ["parity", "exact"])
@pytest.mark.parametrize("name", DRAWS)
def test_compiled_loops_give_the_same_bits(name: str, mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Law: epsilon, guard and undecided are NumPy's, also with ties, values on ends, and 401 right ends."""
    (draw, times), rng = DRAWS[name], np.random.default_rng(17)
    draws = [draw(rng) for _ in range(times)]
    defined, found = (with_values(monkeypatch, start, draws, mode) for start in (1 << 60, 0))
    for one, other in zip(defined, found, strict=True):
        assert all(np.array_equal(*both) for both in zip(one, other, strict=True))


def test_exact_takes_unequal_numbers_of_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rates are of each side's own number."""
    rng = np.random.default_rng(4)
    draws = [(rng.normal(0.4, 1, (runs, 5)), rng.normal(0, 1, (others, 5))) for runs, others in ((3, 40), (40, 7))]
    defined, found = (with_values(monkeypatch, start, draws, "exact") for start in (1 << 60, 0))
    assert [one.epsilon_E.tolist() for one in defined] == [one.epsilon_E.tolist() for one in found]


def test_large_calls_are_compiled_and_small_ones_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """A call below the limit does not load Numba; one at it uses the loops."""
    called = []
    monkeypatch.setattr(
        "ray_unlearn.evaluation.compiled.search.exact_compiled", lambda *args: called.append(1) or np.ones(2)
    )
    monkeypatch.setattr(compiled, "FROM", 24)
    rng = np.random.default_rng(5)
    example_epsilons(*rng.normal(size=(2, 5, 2)), mode="exact")
    assert not called
    assert example_epsilons(*rng.normal(size=(2, 6, 2)), mode="exact").epsilon_E.tolist() == [1, 1]
    assert called


def test_curves_are_those_of_numpy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Law: to the last bit, with ties within and across, infinities, zeros of both signs, and one value a side."""
    rng = np.random.default_rng(6)
    tied = [rng.integers(-3, 4, size) * rng.choice([-1.0, 1.0], size) for size in (40, 25)]
    pairs = [
        (rng.normal(size=30), rng.normal(size=50)),
        (tied[0], tied[1]),
        (np.array([np.inf, -np.inf, 1]), np.array([-np.inf])),
        (np.zeros(1), -np.zeros(2)),
    ]
    found = []
    for start in (1 << 60, 0):
        monkeypatch.setattr(compiled, "FROM", start)
        curves = [roc(*pair) for pair in pairs]
        rates = [(curve.true_positive_rate.tolist(), curve.false_positive_rate.tolist()) for curve in curves]
        found.append(rates)
    assert found[0] == found[1]


def both_ways(monkeypatch: pytest.MonkeyPatch, compute: Callable[[], list[object]]) -> tuple[list[object], ...]:
    """Return what is computed by NumPy, and what is computed by compiled loops."""
    found = []
    for start in (1 << 60, 0):
        monkeypatch.setattr(compiled, "FROM", start)
        found.append(compute())
    return tuple(found)


@pytest.mark.parametrize("number", [0, 1, 7, 8, 20, 127, 128, 129, 136, 256, 257, 501, 5000])
def test_sums_are_in_numpys_order(number: int) -> None:
    """Law: to the last bit, for numbers of very different size, of which another order gives another sum."""
    rng = np.random.default_rng(number)
    values = rng.normal(size=number + 3) * np.exp(5 * rng.normal(size=number + 3))
    assert pairwise(values, number, np.empty((2, DEPTH))) == values[:number].sum()


@pytest.mark.parametrize("digits", [1, 12])
@pytest.mark.parametrize(("ours", "theirs"), [((30, 11), (40, 11)), ((5, 700), (90, 700))])
def test_areas_and_rates_are_those_of_the_curve(
    ours: tuple[int, int], theirs: tuple[int, int], digits: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Law: also where scores are equal, or differ in the last bit alone, and on two halves of the images."""
    rng = np.random.default_rng(13)
    positives, negatives = np.round(rng.normal(0.5, 1, ours), digits), np.round(rng.normal(0, 1, theirs), digits)
    close = negatives.copy()
    close[0, 0] = np.nextafter(positives[0, 0], np.inf)
    half = rng.random(ours[1]) < 0.5

    def compute() -> list[object]:
        rates = [tpr_on_halves(positives, side, half, fpr) for side in (negatives, close) for fpr in (0.001, 0.01, 0.9)]
        return [*rates, *(separation(positives, side, (0.0, 0.01, 0.3)) for side in (negatives, close))]

    curve = roc(positives, negatives)
    defined, found = both_ways(monkeypatch, compute)
    assert defined == found
    assert found[-2] == (curve.auc, {fpr: curve.tpr_at(fpr) for fpr in (0.0, 0.01, 0.3)})


@pytest.mark.parametrize("scale", [0.1, 3.0, 100.0])
@pytest.mark.parametrize("digits", [0, 8])
def test_rmia_and_klom_are_those_of_numpy(scale: float, digits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Law: scores, curves and divergences to the last bit, with ties, certain images, and margins that are clipped."""
    rng = np.random.default_rng(7)
    forget, test = (np.round(rng.normal(0.5, scale, (2, 9, images)), digits) for images in (14, 25))
    test[:, :, 0] = 3.0  # one value everywhere
    population = np.arange(25) % 2 == 0

    def compute() -> list[object]:
        attack = rmia(
            target_forget=forget[0],
            target_test=test[0],
            reference_forget=forget[1],
            reference_test=test[1],
            population=population,
        )
        curves = [(one.true_positive_rate.tolist(), one.false_positive_rate.tolist()) for one in attack.curves]
        divergence = klom(test[0], test[1, :5])
        ways = divergence.retrained_to_unlearned, divergence.unlearned_to_retrained
        scores = [attack.member_scores.tolist(), attack.non_member_scores.tolist()]
        return [scores, curves, *(way.per_example.tolist() for way in ways)]

    defined, found = both_ways(monkeypatch, compute)
    assert defined == found


@pytest.mark.parametrize("scale", [0.01, 1.0, 60.0])
def test_a_logistic_fit_is_scikit_learns(scale: float) -> None:
    """Law: weight and intercept to the last bit, of losses of any range, with ties, and of one value alone."""
    rng, member = np.random.default_rng(12), np.repeat([0.0, 1.0], [40, 25])
    samples = [np.append(rng.gamma(0.7, scale, 40), rng.gamma(0.4, scale, 25)) for _ in range(8)]
    samples += [np.round(samples[0], 1), -samples[1], np.full(65, scale)]
    found, defined = ([_fit(values, member, compiled=how) for values in samples] for how in (True, False))
    assert found == defined


def test_a_classifiers_scores_are_scikit_learns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Law: to the last bit, also for images without doubt, far from all others, and with merged images."""
    rng = np.random.default_rng(8)
    retain, test, forget = rng.beta(5, 1, 700), rng.beta(2, 1, 1200), np.append(rng.beta(3, 1, 60), [0, 1, 1e-300, 40])

    def compute() -> list[object]:
        scores = svc_scores([retain], [test], [forget], lambda: np.random.default_rng(1))
        share = svc_forget_efficacy(retain, test, forget, np.random.default_rng(1))
        return [share, *(one.tolist() for one in scores)]

    defined, found = both_ways(monkeypatch, compute)
    assert defined == found


@pytest.mark.parametrize("digits", [0, 8])
def test_lower_bounds_are_those_of_numpy(digits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Law: the same attack is chosen of several that are equally good, and judged alike."""
    rng = np.random.default_rng(9)
    unlearned, retrained = np.round(rng.normal(1, 1, (20, 8)), digits), np.round(rng.normal(0, 1, (14, 8)), digits)
    unlearned[:, 0] = retrained[:, 0] = 2.0

    def compute() -> list[object]:
        bounds = epsilon_lower_bounds(unlearned, retrained, np.random.default_rng(2))
        return [bounds.each_E.tolist(), bounds.all_E.tolist()]

    defined, found = both_ways(monkeypatch, compute)
    assert defined == found


@pytest.mark.parametrize("digits", [0, 8])
@pytest.mark.parametrize("runs", [(30, 30), (30, 7), (5, 40)])
def test_u_lira_is_that_of_numpy(digits: int, runs: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Law: scores to the last bit, with sides of unequal size, images on which models agree, and originals."""
    rng = np.random.default_rng(10)
    unlearned, retrained = (np.round(rng.normal(2, 3, (size, 40)), digits) for size in runs)
    unlearned[:, 0] = retrained[:, 0] = 2.0
    unlearned[:, 1], retrained[:, 1] = 5.0, 3.0
    starts = [None, np.arange(runs[0])[::-1], np.arange(runs[0]) % 4]

    def compute() -> list[object]:
        attacks = [u_lira(unlearned, retrained, originals) for originals in starts]
        return [scores.tolist() for one in attacks for scores in (one.unlearned_scores, one.retrained_scores)]

    defined, found = both_ways(monkeypatch, compute)
    assert defined == found


@pytest.mark.parametrize("sizes", [(1, 9), (9, 1), (6, 6), (40, 25)])
def test_of_equal_attacks_the_first_is_chosen(sizes: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Law: by table, then left end, then right end, as NumPy's argmax, with ties between the sides and within them.

    A table of -inf alone has a first one too.
    """
    rng, order = np.random.default_rng(11), from_rates(*sizes, 0.025)
    tables = [np.stack([order[::-1], order[:, ::-1]]), np.full((2, *order.shape), -np.inf)]
    samples = [[np.round(rng.normal(0, 3, size), digits) for size in sizes] for digits in [0] * 40 + [1] * 10]
    counts = []
    for sides in samples:
        values = np.unique(np.concatenate(sides))
        counts.append([np.append(np.searchsorted(np.sort(side), values), len(side)) for side in sides])
    defined, found = both_ways(monkeypatch, lambda: [_best_pair(*both, table) for table in tables for both in counts])
    assert defined == found
    assert found[-1] == (0, 0, 1)
