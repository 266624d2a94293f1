"""What a deletion request's numbers show, and what they do not, in sentences without jargon.

    verdict(found), reasons(found)
    limits(found)                                # what the evidence does not prove

Does not cover: the numbers (`findings`), their place on the page (`page`).
"""

from __future__ import annotations

from ray_unlearn.deletion.findings import Findings, Image, Side
from ray_unlearn.deletion.request import RETRAINED, UNLEARNED
from ray_unlearn.report.verdict import ERROR
from ray_unlearn.study.plan import ORIGINAL
from ray_unlearn.wording import decimals, percent, plural, points

LOST_ACCURACY = 0.02
"""Loss of accuracy on held-out images, as a fraction, that the verdict names first."""
FEW = 5
"""Runs a side from which a test can find a difference at all: two of the C(10, 5) = 252 divisions are as extreme."""
MUCH = 0.05
"""Difference of confidence, as a fraction, from which the verdict says that the unlearned models are less sure."""
OTHER_RECIPE = 0.05
"""Difference of test accuracy between original and retrained models from which their recipes seem to differ."""


def verdict(found: Findings) -> str:
    """Return the conclusion in a sentence or two."""
    images = plural(len(found.images), "image")
    p = smallest_p(found)
    before, after = found.sides[ORIGINAL], found.sides[UNLEARNED]
    if p is None:
        compared = (
            "it was not compared with enough models that never saw them, so this is no evidence of forgetting yet"
        )
        first = f"The model was changed to forget {images}; {compared}."
    elif p <= ERROR:
        first = _apart(found, images)
    else:
        first = (
            f"No difference was found between the unlearned models and models that were trained without the {images}."
        )
    return f"{first} {_accuracy_words(before, after)}"


def _apart(found: Findings, images: str) -> str:
    """Return the conclusion where the tests find a difference; being less sure of an image gives it away, too."""
    apart = f"the unlearned models can be distinguished from models that were trained without the {images}"
    if found.sides[RETRAINED].confidence - found.sides[UNLEARNED].confidence <= MUCH:
        return f"Not forgotten as if never seen: {apart}."
    return (
        f"Changed beyond forgetting: {apart}, because they are less sure of them. That gives away, too, that the "
        "original was trained on them."
    )


def _accuracy_words(before: Side, after: Side) -> str:
    """Return what the model that is handed out lost; the mean over unlearned models is named beside it."""
    if "test" not in before.accuracy:
        return "There are no held-out images to measure its accuracy on."
    first, now = before.accuracy["test"], after.accuracy["test"] if after.first_test is None else after.first_test
    others = f" (mean of all {after.runs} unlearned models: {percent(after.accuracy['test'])} %)" * (after.runs > 1)
    ends = f"{percent(first)} % to {percent(now)} %{others}"
    if percent(first) == percent(now):
        return f"Accuracy on held-out images stayed at {percent(now)} %{others}."
    if first - now > LOST_ACCURACY:
        return f"It paid with accuracy: on held-out images it went from {ends}."
    return f"Accuracy on held-out images went from {ends}."


def smallest_p(found: Findings) -> float | None:
    """Return the smaller p of the tests, corrected; None with too few models to find a difference."""
    retrained = found.sides.get(RETRAINED)
    if found.scores is None or retrained is None or min(retrained.runs, found.sides[UNLEARNED].runs) < FEW:
        return None
    return min((one.corrected for one in found.scores.tests.values()), default=None)


