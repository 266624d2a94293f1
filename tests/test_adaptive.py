"""`count: {up_to: N, until: decided}`: looks at 16, 32, 64, ... runs, until the order is settled."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml
from confidences import recipe
from conftest import TINY, merged, write_study
from scored import METHODS, make_scores

from ray_unlearn.cli import all_, main
from ray_unlearn.cli.options import Backend
from ray_unlearn.cli.watching import decision, watch_status
from ray_unlearn.errors import StudyError
from ray_unlearn.evaluation.decided import decided
from ray_unlearn.evaluation.evaluate import save
from ray_unlearn.evaluation.intervals import interval, standard_error, subsets
from ray_unlearn.evaluation.looks import Looks
from ray_unlearn.evaluation.outputs import Outputs
from ray_unlearn.evaluation.ranks import ranks
from ray_unlearn.evaluation.resampling import Settings
from ray_unlearn.evaluation.scores import Estimate, Rank
from ray_unlearn.monitor.watch import Driver, Look, Made
from ray_unlearn.store import StudyStore, open_storage
from ray_unlearn.store.events import EventReader
from ray_unlearn.study import Study, parse_study
from ray_unlearn.study.adaptive import UpTo

calibration = recipe("calibration")

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


def test_a_watch_knows_that_a_decided_study_needs_no_more_runs(tmp_path: Path, capsys):
    """Law: 0 where the last scores have every run that is made, at a look, and decide; 3 for any other end."""
    study = study_of(retrained=UNTIL, finetune=UNTIL, ssd=UNTIL)
    store = StudyStore(open_storage(str(tmp_path)), "tiny")
    scores = make_scores({name: METHODS[name] for name in ("finetune", "ssd")}, runs=16)
    places = {name: Rank(best=n, worst=n, low=0.0, high=1.0) for n, name in enumerate(("finetune", "ssd"), start=1)}

    def ends(*made: int) -> int:
        counts = zip(("retrained", "finetune", "ssd"), made, strict=True)
        populations = [Made(population="original", planned=1, made=1, failed=0)]
        populations += [Made(population=name, planned=100, made=count, failed=0) for name, count in counts]
        look = Look(populations=tuple(populations), driver=Driver.ended, runs_per_s=None, left_s=None)
        return watch_status(SimpleNamespace(look=lambda: look), 0.0, decision(study, store))  # type: ignore[arg-type]

    assert ends(16, 16, 16) == 3
    save(store, scores.model_copy(update={"ranks": {"score": places}}))
    assert ends(16, 16, 16) == 0
    assert "the order is settled: 49 of 301 runs made, and the others need not be" in capsys.readouterr().out
    assert (ends(16, 16, 15), ends(17, 17, 17), ends(32, 32, 32)) == (3, 3, 3)
    save(store, scores)
    assert ends(16, 16, 16) == 3


def test_every_look_says_that_it_scores_and_a_warning_is_said_at_the_first(tmp_path: Path, monkeypatch):
    """Law: every look's `generate` is given the same set of warnings that were printed, and its scores have a log."""
    sets: list[set[str]] = []
    study = study_of(retrained=UNTIL, a=UNTIL, b=UNTIL).model_copy(update={"storage": str(tmp_path)})
    monkeypatch.setattr("ray_unlearn.evaluation.evaluate.evaluate", lambda *_, **__: None)
    monkeypatch.setattr("ray_unlearn.evaluation.decided.decided", lambda *_: "")

    def make(*, first: int, said: set[str]) -> SimpleNamespace:
        sets.append(said)
        return SimpleNamespace(exit_code=0)

    all_._decided(study, make, Backend.inline, None)  # type: ignore[arg-type]
    assert len(sets) == 4
    logs = EventReader(StudyStore(open_storage(str(tmp_path)), study.name)).logs()
    assert [[event["event"] for event in log] for log in logs.values()] == [["scoring", "ended"]] * 4
    assert all(one is sets[0] for one in sets)


def estimate(values: np.ndarray) -> Estimate:
    """Return the mean of normal values as a measure of so many runs."""
    n, se = len(values), float(values.std(ddof=1) / len(values) ** 0.5)
    mean = float(values.mean())
    return Estimate(value=mean, low=mean - 2 * se, high=mean + 2 * se, n=n, se=se, df=n - 1.0)


