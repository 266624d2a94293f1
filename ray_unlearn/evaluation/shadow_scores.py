"""Scores of populations whose models were trained on halves of the images, and of originals that shadows attack.

    fits = fits_of(store, shadows, digest)                        # by split; empty with too few shadows
    scored = score_shadows(described, store, "shadows", records, names, digest, make_rng)
    scored = score_originals(described, store, originals, shadows, digest, make_rng)

Does not cover: unlearned populations, whose attacks by shadows are measures like others (`measures.lira`).
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping
from contextlib import suppress

import numpy as np

from ray_unlearn.errors import StoreReadOnly
from ray_unlearn.evaluation.measures.measure import MakeRng
from ray_unlearn.evaluation.measures.memorisation import MEMORISED, Memorised, by_chance, memorisation
from ray_unlearn.evaluation.outputs import Outputs, read_outputs
from ray_unlearn.evaluation.scores import PopulationScores
from ray_unlearn.evaluation.shadow_attacks import LEAST_PAIRS as LEAST_UNLEARNED
from ray_unlearn.evaluation.shadow_attacks import Attacked, attacks_on, together, u_lira_of_pairs
from ray_unlearn.evaluation.shadow_fits import ShadowFit
from ray_unlearn.evaluation.shadow_values import Memorisation, MemorisedImage
from ray_unlearn.evaluation.shadows import LEAST_PAIRS, ShadowPhi, complete_pairs, pairs_of
from ray_unlearn.evaluation.slices import class_name
from ray_unlearn.store import Record, StudyStore
from ray_unlearn.store.membership import Members, is_shadow, members_of, split_sizes
from ray_unlearn.store.splits import ImageNames
from ray_unlearn.wording import plural

Records = Mapping[int, Record]
"""Records by run index."""

MOST_TARGETS = 8
"""Originals that are attacked, at most: those with the smallest indexes."""
_RUNS_AT_ONCE = 8
_QUANTILES = (0.5, 0.9, 0.99, 1.0)
_SHOWN = 10
_CHANCE = 0.05
"""Share of the images called memorised from which on those that are so by chance are worth a warning."""
_KNOWN: dict[tuple[str, ...], dict[str, ShadowFit]] = {}
"""Fits of the shadows that this process read last, by store, population, splits and checksums of their records."""


def fits_of(store: StudyStore, name: str, records: Records, digest: str) -> dict[str, ShadowFit]:
    """Return what all complete pairs of shadows make of every image, by split; nothing with fewer than 4 pairs.

    All populations of a study are attacked by the same shadows, so the last fits are kept: a few numbers per image.

    Raises:
        StoreError: a file is missing or damaged, or a half differs from its record.

    """
    if len(complete_pairs(records)) < LEAST_PAIRS:
        return {}
    key = (store.uri, name, digest, *(record.checksum for _, record in sorted(records.items())))
    if key not in _KNOWN:
        with ShadowPhi(store, name, records, split_sizes(store, digest)) as phi:
            _KNOWN.clear()
            _KNOWN[key] = phi.fits() if phi.pairs >= LEAST_PAIRS else {}
    return _KNOWN[key]


def in_parts(store: StudyStore, name: str, records: Records) -> Iterator[Outputs]:
    """Yield a population's outputs, eight runs at a time."""
    indexes = sorted(records)
    for start in range(0, len(indexes), _RUNS_AT_ONCE):
        yield read_outputs(store, name, {i: records[i] for i in indexes[start : start + _RUNS_AT_ONCE]})


def score_shadows(
    described: PopulationScores,
    store: StudyStore,
    name: str,
    records: Records,
    names: ImageNames,
    digest: str,
    make_rng: MakeRng,
) -> PopulationScores:
    """Add memorisation, and what attacks get from the last pair, fitted to all others; write the scores of all images.

    Raises:
        StoreError: as `fits_of`.

    """
    sizes, pairs = split_sizes(store, digest), complete_pairs(records)
    if len(pairs) < LEAST_PAIRS:
        few = f"{len(pairs)} complete pairs of shadows: nothing is attacked or memorised with fewer than {LEAST_PAIRS}"
        return described.model_copy(update={"warnings": (*described.warnings, few)})
    last = [records[index] for index in (2 * pairs[-1], 2 * pairs[-1] + 1)]
    others = {index: record for index, record in records.items() if record not in last}
    with ShadowPhi(store, name, others, sizes) as phi:
        used, fits = phi.pairs, phi.fits() if phi.pairs else {}
    if used < LEAST_PAIRS - 1:
        few = f"of each image {used} models at most are trained on it, or not: nothing is attacked with so few"
        return described.model_copy(update={"warnings": (*described.warnings, few)})
    found = [_attacked(store, one, members_of(one, name, sizes), fits, make_rng) for one in last]
    attacks, curves = together(found, 2 * used)
    scores = memorisation(pairs_of(store, name, records, sizes))
    if scores:
        with suppress(StoreReadOnly):
            store.storage.publish_file(store.layout.memorisation(name), _as_csv(scores, names))
    known = _memorised(scores, names)
    warnings = (*described.warnings, *(_chance(known) if known else ()))
    update = {"attacks": attacks, "curves": curves, "memorisation": known, "warnings": warnings}
    return described.model_copy(update=update)


