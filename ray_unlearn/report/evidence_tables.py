"""Scores -> the tables of the evidence: tests, the worst images, bounds of epsilon, F by class and group.

    evidence_table(scores), images_table(scores)    # None if no population has them
    part_quality_table(scores, "class")          # classes x populations

Does not cover: the ranking, attacks and distances (`score_tables`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from ray_unlearn.evaluation.scores import (
    ForgetSets,
    ImageQuantiles,
    OneRunAudit,
    Originals,
    PermutationTest,
    PopulationScores,
    Scores,
)
from ray_unlearn.report.ranking import ranked
from ray_unlearn.report.table import DASH, POPULATION, Cell, Column, Table, name, number
from ray_unlearn.report.verdict import ERROR, is_spent, p_words
from ray_unlearn.wording import decimals, percent, plural

_TESTS = {"energy": "energy distance", "log_variance": "log-variance ratio"}
_NUMBERS = {"epsilon": "ε", "u_lira_auc": "U-LiRA AUC", "klom": "KLOM"}
_SHOWN = (0, 1, 3)
"""Of the quantiles: the median, the worst tenth, the worst image."""


def evidence_table(scores: Scores) -> Table | None:
    """Return p of both tests, the difference from the null, and the shares of originals and runs in the variance."""
    found = [one for one in ranked(scores) if one.tests]
    if not found:
        return None
    several = any(one.forget_sets for one in found)
    rows = tuple(
        (
            name(one.population),
            number(one.runs, str(one.runs)),
            *(_test_cell(one.tests.get(test), is_spent(one)) for test in _TESTS),
            _equivalence_cell(one),
            _originals_cell(one.variance, one.originals),
            *([_sets_cell(one.forget_sets)] if several else []),
        )
        for one in found
    )
    return Table(
        name="tests",
        caption="Are they retrained models?",
        columns=(
            POPULATION,
            Column("N"),
            *(
                Column(label, "p, corrected", "permutation test of equal distributions of phi")
                for label in _TESTS.values()
            ),
            Column("F - null", "lower 95 % bound", "at the null's N; equivalent: surely no more than a fifth below"),
            Column("originals", "share of variance", "of phi, between originals and between runs of one"),
            *([Column("forget sets", "share of variance", "of F, between sets and between runs")] if several else []),
        ),
        rows=rows,
        explained=(
            "p is the share of random divisions of all runs into two groups that differ as much, corrected for all "
            f"tests of this table (Holm): at most {ERROR}, and the models are no retrained ones. A larger p is no "
            "proof that they are; the lower bound of F - null is. With fewer than 4 originals the question is whether "
            "models made of these are retrained models; with more, one run of each is compared at a time, and the "
            "question is that of other originals, too."
        ),
    )


def _test_cell(found: PermutationTest | None, spent: bool) -> Cell:
    """Return a test's p; good only where the test could have found a difference."""
    if found is None:
        return DASH
    p, few = found.corrected, f"too few runs, {found.least_runs} a side can" if found.least_runs else ""
    why = "5 % spent by earlier looks" if spent else few
    return number(p, p_words(p), f"alone {found.p:.2g}", why, good=None if why else p > ERROR)


def _equivalence_cell(found: PopulationScores) -> Cell:
    one = found.equivalence
    if one is None:
        return DASH
    notes = (f"above {decimals(one.low)}", "equivalent" if one.equivalent else f"not above {decimals(-one.margin)}")
    return number(one.difference, decimals(one.difference), *notes)


def _originals_cell(found: Originals | None, originals: int) -> Cell:
    if found is None:
        return number(originals, str(originals)) if originals else DASH
    shares = f"{percent(found.original_share)} % originals, {percent(found.run_share)} % runs"
    return number(originals, str(originals), shares, f"next hour: {found.buys_more}")


def _sets_cell(found: ForgetSets | None) -> Cell:
    if found is None:
        return DASH
    share = found.set_share.get("forgetting_quality")
    shares = "" if share is None else f"{percent(share)} % sets, {percent(1 - share)} % runs"
    values = found.values.get("forgetting_quality", ())
    ends = f"F from {decimals(min(values))} to {decimals(max(values))}" if values else ""
    return number(found.sets, str(found.sets), *filter(None, (shares, ends)))


