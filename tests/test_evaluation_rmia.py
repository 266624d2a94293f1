"""RMIA: scores by hand and against the formula in loops, no image against itself, and the values at both ends."""

from __future__ import annotations

import numpy as np
import pytest

from ray_unlearn.errors import EvaluationError
from ray_unlearn.evaluation.measures.measure import Pair
from ray_unlearn.evaluation.measures.rmia import attack, rmia
from ray_unlearn.evaluation.outputs import Outputs, SplitOutputs
from ray_unlearn.evaluation.roc import roc


def logit(p):
    """Return phi of a probability of the label."""
    p = np.asarray(p, np.float64)
    return np.log(p) - np.log1p(-p)


def odd(images: int):
    """Return a mask of the images at odd positions."""
    return np.arange(images) % 2 == 1


def outputs(seed: int = 0, runs: int = 16, forget: int = 60, test: int = 201, shift: float = 0.0):
    """Return phi of targets and references; the targets' forget images are more certain by `shift` of the noise."""
    rng = np.random.default_rng(seed)
    mean_E, mean_T = rng.normal(1, 2, forget), rng.normal(1, 2, test)
    noise = rng.normal(size=(2, runs, forget + test))
    return {
        "target_forget": mean_E + noise[0, :, :forget] + shift,
        "target_test": mean_T + noise[0, :, forget:],
        "reference_forget": mean_E + noise[1, :, :forget],
        "reference_test": mean_T + noise[1, :, forget:],
        "population": odd(test),
    }


def test_scores_worked_by_hand() -> None:
    """Law: a = 0 and one reference, so pbar = (p_out + 1) / 2.

    Test images 0, 1, 2, 3, 4 have p 0.9, 0.5, 0.2, 0.6, 0.1 and p_out 0.9, 0.5, 0.6, 0.2, 0.6: p / pbar is 0.95, 2/3,
    1/4, 1, 1/8. The population is images 1 and 3 with 2/3 and 1. Forget images with p 0.8, 0.5 and p_out 0.25, 0.5 have
    1.28, above both, and 2/3, above none: a tie does not count. Non-members 0, 2, 4: above one, none, none. Of the six
    pairs the first member wins three and the second loses one and ties two: (3 + 1) / 6.
    """
    result = rmia(
        target_forget=logit([[0.8, 0.5]]),
        target_test=logit([[0.9, 0.5, 0.2, 0.6, 0.1]]),
        reference_forget=logit([[0.25, 0.5]]),
        reference_test=logit([[0.9, 0.5, 0.6, 0.2, 0.6]]),
        population=odd(5),
        a=0,
    )
    assert result.member_scores.tolist() == [[1, 0]]
    assert result.non_member_scores.tolist() == [[0.5, 0, 0]]
    assert result.auc == pytest.approx(4 / 6, abs=1e-12)
    exact = rmia(
        target_forget=[[0.0]],
        target_test=[[0.0, 0.0]],
        reference_forget=[[0.0]],
        reference_test=[[0.0, 0.0]],
        population=odd(2),
    )
    assert (exact.member_scores[0, 0], exact.non_member_scores[0, 0], exact.auc) == (0, 0, 0.5)


@pytest.mark.parametrize("a", [0.0, 0.3, 1.0])
def test_the_formula_in_loops(a) -> None:
    """Law: the share of z, here those at odd positions, with p(x) / pbar(x) > p(z) / pbar(z); pbar over references."""
    phi = outputs(runs=3, forget=5, test=8, shift=1)
    p = {name: 1 / (1 + np.exp(-values)) for name, values in phi.items() if name != "population"}
    bar = {which: ((1 + a) * p[f"reference_{which}"].mean(0) + 1 - a) / 2 for which in ("forget", "test")}
    result = rmia(**phi, a=a) if a != 0.3 else rmia(**phi)  # which is the default
    for u in range(3):
        forget = p["target_forget"][u] / bar["forget"]
        test = p["target_test"][u] / bar["test"]
        z = test[[1, 3, 5, 7]]
        assert result.member_scores[u].tolist() == [np.mean(x > z) for x in forget]
        assert result.non_member_scores[u].tolist() == [np.mean(x > z) for x in test[[0, 2, 4, 6]]]


def test_areas_and_rates_are_those_of_each_target_and_their_means() -> None:
    """Law: one curve per target; the pooled curve is another thing."""
    result = rmia(**outputs(shift=1))
    curves = [roc(m, n) for m, n in zip(result.member_scores, result.non_member_scores, strict=True)]
    assert result.auc_per_target.tolist() == [curve.auc for curve in curves]
    assert result.tpr_per_target(0.01).tolist() == [curve.tpr_at(0.01) for curve in curves]
    assert result.tpr_per_target(0.001).tolist() == [curve.tpr_at(0.001) for curve in curves]
    assert result.auc == pytest.approx(np.mean([curve.auc for curve in curves]), abs=1e-12)
    assert result.tpr_at_1_percent == pytest.approx(result.tpr_per_target(0.01).mean(), abs=1e-12)
    assert result.tpr_at_01_percent == pytest.approx(result.tpr_per_target(0.001).mean(), abs=1e-12)
    assert result.tpr_at_1_percent > result.tpr_at_01_percent
    assert result.curve.auc == roc(result.member_scores, result.non_member_scores).auc
    assert result.non_member_scores.shape == (16, 101)


