"""Findings of a deletion request -> one self-contained HTML page.

    text = deletion_page(study, found, context)

It needs no network, no script and no other file. Pictures of the forgotten images are in it only where they are given.

Does not cover: the sentences (`words`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import PurePath

from ray_unlearn.deletion import words
from ray_unlearn.deletion.findings import Findings, Image, Side
from ray_unlearn.deletion.request import RETRAINED, UNLEARNED
from ray_unlearn.study.plan import ORIGINAL
from ray_unlearn.study.schema import Study
from ray_unlearn.wording import percent, plural

_LABELS = {ORIGINAL: "before", UNLEARNED: "unlearned", RETRAINED: "retrained"}
_SPLITS = ("forget", "retain", "test")


@dataclass(frozen=True, kw_only=True)
class Context:
    """What the page states beside the findings."""

    files: Sequence[tuple[str, str]]
    """Name and sha256 of each file that is handed out."""
    command: str
    study_yaml: str
    warnings: Sequence[str]
    versions: Mapping[str, str]
    detail: str = ""
    """Address of the study's own report, relative to the page; empty without one."""
    thumbnails: Mapping[str, str] | None = None
    """Image id -> data URI."""


def deletion_page(study: Study, found: Findings, context: Context) -> str:
    """Return the page; every text of the user is escaped."""
    from ray_unlearn.report.page import asset, template  # imports matplotlib

    model = PurePath((study.populations[ORIGINAL].weights or ("the model",))[0]).name
    method = study.populations[UNLEARNED].method_name
    retrained = found.sides.get(RETRAINED)
    facts = [
        f"method {PurePath(method).name}",
        study.model.arch,
        plural(found.sides[UNLEARNED].runs, "unlearned model"),
        plural(retrained.runs if retrained else 0, "retrained model"),
    ]
    return template("page.html", room="deletion").render(
        style=asset("page.css"),
        title=f"Request to delete {plural(len(found.images), 'image')} from {model}",
        facts=facts,
        verdict=words.verdict(found),
        reasons=words.reasons(found),
        warnings=context.warnings,
        sides=[_side(found.sides.get(name), name, method) for name in _LABELS],
        images=[_image(one) for one in found.images],
        thumbnails=context.thumbnails,
        tested=words.tested(found),
        limits=words.limits(found),
        files=context.files,
        command=context.command,
        detail=context.detail,
        versions=", ".join(f"{name} {version}" for name, version in context.versions.items()),
        study_yaml=context.study_yaml,
    )


def _side(found: Side | None, name: str, method: str) -> dict[str, object]:
    note = {ORIGINAL: "the original", UNLEARNED: PurePath(method).name, RETRAINED: "never saw the forgotten"}[name]
    if found is None:
        return {"label": _LABELS[name], "note": "none made", "runs": 0, "shares": [None] * 4}
    values = [*(found.accuracy.get(split) for split in _SPLITS), found.confidence]
    return {"label": _LABELS[name], "note": note, "runs": found.runs, "shares": values}


def _image(one: Image) -> dict[str, object]:
    retrained = f", {percent(one.retrained)} % in retrained models" if one.retrained is not None else ""
    text = f"{one.image_id}: confidence {percent(one.before)} % before, {percent(one.unlearned)} % unlearned{retrained}"
    return asdict(one) | {"words": text, "state": words.image_words(one)}
