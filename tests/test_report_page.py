"""The report as text: its structure, its words, its size; what a browser makes of it is in `test_report_browser`."""

from __future__ import annotations

import base64
import hashlib
import re
import subprocess
import sys
import zipfile
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pytest
from matplotlib.figure import Figure
from scored import LONG, METHODS, STUDY, make_scores

from ray_unlearn.evaluation.measures import MEASURES
from ray_unlearn.evaluation.scores import (
    EpsilonBounds,
    Equivalence,
    Estimate,
    ExampleScores,
    ImageQuantiles,
    OneRunAudit,
    Originals,
    PermutationTest,
    PopulationScores,
    Rank,
    Scores,
)
from ray_unlearn.report.accuracy_tables import change_table, part_tables
from ray_unlearn.report.curve_pictures import _RATES, _rates
from ray_unlearn.report.evidence_tables import evidence_table, images_table, part_quality_table
from ray_unlearn.report.image_pictures import _heights, _phi_edges, distributions, histogram
from ray_unlearn.report.markdown import markdown_page, markdown_table
from ray_unlearn.report.overview_pictures import _place_labels, forest, plane
from ray_unlearn.report.page import html_page
from ray_unlearn.report.ranking import ranked, warnings_of
from ray_unlearn.report.score_tables import cost_table, left_out, measure_tables, ranking_table
from ray_unlearn.report.table import Column, Table, name, number
from ray_unlearn.report.text import growth_lines, score_lines, table_lines
from ray_unlearn.report.verdict import test_line as told_apart
from ray_unlearn.report.verdict import verdict
from ray_unlearn.wording import MINUS, MISSING, TIMES, decimals, points, short

HOSTILE = '猫 <script>alert("x")</script> & | $\\frac{1}{2}$ *_#010101_*'
VOID = {"meta", "br", "wbr", "path", "use", "line", "rect", "circle"}


class Tags(HTMLParser):
    """Every element of a page: name, attributes, own text; and whether every end tag closes what was opened last."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None], list[str]]] = []
        self.open: list[int] = []
        self.wrong: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs), []))
        if tag not in VOID:
            self.open.append(len(self.elements) - 1)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs), []))

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.elements[self.open[-1]][0] != tag:
            self.wrong.append(tag)
        else:
            self.open.pop()

    def handle_data(self, data: str) -> None:
        for place in self.open:
            self.elements[place][2].append(data)

    def all(self, tag: str) -> list[tuple[dict[str, str | None], str]]:
        return [(attributes, "".join(text)) for name, attributes, text in self.elements if name == tag]


@pytest.fixture(scope="module")
def page() -> str:
    return html_page(make_scores(), STUDY)


def changed(scores: Scores, population: str, **changes: Any) -> Scores:
    """Return the scores with one population changed."""
    found = scores.populations[population].model_copy(update=changes)
    return scores.model_copy(update={"populations": {**scores.populations, population: found}})


def with_measures(scores: Scores, population: str, **changes: Estimate) -> Scores:
    """Return the scores with some measures of one population changed."""
    return changed(scores, population, measures={**scores.populations[population].measures, **changes})


def quality(value: float, half: float = 0.01, n: int = 64, **changes: Any) -> Estimate:
    """Return an F whose null is 0.19 in [0.18, 0.20] at N = 32, and which is the same at that N."""
    null = {"at_null_n": value, "null": 0.19, "null_low": 0.18, "null_high": 0.20, "null_n": 32}
    return Estimate(**{"value": value, "low": value - half, "high": value + half, "n": n, **null, **changes})


def plain(text: str) -> str:
    """Return text with ASCII's minus, dash for nothing, and cross."""
    return text.replace(MINUS, "-").replace(MISSING, "--").replace(TIMES, "x").strip()


def cells(grid: Table) -> dict[tuple[str, str], tuple[str, ...]]:
    """Return text and notes of every cell by the row's name and the column's label and note."""
    return {
        (row[grid.head].text, plain(f"{column.label} {column.unit}")): tuple(
            plain(text) for text in (cell.text, *cell.small)
        )
        for row in grid.rows
        for column, cell in zip(grid.columns, row, strict=True)
    }


def test_every_picture_states_what_it_shows(page: str) -> None:
    """Each svg is an image with a title, first inside, that holds numbers and their N."""
    pictures = re.findall(r"<svg ([^>]*)><title>([^<]*)</title>", page)
    assert len(pictures) == page.count("<svg") > 20
    for attributes, title in pictures:
        assert 'role="img"' in attributes
        assert re.search(r"\d", title), title
        assert re.search(r"N = \d", title), title


def test_the_first_picture_in_words() -> None:
    """Each population's F, interval and N, the same at the null's N, and the null with its own."""
    svg = forest(make_scores({"kookmin": ("kookmin", 0.112)}))
    assert (
        "<title>F by population, parity mode. kookmin: 0.112 [0.100, 0.124] at N = 64 (0.116 at N = 32). "
        "retrained against itself: 0.189 [0.183, 0.195] at N = 32.</title>" in svg
    )


