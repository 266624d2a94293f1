"""Looking again and again at a growing study: what each look may spend, and that all looks together err rarely."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
from evaluated import evaluated_store, leave_fits_out

from ray_unlearn.evaluation.evaluate import evaluate
from ray_unlearn.evaluation.looks import LEAST_LEVEL, Look, Looks, spent, warning_of
from ray_unlearn.evaluation.permutation import permutation_tests
from ray_unlearn.report.text import plan_lines


def looks_at(*sizes: int, planned: int = 32) -> list[float]:
    """Return the level of each look at so many runs a side."""
    looks, levels = Looks(), []
    for size in sizes:
        share = min(1.0, size / planned)
        looks, look = looks.take("kookmin", runs=size, reference_runs=size, share=share, identity="a")
        levels.append(look.level)
    return levels


def test_the_spending_function_by_hand() -> None:
    """gsDesign's sfLDOF(0.05, t): 2 - 2 Phi(1.959964 / sqrt(t))."""
    assert spent(1.0) == pytest.approx(0.05)
    assert spent(0.5) == pytest.approx(math.erfc(1.959964 / math.sqrt(0.5) / math.sqrt(2)), rel=1e-6)
    assert [round(spent(share), 4) for share in (0.25, 0.5, 0.75)] == [0.0001, 0.0056, 0.0236]


def test_looks_spend_five_per_cent_together_and_the_same_runs_nothing() -> None:
    """Law: levels add up to 0.05; a second look at the same runs is the same look; one look at all runs has it all."""
    assert looks_at(32) == [pytest.approx(0.05)]
    assert sum(looks_at(8, 16, 24, 32)) == pytest.approx(0.05)
    first, again, last = looks_at(16, 16, 32)
    assert first == again == pytest.approx(0.00557, abs=1e-5)
    assert first + last == pytest.approx(0.05)


def test_nothing_is_left_after_all_planned_runs_nor_for_fewer_runs_than_before() -> None:
    """Law: more runs than planned, and a look back, claim nothing; the reader is told."""
    assert looks_at(32, 64)[1] == LEAST_LEVEL
    assert looks_at(24, 16)[1] == LEAST_LEVEL
    assert "claim nothing" in warning_of(Look(number=2, share=1.0, level=LEAST_LEVEL))
    assert "look 1, at 50% of the planned runs" in warning_of(Look(number=1, share=0.5, level=0.0056))
    assert warning_of(Look(number=1, share=1.0, level=0.05)) == ""


def test_looks_of_version_0_1_count(tmp_path: Path) -> None:
    """Law: both modes' files are read where there is no newer one, each look once, whichever recipe follows."""
    _, store = evaluated_store(tmp_path, {"retrained": 1})
    look = {"runs": 2, "reference_runs": 2, "level": 0.0056}
    for mode, looks in (("exact", [look]), ("parity", [look, look | {"runs": 3, "level": 0.018}])):
        kept = {"populations": {"kookmin": {"identity": "former", "looks": looks}}}
        store.storage.publish_file(store.layout.scores_part(mode, "looks.of.study"), json.dumps(kept).encode())
    before = Looks.read(store)
    same, again = before.take("kookmin", runs=3, reference_runs=2, share=0.75, identity="a", which="runs 0 to 2")
    assert (same, again.number, again.level) == (before, 2, 0.018)
    grown, last = before.take("kookmin", runs=4, reference_runs=4, share=1.0, identity="a", which="all")
    assert (last.number, last.level) == (3, pytest.approx(0.05 - 0.0056 - 0.018))
    grown.save(store)
    assert Looks.read(store) == grown


def test_another_recipe_begins_anew_and_going_back_does_not() -> None:
    """Law: another recipe, or reference, has looks of its own; the former ones stay, and so do other populations'."""
    looks, _ = Looks().take("kookmin", runs=32, reference_runs=32, share=1.0, identity="a")
    looks, _ = looks.take("finetune", runs=32, reference_runs=32, share=1.0, identity="a")
    looks, look = looks.take("kookmin", runs=32, reference_runs=64, share=1.0, identity="b")
    assert (look.number, look.level) == (1, pytest.approx(0.05))
    looks, look = looks.take("kookmin", runs=64, reference_runs=64, share=1.0, identity="a")
    assert (look.number, look.level) == (2, LEAST_LEVEL)
    assert len(looks.of("finetune", "a")) == 1


