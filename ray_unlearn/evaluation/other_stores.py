"""Populations of other stores that a study is compared with: `evaluation.populations`.

    others = populations_of(study)               # {"oracle": Population(...)}
    check_images(store, others["oracle"], reference)

Each is named by its folder, `STORAGE/STUDY/POPULATION`, on a disk or an object store. It is read where it is; nothing
is copied, and nothing is written there.

Does not cover: shadows, which are scored in their own study.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from ray_unlearn.errors import StoreError
from ray_unlearn.evaluation.cache import Population
from ray_unlearn.store import Record, StudyStore, open_storage
from ray_unlearn.store.forget_sets import splits_held, wrong_set
from ray_unlearn.store.membership import is_shadow
from ray_unlearn.store.records import IMPORTED
from ray_unlearn.store.splits import read_image_names
from ray_unlearn.store.starts import check_starts, start_population
from ray_unlearn.study.identity import diff
from ray_unlearn.study.plan import ORIGINAL
from ray_unlearn.study.schema import Study
from ray_unlearn.study.uris import label


def populations_of(study: Study) -> dict[str, Population]:
    """Return the populations of other stores, by the names that the study gives them.

    Raises:
        StoreError: a folder is no population with finished runs, or one of shadows.

    """
    return {name: _population(name, uri) for name, uri in study.others.items()}


def _population(name: str, uri: str) -> Population:
    where = f"evaluation.populations.{name}: {label(uri)}"
    parts = uri.rstrip("/").rsplit("/", 2)
    if len(parts) < 3:
        raise StoreError(f"{where}: expected the folder of a population, STORAGE/STUDY/POPULATION")
    store, source = StudyStore(open_storage(parts[0]), parts[1]), parts[2]
    records = store.made(source)
    if not records:
        raise StoreError(
            f"{where}: holds no finished run; expected the folder of a population, STORAGE/STUDY/POPULATION"
        )
    first = next(iter(records.values()))
    if is_shadow(first) or start_population(store, source) != ORIGINAL:
        raise StoreError(f"{where}: is of shadows, or of runs that started from some; score it in its own study")
    check_starts(store, source, records)
    return described(name, first.method, records, store, source)


def described(name: str, method: str, records: Mapping[int, Record], store: StudyStore, source: str = "") -> Population:
    """Return a population with what its identity says about its images.

    Args:
        name: the study's name for it.
        method: its method.
        records: its runs, by index.
        store: the store that holds it.
        source: its name there, where the store is another than the study's.

    Raises:
        StoreError: its identity does not name its images, or a run is about another forget set than its index says.

    """
    where, identity = source or name, (store.held(source or name) or {}).get("identity") or {}
    images = {key: identity.get(key) for key in ("data", "outputs")}
    splits = splits_held({"identity": identity})
    if not splits:
        raise StoreError(f"{store.uri}/{where}/population.json: does not name the images of its runs; restore it")
    wrong = [f"{where}/{index:05d} {why}" for index, one in records.items() if (why := wrong_set(one, len(splits)))]
    if wrong:
        raise StoreError(f"{store.uri}: {wrong[0]}; run `ray-unlearn verify STUDY --repair`")
    return Population(
        name=name,
        method=PurePath(method).name,
        records=records,
        images=images,
        splits=splits[0],
        further=splits[1:] if where != ORIGINAL else (),
        store=store if source else None,
        source=source or name,
    )


def check_images(store: StudyStore, population: Population, reference: Population) -> None:
    """Check that a population has outputs of the reference's images.

    Of populations of one store everything is compared, of two stores the ids of the images that they saved outputs of,
    and what both identities state: pixels, classes; normalisation is a part of the recipe, and may differ.
    `outputs.check_same_images` then compares the positions and classes that the outputs themselves hold.

    Raises:
        StoreError: a value differs.

    """
    theirs, ours = reference.images, population.images
    if population.store or reference.store:
        theirs, ours = _shared(theirs, ours), _shared(ours, theirs)
        if theirs == ours and (other := _other_id(store, population, reference)):
            raise StoreError(f"{store.uri}: {population.name} and {reference.name} do not compare: {other}")
    if (population.store or reference.store) and population.name != ORIGINAL and population.sets != reference.sets:
        sizes = f"{population.sets} and {reference.sets}"
        raise StoreError(f"{store.uri}: {population.name} and {reference.name} do not compare: {sizes} forget sets")
    if theirs != ours:
        lines = "; ".join(diff(theirs, ours)[:3])
        raise StoreError(f"{store.uri}: {population.name} and {reference.name} do not compare: {lines}")


def _other_id(store: StudyStore, population: Population, reference: Population) -> str:
    """Return the first difference between the ids of two populations' images, in the splits that they saved."""
    if population.splits == reference.splits:
        return ""
    ours, theirs = (read_image_names(one.store or store, one.splits).ids for one in (population, reference))
    for split in (population.images["outputs"] or {}).get("splits", ()):
        here, there = list(ours.get(split, ())), list(theirs.get(split, ()))
        if here != there:
            place = next((i for i, pair in enumerate(zip(here, there, strict=False)) if pair[0] != pair[1]), None)
            sizes = f"{len(here):,} and {len(there):,} images"
            return f"{split}: {sizes}" + (
                f"; number {place} is {here[place]} and {there[place]}" if place is not None else ""
            )
    return ""


def _shared(images: Mapping[str, Any], others: Mapping[str, Any]) -> dict[str, Any]:
    """Return what both identities state of their images, in one order; the classes that outputs have are not stated."""
    data, theirs = images["data"] or {}, others["data"] or {}
    outputs = images["outputs"] or {}
    return {
        "data": {key: data[key] for key in ("images", "classes", "image_size") if key in data and key in theirs}
        | {"further_splits": data.get("further_splits", [])},
        "outputs": {**outputs, "splits": sorted(outputs.get("splits", ()))},
    }


def not_known_of(populations: Mapping[str, Population]) -> list[str]:
    """Return a line about what is not known of runs that other programs made; none without such runs."""
    names = [name for name, one in populations.items() if next(iter(one.records.values())).method == IMPORTED]
    if not names:
        return []
    return [
        f"imported: {', '.join(names)}: another program made these runs; their seeds, recipe, originals and times are "
        "not known, and nothing here shows that they differ only by seed"
    ]


def planned_runs(study: Study, population: Population) -> int:
    """Return how many runs a population is to have; one of another store has what it has."""
    spec = study.populations.get(population.name)
    return spec.planned if spec else len(population.records)
