"""A study's `data` block -> its prepared images, splits and identity, ready for workers.

    data = prepare_study(study, storage, decode_all=in_place)
    data.splits.sizes()                          # {"retain": 17640, "forget": 360, ...}
    data.identity                                # the part of digests that covers data
    pixels = data.open(torch.device("cpu"))      # maps the shards

Does not cover: methods' access to it (`images.RunData`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ray_unlearn.data.class_names import alike, by_number, no_label, remark_on
from ray_unlearn.data.copies import copies, few_images, straddling, words_of
from ray_unlearn.data.near_copies import hashes, near_copies
from ray_unlearn.data.node_cache import cache_folder
from ray_unlearn.data.prepare import DecodeAll, Prepared, check_classes, in_place, prepare_source
from ray_unlearn.data.rows import OpenSource, Role
from ray_unlearn.data.sources import has_columns, open_source
from ray_unlearn.data.splits import ImageTable, Splits, make_splits
from ray_unlearn.errors import DataError
from ray_unlearn.seeds import Seeds
from ray_unlearn.store import Storage
from ray_unlearn.store.splits import with_warnings
from ray_unlearn.study.forget import Forget
from ray_unlearn.study.identity import identity_of
from ray_unlearn.study.schema import Columns, Data, Source, Study
from ray_unlearn.study.shuffle import Shuffle

if TYPE_CHECKING:
    import torch

    from ray_unlearn.data.images import Pixels

_ROLES: tuple[Role, ...] = ("train", "validation", "test")


@dataclass(frozen=True, kw_only=True, slots=True)
class StudyData:
    """A study's prepared sources and its splits; small and picklable, pixels stay in the shards."""

    train: Prepared
    validation: Prepared | None
    test: Prepared | None
    splits: Splits
    """Its sets of images; of a study with several forget sets, those of set 0."""
    class_names: tuple[str, ...] | None
    num_classes: int
    identity: Mapping[str, Any]
    arrows: Mapping[str, bytes]
    """The splits as saved with the study, by digest."""
    shuffle: Shuffle
    warnings: tuple[str, ...]
    """Warnings about the images."""
    further: tuple[Splits, ...] = ()
    """Splits of forget sets 1, 2, ..., of a study that has several."""

    def splits_of(self, forget_set: int) -> Splits:
        """Return the splits of one of the study's forget sets."""
        return (self.splits, *self.further)[forget_set]

    def warned(self, lines: Sequence[str]) -> StudyData:
        """Return the same with these warnings instead, in the saved splits too."""
        arrows = {digest: with_warnings(arrow, lines) for digest, arrow in self.arrows.items()}
        return replace(self, warnings=tuple(lines), arrows=arrows)

    @property
    def sources(self) -> list[Prepared]:
        """Prepared sources in the order of the index."""
        return [source for source in (self.train, self.validation, self.test) if source is not None]

    @property
    def shards(self) -> dict[str, str]:
        """One sha256 over each source's shards, by its folder in the storage."""
        return {source.folder: source.manifest.shards_sha256 for source in self.sources}

    @property
    def skipped(self) -> list[dict[str, str]]:
        """Images that `on_bad_image: skip` left out."""
        return [skip for source in self.sources for skip in source.manifest.skipped]

    def open(self, device: torch.device, budget_bytes: float = 0, cache: Path | None = None) -> Pixels:
        """Map all shards under one index."""
        from ray_unlearn.data.images import Pixels

        shards = [shard for source in self.sources for shard in source.map(cache)]
        return Pixels(shards, device, budget_bytes, self.shuffle)

    def paths(self, cache: Path | None = None) -> list[Path]:
        """Return the local paths of all shards, in the order of the index."""
        return [path for source in self.sources for path in source.paths(cache)]


def open_sources(data: Data) -> dict[str, OpenSource]:
    """Open the sources that have a path, so that a wrong one is refused at once; others are opened when prepared.

    Raises:
        DataError: one of them cannot be opened.

    """
    specs = {role: spec for role in _ROLES if isinstance(spec := getattr(data, role), Source) and spec.path}
    opened: dict[str, OpenSource] = {role: open_role(data, role, spec) for role, spec in specs.items()}
    check_columns(data)
    return opened


def check_columns(data: Data) -> None:
    """Refuse names of columns where no source has any: they would change nothing.

    Raises:
        DataError: `data.columns` names one, and no source is Parquet or a CSV file.

    """
    given, usual = data.columns.model_dump(), Columns().model_dump()
    named = [key for key, name in given.items() if name != usual[key]]
    sources = [spec for role in _ROLES if isinstance(spec := getattr(data, role), Source)]
    if named and not any(has_columns(source) for source in sources):
        raise DataError(
            f"data.columns.{named[0]}: names a column, and no source of the study has columns; "
            "Parquet, CSV and tar files have: remove it"
        )


