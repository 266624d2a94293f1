"""The best of many is not quoted with its own interval, wherever a reader meets it."""

from __future__ import annotations

import csv
import io

import pytest
from scored import make_scores

from ray_unlearn.evaluation.scores import Rank, Scores
from ray_unlearn.evaluation.scores_table import scores_table
from ray_unlearn.report.markdown import markdown_page
from ray_unlearn.report.notebook import ranking_html
from ray_unlearn.report.overview_pictures import forest, plane
from ray_unlearn.report.paper import paper_table
from ray_unlearn.report.ranking import quoted
from ray_unlearn.report.score_tables import ranking_lines_table, ranking_table
from ray_unlearn.report.text import growth_lines, score_lines
from ray_unlearn.report.verdict import verdict

OWN, AT_ONCE = (0.2011, 0.2221), (0.1711, 0.2521)
"""Both intervals of both ranked measures of the best."""
SHOWN = "[0.201, 0.222]", "[0.171, 0.252]"


def ranked_scores(several: bool = True) -> Scores:
    """Return scores of three populations, or of one, the best of which has both intervals."""
    methods = {"best": ("m", 0.21)} | ({"b": ("m", 0.1), "c": ("m", 0.05)} if several else {})
    scores = make_scores(methods)
    populations = dict(scores.populations)
    best = populations["best"]
    changes = {
        key: best.measures[key].model_copy(update={"value": 0.2111, "low": OWN[0], "high": OWN[1], "se": 0.005})
        for key in ("score", "forgetting_quality")
    }
    populations["best"] = best.model_copy(update={"measures": {**best.measures, **changes}, "growth": ()})
    place = {name: Rank(best=1, worst=len(methods), low=AT_ONCE[0], high=AT_ONCE[1]) for name in methods}
    return scores.model_copy(
        update={"populations": populations, "ranks": {"score": place, "forgetting_quality": place}}
    )


TEXTS = {
    "verdict": verdict,
    "markdown": lambda scores: markdown_page(scores, {}),
    "terminal": lambda scores: "\n".join(score_lines(scores)),
    "watching": lambda scores: "\n".join(growth_lines(scores)),
    "notebook": ranking_html,
    "forest": lambda scores: forest(scores).split("</title>")[0],
    "page's ranking": lambda scores: str(ranking_table(scores).rows),
}


@pytest.mark.parametrize("where", TEXTS)
def test_the_best_of_several_has_the_interval_of_all(where: str) -> None:
    """Law: of several, the interval that holds for all at once is shown, and its own nowhere; of one, its own."""
    text, alone = TEXTS[where](ranked_scores()), TEXTS[where](ranked_scores(several=False))
    assert SHOWN[1] in text
    assert SHOWN[0] not in text
    assert SHOWN[0] in alone
    assert SHOWN[1] not in alone


@pytest.mark.parametrize("form", ["csv", "latex", "markdown"])
def test_tables_for_papers_have_the_interval_of_all(form: str) -> None:
    """Law: both ends in CSV, the longer side elsewhere; the note says that it holds for all at once."""
    text = paper_table(ranked_scores(), form, ["population", "F", "score"])
    if form == "csv":
        row = next(one for one in csv.DictReader(io.StringIO(text)) if one["population"] == "best")
        assert [float(row[f"{key}_{end}"]) for key in ("score", "forgetting_quality") for end in ("low", "high")] == [
            *AT_ONCE,
            *AT_ONCE,
        ]
    else:
        assert text.count("0.041") == 2  # of the best: 0.2521 - 0.2111, and 0.2111 - 0.1711 is shorter
        assert "for all 3 at once" in text


def test_scores_parquet_has_both() -> None:
    """Law: one column each for the ends of its own interval and of that of all, and for its places."""
    row = scores_table(ranked_scores()).set_index(["population", "measure"]).loc[("best", "score")]
    assert (row["low"], row["high"], row["low_at_once"], row["high_at_once"]) == (*OWN, *AT_ONCE)
    assert (row["place_best"], row["place_worst"]) == (1, 3)
    others = scores_table(ranked_scores()).set_index(["population", "measure"]).loc[("best", "retain_ratio")]
    assert others["low_at_once"] != others["low_at_once"]  # no place, no number


def test_tables_say_which_interval_it_is() -> None:
    """Law: the sentence below a table names the number of populations; the plane of F takes them, too."""
    assert "Intervals of score and F hold for all 3 at once." in ranking_table(ranked_scores()).explained
    assert "[ ]: 95 % interval over runs for all 3 at once" in ranking_lines_table(ranked_scores()).explained
    assert "at once" not in ranking_lines_table(ranked_scores(several=False)).explained
    assert plane(ranked_scores()) == plane(quoted(ranked_scores())) != ""


def test_one_without_an_interval_is_among_those_that_an_interval_holds_for() -> None:
    """Law: where one run of all others is missing, the best is still the best of three, and is quoted as that."""
    scores = ranked_scores()
    alone = {measure: {"best": places["best"]} for measure, places in scores.ranks.items()}
    scores = scores.model_copy(update={"ranks": alone})
    assert f"F 0.211 {SHOWN[1]} (as the best of 3)" in verdict(scores)
    assert "Intervals of score and F hold for all 3 at once." in ranking_table(scores).explained
    assert SHOWN[0] not in "".join(text(scores) for text in TEXTS.values())