def test_every_table_is_named_and_sortable(page: str) -> None:
    """Caption; headings with scope, state and button; every row has as many cells as headings, one of them its own."""
    tables = re.findall(r"<table.*?</table>", page, flags=re.DOTALL)
    assert len(tables) == 14
    for one in tables:
        found = Tags(one)
        assert all(text for _, text in found.all("caption"))
        heads = [head for head, _ in found.all("th") if head.get("scope") == "col"]
        assert len(found.all("button")) == len(heads)
        assert {head.get("aria-sort") for head in heads} <= {"none", "ascending"}
        rows = re.findall(r"<tr.*?</tr>", one, flags=re.DOTALL)[1:]
        assert rows
        for row in rows:
            assert len(re.findall("<t[dh]", row)) == len(heads)
            assert row.count('scope="row"') == 1


def test_long_names_may_be_broken(page: str) -> None:
    """Names of populations and methods break after an underscore; other text and the markup around them do not."""
    assert "<small>negative_<wbr>gradient_<wbr>plus</small></th>" in page
    dots = re.findall(r'<span class="who">(.*?)</span>', page)
    assert page.count("<wbr>") == sum(text.count("_") for text in [*dots, *(text for _, text in Tags(page).all("th"))])


def test_nothing_is_loaded(page: str) -> None:
    """No address of anything else, and a policy that would forbid it."""
    assert "://" not in page
    assert not re.search(r"\bsrc=|@import|<link|<iframe|<img", page)
    assert set(re.findall(r"url\((.)", page)) <= {"#"}
    assert set(re.findall(r'href="(.)', page)) == {"#"}
    assert "default-src 'none'" in page


def test_elements_are_nested_and_ids_unique(page: str) -> None:
    """Every end tag closes the last element opened; every id is there once; every reference finds its id."""
    found = Tags(page)
    assert found.wrong == []
    ids = re.findall(r' id="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'(?:href="|url\()#([^")]+)', page)) <= set(ids)


def test_users_text_is_text() -> None:
    """Names, classes, ids, options, warnings and reasons that look like markup come out as themselves."""
    scores = make_scores({HOSTILE: (HOSTILE, 0.1)}, class_names=(HOSTILE,), warnings=(HOSTILE,), study=HOSTILE)
    found = scores.populations[HOSTILE]
    example = found.examples[0].model_copy(update={"label": HOSTILE, "image_id": HOSTILE})
    reason = Estimate(value=None, n=64, missing=HOSTILE)
    scores = changed(scores, HOSTILE, options={HOSTILE: HOSTILE}, examples=(example,), warnings=(HOSTILE,))
    scores = with_measures(scores, HOSTILE, rmia_auc=reason)
    page = html_page(scores, {"name": HOSTILE, HOSTILE: [HOSTILE]})
    tags = Tags(page)
    assert tags.wrong == []
    assert len(tags.all("script")) == 1
    assert "<script>alert" not in page
    assert HOSTILE in tags.all("h1")[0][1]
    assert HOSTILE in tags.all("aside")[0][1]
    assert any(text.startswith(HOSTILE) for attributes, text in tags.all("th") if attributes.get("scope") == "row")
    assert any(text == short(HOSTILE, 20) for _, text in tags.all("text"))
    assert sum(HOSTILE in text for _, text in tags.all("pre")) == 2


def test_the_same_scores_give_the_same_bytes(page: str) -> None:
    """Made again from equal values, the page is identical; matplotlib's settings are as they were."""
    before = dict(mpl.rcParams)
    assert html_page(make_scores(), dict(STUDY)) == page
    assert dict(mpl.rcParams) == before


def test_the_page_is_small() -> None:
    """12 methods, N = 512, 10 classes: below 2 MB."""
    methods = {f"method-{place}": ("finetune", 0.03 + place / 100) for place in range(12)}
    size = len(html_page(make_scores(methods, runs=512), STUDY).encode())
    assert 300_000 < size < 1_500_000


def test_a_study_without_methods_has_a_page() -> None:
    """With trained populations alone there is a table of them, and a sentence that states what is missing."""
    page = html_page(make_scores({}, warnings=()), STUDY)
    assert "No population could be compared with retraining" in page
    assert "<aside" not in page
    assert 'id="forgetting"' not in page
    assert '<table id="changes">' in page


def test_names_the_colours_are_written_in_may_stand_in_a_picture() -> None:
    """A class named like a stand-in colour keeps its name; the colours themselves become the page's."""
    example = make_scores().populations["kookmin"].examples[0].model_copy(update={"label": "#050505 1.23456"})
    scores = changed(make_scores(), "kookmin", examples=(example,))
    svg = distributions(scores, scores.populations["kookmin"])
    assert ">#050505 1.23456</text>" in svg
    assert not re.search(r"(fill|stroke): #", svg)
    assert "var(--method)" in svg


def test_the_ranking_is_by_score_and_at_equal_n() -> None:
    """By value where all N are equal; by the score at the null's N where they differ; without a score, last."""
    scores = make_scores({"a": ("finetune", 0.10), "b": ("finetune", 0.12), "c": ("finetune", 0.15)})
    assert [one.population for one in ranked(scores)] == ["c", "b", "a"]
    few = Estimate(value=0.30, at_null_n=0.05, null=0.19, null_n=4, n=8)
    assert [one.population for one in ranked(with_measures(scores, "a", score=few))] == ["c", "b", "a"]
    none = Estimate(value=None, n=64, missing="no test images")
    assert [one.population for one in ranked(with_measures(scores, "c", score=none))] == ["b", "a", "c"]


