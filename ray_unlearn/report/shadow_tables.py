"""Scores -> the tables of shadow models: attacks on models whose training images are known, and memorisation.

    shadow_tables(scores)                        # none where the study has no shadows
    shadow_lines(scores)                         # the same in a few lines

Does not cover: attacks by shadows on unlearned models, which are measures (`score_tables`).
"""

from __future__ import annotations

from ray_unlearn.evaluation.measures.memorisation import MEMORISED
from ray_unlearn.evaluation.scores import PopulationScores, Scores
from ray_unlearn.evaluation.shadow_attacks import ATTACKS, U_LIRA
from ray_unlearn.evaluation.shadow_values import Memorisation, ShadowAttack
from ray_unlearn.report.ranking import in_order
from ray_unlearn.report.table import DASH, POPULATION, Cell, Column, Table, name, number
from ray_unlearn.wording import aligned, decimals, percent, plural

_LABELS = ATTACKS | U_LIRA
_SHOWN = {"original": "its training images", "shadow": "the last pair", "unlearned shadow": "forgotten images"}
"""Role -> what is attacked."""
_ON_A_LINE = ("lira_online", "lira_offline", "rmia_online", "rmia_offline")


def shadow_tables(scores: Scores) -> list[Table]:
    """Return the tables that the study has numbers for."""
    return [one for one in (_attacks_table(scores), _memorisation_table(scores)) if one]


def _attacks_table(scores: Scores) -> Table | None:
    rows = [
        (
            name(one.population, _SHOWN.get(one.role, "")),
            Cell(text=_LABELS[attack], value=_LABELS[attack], notes=(found.missing,) if found.missing else ()),
            *_attack_cells(found),
        )
        for one in in_order(scores)
        for attack, found in one.attacks.items()
    ]
    if not rows:
        return None
    return Table(
        name="shadow-attacks",
        caption="Membership attacks by shadow models, training images known",
        columns=(
            POPULATION,
            Column("attack", align="left"),
            Column("AUC", "0.5 is blind"),
            Column("TPR at 0.1 % FPR", "%"),
            Column("TPR at 1 % FPR", "%"),
            Column("trained on", "images", "of one model; of U-LiRA, models and images together"),
            Column("not", "images"),
            Column("shadows", meaning="shadow models that the attack is fitted to"),
        ),
        rows=tuple(rows),
        explained=(
            "How well shadow models recognise what a model was trained on: originals, the last pair of shadows by all "
            "others, and, of models that unlearned from shadows, whether an image was unlearned or never seen. A rate "
            "with too few negatives for it has no value."
        ),
    )


def _attack_cells(found: ShadowAttack) -> tuple[Cell, ...]:
    if found.auc is None:
        return (*[DASH] * 5, number(found.shadows, str(found.shadows)))
    rates = (found.tpr_01_percent, found.tpr_1_percent)
    right = f"{percent(found.accuracy)} % right" if found.accuracy is not None else ""
    return (
        number(
            found.auc,
            decimals(found.auc),
            right,
            f"mean of {plural(found.targets, 'model')}" * (found.accuracy is None and found.targets > 1),
        ),
        *(DASH if rate is None else number(rate, percent(rate)) for rate in rates),
        number(found.members, f"{found.members:,}"),
        number(found.non_members, f"{found.non_members:,}"),
        number(found.shadows, str(found.shadows)),
    )


def _memorisation_table(scores: Scores) -> Table | None:
    found = [(one, one.memorisation) for one in in_order(scores) if one.memorisation]
    if not found:
        return None
    return Table(
        name="memorisation",
        caption="Memorised images",
        columns=(
            POPULATION,
            Column("images"),
            Column("models"),
            Column("memorisation", "mean · median · 90 % · 99 % · largest"),
            Column("memorised", f"{MEMORISED} or more"),
            Column("most", "image, class, right with · without", align="left"),
        ),
        rows=tuple(_memorisation_row(one, memorised) for one, memorised in found),
        explained=(
            "Share of the models trained on an image that are right about it, minus that of the models not trained on "
            "it (Feldman and Zhang 2020). By chance: as many would reach it if none was memorised. scores/memorisation "
            f"has every image; forget: {{hardest: N, by: memorisation, of: {scores.study}}} makes them the forget set "
            "of another study."
        ),
    )


def _memorisation_row(found: PopulationScores, one: Memorisation) -> tuple[Cell, ...]:
    spread = " · ".join(decimals(value) for value in (one.mean, *one.quantiles))
    hardest = [
        f"{image.image_id} ({image.label}) {percent(image.inside)} · {percent(image.outside)}"
        for image in one.hardest[:5]
    ]
    return (
        name(found.population),
        number(one.images, f"{one.images:,}"),
        number(one.models, str(one.models)),
        number(one.mean, spread),
        number(one.memorised, f"{one.memorised:,}", f"{percent(one.memorised / one.images)} %", _by_chance(one)),
        Cell(text=hardest[0] if hardest else "", notes=tuple(hardest[1:])),
    )


def _by_chance(one: Memorisation) -> str:
    """Return how many images would be called memorised if none was; "" for scores of earlier versions."""
    return "" if one.by_chance is None else f"{one.by_chance:,.0f} by chance"


def shadow_lines(scores: Scores) -> list[str]:
    """Return a table of what attacks by shadows get, a line for each U-LiRA, and how many images are memorised."""
    rows = [["AUC of attacks on", *(_LABELS[key] for key in _ON_A_LINE), "shadows"]]
    rows += [_line(one) for one in in_order(scores) if any(key in one.attacks for key in _ON_A_LINE)]
    lines = aligned(rows) if len(rows) > 1 else []
    for one in in_order(scores):
        if "u_lira_unlearned" in one.attacks:
            unlearned, retrained = (one.attacks[key] for key in U_LIRA)
            lines.append(
                f"{one.population}: U-LiRA AUC {decimals(unlearned.auc)} against unlearned models that never saw the "
                f"image, {decimals(retrained.auc)} against shadows"
            )
        if memorised := one.memorisation:
            lines.append(
                f"{one.population}: {memorised.memorised:,} of {memorised.images:,} train images are memorised "
                f"({', '.join(filter(None, (f'{MEMORISED} or more', _by_chance(memorised))))})"
            )
    return lines


def _line(found: PopulationScores) -> list[str]:
    shadows = max(one.shadows for one in found.attacks.values())
    where = f"{found.population}, last pair" if found.role == "shadow" else found.population
    return [where, *(decimals(found.attacks[key].auc) for key in _ON_A_LINE), str(shadows)]