def test_as_many_other_runs_are_another_look() -> None:
    """Law: a look is the same only if it is at the same runs, not at as many."""
    looks, first = Looks().take("kookmin", runs=16, reference_runs=16, share=0.5, identity="a", which="0 to 15")
    _, again = looks.take("kookmin", runs=16, reference_runs=16, share=0.5, identity="a", which="0 to 15")
    _, other = looks.take("kookmin", runs=16, reference_runs=16, share=0.5, identity="a", which="1 to 16")
    assert again == first
    assert (other.number, other.level) == (2, LEAST_LEVEL)


def test_all_looks_together_err_in_five_per_cent() -> None:
    """Law: 240 studies without any difference, looked at 4 times: each time at 5 % errs in many, spending in few."""
    rng = np.random.default_rng(4)
    levels, sizes = looks_at(6, 12, 18, 24, planned=24), (6, 12, 18, 24)
    found = []
    for _ in range(240):
        unlearned, retrained = rng.normal(size=(2, 24, 6)) + 0.4 * rng.normal(size=(2, 24, 1))
        tests = (permutation_tests(unlearned[:n], retrained[:n], rng, 399)["energy"].p for n in sizes)
        found.append(list(tests))
    p = np.array(found)
    assert (p <= 0.05).any(axis=1).mean() > 0.08
    assert (p <= levels).any(axis=1).mean() <= 0.06


def test_a_second_evaluation_of_more_runs_is_a_second_look(tmp_path: Path) -> None:
    """Law: the looks lie with the scores; p is corrected for them; evaluating again changes nothing."""
    study, store = evaluated_store(tmp_path, {"retrained": 8, "finetune": 8})
    first = evaluate(study, store, first=4)
    again, last = evaluate(study, store, first=4), evaluate(study, store)
    looks = [scores.populations["finetune"].look for scores in (first, again, last)]
    assert looks[0] == looks[1] == Look(number=1, share=0.5, level=spent(0.5))
    assert looks[2] == Look(number=2, share=1.0, level=spent(1.0) - spent(0.5))
    one, whole = (scores.populations["finetune"].tests["energy"] for scores in (first, last))
    assert one.adjusted is not None
    assert one.adjusted >= min(1.0, 0.05 / spent(0.5) * one.p)
    assert whole.adjusted is not None
    assert whole.adjusted >= min(1.0, whole.p * 0.05 / (0.05 - spent(0.5))) - 1e-12
    assert any("look 2" in line for line in last.populations["finetune"].warnings)
    assert last.populations["retrained"].look is None
    assert evaluate(study, store).populations["finetune"].look == looks[2]


def test_looks_outlive_late_runs_the_other_mode_and_the_folder_of_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Law: no look is forgotten because run 0 came late, the mode changed, or the computed parts were removed."""
    leave_fits_out(monkeypatch)
    study, store = evaluated_store(tmp_path, {"retrained": 8, "finetune": 8})
    late = [tmp_path / study.name / name / "00000" for name in ("retrained", "finetune")]
    for folder in late:
        folder.rename(f"{folder}.kept")
    first = evaluate(study, store)
    for folder in late:
        Path(f"{folder}.kept").rename(folder)
    shutil.rmtree(tmp_path / study.name / "scores")
    for mode in ("parity", "exact"):
        look = evaluate(study, store, mode=mode).populations["finetune"].look
        assert look == Look(number=2, share=1.0, level=spent(1.0) - spent(7 / 8))
    assert first.populations["finetune"].look == Look(number=1, share=7 / 8, level=spent(7 / 8))


def test_the_plan_of_a_study_is_printed(tmp_path: Path) -> None:
    """Law: widths by N and a line for each pair of neighbours; without intervals, the reason."""
    study, store = evaluated_store(tmp_path, {"retrained": 8, "finetune": 8, "shifted": 8})
    scores = evaluate(study, store)
    lines = plan_lines(scores)
    assert lines[2].split()[-5:] == ["8", "16", "32", "64", "128"]
    assert any(line.startswith("finetune - shifted = ") for line in lines)
    assert plan_lines(scores.model_copy(update={"plan": None})) == [
        "no plan: it takes intervals, which 6 runs have, and populations of one N"
    ]
