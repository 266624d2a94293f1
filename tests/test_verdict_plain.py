"""The first sentence of the page: what it concludes, and who is never called the closest."""

from __future__ import annotations

from typing import Any

import pytest
from scored import LONG, STUDY, make_scores, settled

from ray_unlearn.evaluation.looks import LEAST_LEVEL, Look
from ray_unlearn.evaluation.scores import Estimate, PermutationTest, PopulationScores, Rank, Scores
from ray_unlearn.report.evidence_tables import evidence_table
from ray_unlearn.report.markdown import markdown_page
from ray_unlearn.report.page import html_page
from ray_unlearn.report.ranking import closest, lost_accuracy
from ray_unlearn.report.score_tables import measure_tables, ranking_table
from ray_unlearn.report.verdict import plain, verdict
from ray_unlearn.report.verdict import test_line as line_of_tests


def changed(scores: Scores, name: str, measures: dict[str, Estimate] | None = None, **changes: Any) -> Scores:
    one: PopulationScores = scores.populations[name]
    new = one.model_copy(update={"measures": {**one.measures, **(measures or {})}, **changes})
    return scores.model_copy(update={"populations": {**scores.populations, name: new}})


def ratio(value: float) -> Estimate:
    """A ratio at N = 64, where halves of the reference have 0.99 to 1.01."""
    return Estimate(value=value, n=64, at_null_n=value, null=1.0, null_low=0.99, null_high=1.01, null_n=32)


def answer(p: float) -> dict[str, PermutationTest]:
    return {"energy": PermutationTest(statistic=1.0, p=p, adjusted=p)}


def test_the_first_sentence_needs_no_other_word():
    """Law: the method, its place on a scale that ends at retraining itself, the test's answer, the accuracy."""
    scores = changed(settled(make_scores()), LONG, {"test_ratio": ratio(0.995)}, tests=answer(0.01))
    assert plain(scores) == (
        f"{LONG} comes closest to retraining: 113 on a scale where retraining itself gets 100. Its models can still be "
        "distinguished from models that never saw the forgotten images. Its accuracy on new images is 99.5 % of theirs."
    )
    alike = changed(scores, LONG, tests=answer(0.4))
    assert "In these runs its models cannot be distinguished" in plain(alike)
    assert "<strong>" + plain(scores).split(":")[0] in html_page(scores, STUDY)
    assert plain(scores).split(":")[0] in markdown_page(scores, STUDY).replace("\\_", "_")


def test_runs_that_are_too_few_for_the_tests_are_no_finding():
    """Law: where no outcome could have been distinguished, that is the answer, not that nothing was found."""
    few = {"energy": PermutationTest(statistic=1.0, p=0.03, adjusted=0.12, least=0.029, least_runs=5)}
    scores = changed(make_scores(), LONG, {"test_ratio": ratio(0.995)}, tests=few)
    assert "runs are too few to tell whether its models differ" in plain(scores)
    assert "5 a side could." in plain(scores)
    assert "however they differ; 5 a side can." in verdict(scores)
    assert f"too few runs to distinguish: {LONG} (5 a side can)" in line_of_tests(scores)
    assert first_test(scores) == ("0.12", ("alone 0.03", "too few runs, 5 a side can"), None)
    assert first_test(changed(scores, LONG, tests=answer(0.4))) == ("0.40", ("alone 0.4",), True)


def first_test(scores: Scores) -> tuple[str, tuple[str, ...], bool | None]:
    """The cell of the energy distance in the only row of the tests: text, notes, and whether it is called good."""
    table = evidence_table(scores)
    assert table is not None
    (row,) = table.rows
    return row[2].text, row[2].notes, row[2].good


