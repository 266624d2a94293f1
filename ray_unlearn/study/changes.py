"""Why a population cannot be continued: the values that differ, the reason where there is one, and what can be done.

    refusal(held, population.identity, population.method.corrections)     # lines; `held` is a population.json
    METHOD = Method(..., corrections=(Correction("0.2", "the ascent step weighted batches, not images"),))

Does not cover: whether a population may be continued, which its digest decides (`ray_unlearn.store`).
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ray_unlearn.study.identity import ABSENT, diff

NEWER_BYTES: Mapping[int, str] = {
    2: "optimisers became one fused kernel, and convolutions skip the taps that meet only padding",
    3: "taps that only ever meet padding are put aside during training",
}
"""Reasons why the same study gives other bytes since a format, by `plan.IDENTITY_FORMAT`."""

_UNRECORDED = {
    ("method", "modules"): "the modules that a script imports from its folder",
    ("method", "distribution"): "the installed distribution that a script is of",
    ("model", "distribution"): "the installed distribution that a factory is of",
}
"""Values that version 0.1.0 did not record, by their place in an identity."""

_FILES = ".files_sha256: "
"""Part of the line of a difference in an editable installation's files, which no installed copy records."""
_UNSTATED = "0.1.0 or earlier"
_ANEW = "Give the population or the study another name to make it anew, or leave it out of the file; its runs stay."
_MOST_LINES = 24


class Correction(NamedTuple):
    """A change of a method that gives other results on purpose.

    The method's revision rises by one with each, unless only defaults or few nets are concerned.
    """

    version: str
    """Version of ray_unlearn that first has the correction."""
    reason: str
    """Clause that names the fault: `the ascent step weighted batches, not images`."""
    defaults: tuple[str, ...] = ()
    """Options whose defaults changed, where nothing else did. Their older values still give the older results, so the
    revision stays, and the reason is shown only for runs of version 0.1.0 that differ in one of these options."""
    frozen: bool = False
    """Whether it concerns nets with frozen parameters alone. No identity holds whether a factory's net has some, so the
    revision stays, and `generate` refuses runs of version 0.1.0 once it has built the net."""

    @property
    def revises(self) -> bool:
        """Whether the method's revision rises."""
        return not (self.defaults or self.frozen)


FROZEN = Correction("0.2", "it changed frozen parameters, which stay as they are now", frozen=True)
"""Of each method that did so in version 0.1.0."""


def refusal(
    held: Mapping[str, Any],
    identity: Mapping[str, Any],
    corrections: Mapping[str, Sequence[Correction]],
    script: str = "",
) -> list[str]:
    """Return lines that explain how runs were made differently: differences, then reasons, then advice.

    Args:
        held: the content of the population's population.json.
        identity: what the population would be made from now.
        corrections: those of the method, or of each method of a mix, by name.
        script: file of the population's script, named where its text differs.

    """
    before, now = dict(held.get("identity") or {}), json.loads(json.dumps(identity))
    changed = diff(before, now)
    unrecorded = {} if "made_by" in held else _unrecorded(before, now)
    older = "made_by" not in held
    reasons = [
        *_corrected(before, corrections),
        *_other_defaults(changed if older else (), corrections),
        *unrecorded.values(),
        *_other_bytes(before, now),
        *_other_files(changed),
    ]
    made_by = f"It was made by ray-unlearn {held.get('made_by', _UNSTATED)}."
    ours = ("format:", "revisions", *unrecorded)  # how a difference of versions begins, which no user can change back
    can_go_back = not changed or any(not line.startswith(ours) for line in changed)
    advice = "Rename the changed population or the study, leave the population out of the file, or change it back."
    if not can_go_back:
        advice = _ANEW
    named = [line.replace("method.script_sha256:", f"method.script_sha256 of {script}:") for line in changed]
    return [*(f"  {line}" for line in named or ["(its population.json was edited)"]), *reasons, made_by, advice]


def refusal_of_frozen(held: Mapping[str, Any], corrections: Mapping[str, Sequence[Correction]]) -> list[str]:
    """Return why runs on a net with frozen parameters cannot be continued; empty where they can.

    Args:
        held: the content of the population's population.json.
        corrections: those of the method, or of each method of a mix, by name.

    """
    reasons = [_sentence(method, one) for method, made in corrections.items() for one in made if one.frozen]
    if "made_by" in held or not reasons:
        return []
    return [*reasons, f"It was made by ray-unlearn {_UNSTATED}.", _ANEW]


def edits(before: str, now: str, script: str) -> list[str]:
    """Return how a script was edited since its runs were made, as the lines of a diff; empty where it was not.

    Args:
        before: the text that the runs were made with; empty where the store does not have it.
        now: today's text.
        script: name of the file.

    """
    if not before or before == now:
        return []
    found = list(
        difflib.unified_diff(before.splitlines(), now.splitlines(), "as it was run", "today", n=1, lineterm="")
    )
    lines = [f"    {line}" for line in found[2:]]
    more = [f"    ... and {len(lines) - _MOST_LINES} more lines"] if len(lines) > _MOST_LINES else []
    return [f"  {script} was edited:", *lines[:_MOST_LINES], *more]


def _corrected(before: Mapping[str, Any], corrections: Mapping[str, Sequence[Correction]]) -> list[str]:
    found = []
    for method, made in corrections.items():
        later = [one for one in made if one.revises][_revision(before, method) - 1 :]
        found += [_sentence(method, one) for one in later]
    return found


def _other_defaults(changed: Sequence[str], corrections: Mapping[str, Sequence[Correction]]) -> list[str]:
    """Return the corrections of defaults that explain a difference."""
    options = {line.partition(":")[0].rpartition("options.")[2] for line in changed if "options." in line}
    return [
        _sentence(method, one) for method, made in corrections.items() for one in made if options & set(one.defaults)
    ]


def _sentence(method: str, one: Correction) -> str:
    return f"The method {method} was corrected in {one.version}: {one.reason}."


def _revision(identity: Mapping[str, Any], method: str) -> int:
    """Return a method's revision in an identity; 1 is not recorded."""
    revisions = identity.get("revisions")
    found = revisions.get(method, 1) if isinstance(revisions, Mapping) else 1
    return found if isinstance(found, int) and found >= 1 else 1


def _unrecorded(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, str]:
    """Return why an identity of version 0.1.0 cannot be compared with one of today, by place."""
    found = {}
    for (block, key), what in _UNRECORDED.items():
        old, new = before.get(block), now.get(block)
        if isinstance(new, Mapping) and key in new and not (isinstance(old, Mapping) and key in old):
            place = f"{block}.{key}:"
            found[place] = f"{place} version 0.1.0 did not record {what}, so these runs may be of other code."
    return found


def _other_bytes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    old, new = before.get("format"), now.get("format")
    if not isinstance(old, int) or not isinstance(new, int):
        return []
    return [f"The same study gives other bytes since format {n}: {NEWER_BYTES[n]}." for n in range(old + 1, new + 1)]


def _other_files(changed: Sequence[str]) -> list[str]:
    """Return which installation of a distribution continues the runs, where its files differ or were not recorded."""
    before = {line.partition(_FILES)[2].partition(" -> ")[0] for line in changed if _FILES in line}
    if not before:
        return []
    if ABSENT in before:
        return [
            "These runs record no files of the distribution: it was an installed copy, or none were recorded yet. "
            "A copy of the same version continues them: pip install it without -e."
        ]
    return ["These runs are of an editable installation (pip install -e), which continues them with the same files."]
