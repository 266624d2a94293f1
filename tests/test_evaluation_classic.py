"""The classic attacks: what a scikit-learn user would get is what they return, and images are drawn once and by rng."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from scipy.stats import rankdata
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedShuffleSplit, cross_val_score
from sklearn.svm import SVC
from threadpoolctl import threadpool_info, threadpool_limits

from ray_unlearn.errors import EvaluationError
from ray_unlearn.evaluation.comparison import attack_alone, compare
from ray_unlearn.evaluation.measures.logistic_attack import simple_attack
from ray_unlearn.evaluation.measures.measure import Pair
from ray_unlearn.evaluation.measures.svc_efficacy import _svc, svc_forget_efficacy, svc_scores
from ray_unlearn.evaluation.outputs import Outputs, SplitOutputs
from ray_unlearn.evaluation.rbf_classifier import RbfClassifier, ordered


def rng() -> np.random.Generator:
    """Return a generator that is always the same."""
    return np.random.default_rng(7)


@pytest.mark.parametrize("scale", [0.01, 0.5, 20])
def test_the_simple_attack_is_scikit_learns_cross_validation(scale) -> None:
    """Law: exactly, on losses small and large, where forget and test are equally many."""
    draw = np.random.default_rng(0)
    forget_E, test_T = draw.exponential(scale, 45), draw.exponential(2 * scale, 45)
    splits = StratifiedShuffleSplit(n_splits=10, random_state=0)
    features, member = np.concatenate([test_T, forget_E])[:, None], [0] * 45 + [1] * 45
    expected = cross_val_score(LogisticRegression(), features, member, cv=splits, scoring="accuracy").mean()
    assert simple_attack(forget_E, test_T, rng()) == pytest.approx(expected, abs=1e-12)
    assert 0 < expected < 1


@pytest.mark.parametrize("many", ["test", "forget"])
def test_the_larger_set_is_thinned_to_the_smaller(many) -> None:
    """Law: by rng, without replacement, in its own order; the smaller set stays whole."""
    draw = np.random.default_rng(0)
    few_F, many_M = draw.exponential(0.5, 20), draw.exponential(1, 200)
    thin_F = many_M[np.sort(rng().choice(200, 20, replace=False))]
    if many == "test":
        assert simple_attack(few_F, many_M, rng()) == simple_attack(few_F, thin_F, rng())
    else:
        assert simple_attack(many_M, few_F, rng()) == simple_attack(thin_F, few_F, rng())


def test_the_simple_attack_at_both_ends() -> None:
    """Law: like losses near 1/2, distant ones 1; the same generator gives the same number."""
    draw = np.random.default_rng(1)
    alike = draw.exponential(1, (2, 1000))
    # 10 splits of 200, overlapping: one sd is at most 0.035
    assert simple_attack(*alike, rng()) == pytest.approx(0.5, abs=0.07)
    assert simple_attack(draw.uniform(0, 1, 50), draw.uniform(9, 10, 500), rng()) == 1
    assert simple_attack(alike[0][:100], alike[1], rng()) == simple_attack(alike[0][:100], alike[1], rng())


def test_forget_efficacy_is_scikit_learns_classifier() -> None:
    """Law: exactly, up to 500 images of each kind; the larger of retain and test is thinned, forget is whole."""
    draw = np.random.default_rng(0)
    retain_K, test_T, forget_E = draw.beta(9, 1, 600), draw.beta(3, 1, 480), draw.beta(5, 1, 70)
    shadow = np.concatenate([retain_K[np.sort(rng().choice(600, 480, replace=False))], test_T])[:, None]
    classifier = SVC(C=3, gamma="auto", kernel="rbf").fit(shadow, [1] * 480 + [0] * 480)
    expected = 1 - classifier.predict(forget_E[:, None]).mean()
    assert svc_forget_efficacy(retain_K, test_T, forget_E, rng()) == pytest.approx(expected, abs=1e-12)
    assert 0 < expected < 1


def test_more_images_than_points_change_the_classifier_little() -> None:
    """Law: 3,000 images of each kind, merged into 500 points, are judged as all of them are; 500 drawn ones are not."""
    draw = np.random.default_rng(0)
    retain_K, test_T, forget_E = (
        1 / (1 + np.exp(-draw.normal(m, 2, n))) for m, n in ((4, 3000), (3, 3000), (3.4, 900))
    )

    def judged(members: np.ndarray, others: np.ndarray) -> float:
        kinds = [1] * len(members) + [0] * len(others)
        found = SVC(C=3, gamma="auto", kernel="rbf").fit(np.concatenate([members, others])[:, None], kinds)
        return 1 - found.predict(forget_E[:, None]).mean()

    whole = judged(retain_K, test_T)
    assert svc_forget_efficacy(retain_K, test_T, forget_E, rng()) == pytest.approx(whole, abs=0.005)
    assert abs(judged(retain_K[:500], test_T[:500]) - whole) > 0.02


def test_forget_efficacy_at_both_ends() -> None:
    """Law: forget images that look like test images are all forgotten, those that look like retain images none."""
    draw = np.random.default_rng(0)
    retain_K, test_T = draw.uniform(0.9, 1, 600), draw.uniform(0, 0.3, 600)
    assert svc_forget_efficacy(retain_K, test_T, draw.uniform(0, 0.3, 99), rng()) == 1
    assert svc_forget_efficacy(retain_K, test_T, draw.uniform(0.9, 1, 99), rng()) == 0
    assert svc_forget_efficacy(retain_K, test_T, [0.95, 0.95, 0.95, 0.1], rng()) == 0.25


@pytest.mark.parametrize(
    ("attack", "message"),
    [
        (lambda: simple_attack(np.ones(9), np.ones(20), rng()), "forget losses: expected 10 or more examples, found 9"),
        (lambda: simple_attack(np.ones(20), np.ones(9), rng()), "test losses: expected 10 or more examples, found 9"),
        (
            lambda: simple_attack(np.ones((2, 10)), np.ones(10), rng()),
            "forget losses: expected one model's values [examples], found shape [2, 10]",
        ),
        (lambda: svc_forget_efficacy([], [1], [1], rng()), "retain confidence: expected 1 or more examples, found 0"),
        (lambda: svc_forget_efficacy([1], [], [1], rng()), "test confidence: expected 1 or more examples, found 0"),
        (
            lambda: svc_forget_efficacy([1], [1], [np.nan], rng()),
            "forget confidence[0]: expected finite numbers, found nan",
        ),
    ],
)
def test_what_cannot_be_attacked_is_refused(attack, message) -> None:
    """Law: one line: which, expected, found."""
    with pytest.raises(EvaluationError) as caught:
        attack()
    assert str(caught.value).startswith(message)


def test_ten_images_of_each_kind_are_enough() -> None:
    """Law: the fewest that the attack admits can be split."""
    assert simple_attack(np.arange(10.0), np.arange(10.0) + 100, rng()) == 1


def test_the_roc_of_the_classifier_is_of_images_that_it_never_saw() -> None:
    """Law: fitted to retain and a random half of the test images, it judges forget and the other half."""
    draw, same = np.random.default_rng(0), rng()
    retain_K, test_T, forget_E = draw.uniform(0.6, 1, 30), draw.uniform(0, 0.9, 40), draw.uniform(0, 1, 7)
    fitted = np.isin(np.arange(40), same.permutation(40)[:20])
    shadow = np.concatenate([retain_K[np.sort(same.choice(30, 20, replace=False))], test_T[fitted]])[:, None]
    expected = SVC(C=3, gamma="auto", kernel="rbf").fit(shadow, [1] * 20 + [0] * 20)
    (forget,), (unseen,) = svc_scores([retain_K], [test_T], [forget_E], rng)
    assert np.allclose(forget, expected.decision_function(forget_E[:, None]))
    assert np.allclose(unseen, expected.decision_function(test_T[~fitted, None]))
    assert not np.array_equal(fitted, np.arange(40) % 2 == 0)


@pytest.mark.parametrize("sharpness", [1e-9, 1e-3, 1.0])
def test_scores_are_in_the_order_of_the_classifiers(sharpness: float) -> None:
    """Law: of 300 images a model, with ties, within rounding of one another or apart: the same ranks and signs."""
    draw = np.random.default_rng(4)
    kinds = [np.exp(-sharpness * draw.gamma(0.5, scale, (3, 300))) for scale in (0.5, 1.0, 0.8)]
    kinds[2][:, ::7] = kinds[2][:, :1]
    retain_RK, test_RT, forget_RE = kinds
    classifiers = [_svc(retain_K, test_T, rng()) for retain_K, test_T in zip(retain_RK, test_RT, strict=True)]
    exactly = [one.scores(forget_E) for one, forget_E in zip(classifiers, forget_RE, strict=True)]
    found = ordered(classifiers, forget_RE)
    assert np.array_equal(rankdata(found, "dense"), rankdata(exactly, "dense"))
    assert np.allclose(found, exactly)
    for one, forget_E, scores_E in zip(classifiers, forget_RE, exactly, strict=True):
        assert np.array_equal(one.below_zero(forget_E), scores_E < 0)


def test_the_sign_of_a_score_is_that_of_its_sum() -> None:
    """Law: where two support vectors cancel up to rounding, the sum decides, with the C library's exponential."""
    values = 0.45 + np.linspace(-2e-15, 2e-15, 300)

    def summed(values_X1: np.ndarray) -> np.ndarray:
        terms = [math.exp(-((one - 0.2) ** 2)) - math.exp(-((one - 0.7) ** 2)) for one in values_X1[:, 0].tolist()]
        return np.array(terms)

    fitted = SimpleNamespace(
        kernel="rbf", support_=[0, 1], dual_coef_=np.array([[1.0, -1.0]]), intercept_=[0.0], decision_function=summed
    )
    below = RbfClassifier(fitted, np.array([0.2, 0.7])).below_zero(values)
    assert np.array_equal(below, summed(values[:, None]) < 0)
    assert 0 < below.sum() < 300