def test_runs_that_come_after_the_last_planned_look_are_no_finding():
    """Law: after a look at all planned runs no number of runs can find a difference, and none is asked for."""
    late = {"energy": PermutationTest(statistic=1.0, p=0.0001, adjusted=1.0, least=0.0001, least_runs=13)}
    look = Look(number=2, share=1.0, level=LEAST_LEVEL)
    scores = changed(make_scores(), LONG, {"test_ratio": ratio(0.995)}, tests=late, look=look)
    for text in (plain(scores), verdict(scores), line_of_tests(scores)):
        assert "13 a side" not in text
    assert "was tested before, with other runs, and no second test counts" in plain(scores)
    assert "Earlier looks have spent the 5 % of all tests, so those of these runs claim nothing." in verdict(scores)
    assert line_of_tests(scores).startswith(f"5 % spent by earlier looks: {LONG} (permutation tests")
    assert first_test(scores) == ("1.00", ("alone 0.0001", "5 % spent by earlier looks"), None)


def test_a_method_that_lost_accuracy_is_not_the_closest():
    """Law: below all that halves of the reference have, F does not count; the next is named, and the loser with why."""
    scores = changed(settled(make_scores()), LONG, {"test_ratio": ratio(0.93)})
    assert lost_accuracy(scores.populations[LONG]) == ["test_ratio"]
    best = closest(scores)
    assert best is not None
    assert best.population == "kookmin"
    assert plain(scores).startswith("kookmin comes closest to retraining: 62 on a scale")
    assert verdict(scores).startswith("Closest to retraining: kookmin")
    assert f"A higher F does not count here: {LONG} has 0.930 of the test accuracy, retraining 0.990 or more." in (
        verdict(scores)
    )
    (row,) = [row for row in ranking_table(scores).rows if row[1].text == LONG]
    assert [cell.good for cell in row[7:9]] == [None, False]
    kept = changed(settled(make_scores()), LONG, {"test_ratio": ratio(0.975)})  # within 0.02 of the least, 0.99
    assert plain(kept).startswith(LONG)


def test_where_every_method_lost_accuracy_none_is_named():
    """Law: no headline for the least bad."""
    scores = make_scores({"kookmin": ("kookmin", 0.1), "finetune": ("finetune", 0.05)})
    for name in ("kookmin", "finetune"):
        scores = changed(scores, name, {"retain_ratio": ratio(0.9)})
    assert plain(scores).startswith("Every method that could be compared lost accuracy")
    assert verdict(scores).startswith("No population is called the closest to retraining: ")
    assert "kookmin has 0.900 of the retain accuracy" in verdict(scores)


def test_ties_are_not_settled():
    """Law: where runs allow two to be first, both are named; one that lost accuracy is not among them."""
    ranks = {name: Rank(best=1, worst=3, low=0.1, high=0.3) for name in ("kookmin", LONG, "finetune")}
    ranks["ssd"] = Rank(best=4, worst=4, low=0.0, high=0.1)
    scores = make_scores().model_copy(update={"ranks": {"forgetting_quality": ranks}})
    assert plain(scores).startswith(f"Which of {LONG}, kookmin and finetune comes closest to retraining is not settled")
    lost = changed(scores, "kookmin", {"test_ratio": ratio(0.9)})
    assert plain(lost).startswith(f"Which of {LONG} and finetune comes closest")
    without = make_scores().model_copy(update={"ranks": {}})  # too few runs for an interval
    assert plain(without).startswith(f"Which of {LONG}, kookmin, finetune and ssd comes closest")


def test_nothing_to_compare():
    """Law: without an F the sentence claims nothing."""
    none = Estimate(value=None, n=2, missing="too few runs")
    scores = changed(make_scores({"kookmin": ("kookmin", 0.1)}), "kookmin", {"forgetting_quality": none})
    assert plain(scores) == "These runs cannot say which method comes closest to retraining."


@pytest.mark.parametrize("place", [2, 3])
def test_every_number_of_a_plot_is_on_hovering_and_within_its_scale(place: int):
    """Law: dot, interval, value at the null's N and the null's range are in the words; the scale holds all of them."""
    for row in measure_tables(make_scores())[0].rows:
        bar = row[place].bar
        if bar is None:
            continue
        assert row[0].text in bar.words
        assert row[place].text in bar.words
        assert row[place].interval in bar.words
        assert "at N = 32" in bar.words
        ends = [bar.value, bar.low, bar.high, bar.null_low, bar.null_high, bar.at_null]
        assert all(bar.bottom <= end <= bar.top for end in ends if end is not None)