def open_role(data: Data, role: Role, spec: Source) -> OpenSource:
    """Open the source of a role.

    Raises:
        DataError: it cannot be opened.

    """
    return open_source(spec, role, _columns(data))


def prepare_study(
    study: Study,
    storage: Storage,
    decode_all: DecodeAll = in_place,
    *,
    opened: Mapping[str, OpenSource] | None = None,
    hardest: Sequence[str] = (),
) -> StudyData:
    """Decode the sources that are not decoded yet, draw the splits, and compute the data's identity.

    Args:
        study: the study.
        storage: the storage of decoded images.
        decode_all: decodes slices, here or on a cluster.
        opened: sources that `open_sources` opened already.
        hardest: ids of the images that `forget: {hardest: ...}` selects (`evaluation.memorisation`); else none.

    Raises:
        DataError: something about the images or the splits is refused.

    """
    prepared: dict[str, Prepared] = {}
    remarks: list[str] = []
    revisions: dict[str, str] = {}
    names = study.data.classes if isinstance(study.data.classes, tuple) else None
    limit = study.data.classes if isinstance(study.data.classes, int) else len(names) if names else None
    for role in _ROLES:
        spec = getattr(study.data, role)
        if not isinstance(spec, Source):
            continue
        source = (opened or {}).get(role) or open_role(study.data, role, spec)
        remarks += [f"data.{role}: {remark}" for remark in source.remarks]
        if names and role != "train" and not source.class_names and not isinstance(study.data.classes, tuple):
            remarks += filter(None, [by_number(role, names)])
        if source.revision:
            revisions[role] = source.revision
        prepared[role] = prepare_source(
            source,
            storage,
            image_size=study.data.image_size,
            class_names=names,
            num_classes=limit,
            skip_bad=study.data.on_bad_image == "skip",
            resize=study.data.resize,
            grey_bits=study.data.grey_bits,
            decode_all=decode_all,
        )
        if role == "train":
            names = prepared[role].manifest.class_names
            limit = limit or (len(names) if names else prepared[role].manifest.max_label + 1)
    check_classes(limit or 0, "data.train")
    if (limit or 0) < 2:
        only = f" ({names[0]})" if names else ""
        raise DataError(f"data.train: {limit or 0} class{only}; a classifier needs two or more, so add their images")
    data = _assemble(study, hardest, prepared, names, int(limit or 0))
    if study.data.strict and data.warnings:
        raise DataError(f"data.strict: {data.warnings[0]}" + _more(data.warnings[1:]))
    at = {"revisions": revisions} if revisions else {}
    return replace(data, identity={**data.identity, **at}).warned((*remarks, *data.warnings))


def _more(others: Sequence[str]) -> str:
    return f" (and {len(others)} more such, which data.strict: false prints)" if others else ""


def _columns(data: Data) -> Columns:
    """Return the columns to read; forgetting by group names the group's column."""
    columns, group = data.columns, data.forget.group
    if group is None or columns.group == group:
        return columns
    if columns.group is not None:
        raise DataError(f"data.forget.group: {group!r}, but data.columns.group is {columns.group!r}; name one column")
    return columns.model_copy(update={"group": group})


def _check_disjoint(tables: Mapping[str, list[pa.Table]]) -> None:
    """Check that sources share no image: it would be trained on and scored."""
    known: dict[str, pa.ChunkedArray] = {}
    """The digests of each source's images; a digest covers id, label and pixels."""
    for role, parts in tables.items():
        images = pa.concat_tables([part.select(["image_id", "digest"]) for part in parts])
        for earlier, digests in known.items():
            shared = pc.index(pc.is_in(images["digest"], value_set=digests), True).as_py()
            if shared >= 0:
                image_id = images["image_id"][shared].as_py()
                raise DataError(f"data.{role}: image {image_id!r} is in data.{earlier} too; sources must differ")
        known[role] = images["digest"]


def _with_hardest(study: Study, hardest: Sequence[str], train: Collection[str]) -> Data:
    """Return the data block with `forget: {hardest: ...}` replaced by the ids that it selects, all of `train`."""
    forget = study.data.forget
    if forget.hardest is None or forget.of is None:
        return study.data
    if absent := sorted(set(hardest) - set(train)):
        raise DataError(
            f"data.forget.of: study {forget.of} was made from other images: {len(absent)} of its {forget.hardest} "
            f"hardest, such as {absent[0]!r}, are not in data.train; name a study of the same images"
        )
    return study.data.model_copy(update={"forget": Forget.model_validate({"ids": tuple(hardest)})})