def test_the_ranking_is_next_to_its_null() -> None:
    """Value with interval; value at the null's N with the null; retraining against itself as a row of its own."""
    scores = with_measures(make_scores(), "kookmin", forgetting_quality=quality(0.1, at_null_n=0.11, n=48))
    found = cells(ranking_table(scores))
    assert found["kookmin", "F 95 % interval"] == ("0.100", "[0.090, 0.110]", "N 48")
    assert found["kookmin", "F at N = 32"] == ("0.110", "null 0.190")
    assert found["kookmin", "N"] == ("64",)
    assert found["retrained", "F at N = 32"] == ("0.189", "0.183 to 0.195")
    assert found["retrained", "N"] == ("32",)


def test_where_nulls_have_different_n_each_cell_states_it() -> None:
    """The heading no longer names one N, so cells do."""
    found = cells(ranking_table(with_measures(make_scores(), "kookmin", forgetting_quality=quality(0.1, null_n=16))))
    assert found["kookmin", "F at the null's N"] == ("0.100", "N 16", "null 0.190")
    assert found["finetune", "F at the null's N"][1] == "N 32"


def test_every_measure_has_its_n() -> None:
    """The row's N or its own; the null its own; a missing value its reason."""
    own = Estimate(value=0.7, low=0.6, high=0.8, n=20, null=0.5, null_n=10)
    attacks, *_ = measure_tables(with_measures(make_scores(), "kookmin", rmia_auc=own))
    found = cells(attacks)
    assert found["kookmin", "RMIA AUC near the null is good"] == ("0.700", "[0.600, 0.800]", "N 20", "null 0.500, N 10")
    assert found["ssd", "U-LiRA AUC near the null is good"] == ("--", "no Gaussian fits runs that do not differ")
    assert found["ssd", "N"] == ("64",)


def test_what_no_one_has_is_reported_once_below() -> None:
    """No column of dashes, no reason in every row; what one population lacks states why in its own cell."""
    scores, why = make_scores(), "needs validation images, and the study has no validation set"
    none = Estimate(value=None, n=64, missing=why)
    klom = {key: none for key in MEASURES if key.startswith("klom") and key.endswith("_validation")}
    for method in METHODS:
        scores = with_measures(scores, method, **klom, score=none)
    grids = measure_tables(scores)
    assert [len(grid.columns) for grid in grids] == [2 + 6, 2 + 6, 2 + 6, 2 + 6, 2 + 5, 2 + 4]
    assert left_out(scores) == [
        "No value of KLOM (retrained || unlearned) on validation and KLOM (unlearned || retrained) on validation: "
        f"{why}."
    ]
    ranking = ranking_table(scores)
    assert cells(ranking)["kookmin", "score 95 % interval"] == ("--",)
    assert ranking.explained.endswith(f"No value of score: {why}.")
    for text in (html_page(scores, STUDY), markdown_page(scores, STUDY)):
        assert text.count(why) == 2
    assert left_out(make_scores()) == []


def test_every_attack_and_distance_is_in_one_table() -> None:
    """All measures but the four of the ranking, each once, at most six to a table."""
    labels = [column.label for grid in measure_tables(make_scores()) for column in grid.columns[2:]]
    assert sorted(labels) == sorted(MEASURES[key].label for key in [*MEASURES][4:])
    assert max(len(grid.columns) for grid in measure_tables(make_scores())) == 2 + 6


def test_dots_on_one_another_have_one_label() -> None:
    """Two names of one place are next to each other, three are counted; a dot elsewhere keeps its own."""
    scores = make_scores({"ngp": ("m", 0.0), "control": ("m", 0.0), "far": ("m", 0.2)})
    assert ">ngp, control<" in plane(scores)
    assert ">ngp, control<" in plane(make_scores({"ngp": ("m", 0.001), "control": ("m", 0.0), "far": ("m", 0.2)}))
    assert ">far<" in plane(scores)
    scores = make_scores(dict.fromkeys(("a", "b", "c"), ("m", 0.0)))
    assert ">a and 2 more<" in plane(scores)


def test_many_dots_are_numbered_and_the_key_names_each() -> None:
    """Law: from seven populations on, each dot has its place in the ranking, and every name is below, once."""
    names = [f"method_{letter}" for letter in "abcdefghijkl"]
    svg = plane(make_scores({name: ("m", 0.01 + 0.015 * place) for place, name in enumerate(names)}))
    texts = re.findall(r"<text [^>]*>([^<]*)</text>", svg)
    assert [text for text in texts if "method_" in text] == [
        f"{place} {name}" for place, name in enumerate(reversed(names), 1)
    ]
    assert set(map(str, range(1, 13))) <= set(texts)
    assert ">method_f<" in plane(make_scores({name: ("m", 0.02 * place) for place, name in enumerate(names[:6])}))