def test_fits_have_one_thread_of_blas(monkeypatch) -> None:
    """Law: so their numbers do not depend on a machine's cores, and no thread waits in a loop; later all are back."""

    def threads(*_: Any, **__: Any) -> float:
        found.append([one["num_threads"] for one in threadpool_info() if one["user_api"] == "blas"])
        return 0.5

    found: list[list[int]] = []
    phi_RN = np.random.default_rng(8).normal(size=(2, 12))
    both = SplitOutputs(np.arange(12), np.zeros(12, np.int64), phi_RN, phi_RN > 0)
    records: Any = tuple(SimpleNamespace(original=0, original_sha256="ab", method="a") for _ in range(2))
    monkeypatch.setattr("ray_unlearn.evaluation.measures.logistic_attack.simple_attack", threads)
    with threadpool_limits(2, user_api="blas"):
        attack_alone(Outputs("kookmin", records, {"forget": both, "test": both}), rng)
        threads()
    assert set(found[0]) == set(found[1]) == {1}
    assert set(found[2]) == {2}


def test_the_first_runs_alone_are_attacked_one_at_a_time(monkeypatch) -> None:
    """Law: runs beyond the number have no value; the mean, of all runs and of a subset, is that of attacked runs."""
    monkeypatch.setattr("ray_unlearn.evaluation.comparison.ATTACKED", 3)
    rng = np.random.default_rng(8)
    splits = {}
    for split in ("forget", "test", "retain"):
        phi_RN = rng.normal(size=(5, 12))
        splits[split] = SplitOutputs(np.arange(12), np.zeros(12, np.int64), phi_RN, phi_RN > 0)
    records: Any = tuple(SimpleNamespace(original=0, original_sha256="ab", method="a") for _ in range(5))
    outputs = Outputs("kookmin", records, splits)
    found = attack_alone(outputs, lambda: np.random.default_rng(0)).values["logistic_attack"]
    whole = attack_alone(outputs.take([0, 1, 2]), lambda: np.random.default_rng(0)).values["logistic_attack"]
    assert np.array_equal(found[:3], whole)
    assert np.isnan(found[3:]).all()
    pair = Pair(outputs, outputs, "exact", lambda: np.random.default_rng(0), {"logistic_attack": found})
    assert compare(pair)["logistic_attack"] == pytest.approx(whole.mean())
    part = Pair(outputs, outputs, "exact", lambda: np.random.default_rng(0), {"logistic_attack": found[[2, 3, 4]]})
    assert compare(part)["logistic_attack"] == whole[2]
    none = Pair(outputs, outputs, "exact", lambda: np.random.default_rng(0), {"logistic_attack": found[3:]})
    assert "logistic_attack" not in compare(none)