def reasons(found: Findings) -> list[str]:
    """Return the numbers behind the verdict."""
    before, after = found.sides[ORIGINAL], found.sides[UNLEARNED]
    retrained = found.sides.get(RETRAINED)
    lines = [
        f"Confidence in the right class on the forgotten images: {percent(before.confidence)} % before, "
        f"{percent(after.first_confidence)} % after"
        + (f" (mean of all {after.runs} unlearned models: {percent(after.confidence)} %)" * (after.runs > 1))
        + (f", {percent(retrained.confidence)} % in models that never saw them." if retrained else ".")
    ]
    p = smallest_p(found)
    if retrained and p is not None and p <= ERROR and percent(after.confidence) == percent(retrained.confidence):
        lines.append(
            "The tests see what these percentages round away: they compare log odds of the confidence, which differ "
            "between 99.99 % and 99.9999 % as they do between 50 % and 99 %."
        )
    if before.memory is not None and after.memory is not None:
        theirs = (
            f", {percent(retrained.memory)} % in retrained models" if retrained and retrained.memory is not None else ""
        )
        lines.append(
            "A forgotten image gets more confidence than a held-out one of its class in "
            f"{percent(before.memory)} % of pairs before, {percent(after.memory)} % after{theirs}."
        )
    return lines


def tested(found: Findings) -> list[str]:
    """Return what was tested, and what these runs could have shown."""
    retrained, unlearned = found.sides.get(RETRAINED), found.sides[UNLEARNED]
    if retrained is None or min(retrained.runs, unlearned.runs) < FEW or found.scores is None:
        more = f"With {plural(FEW, 'retrained and unlearned model')} or more, a test compares the two groups"
        return [
            f"Nothing was tested, with {plural(unlearned.runs, 'unlearned model')} and "
            f"{retrained.runs if retrained else 0} retrained. {more}, and every image gets its own measure. A larger "
            "--budget makes them; the same command goes on where it stopped."
        ]
    n = min(retrained.runs, unlearned.runs)
    p = smallest_p(found)
    lines = [
        f"{plural(n, 'unlearned model')} against {n} retrained: two permutation tests of equal answers on the "
        f"forgotten images; the smaller p, corrected for both, is {decimals(p)} (at most {ERROR}: they differ)."
    ]
    if found.noticed is not None:
        noticed = points(found.noticed).lstrip("+")
        lines.append(
            f"These runs would have shown a difference of {'0.1' if noticed == '±0.0' else noticed} points in mean "
            "confidence four times out of five; a smaller one may well have been missed."
        )
    bounds = found.scores.epsilon_bounds
    if bounds is not None and bounds.ceiling > 0:
        lines.append(
            f"Single images: {bounds.shown} of {len(found.images)} are shown to leak (95 % confidence for all at "
            f"once); with {n} runs no ε above {decimals(bounds.ceiling)} could be shown at all."
        )
    else:
        lines.append(f"Single images: {n} runs are too few to show that one leaks, or that none does.")
    return lines


def limits(found: Findings) -> list[str]:
    """Return what the evidence does not prove."""
    lines = [
        "This is evidence from tests, not a proof, and no statement about legal duties of erasure: copies of the "
        "images, of the original model, of its outputs, logs and backups are elsewhere.",
        "The tests look at the answers on the forgotten images, not at the weights; another attack may see more.",
        "The method may forget other images worse or better; each request needs its own evidence.",
    ]
    retrained = found.sides.get(RETRAINED)
    if retrained is not None:
        lines.append(
            "Retrained models follow the recipe in the study file (training). Where the original was trained otherwise "
            "(recipe, augmentation, more data), they are no fair picture of a model that never saw the images."
        )
    if found.lost_retrained is not None and abs(found.lost_retrained) > OTHER_RECIPE:
        lines.append(
            f"Here they do not fit: on held-out images the original differs from retrained models by "
            f"{points(found.lost_retrained)} points of accuracy, so that recipe is probably not how it was trained."
        )
    return lines


def image_words(one: Image) -> str:
    """Return in a few words whether the model's confidence in an image is one that retrained models have.

    It is if it is within two standard deviations of their mean, or within five points.
    """
    if one.retrained is None or one.retrained_sd is None:
        return "not compared"
    apart = one.unlearned - one.retrained
    if abs(apart) <= max(0.05, 2 * one.retrained_sd):
        return "sure as if never seen"
    return "surer than if never seen" if apart > 0 else "less sure than if never seen"