def test_no_label_is_written_over_the_null() -> None:
    """Law: neither the reference's name, which is at the end of the null's range, nor that of a dot below it."""
    axes = Figure(dpi=72).add_axes((0.1, 0.1, 0.8, 0.8))
    axes.set(xlim=(0, 0.4), ylim=(0.9, 1.1))
    _place_labels(axes, [(0.21, 1.0, "retrained (N 8)"), (0.15, 0.98, "7")], (0.1, 0.15, 0.21))
    (x, y), (left, _) = axes.transData.transform([(0.15, 1.0), (0.1, 1.0)])
    right = axes.transData.transform((0.21, 1.0))[0]
    for label in axes.texts:
        box = label.get_window_extent()
        assert box.x1 < left or box.x0 > right or box.y0 > y + 2 or box.y1 < y - 2, label.get_text()
    assert len(axes.texts) == 2
    assert x < right


def test_a_warning_about_all_populations_names_their_number() -> None:
    """Law: of four populations that share one, all are meant; of three, or where one has none, each is named."""
    for count, said in ((4, "all 4 populations: w"), (3, "a, b and c: w")):
        scores = make_scores(dict.fromkeys("abcd"[:count], ("m", 0.0)))
        shared = {
            name: one.model_copy(update={"warnings": ("w",) * (one.role == "unlearned")})
            for name, one in scores.populations.items()
        }
        assert said in warnings_of(scores.model_copy(update={"populations": shared}))
    shared["c"] = shared["c"].model_copy(update={"warnings": ()})
    assert "a and b: w" in warnings_of(scores.model_copy(update={"populations": shared}))


def test_accuracies_are_next_to_what_they_are_compared_with() -> None:
    """Retrained 90.0 %, original 99.0 %, unlearned 89.0 %: -10 points from the original, -1 from retrained."""
    grid = change_table(make_scores())
    assert grid is not None
    found = cells(grid)
    assert found["kookmin", "forget 300 images"] == ("89.0", "[88.8, 89.2]", "-10.0 · -1.0")
    assert found["original", "forget 300 images"] == ("99.0", "-- · +9.0")
    assert found["retrained", "forget 300 images"] == ("90.0", "[89.8, 90.2]", "-9.0 · --")
    assert found["original", "N"] == ("1",)


def test_classes_stand_in_their_own_order_and_groups_where_there_are_any() -> None:
    """One grid per split; populations as columns with their N; the shade goes down with the difference."""
    scores = make_scores()
    grids = part_tables(scores, "class")
    assert [grid.name for grid in grids] == [f"{s}-by-class" for s in ("retain", "forget", "validation", "test")]
    assert [row[0].text for row in grids[1].rows] == list(scores.class_names)
    assert [column.unit for column in grids[1].columns[2:4]] == ["N 64", "N 1"]
    assert [grid.name for grid in part_tables(scores, "group")] == ["test-by-group"]
    for row in grids[1].rows:
        for cell in row[3:]:
            assert cell.tint == pytest.approx(max(-1, min(1, (cell.value - row[2].value) / 0.1)))


def test_cost_keeps_the_challenges_limit() -> None:
    """kookmin takes 0.32 of retraining, above a fifth; ssd 0.014; the reference is not judged."""
    found = cells(cost_table(make_scores()))
    assert found["kookmin", "cost x retraining"] == ("0.32",)
    limit = "within 20 % the challenge's limit"
    assert [found[name, limit][0] for name in ("kookmin", "ssd", "retrained")] == ["no", "yes", "--"]


def judged(scores: Scores, population: str, p: float, **changes: Any) -> Scores:
    """Return the scores with both tests of a population, the smaller p corrected to this one, and its equivalence."""
    tests = {"energy": PermutationTest(statistic=1.0, p=p / 2, adjusted=p)}
    tests["log_variance"] = PermutationTest(statistic=1.0, p=1.0, adjusted=1.0)
    values = {"difference": -0.01, "low": -0.03, "margin": 0.038, "equivalent": False} | changes
    one = Equivalence.model_validate(values)
    return changed(scores, population, tests=tests, equivalence=one)


def placed(scores: Scores, measure: str, places: dict[str, tuple[int, int]]) -> Scores:
    """Return the scores with places by a measure, and intervals of all together that are 0.05 wide on each side."""
    found = {
        name: Rank(best=best, worst=worst, low=value - 0.05, high=value + 0.05)
        for name, (best, worst) in places.items()
        for value in [scores.populations[name].measures[measure].value]
    }
    return scores.model_copy(update={"ranks": {**scores.ranks, measure: found}})