def test_models_that_saw_nothing_are_near_a_half_and_models_that_know_are_at_1() -> None:
    """Law: two halves of the retrained population; forget images drawn as test images are, so that 1/2 is the null."""
    phi = outputs(runs=64, forget=400, test=800)
    forget_RE, test_RT = phi["reference_forget"], phi["reference_test"]
    null = rmia(
        target_forget=forget_RE[::2],
        target_test=test_RT[::2],
        reference_forget=forget_RE[1::2],
        reference_test=test_RT[1::2],
        population=odd(800),
    )
    # which images were drawn is common to all targets: the noise is that of one, 1 / sqrt(12 * 200) = 0.02
    assert null.auc == pytest.approx(0.5, abs=0.05)
    assert null.tpr_at_1_percent == pytest.approx(0.01, abs=0.015)
    known = rmia(**{**phi, "target_forget": np.full((64, 400), 30.0), "reference_forget": np.full((64, 400), -3.0)})
    assert known.member_scores.min() == 1
    assert 0.99 < known.auc < 1  # non-members above their whole population tie with the members
    plain = rmia(
        target_forget=[[9.0]],
        target_test=np.zeros((1, 9)),
        reference_forget=[[0]],
        reference_test=[[0.0] * 9],
        population=odd(9),
    )
    assert (plain.auc, plain.tpr_at_01_percent) == (1, 1)


def test_targets_do_not_depend_on_each_other_nor_on_order() -> None:
    """Law: a target alone has the scores that it has among others; images carry their scores with them."""
    phi = outputs(shift=1)
    result = rmia(**phi)
    alone = rmia(**{**phi, "target_forget": phi["target_forget"][3:4], "target_test": phi["target_test"][3:4]})
    assert alone.member_scores.tolist() == result.member_scores[3:4].tolist()
    assert alone.auc_per_target.tolist() == result.auc_per_target[3:4].tolist()
    order = np.random.default_rng(0).permutation(60)
    again = rmia(**{**phi, **{k: phi[k][:, order] for k in ("target_forget", "reference_forget")}})
    assert again.member_scores.tolist() == result.member_scores[:, order].tolist()


def test_the_most_extreme_phi_are_numbers_still() -> None:
    """Law: no overflow, no 0 / 0 (warnings are errors here): certain images tie, hopeless ones are below all."""
    wild = np.array([[-1e4, -800.0, 0.0, 800.0, 1e4]])
    for a in (0.0, 1.0):
        result = rmia(
            target_forget=wild, target_test=wild, reference_forget=wild, reference_test=wild, population=odd(5), a=a
        )
        assert np.isfinite(result.member_scores).all()
    certain = rmia(
        target_forget=[[40.0, 99.0]],
        target_test=[[50.0] * 4],
        reference_forget=[[60.0] * 2],
        reference_test=[[70.0] * 4],
        population=odd(4),
    )
    assert certain.member_scores.tolist() == [[0, 0]]
    assert certain.auc == 0.5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"a": 1.5}, "rmia: expected a in [0, 1], found 1.5"),
        ({"a": float("nan")}, "rmia: expected a in [0, 1], found nan"),
        ({"target_test": np.zeros((2, 6))}, "rmia: target_forget has 3 runs, target_test has 2; give the same models"),
        ({"reference_forget": np.zeros((2, 4))}, "rmia: reference_forget has 2 runs, reference_test has 3; "),
        ({"reference_test": np.zeros((3, 5))}, "target_test has 6 examples, reference_test has 5; compare the same"),
        (
            {"target_test": np.zeros((3, 1)), "reference_test": np.zeros((3, 1))},
            "rmia: expected 2 test images or more, one non-member and one of the population, found 1",
        ),
        ({"population": odd(5)}, "rmia: expected a mask of 6 test images, some in the population and some outside; "),
        ({"population": np.ones(6, bool)}, "rmia: expected a mask of 6 test images, some in the population and "),
        (
            {"target_forget": np.full((3, 4), np.nan)},
            "target_forget[0, 0]: expected finite numbers, found nan (12 in all)",
        ),
    ],
)
def test_what_does_not_fit_together_is_refused(change, message) -> None:
    """Law: the argument, what it has, and what the other has."""
    good = dict.fromkeys(("target_forget", "reference_forget"), np.zeros((3, 4)))
    good |= dict.fromkeys(("target_test", "reference_test"), np.zeros((3, 6))) | {"population": odd(6)}
    with pytest.raises(EvaluationError) as caught:
        rmia(**{**good, **change})
    assert str(caught.value).startswith(message)


def test_a_studys_test_images_are_divided_at_random_and_always_alike() -> None:
    """Law: neither even against odd positions nor by order; the same seed gives the same division for every pair."""
    phi = outputs(runs=4, forget=6, test=40)
    sides = []
    for side in ("target", "reference"):
        splits = {}
        for split in ("forget", "test"):
            phi_RN = phi[f"{side}_{split}"]
            images = phi_RN.shape[1]
            splits[split] = SplitOutputs(np.arange(images), np.zeros(images, np.int64), phi_RN, phi_RN > 0)
        sides.append(Outputs(side, (), splits))
    first, again, other = (
        attack(Pair(*sides, "exact", lambda seed=seed: np.random.default_rng(seed))).non_member_scores
        for seed in (0, 0, 1)
    )
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    for positions in (odd(40), ~odd(40), np.arange(40) < 20):
        assert not np.array_equal(first, rmia(**{**phi, "population": positions}).non_member_scores)
    assert first.shape == (4, 20)
