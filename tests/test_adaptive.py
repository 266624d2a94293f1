"""`count: {up_to: N, until: decided}`: looks at 16, 32, 64, ... runs, until the order is settled."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml
from conftest import TINY, merged
from scored import make_scores

from ray_unlearn.cli import main
from ray_unlearn.errors import StudyError
from ray_unlearn.evaluation.decided import decided
from ray_unlearn.evaluation.looks import Looks
from ray_unlearn.evaluation.ranks import ranks
from ray_unlearn.evaluation.scores import Estimate, Rank
from ray_unlearn.study import Study, parse_study
from ray_unlearn.study.adaptive import UpTo

UNTIL = {"up_to": 100, "until": "decided"}


def test_looks_double_up_to_all_runs():
    """Law: 16, 32, 64, ..., and the last at all runs; one look where fewer are allowed."""
    assert UpTo(up_to=100).looks == (16, 32, 64, 100)
    assert UpTo(up_to=64).looks == (16, 32, 64)
    assert UpTo(up_to=5).looks == (5,)


def study_of(**counts: object) -> Study:
    """Return a study with these numbers of runs."""
    methods = {"retrained": {"method": "train", "on": "retain"}}
    populations = {
        name: {**methods.get(name, {"method": "finetune"}), "count": count} for name, count in counts.items()
    }
    return parse_study(merged(TINY, {"populations": {"finetune": None, **populations}}), "a test")


def test_populations_are_adaptive_together():
    """Law: all but the original, with one number; the reference among them; a single method needs a width."""
    assert study_of(retrained=UNTIL, a=UNTIL, b=UNTIL).adaptive == UpTo(up_to=100)
    assert study_of(retrained=UNTIL, a=UNTIL, b=UNTIL).populations["a"].planned == 100
    assert study_of(retrained=4, a=4).adaptive is None
    with pytest.raises(StudyError, match=r"populations\.b\.count: expected {up_to: 100, until: decided}"):
        study_of(retrained=UNTIL, a=UNTIL, b=100)
    with pytest.raises(StudyError, match=r"populations\.b\.count: .*found 0$"):
        study_of(retrained=1, b=0)
    with pytest.raises(StudyError, match=r"populations\.b\.count\.until: .*found 'bored' \(valid: decided\)"):
        study_of(retrained=1, b={"up_to": 100, "until": "bored"})
    with pytest.raises(StudyError, match="needs the reference retrained"):
        study_of(a=UNTIL, b=UNTIL, c=UNTIL)
    with pytest.raises(StudyError, match="needs a `width`"):
        study_of(retrained=UNTIL, a=UNTIL)


def test_an_order_without_ties_or_narrow_intervals_decide():
    """Law: each place is a single one, or every interval is as narrow as asked; nothing else ends a study."""
    scores = make_scores()
    names = [name for name, one in scores.populations.items() if "score" in one.measures]
    assert len(names) > 1

    def with_places(places: list[tuple[int, int]]) -> object:
        found = {
            n: Rank(best=best, worst=worst, low=0.0, high=1.0) for n, (best, worst) in zip(names, places, strict=True)
        }
        return scores.model_copy(update={"ranks": {"score": found}})

    settled = [(place, place) for place in range(1, len(names) + 1)]
    assert decided(with_places(settled), None) == "the order is settled"
    tied = [(1, 2), (1, 2), *settled[2:]]
    assert decided(with_places(tied), None) == ""
    widest = max(
        one.measures["score"].high - one.measures["score"].low for one in scores.populations.values() if one.measures
    )
    assert "at most" in decided(with_places(tied), widest)
    assert decided(with_places(tied), 0.99 * widest) == ""


def estimate(values: np.ndarray) -> Estimate:
    """Return the mean of normal values as a measure of so many runs."""
    n, se = len(values), float(values.std(ddof=1) / len(values) ** 0.5)
    mean = float(values.mean())
    return Estimate(value=mean, low=mean - 2 * se, high=mean + 2 * se, n=n, se=se, df=n - 1.0)


@pytest.mark.parametrize(("apart", "at_most"), [(0.0, 0.05), (1.0, 0.05)])
def test_two_hundred_studies_name_a_wrong_order_in_five_percent_at_most(apart: float, at_most: float):
    """Law: six populations, looks at 16 to 512: no look of a study may put one before another wrongly, in 95 % of them.

    Values are normal with standard deviation 1; `apart` is the distance of neighbours. The larger it is, the earlier
    studies end.
    """
    rng, wrong, ended = np.random.default_rng(0), 0, []
    looks_at = UpTo(up_to=512).looks
    for _ in range(200):
        values = rng.standard_normal((6, 512)) + apart * np.arange(6)[:, None]
        looks, failed = Looks(), False
        for runs in looks_at:
            levels = []
            for name in "abcdef":
                looks, look = looks.take(name, runs=runs, reference_runs=runs, share=runs / 512, identity="x")
                levels.append(look.level)
            found = {name: estimate(values[i, :runs]) for i, name in enumerate("abcdef")}
            places = ranks("score", found, {}, min(levels))
            truth = {name: (1, 6) if not apart else (6 - i, 6 - i) for i, name in enumerate("abcdef")}
            failed |= any(
                (one.best > 1 or one.worst < 6) if not apart else not one.best <= truth[name][0] <= one.worst
                for name, one in places.items()
            )
            if all(one.best == one.worst for one in places.values()):
                break
        ended.append(runs)
        wrong += failed
    assert wrong <= at_most * 200
    assert max(ended) == 512 if not apart else np.median(ended) <= 128


@pytest.mark.long
@pytest.mark.timeout(900)
def test_six_populations_on_digits_stop_when_they_are_decided(tmp_path: Path, capsys):
    """Law: `all` looks at 16, 32, ... runs, and makes no more once it is decided; asked again, it makes nothing."""
    count = UNTIL | {"width": 0.04}
    populations = {f"f{i}": {"method": "finetune", "lr": lr, "count": count} for i, lr in enumerate((1e-4, 3e-3, 3e-2))}
    ngp = {"method": "negative_gradient_plus", "epochs": 1, "lr": 1e-2, "count": count}
    populations |= {f"ngp{i}": ngp | {"alpha": alpha} for i, alpha in enumerate((0.9, 0.5, 0.99))}
    populations["retrained"] = {"method": "train", "on": "retain", "count": count}
    changes = {
        "storage": "store",
        "populations": {"finetune": None, **populations},
        "outputs": {"splits": ["retain", "forget", "test"]},
        "evaluation": {"reference": "retrained"},
    }
    file = tmp_path / "study.yaml"
    file.write_text(yaml.safe_dump(merged(TINY, changes)))
    assert main(["all", str(file), "--backend", "inline"]) == 0
    said = capsys.readouterr().out
    print(said)
    last = [line for line in said.splitlines() if line.startswith("look ")][-1]
    assert "not decided" not in last
    made = len(list((tmp_path / "store/tiny/f1").glob("0*")))
    assert made in (16, 32, 64, 100)
    assert {len(list((tmp_path / "store/tiny" / name).glob("0*"))) for name in populations} == {made}
    assert main(["all", str(file), "--backend", "inline"]) == 0
    assert len(list((tmp_path / "store/tiny/f1").glob("0*"))) == made