def test_the_verdict_states_what_the_tests_found() -> None:
    """The closest population with its interval, its null, and whether it is distinguished, equivalent, or neither."""
    scores = with_measures(make_scores({"a": ("m", 0.1)}), "a", forgetting_quality=quality(0.11))
    start = "Closest to retraining: a, F 0.110 [0.100, 0.120] at N = 64. Retraining against itself reaches 0.190 "
    null = "(0.180 to 0.200 over halvings) at N = 32, where this method gets 0.110."
    assert verdict(scores) == start + null
    apart = verdict(judged(scores, "a", 0.002))
    assert apart.startswith("Closest to retraining, though distinguishable from it: a, F 0.110 ")
    assert apart.endswith("Its models differ from retrained ones: the energy distance distinguishes them (p = 0.002).")
    alike = verdict(judged(scores, "a", 0.4))
    assert alike.endswith(
        "These runs do not distinguish its models from retrained ones (p = 0.40), nor show that F is within 0.038 of "
        "the null, or above."
    )
    surely = verdict(judged(scores, "a", 0.4, equivalent=True))
    assert surely.endswith(", and F is surely within 0.038 of the null, or above.")


def test_the_verdict_admits_ties() -> None:
    """Where several may be the closest no one is; the best of several has the interval of all; so by score."""
    scores = make_scores({"a": ("m", 0.10), "b": ("m", 0.11), "c": ("m", 0.05)})
    for population, value in (("a", 0.10), ("b", 0.11), ("c", 0.05)):
        scores = with_measures(scores, population, forgetting_quality=quality(value))
    tie = placed(scores, "forgetting_quality", {"a": (1, 2), "b": (1, 2), "c": (3, 3)})
    assert verdict(tie).startswith(
        "Which of b and a is closest to retraining is not settled; the highest is b, F 0.110 [0.060, 0.160] "
        "(as the best of 3) at N = 64."
    )
    sure = placed(scores, "forgetting_quality", {"a": (2, 2), "b": (1, 1), "c": (3, 3)})
    assert verdict(sure).startswith("Closest to retraining: b, F 0.110 [0.060, 0.160] (as the best of 3) at N = 64.")
    led = with_measures(sure, "a", score=Estimate(value=0.2, low=0.19, high=0.21, n=64, null=0.19, null_n=32))
    assert verdict(placed(led, "score", {"a": (1, 1), "b": (2, 2), "c": (3, 3)})).endswith(
        "a leads with 0.200 [0.150, 0.250] (as the best of 3) at N = 64."
    )
    assert verdict(led).endswith("a has the most, 0.200 [0.190, 0.210] at N = 64, and that it leads is not settled.")
    assert "places that these runs allow, by score: a 1-3, b 1-3, c 1-3" in score_lines(led)
    unsettled = placed(led, "score", {"a": (1, 2), "b": (1, 2), "c": (3, 3)})
    assert verdict(unsettled).endswith(
        "a has the most, 0.200 [0.150, 0.250] (as the best of 3) at N = 64, and that it leads is not settled."
    )
    grid = ranking_table(unsettled)
    assert [plain(row[0].text) for row in grid.rows] == ["1-2", "1-2", "3", "--"]
    assert "Places such as 1-3 are a tie" in grid.explained
    assert "places that these runs allow, by score: a 1-2, b 1-2, c 3" in score_lines(unsettled)
    assert "a tie" not in ranking_table(make_scores({"a": ("m", 0.1)})).explained


def test_the_verdict_states_what_is_not_known() -> None:
    """No null and no value are reported."""
    alone = with_measures(make_scores({"a": ("m", 0.1)}), "a", forgetting_quality=Estimate(value=0.1, n=64))
    assert "no yardstick" in verdict(alone)
    unknown = with_measures(alone, "a", forgetting_quality=Estimate(value=None, n=0, missing="no outputs"))
    assert verdict(unknown).startswith("No population could be compared")