@pytest.mark.parametrize(("apart", "at_most"), [(0.0, 0.05), (1.0, 0.05)])
def test_two_hundred_studies_name_a_wrong_order_in_five_percent_at_most(apart: float, at_most: float):
    """Law: six populations, looks at 16 to 512: no look of a study may put one before another wrongly, in 95 % of them.

    Values are normal with standard deviation 1, and their errors those of means; `apart` is the distance of neighbours.
    The larger it is, the earlier studies end.
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
            places = ranks("score", found, {}, min(levels), share=1.0)
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


def ends_at(values: np.ndarray, width: float) -> int:
    """Return the number of runs at which a study of these populations ends by its intervals' width."""
    for runs in UpTo(up_to=values.shape[1]).looks:
        found = {str(i): SimpleNamespace(measures={"score": estimate(one[:runs])}) for i, one in enumerate(values)}
        if decided(SimpleNamespace(ranks={}, populations=found), width):
            break
    return runs


@pytest.mark.parametrize("width", [0.35, 0.5, 0.72, 1.0])
def test_two_hundred_studies_that_end_by_width_know_the_score_as_well_as_asked(width: float):
    """Law: one population, which is the worst case; values of sd 1: within half the width in 95 % of studies.

    It ends by chance where the spread of 16 runs is small by chance. Doubling pays for that: most studies end with
    intervals narrower than asked.
    """
    rng = np.random.default_rng(1)
    missed, ends = 0, []
    for _ in range(200):
        values = rng.standard_normal((1, 512))
        ends.append(ends_at(values, width))
        missed += abs(values[0, : ends[-1]].mean()) > width / 2
    assert missed <= 0.05 * 200
    assert max(ends) < 512
    assert len(set(ends)) > 1


@pytest.mark.long
@pytest.mark.parametrize("width", [0.03, 0.05, 0.08])
def test_two_hundred_studies_of_simulated_runs_end_by_width_as_well(width: float):
    """Law: the same for F and its intervals, which the evaluation's own code makes of 16, 32 and 64 runs."""
    cell = calibration.Cell(mode="exact", runs=64, images=16, world="shift", rho=0.2, resamples=40, seed=3)
    looks, found = UpTo(up_to=64).looks, []
    rng = np.random.default_rng([3, 16, 7])
    for study in range(200):
        sides = [cell.population(name, rng) for name in ("unlearned", "retrained")]
        found.append([f_at(runs, cell, sides, study) for runs in looks])
    values_SL, low_SL, high_SL = np.moveaxis(np.array(found), 2, 0)
    enough_SL = high_SL - low_SL <= width
    ends_S = np.where(enough_SL.any(axis=1), enough_SL.argmax(axis=1), len(looks) - 1)
    truth_L, of = values_SL.mean(axis=0), (np.arange(200), ends_S)
    decided_S = enough_SL[of]
    away_S = np.abs(values_SL[of] - truth_L[ends_S])
    held_S = (low_SL[of] <= truth_L[ends_S]) & (truth_L[ends_S] <= high_SL[of])
    print(np.bincount(ends_S), decided_S.mean(), held_S.mean(), (away_S <= width / 2)[decided_S].mean())
    assert (away_S > width / 2)[decided_S].mean() <= 0.05
    assert held_S.mean() >= 0.93


def f_at(runs: int, cell: Any, sides: list[Outputs], study: int) -> tuple[float, float, float]:
    """Return F of the first runs, and its interval."""
    unlearned, reference = (side.take(range(runs)) for side in sides)
    drawn = subsets(unlearned, reference, Settings(mode=cell.mode, resamples=cell.resamples, seed=study))
    values, draws = calibration.f_alone(unlearned, reference, drawn, cell.mode)
    ((name, value),) = values.items()
    return value, *interval(name, value, standard_error(name, draws, drawn, cell.mode))


def test_stages_that_look_at_no_scores_say_that_they_make_all(tmp_path: Path, capsys):
    """Law: `plan` and `generate` mean all runs and name the command that stops early, which is also what a job runs."""
    file = tmp_path / "study.yaml"
    count = {"up_to": 2, "until": "decided"}
    populations = {"finetune": None, "a": {"method": "null", "count": count}, "b": {"method": "null", "count": count}}
    populations["retrained"] = {"method": "null", "count": count}
    file.write_text(yaml.safe_dump(merged(TINY, {"storage": str(tmp_path / "store"), "populations": populations})))
    line = f"all 2 runs of every population are meant here; `ray-unlearn all {file}` looks at the scores of 2 runs"
    for command in (["plan", "--quick"], ["generate", "--backend", "inline"]):
        assert main([command[0], str(file), *command[1:]]) == 0
        assert line in capsys.readouterr().out
    assert {len(list((tmp_path / "store/tiny" / name).glob("0*"))) for name in ("a", "b", "retrained")} == {2}


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
    file = write_study(tmp_path, **changes)
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