def _assemble(
    study: Study,
    hardest: Sequence[str],
    prepared: Mapping[str, Prepared],
    names: tuple[str, ...] | None,
    num_classes: int,
) -> StudyData:
    sizes = {role: source.manifest.num_images for role, source in prepared.items()}
    by_role = {str(role): prepared[role].columns() for role in _ROLES if role in prepared}
    _check_disjoint(by_role)
    tables = [table for parts in by_role.values() for table in parts]
    ids, groups, given = (
        [value for table in tables for value in table.column(name).to_pylist()]
        for name in ("image_id", "group", "given")
    )
    table = ImageTable(
        ids=ids,
        labels_N=np.concatenate([table.column("label").to_numpy() for table in tables]),
        groups=groups,
        given=given,
        num_train=sizes["train"],
        num_validation=sizes.get("validation", 0),
        class_names=names,
    )
    wanted, seeds = _with_hardest(study, hardest, table.ids[: table.num_train]), Seeds(study=study.seed)
    splits, *further = (make_splits(wanted, seeds, table, number) for number in range(wanted.forget.sets))
    words_N = words_of(tables)
    hashes_NW = _hashes(prepared.values()) if study.data.near_duplicates and words_N is not None else None
    unknown = (
        "data: images that are in two sets were not looked for, because version 0.1 decoded them without digests of "
        f"pixels; remove {prepared['train'].folder} to decode them again"
    )
    normalize = study.data.normalize
    identity = {
        "images": {role: source.manifest.content for role, source in prepared.items()},
        "splits": splits.digest,
        "image_size": study.data.image_size,
        "classes": num_classes,
        "normalize": normalize if isinstance(normalize, str) else identity_of(normalize),
        **study.data.shuffle.identity,
    }
    if further:
        identity["further_splits"] = [one.digest for one in further]
    return StudyData(
        train=prepared["train"],
        validation=prepared.get("validation"),
        test=prepared.get("test"),
        splits=splits,
        class_names=names,
        num_classes=num_classes,
        identity=identity,
        arrows={one.digest: one.arrow(table) for one in (splits, *further)},
        further=tuple(further),
        shuffle=study.data.shuffle,
        warnings=(
            *filter(None, (remark_on(study.data.forget.label, names or ()), alike(names or ()), no_label(names or ()))),
            *_empty_classes(names, num_classes, table.labels_N[: table.num_train]),
            *_untested(names, table.labels_N, table.num_train, splits),
            *_in_two_sets(splits.sets, table, words_N, hashes_NW),
            *([unknown] if words_N is None else ()),
            *few_images(splits.sets),
            *(
                f"forget set {number}: {line}"
                for number, one in enumerate(further, 1)
                for line in _in_two_sets({s: one.sets[s] for s in ("retain", "forget")}, table, words_N, hashes_NW)
            ),
        ),
    )


def _hashes(prepared: Iterable[Prepared]) -> np.ndarray:
    """Return what `near_copies` compares of all images."""
    return np.concatenate([hashes(shard.pixels_NHWC) for source in prepared for shard in source.map(cache_folder())])


def _in_two_sets(
    sets: Mapping[str, np.ndarray], images: ImageTable, words_N: np.ndarray | None, hashes_NW: np.ndarray | None
) -> Iterator[str]:
    """Yield a line about groups, equal images and similar ones in two sets; of images only where digests are known."""
    yield from straddling(sets, images.groups)
    if words_N is not None:
        yield from copies(sets, words_N, images.ids)
        yield from near_copies(sets, hashes_NW, words_N, images.ids) if hashes_NW is not None else ()


def _untested(names: tuple[str, ...] | None, labels_N: np.ndarray, num_train: int, splits: Splits) -> Iterator[str]:
    """Return one warning, or none, where a test source of its own lacks classes of the training source."""
    tested = {*labels_N[splits.sets["test"]].tolist()} if (splits.sets["test"] >= num_train).any() else None
    missing = sorted({*labels_N[:num_train].tolist()} - tested) if tested is not None else []
    if missing:
        shown = ", ".join([names[label] if names else str(label) for label in missing[:3]])
        more = ", ..." * (len(missing) > 3)
        count = f"{len(missing)} class{'es' * (len(missing) > 1)}"
        yield f"data.test: no image of {count} that data.train has ({shown}{more})"


def _empty_classes(names: tuple[str, ...] | None, count: int, labels_N: np.ndarray) -> Iterator[str]:
    """Return one warning, or none: a Parquet file of ten of ImageNet's classes names a thousand."""
    empty = sorted({*range(count)} - {*labels_N.tolist()})
    shown = [names[label] if names else str(label) for label in empty[:3]]
    if len(empty) == 1:
        yield f"data.train: no image of class {shown[0]}, which counts as one of the {count} classes all the same"
    elif empty:
        more = ", ..." * (len(empty) > 3)
        yield (
            f"data.train: no image of {len(empty):,} of the {count:,} classes ({', '.join(shown)}{more}), "
            "which count all the same"
        )