def test_tests_and_worst_images_have_their_tables() -> None:
    """p corrected and alone, the bound, shares of originals; quantiles, the null's and the bounds; F by class."""
    scores = judged(make_scores({"a": ("m", 0.1), "b": ("m", 0.2)}), "a", 0.02)
    assert evidence_table(make_scores()) is None
    assert images_table(make_scores()) is None
    assert part_quality_table(make_scores(), "class") is None
    shares = Originals(originals=4, runs_each=8, original_share=0.25, run_share=0.75, buys_more="originals")
    scores = changed(scores, "a", variance=shares, originals=4)
    found = cells(evidence_table(scores))
    assert found["a", "energy distance p, corrected"] == ("0.02", "alone 0.01")
    assert found["a", "originals share of variance"] == ("4", "25.0 % originals, 75.0 % runs", "next hour: originals")
    assert found["a", "F - null lower 95 % bound"] == ("-0.010", "above -0.030", "not above -0.038")
    assert ("b", "energy distance p, corrected") not in found
    worst = ImageQuantiles(
        number="epsilon", n=32, quantiles=(1.0, 2.0, 3.0, 4.0), null=(0.5, 1.0, 1.5, 2.0), beyond_null=0.1, worst="x-7"
    )
    bounds = EpsilonBounds(shown=2, largest=0.7, median=0.0, ceiling=2.1, worst="x-7")
    part = next(one for one in scores.populations["a"].slices if (one.split, one.by) == ("forget", "class"))
    parts = tuple(
        one.model_copy(update={"quality": 0.25}) if one.split == "forget" else one
        for one in scores.populations["a"].slices
    )
    scores = changed(scores, "a", worst_images=(worst,), epsilon_bounds=bounds, slices=parts)
    found = cells(images_table(scores))
    assert found["a", "ε median · worst tenth · worst"][:3] == (
        "1.000 · 2.000 · 4.000",
        "10.0 % beyond the null",
        "worst x-7",
    )
    assert found["a", "ε at least all images at once"] == (
        "0.700",
        "2 images, worst x-7",
        "at most 2.100 with so many runs",
    )
    stated = images_table(changed(scores, "a", options={"epsilon": 4.0, "delta": 1e-5, "lr": 0.1}))
    assert cells(stated)["a", "ε at least all images at once"][-1] == "stated: at most 4.000 at δ 1e-05"
    perturbed = images_table(changed(scores, "a", options={"epsilon": 4.0}))  # a perturbation, as of boundary_shrink
    assert cells(perturbed) == found
    audit = OneRunAudit(control="test", runs=32, images=40, median=0.1, shown=20, ceiling=1.9)
    audited = images_table(changed(scores, "a", one_run=audit))
    assert cells(audited)["a", "ε of one run at least, median"] == (
        "0.100",
        "20 of 32 runs above 0, 1 in 20 by chance",
        "at most 1.900 with so many images",
    )
    assert "against test images" in audited.explained
    none = changed(scores, "a", one_run=OneRunAudit(missing="not drawn at random"))
    assert images_table(none).columns == images_table(scores).columns
    assert cells(part_quality_table(scores, "class"))[part.key, "a N 64"] == ("0.250",)
    page = html_page(scores, STUDY)
    for text in ("Are they retrained models?", "The images forgotten worst", "F by class"):
        assert text in page
        assert text in markdown_page(scores, STUDY) or text == "F by class"
    line = "distinguished from retraining: a (permutation tests, p <= 0.05 corrected for 2 tests)"
    assert told_apart(scores) == line
    assert line in score_lines(scores)
    assert not any("permutation" in one for one in score_lines(make_scores()))


def too_few(scores: Scores, population: str, runs: int = 2) -> Scores:
    """Return the scores with a population of too few runs for an F, which all the same is nearest by accuracy."""
    none = Estimate(value=None, n=runs, missing="needs 3 runs a side")
    found = with_measures(scores, population, forgetting_quality=none, score=none)
    return changed(found, population, runs=runs, epsilon_counts=(), examples=(), growth=())


def test_a_population_without_a_score_has_no_place() -> None:
    """No rank, no headline, no histogram, no dot; N of the others still counts as equal."""
    scores = too_few(make_scores({"a": ("m", 0.10), "b": ("m", 0.11), "two": ("m", 0.5)}), "two")
    grid = ranking_table(scores)
    assert [plain(row[0].text) for row in grid.rows] == ["1-2", "1-2", "--", "--"]
    assert cells(grid)["two", "F 95 % interval"] == ("--", "needs 3 runs a side")
    assert verdict(scores).startswith("Which of b and a is closest to retraining is not settled; the highest is b, ")
    assert "Runs differ in number" not in verdict(scores)
    assert ["two" in svg for svg in (forest(scores), plane(scores))] == [False, False]
    assert histogram(scores, scores.populations["two"]) == ""
    page = html_page(scores, STUDY)
    assert len(re.findall("Epsilon of 300 forget images under", page)) == 2
    assert "N=2 two: no score: needs 3 runs a side" in growth_lines(scores)


def test_where_nothing_has_a_score_the_reason_is_reported() -> None:
    """In the headline; and why there is no null: how many runs it takes, and how many there are."""
    scores = too_few(make_scores({"two": ("m", 0.5)}), "two")
    assert verdict(scores) == "No population could be compared with retraining: F needs 3 runs a side."
    none = "no null, which is how close retraining comes to itself: "
    assert f"{none}no population has the 3 runs that a comparison with halves of retrained takes" in score_lines(scores)
    both = too_few(too_few(make_scores({"a": ("m", 0.1), "b": ("m", 0.2)}), "a"), "b")
    assert [line for line in score_lines(both) if "no score" in line] == ["a and b: no score: needs 3 runs a side"]
    few = changed(scores, "retrained", runs=4)
    assert f"{none}it takes 6 runs of retrained, two halves of 3, and there are 4" in score_lines(few)
    assert "No null: it takes 6 runs of retrained, two halves of 3, and there are 4." in ranking_table(few).explained
    assert "No null" not in ranking_table(make_scores()).explained


def test_unequal_n_without_a_null_have_no_order() -> None:
    """Four runs and three, and four retrained ones: F is there, but no N at which they compare."""
    scores = changed(make_scores({"a": ("m", 0.1), "b": ("m", 0.2)}), "retrained", runs=4)
    scores = with_measures(scores, "a", forgetting_quality=Estimate(value=0.3, n=4), score=Estimate(value=0.3, n=4))
    scores = with_measures(scores, "b", forgetting_quality=Estimate(value=0.2, n=3), score=Estimate(value=0.2, n=3))
    assert verdict(scores) == (
        "No population is called the closest to retraining: runs differ in number, and there is no null at whose "
        "N they can be compared (it takes 6 runs of retrained, two halves of 3, and there are 4)."
    )
    assert [plain(row[0].text) for row in ranking_table(scores).rows] == ["--", "--"]


