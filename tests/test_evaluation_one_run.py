"""The audit of one run: the published bound, when it applies, and that it errs in one of twenty runs at most."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
from evaluated import evaluated_store
from scipy.optimize import linprog
from scipy.stats import beta, binom

from ray_unlearn.evaluation import one_run
from ray_unlearn.evaluation.evaluate import evaluate
from ray_unlearn.evaluation.one_run import (
    audited,
    audited_images,
    control_splits,
    guessed,
    largest_epsilon,
    p_value,
    standardised,
)
from ray_unlearn.evaluation.outputs import Outputs, SplitOutputs
from ray_unlearn.evaluation.resampling import Settings
from ray_unlearn.evaluation.single_images import one_run_audit
from ray_unlearn.study.schema import Data


def test_the_paper_s_example() -> None:
    """Appendix D: 75 of 100 right at epsilon = log 3 has p = 0.553; by hand, none of one has p = 1."""
    assert p_value(100, (75,), (100,), math.log(3), 0.0) == pytest.approx(0.553, abs=0.001)
    assert p_value(10, (0,), (1,), 0.0, 0.0) == 1
    assert p_value(10, (10,), (10,), 0.0, 0.0) == pytest.approx(2.0**-10)


def test_the_term_of_delta_by_hand() -> None:
    """2 of 2 right by a fair coin: 1/4 + m delta / (1 + e^0) = 1/4 + 3 x 0.01 / 2."""
    assert p_value(3, (2,), (2,), 0.0, 0.01) == pytest.approx(0.25 + 0.015)


@pytest.mark.parametrize(
    ("m", "right", "guesses", "epsilon", "delta"),
    [
        (5, (2,), (5,), 1.0, 0.05),  # the term of the paper allows 0.989, and 1 is possible
        (28, (3,), (8,), 0.5, 0.01),  # 0.980 and 0.995
        (12, (9,), (12,), 0.0, 0.01),
        (24, (3, 5), (3, 8), 0.5, 0.02),
        (9, (2, 3, 6), (2, 4, 8), 1.0, 0.03),
    ],
)
def test_no_mechanism_is_right_more_often(
    m: int, right: tuple[int, ...], guesses: tuple[int, ...], epsilon: float, delta: float
) -> None:
    """Law: p is at least the largest probability over all (epsilon, delta) mechanisms, which a linear program finds.

    Averaged over permutations and over exchanging in and out, a mechanism is the law of which guesses are right: P on
    series of 0 and 1. Its delta is the sum of max(0, P(x) - e^epsilon P(y)) over all x and y that differ once, by m.
    Series with as many right guesses between two numbers of guesses are alike.
    """
    sizes, order = np.diff((0, *guesses)), one_run._as_surprising(right, guesses, 0.05 / len(guesses))
    states = list(itertools.product(*(range(size + 1) for size in sizes)))
    place = {state: at for at, state in enumerate(states)}
    rows = []
    for state in states:
        for j in np.flatnonzero(np.array(state) < sizes):
            other = place[(*state[:j], state[j] + 1, *state[j + 1 :])]
            edges = {place[state]: sizes[j] - state[j], other: state[j] + 1}  # of each of the series in either class
            rows += [(place[state], other, edges), (other, place[state], edges)]
    above = np.zeros((len(rows) + 1, len(states) + len(rows)))
    for row, (one, other, edges) in enumerate(rows):
        above[row, [one, other, len(states) + row]] = edges[one], -math.exp(epsilon) * edges[other], -1
    above[-1, len(states) :] = 1
    heads = np.cumsum(states, axis=1)
    before = heads[:, -2] if len(guesses) > 1 else 0 * heads[:, -1]
    as_many = (heads[:, -1] > order.last) | ((heads[:, -1] == order.last) & (before >= order.before))
    as_large = (heads >= order.larger).any(axis=1) | ((heads >= order.equal).any(axis=1) & as_many)
    sums = np.r_[np.ones(len(states)), np.zeros(len(rows))]
    limits = np.r_[np.zeros(len(rows)), m * delta]
    found = linprog(-np.r_[as_large, np.zeros(len(rows))], above, limits, sums[None], [1])
    assert found.status == 0
    assert p_value(m, right, guesses, epsilon, 0.0) < -found.fun <= p_value(m, right, guesses, epsilon, delta) + 1e-9


def test_many_images_are_audited_though_delta_counts_for_each() -> None:
    """Law: 20,000 images: m delta / 2 alone is above 5 %, but not m delta / (1 + e^epsilon) of a larger epsilon."""
    assert p_value(20_000, (900,), (1000,), 0.0, 1e-5) > 0.05
    found = largest_epsilon(20_000, (900,), (1000,), 1e-5, 0.05)
    assert 1.8 < found < math.log(9)
    assert p_value(20_000, (900,), (1000,), found, 1e-5) == pytest.approx(0.05, abs=1e-4)
    assert largest_epsilon(20_000, (510,), (1000,), 1e-5, 0.05) == 0


def test_the_bound_is_where_p_meets_the_error() -> None:
    """Law: it is rejected and what is above it is not; right guesses by chance show nothing."""
    found = largest_epsilon(1000, (75,), (100,), 1e-4, 0.05)
    assert p_value(1000, (75,), (100,), found, 1e-4) == pytest.approx(0.05, abs=1e-4)
    assert found < largest_epsilon(1000, (75,), (100,), 0.0, 0.05) < math.log(3)
    assert largest_epsilon(100, (52,), (100,), 0.0, 0.05) == 0
    bound = largest_epsilon(100, (75,), (100,), 0.0, 0.05)
    assert binom.sf(74, 100, 1 / (1 + math.exp(-bound))) == pytest.approx(0.05, 1e-5)


@pytest.mark.parametrize("right", [(2, 4, 6), (2, 3, 6), (1, 3, 7), (0, 2, 5), (2, 2, 4)])
def test_several_numbers_of_guesses_count_at_once(right: tuple[int, ...]) -> None:
    """Law: p is that of all 256 series of 8 tosses, by the largest Clopper-Pearson bound, then all and most guesses."""
    guesses, chance = (2, 4, 8), 0.6

    def order(numbers: tuple[int, ...]) -> tuple[float, int, int]:
        low = [beta.ppf(0.05 / 3, v, r - v + 1) if v else 0.0 for v, r in zip(numbers, guesses, strict=True)]
        return round(float(max(low)), 9), numbers[-1], numbers[-2]

    p = 0.0
    for tosses in itertools.product((0, 1), repeat=8):
        heads = tuple(sum(tosses[:r]) for r in guesses)
        if order(heads) >= order(right):
            p += chance ** sum(tosses) * (1 - chance) ** (8 - sum(tosses))
    assert p_value(8, right, guesses, math.log(0.6 / 0.4), 0.0) == pytest.approx(p)


@pytest.mark.long
def test_the_bound_is_never_below_that_of_bonferroni() -> None:
    """Law: at least the largest of four bounds at a quarter of the error, whatever is right; above it for most."""
    rng, guesses, larger = np.random.default_rng(5), (10, 20, 42, 82), []
    for accuracy in rng.uniform(0.5, 1, 40):
        heads = rng.random(82) < accuracy
        right = tuple(int(heads[:r].sum()) for r in guesses)
        each = [largest_epsilon(83, (v,), (r,), 1e-5, 0.0125) for v, r in zip(right, guesses, strict=True)]
        larger.append(largest_epsilon(83, right, guesses, 1e-5, 0.05) - max(each))
    assert min(larger) > -1e-5
    assert np.median(larger) > 0.02


@pytest.mark.parametrize(
    ("images", "attained", "next_one"), [(20, 0.05, 0.059), pytest.param(83, 0.0494, 0.0511, marks=pytest.mark.long)]
)
def test_blind_models_are_shown_as_often_as_whole_numbers_of_guesses_allow(
    images: int, attained: float, next_one: float
) -> None:
    """Law: the rate where nothing is revealed is the largest attainable below 5 %; the next one is above."""
    rng, guesses = np.random.default_rng(6), tuple(2 * half for half in guessed(images))
    series = rng.random((2000, guesses[-1])) < 0.5
    p = np.array([p_value(images, tuple(heads[:r].sum() for r in guesses), guesses, 0.0, 1e-5) for heads in series])
    assert p[p <= 0.05].max() == pytest.approx(attained, abs=0.0006)
    assert p[p > 0.05].min() == pytest.approx(next_one, abs=0.0006)
    assert (p <= 0.05).mean() == pytest.approx(attained, abs=3 * (attained / 2000) ** 0.5)


def test_a_model_that_forgot_is_shown_nothing_and_one_that_did_not_is() -> None:
    """Law: of 300 models alike on both sets, one in twenty has a bound at most; scores far apart have the ceiling."""
    rng = np.random.default_rng(1)
    blind = [audited(rng.normal(size=60), rng.normal(size=80), rng) for _ in range(300)]
    assert np.count_nonzero(blind) <= 0.05 * 300 + 2 * (300 * 0.05 * 0.95) ** 0.5
    assert np.median(blind) == 0
    shifted = [audited(rng.normal(size=60) + 1.5, rng.normal(size=80), rng) for _ in range(40)]
    assert np.median(shifted) > 0.3
    images = audited_images(60, 80)
    assert images == math.floor(120 - 3.3 * 120**0.5)
    all_right = tuple(2 * half for half in guessed(images))
    ceiling = largest_epsilon(images, all_right, all_right, 1e-5, 0.05)
    apart = [audited(np.arange(60.0) + 100, np.arange(80.0), np.random.default_rng(seed)) for seed in range(20)]
    assert ceiling / 2 < np.median(apart) <= max(apart) <= ceiling


def test_equal_scores_are_guessed_by_chance() -> None:
    """Law: images that all score alike reveal nothing, in whatever order they lie."""
    found = [audited(np.zeros(60), np.zeros(60), np.random.default_rng(seed)) for seed in range(60)]
    assert np.count_nonzero(found) <= 6


def test_scores_are_in_the_reference_s_standard_deviations() -> None:
    """By hand; an image on which all retrained models agree scores 0."""
    reference_RE = np.array([[1.0, 5.0], [3.0, 5.0]])
    assert standardised(np.array([[4.0, 7.0]]), reference_RE) == pytest.approx(np.array([[2**0.5, 0.0]]))


@pytest.mark.parametrize(
    ("forget", "more", "control"),
    [
        ({"fraction": 0.1}, {"validation": 0.1}, "validation"),
        ({"fraction": 0.1}, {"test": 0.2}, "test"),
        ({"fraction": 0.1}, {"test": "other.parquet"}, ""),
        ({"label": 3}, {"validation": 0.1}, ""),
        ({"group": "person", "count": 2}, {"validation": 0.1}, ""),
    ],
)
def test_it_applies_where_chance_decided_alone(
    forget: dict[str, object], more: dict[str, object], control: str
) -> None:
    """Law: both sets are drawn from one pool, else a reason is given."""
    found, why = control_splits(Data.model_validate({"train": "digits", "forget": forget, **more}))
    assert found == ((control,) if control else ())
    assert bool(why) is (control == "")


def test_a_study_s_scores_say_why_there_is_no_audit(tmp_path: Path) -> None:
    """Law: outputs that are not there, too few images or models, and a forget set that is a class are reasons."""
    study, store = evaluated_store(tmp_path, {"retrained": 6, "finetune": 6})
    audit = evaluate(study, store).populations["finetune"].one_run
    assert audit is not None
    assert audit.missing == "needs outputs of validation: outputs: {splits: [retain, forget, test, validation]}"
    data = {"validation": None, "test": 0.2}
    study, store = evaluated_store(tmp_path / "test", {"retrained": 6, "finetune": 6}, data=data)
    audit = evaluate(study, store).populations["finetune"].one_run
    assert audit is not None
    assert audit.missing == f"needs 20 images and 2 retrained models, and has {audited_images(12, 20)} images and 6"
    study, store = evaluated_store(tmp_path / "one", {"retrained": 1, "finetune": 1}, data=data)
    audit = evaluate(study, store).populations["finetune"].one_run
    assert audit is not None
    assert audit.missing == f"needs 20 images and 2 retrained models, and has {audited_images(12, 20)} images and 1"
    other, store = evaluated_store(
        tmp_path / "label", {"retrained": 6, "finetune": 6}, data={"forget": {"fraction": None, "label": 0}}
    )
    audit = evaluate(other, store).populations["finetune"].one_run
    assert audit is not None
    assert "not drawn at random" in audit.missing


def test_a_study_s_runs_are_audited_one_by_one() -> None:
    """Law: of runs that forgot nothing, all are shown; of retrained ones hardly any; both are below the ceiling."""
    rng = np.random.default_rng(2)
    settings = Settings(mode="exact", resamples=10, seed=0)

    def population(name: str, shift: float) -> Outputs:
        splits = {}
        for split, size, moved in (("forget", 80, shift), ("test", 90, 0.0)):
            phi_RN = rng.normal(size=(12, size)) + moved
            splits[split] = SplitOutputs(np.arange(size), np.zeros(size, np.int64), phi_RN, phi_RN > 0)
        return Outputs(name, (), splits)

    class Reference(Outputs):
        def __len__(self) -> int:
            return 12

    retrained = population("retrained", 0.0)
    reference = Reference("retrained", (), retrained.splits)
    bad, good = (
        one_run_audit(population(name, shift), reference, ("validation", "test"), "", settings)
        for name, shift in (("kept", 2.0), ("again", 0.0))
    )
    assert (bad.control, bad.runs, bad.images, bad.missing) == ("test", 12, audited_images(80, 90), "")
    assert bad.shown == 12
    assert 0 < bad.median < bad.ceiling
    assert good.shown <= 3
    assert good.median == 0