def images_table(scores: Scores) -> Table | None:
    """Return the median, the worst tenth and the worst image of each number, and bounds of epsilon."""
    found = [one for one in ranked(scores) if one.worst_images]
    if not found:
        return None
    audits = [one.one_run for one in found if one.one_run and not one.one_run.missing]
    return Table(
        name="worst-images",
        caption="The images forgotten worst",
        columns=(
            POPULATION,
            *(Column(label, "median · worst tenth · worst") for label in _NUMBERS.values()),
            Column("ε at least", "all images at once", "attacks chosen on other runs than they are judged on"),
            *([Column("ε of one run", "at least, median", "what a single model shows")] if audits else []),
        ),
        rows=tuple(
            (
                name(one.population),
                *(_quantile_cell(next((q for q in one.worst_images if q.number == key), None)) for key in _NUMBERS),
                _bounds_cell(one),
                *([_audit_cell(one.one_run)] if audits else []),
            )
            for one in found
        ),
        explained=(
            "Each image has its own number over runs; below it the share of images beyond the null's 95 % quantile "
            "(5 % where nothing differs). ε at least: what an attacker surely gets from the worst image, with 95 % "
            "confidence for all images together, and how many images are shown to leak at all; of models of "
            "these originals. Stated: the upper bound of the method, which holds against the reference that "
            "`ray-unlearn methods` names."
            + (
                " ε of one run: what each model alone shows of which images it was made to forget, against "
                f"{audits[0].control} images, with 95 % confidence."
                if audits
                else ""
            )
        ),
    )


def _audit_cell(found: OneRunAudit | None) -> Cell:
    if found is None or found.missing:
        return DASH
    shown = f"{found.shown} of {found.runs} runs above 0, 1 in 20 by chance"
    return number(found.median, decimals(found.median), shown, f"at most {decimals(found.ceiling)} with so many images")


def _quantile_cell(found: ImageQuantiles | None) -> Cell:
    if found is None:
        return DASH
    values = " · ".join(decimals(found.quantiles[place]) for place in _SHOWN)
    beyond = "" if found.beyond_null is None else f"{percent(found.beyond_null)} % beyond the null"
    shown = [decimals(found.null[place]) for place in _SHOWN] if found.null else []
    null = (f"null {' · '.join(shown)}",) if shown else ()
    return number(found.quantiles[1], values, beyond, f"worst {found.worst}", null=null)


def _bounds_cell(found: PopulationScores) -> Cell:
    one = found.epsilon_bounds
    if one is None:
        return DASH
    shown = plural(one.shown, "image") + f", worst {one.worst}" * bool(one.worst)
    ceiling = f"at most {decimals(one.ceiling)} with so many runs"
    return number(one.largest, decimals(one.largest), shown, ceiling, *_stated(found.options))


def _stated(options: Mapping[str, object]) -> tuple[str, ...]:
    """Return what a method with the options `epsilon` and `delta` states; empty for any other method."""
    epsilon, delta = options.get("epsilon"), options.get("delta")
    if not isinstance(epsilon, float) or not isinstance(delta, float):
        return ()
    return (f"stated: at most {decimals(epsilon)} at δ {delta:g}",)


def part_quality_table(scores: Scores, by: Literal["class", "group"]) -> Table | None:
    """Return F over the forget images of each class or group; None with fewer than two of them."""
    found = [one for one in ranked(scores) if any(part.quality is not None for part in one.slices)]
    parts = {part.key: part.images for one in found for part in one.slices if (part.split, part.by) == ("forget", by)}
    if len(parts) < 2:
        return None
    quality = {
        (one.population, part.key): part.quality
        for one in found
        for part in one.slices
        if (part.split, part.by) == ("forget", by)
    }
    return Table(
        name=f"quality-by-{by}",
        caption=f"F by {by}",
        columns=(
            Column(by, align="left"),
            Column("images"),
            *(Column(one.population, f"N {one.runs}") for one in found),
        ),
        rows=tuple(
            (
                name(key),
                number(images, str(images)),
                *(_quality_cell(quality.get((one.population, key))) for one in found),
            )
            for key, images in parts.items()
        ),
        explained="F of few images is a mean of few numbers: look at large differences alone.",
    )


def _quality_cell(value: float | None) -> Cell:
    return DASH if value is None else number(value, decimals(value))