def test_a_roc_is_read_at_no_more_false_positives() -> None:
    """Of the points (0, 0.2), (0.01, 0.5), (0.01, 0.6), (1, 1), rates below 0.01 reach 0.2, from there 0.6."""
    rates = _rates((0.0, 0.01, 0.01, 1.0), (0.2, 0.5, 0.6, 1.0))
    assert set(rates[_RATES < 0.00999]) == {0.2}
    assert set(rates[(_RATES > 0.01001) & (_RATES < 0.999)]) == {0.6}
    assert rates[-1] == 1


def test_terminal_lines_fit() -> None:
    """At most 100 columns, the longest name shortened in the middle; null, missing values and warnings are reported."""
    none = Estimate(value=None, n=64, missing="the test split has no outputs")
    lines = score_lines(with_measures(make_scores(), "ssd", score=none))
    assert max(map(len, lines)) <= 100
    table = {line.split()[0]: line for line in lines[2 : 2 + len(METHODS)]}
    assert "64  0.109 [0.097, 0.121]  0.112 [0.100, 0.124]" in table["kookmin"]
    assert any(name.startswith("nega") and name.endswith("twice") and "…" in name for name in table)
    assert lines[0].startswith("cifar-slice: parity mode")
    assert (
        "null F: retrained against itself, 0.189 (0.183 to 0.195 over halvings); compare F at 32 with it"
        in "\n".join(lines)
    )
    assert "ssd: no score: the test split has no outputs" in lines
    assert "warning: ssd: deterministic: its runs do not differ" in lines


def pipe_tables(text: str) -> list[list[str]]:
    """Return the lines of every pipe table."""
    blocks = [block.splitlines() for block in text.split("\n\n")]
    return [lines for lines in blocks if lines[0].startswith("|")]


def test_markdown_tables_have_as_many_cells_as_headings() -> None:
    """Also where names hold pipes; a second line of rules states which columns are numbers."""
    scores = make_scores({HOSTILE: (HOSTILE, 0.1), **METHODS})
    tables = pipe_tables(markdown_page(scores, STUDY))
    assert len(tables) == 14
    for head, rules, *rows in tables:
        counts = {len(re.findall(r"(?<!\\)\|", line)) for line in (head, rules, *rows)}
        assert len(counts) == 1
        assert set(rules) <= set("|-: ")
        assert rows


def test_markdown_cannot_be_broken_by_a_name() -> None:
    """Markup in names is escaped; underscores inside a word and intervals stay readable."""
    text = markdown_page(make_scores({HOSTILE: ("finetune", 0.1), LONG: ("finetune", 0.2)}), STUDY)
    assert "<script>" not in text.replace("\\<script\\>", "")
    assert "\\*\\_#010101\\_\\*" in text
    assert f"| {LONG} finetune | 64 |" in text
    assert "[0.088, 0.112]" in text


def test_a_markdown_table_by_hand() -> None:
    """Two rows of cost, to the character."""
    scores = make_scores({"kookmin": ("kookmin", 0.1)})
    only = {name: scores.populations[name] for name in ("retrained", "kookmin")}
    heading, table, *_ = markdown_table(cost_table(scores.model_copy(update={"populations": only})))
    assert heading == "## Cost of one run"
    assert plain(table).splitlines() == [
        "| population (method) | N | seconds (mean over runs) | cost (x retraining) "
        "| within 20 % (the challenge's limit) |",
        "| --- | ---: | ---: | ---: | ---: |",
        "| retrained train | 64 | 212 ± 4.000 sd | 1.0 | -- |",
        "| kookmin | 64 | 61.0 ± 0.500 sd | 0.29 | no |",
    ]


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.11368, "0.114"), (0, "0.000"), (0.00012, "0.00012"), (-0.5, "-0.500"), (12.34, "12.3"), (1234.5, "1,234")],
)
def test_numbers_have_as_many_digits_as_they_need(value: float, text: str) -> None:
    """Three decimals; fewer where large; two digits where tiny."""
    assert plain(decimals(value)) == text


def test_names_and_differences() -> None:
    """A name loses its middle; a difference has a sign, none where it rounds to nothing."""
    assert short("abcdefghij", 10) == "abcdefghij"
    assert short("abcdefghij", 5) == "ab…ij"
    assert [plain(points(one)) for one in (0.034, -0.034, 0.0001, -0.0001)] == ["+3.4", "-3.4", "±0.0", "±0.0"]


def test_reports_need_neither_torch_nor_ray_and_text_not_even_matplotlib(tmp_path: Path) -> None:
    """In a fresh interpreter."""
    code = """if True:
        import sys
        heavy = lambda: sorted({"torch", "ray", "matplotlib"} & set(sys.modules))
        import ray_unlearn.report.text, ray_unlearn.report.markdown
        print(heavy())
        import ray_unlearn.report.page
        print(heavy())
    """
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["[]", "['matplotlib']"]


def test_populations_of_other_roles_are_not_ranked() -> None:
    """The original and the reference have no measures, and no place."""
    roles = {one.role for one in ranked(make_scores())}
    assert roles == {"unlearned"}
    assert isinstance(ranked(make_scores())[0], PopulationScores)