def _chance(found: Memorisation) -> tuple[str, ...]:
    """Return a warning where many of the images called memorised would be so by chance."""
    chance = found.by_chance or 0.0
    if chance <= _CHANCE * max(1, found.memorised):
        return ()
    return (
        f"{plural(found.memorised, 'image')} with a memorisation of {MEMORISED} or more; of {found.models} shadows, "
        f"{chance:.0f} would have it by chance if none was memorised: more shadows tell them apart",
    )


def score_originals(
    described: PopulationScores,
    store: StudyStore,
    originals: Records,
    shadows: tuple[str, Records],
    digest: str,
    make_rng: MakeRng,
) -> PopulationScores:
    """Add what attacks by all shadows get from the originals; nothing where their training images are not known.

    Raises:
        StoreError: as `fits_of`.

    """
    sizes, fits = split_sizes(store, digest), fits_of(store, *shadows, digest)
    known = [(one, members) for one in originals.values() if (members := _members(one, sizes))][:MOST_TARGETS]
    if not fits or not known:
        return described
    found = [_attacked(store, one, members, fits, make_rng) for one, members in known]
    attacks, curves = together(found, 2 * len(complete_pairs(shadows[1])))
    return described.model_copy(update={"attacks": attacks, "curves": curves})


def score_unlearned_shadows(
    described: PopulationScores, store: StudyStore, records: Records, shadows: tuple[str, Records], digest: str
) -> PopulationScores:
    """Add U-LiRA on models that started from shadows, of the pairs whose shadows are made.

    Raises:
        StoreError: as `fits_of`.

    """
    name, theirs = shadows
    both = sorted(records.keys() & theirs.keys())
    sizes, pairs = split_sizes(store, digest), complete_pairs({index: records[index] for index in both})
    saved = any(one.split == "forget" for one in described.slices)
    if len(pairs) < LEAST_UNLEARNED or not saved:
        why = f"{len(pairs)} complete pairs of models and their shadows: U-LiRA needs {LEAST_UNLEARNED}"
        why = why if saved else "its runs saved no outputs of the forget set, which U-LiRA needs"
        return described.model_copy(update={"warnings": (*described.warnings, why)})
    sides = []
    for population, runs in ((described.population, records), (name, theirs)):
        made = {index: runs[index] for index in both}
        found = [one["forget"] for one in pairs_of(store, population, made, sizes, name)]
        sides.append((np.stack([one.inside_N for one in found]), np.stack([one.outside_N for one in found])))
    attacks, curves = u_lira_of_pairs(*sides)
    return described.model_copy(update={"attacks": attacks, "curves": curves})


def _members(record: Record, sizes: Mapping[str, int]) -> Members | None:
    """Return the images that an original was trained on; None where its record does not say: imported weights."""
    on = record.options.get("on")
    if is_shadow(record):
        return members_of(record, record.population, sizes)
    if on not in ("train", "retain"):
        return None
    return {name: np.full(size, on == "train" or name == "retain") for name, size in sizes.items()}


def _attacked(
    store: StudyStore, record: Record, members: Members, fits: Mapping[str, ShadowFit], make_rng: MakeRng
) -> dict[str, Attacked]:
    target = read_outputs(store, record.population, {record.index: record})
    return attacks_on(target, members, fits, make_rng)


def _memorised(scores: Mapping[str, Memorised], names: ImageNames) -> Memorisation | None:
    if not scores:
        return None
    score_N = np.concatenate([one.score_N for one in scores.values()])
    rows = [(split, place) for split, one in scores.items() for place in range(len(one.score_N))]
    gap_N = np.concatenate([one.gap_N for one in scores.values()])
    hardest = [rows[place] for place in np.lexsort((-gap_N, -score_N))[:_SHOWN]]
    return Memorisation(
        images=len(score_N),
        models=2 * next(iter(scores.values())).pairs,
        mean=float(score_N.mean()),
        quantiles=tuple(np.quantile(score_N, _QUANTILES).tolist()),
        memorised=int((score_N >= MEMORISED).sum()),
        by_chance=sum(by_chance(one) for one in scores.values()),
        hardest=tuple(_image(scores[split], split, place, names) for split, place in hardest),
    )


def _image(one: Memorised, split: str, place: int, names: ImageNames) -> MemorisedImage:
    return MemorisedImage(
        image_id=str(names.ids[split][one.positions_N[place]]),
        split=split,
        label=class_name(names, int(one.labels_N[place])),
        inside=float(one.inside_N[place]),
        outside=float(one.outside_N[place]),
    )


def _as_csv(scores: Mapping[str, Memorised], names: ImageNames) -> bytes:
    """Return one row per image, the most memorised first."""
    rows = [
        (names.ids[split][position], split, class_name(names, label), f"{inside:.6g}", f"{outside:.6g}", f"{score:.6g}")
        for split, one in scores.items()
        for position, label, inside, outside, score in zip(
            *(part.tolist() for part in (one.positions_N, one.labels_N, one.inside_N, one.outside_N, one.score_N)),
            strict=True,
        )
    ]
    score_N, gap_N = (np.concatenate([getattr(one, key) for one in scores.values()]) for key in ("score_N", "gap_N"))
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["image_id", "split", "label", "inside", "outside", "memorisation"])
    table.writerows(rows[place] for place in np.lexsort((-gap_N, -score_N)))
    return text.getvalue().encode()