def test_one_method_gone_astray_flattens_no_picture() -> None:
    """A run at phi = -100 is counted at the axis' end: the axis is that of the retrained models, 40 % wider a side."""
    example = ExampleScores(image_id="1", label="cat", epsilon=50, unlearned=(-100.0, 2.0), retrained=(0.0, 10.0))
    scores = changed(make_scores({"a": ("m", 0.1)}), "a", examples=(example,))
    edges = _phi_edges(scores)
    assert (edges[0], edges[-1]) == (-4, 14)
    heights = _heights(example.unlearned, edges)
    assert heights[0] == heights[int((2 + 4) / 18 * 48)] == heights.max() > 0


def test_a_tall_table_scrolls_and_many_warnings_fold() -> None:
    """17 rows scroll under their headings, 16 are shown; 6 warnings are folded, 5 are open."""
    for methods, frame in ((15, "frame"), (16, "frame tall")):  # and the row of the reference
        scores = make_scores({f"m{place}": ("m", 0.1) for place in range(methods)})
        bare = {"epsilon_counts": (), "examples": (), "growth": (), "curves": {}, "stages": (), "slices": ()}
        for one in scores.populations:
            scores = changed(scores, one, **bare)
        assert re.search(r'<div class="([^"]*)"[^>]*><table id="ranking">', html_page(scores, STUDY))[1] == frame
    pages = [html_page(make_scores({}, warnings=("said",) * lines), STUDY) for lines in (5, 6)]
    assert ['<aside aria-label="Warnings"><details open>' in page for page in pages] == [True, False]
    assert [page.count("<li>said</li>") for page in pages] == [5, 6]


def test_no_script_but_the_pages_own_may_run(page: str) -> None:
    """The policy allows one script by its hash and no other, and no element runs a script of its own."""
    (script,) = re.findall(r"<script>(.*?)</script>", page, flags=re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    (policy,) = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]*)"', page)
    assert policy == f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; img-src data:"
    assert not any(name.startswith("on") for _, attributes, _ in Tags(page).elements for name in attributes)


def test_a_column_of_dashes_is_aligned_as_its_numbers_would_be() -> None:
    """Where no population has a score, the column's heading and dashes are aligned like numbers all the same."""
    none = Estimate(value=None, n=64, missing="no test images")
    scores = with_measures(make_scores({"a": ("m", 0.1)}), "a", score=none)
    head, line = next(lines for lines in pipe_tables(markdown_page(scores, STUDY)))[:2]
    assert head.startswith("| # | population")
    assert line == "| ---: | --- |" + " ---: |" * 8
    rows = re.findall(r"<tr.*?</tr>", html_page(scores, STUDY), flags=re.DOTALL)[1]
    assert rows.count("<td") == rows.count('<td class="number')


def test_the_terminal_sets_the_same_table() -> None:
    """Value, interval and N of a cell in one line, by hand; the widest name loses its middle at 100 columns."""
    cell = number(0.5, "0.500", "not said here", interval="[0.400, 0.600]", n=7, null=("null 0.9",))
    columns = (Column("population", align="left"), Column("N"), Column("score"))
    lines = table_lines(Table(name="t", caption="T", columns=columns, rows=((name("a"), number(64, "64"), cell),)))
    assert lines == ["population   N                     score", "a           64  0.500 [0.400, 0.600] N=7"]
    wide = (name("x" * 120), number(64, "64"), cell)
    assert len(table_lines(Table(name="t", caption="T", columns=columns, rows=(wide,)))[1]) == 100


@pytest.mark.timeout(120)
def test_a_wheel_brings_the_page(tmp_path: Path) -> None:
    """A wheel holds template, style and script; the page made from it is the page made from the checkout."""
    pytest.importorskip("hatchling", reason="no hatchling, which builds the wheel: uv sync")
    root = Path(__file__).parents[1]
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=root, check=True, capture_output=True, timeout=100)
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        wheel.extractall(tmp_path / "installed")
    code = """if True:
        import sys
        sys.path[:0] = sys.argv[1:]
        from scored import make_scores
        import ray_unlearn.report.page as page
        assert page.__file__.startswith(sys.argv[1]), page.__file__
        print(page.html_page(make_scores({}), {"name": "from a wheel"}), end="")
    """
    arguments = [sys.executable, "-I", "-c", code, str(tmp_path / "installed"), str(root / "tests")]
    done = subprocess.run(arguments, cwd=tmp_path, capture_output=True, text=True, check=True, timeout=100)
    assert done.stdout == html_page(make_scores({}), {"name": "from a wheel"})


def test_a_warning_is_shown_once():
    """Law: what several populations are warned of is one line that names them."""
    scores = make_scores()
    said = "all runs start from one original"
    populations = {
        name: one.model_copy(update={"warnings": (said,)}) if name in ("kookmin", "ssd") else one
        for name, one in scores.populations.items()
    }
    lines = warnings_of(scores.model_copy(update={"populations": populations, "warnings": ("first",)}))
    assert lines[0] == "first"
    assert [line for line in lines if said in line] == ["kookmin and ssd: all runs start from one original"]
