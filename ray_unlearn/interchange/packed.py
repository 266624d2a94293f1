"""Populations in a packed folder, which `export --format hub` writes, and the way back into a store.

    write_study(store, study, {"retrained": records}, folder)        # folder/study, beside what `hub` writes
    pack = read_pack(Path("hub"))
    check_same_study(store, pack, "mine")                            # made of this study, or refused
    unpack(pack, ["mine"], Path("new"))                              # a store that can be scored

    study/study.json                             the study, without folders of this machine
    study/splits/<digest>.arrow                  image ids and classes of every split; no groups (persons)
    study/<population>/population.json           digest and identity
    study/<population>/records.jsonl             a record per line, without the host's name
    study/scores.json                            the last evaluation, where there is one; no groups

Outputs come from the Parquet files and are encoded anew: their sha256 has to be that of the run's record. Digests are
computed anew: of an identity that names no URI, of the images of each split, and of originals that are packed, too. So
a population whose statements about itself were changed has another digest than the published one. Whether the outputs
were made as stated, only making a run again shows.

Does not cover: images, checkpoints, and several forget sets.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ray_unlearn.errors import StoreError, first_line
from ray_unlearn.evaluation.evaluate import read_scores
from ray_unlearn.evaluation.scores import Scores
from ray_unlearn.store import Record, StudyStore, open_storage
from ray_unlearn.store.arrow import open_parquet_file
from ray_unlearn.store.formats import parse_object, stamped
from ray_unlearn.store.outputs import SplitLogits, encode_outputs
from ray_unlearn.store.records import CHECKPOINT, OUTPUTS, parse_record, payload_of
from ray_unlearn.store.splits import UNREADABLE, decode_ids, read_image_names, without_groups
from ray_unlearn.study.forget import NAME_PATTERN, POPULATION_PATTERN
from ray_unlearn.study.identity import diff, digest
from ray_unlearn.study.plan import ORIGINAL, Run
from ray_unlearn.study.schema import Study
from ray_unlearn.wording import listed

FOLDER = "study"
_RECORDS = "records.jsonl"
_COLUMNS = {"run", "split", "image_id", "label", "logits"}
_SHARED = ("data", "model", "outputs", "seed", "original_digest", "originals")
"""What populations that are ranked together have in common; `original_digest` covers the recipe of their originals, and
`originals` is how many they start from: from one, even a perfect method has a lower F than from several."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Pack:
    """A packed folder."""

    folder: Path
    study: str
    populations: Mapping[str, Mapping[str, Any]]
    """Digest and identity by population."""

    def records(self, population: str) -> list[Record]:
        """Return the records of a population's runs, by index.

        Raises:
            StoreError: the file cannot be read, or is not of one record for each run of the population.
            DamagedFile: one was changed.

        """
        file = self.folder / FOLDER / population / _RECORDS
        try:
            lines = file.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise StoreError(f"{file}: cannot be read: {error}; export it again") from error
        found = sorted((parse_record(line, str(file)) for line in lines), key=lambda record: record.index)
        for record, following in pairwise([*found, None]):
            if record and record.population != population:
                raise StoreError(f"{file}: expected runs of {population}; found one of {record.population}")
            if record and following and record.index == following.index:
                raise StoreError(f"{file}: expected a record for each run; found run {record.index} twice")
        return found


def write_study(store: StudyStore, study: Study, made: Mapping[str, Mapping[int, Record]], folder: Path) -> None:
    """Write what a store needs besides outputs."""
    folder.mkdir(parents=True)
    tree = stamped("study", study.model_dump(mode="json") | {"storage": "."})
    (folder / "study.json").write_text(json.dumps(_portable(tree), indent=1), encoding="utf-8")
    for name, records in made.items():
        held = store.held(name) or {}
        (folder / name).mkdir()
        content = stamped("population", {key: held[key] for key in ("digest", "identity")})
        (folder / name / "population.json").write_text(json.dumps(content, indent=1, sort_keys=True), encoding="utf-8")
        lines = [_public(record).text + "\n" for _, record in sorted(records.items())]
        (folder / name / _RECORDS).write_text("".join(lines), encoding="utf-8")
        _copy_splits(store, held["identity"]["data"]["splits"], folder / "splits")
    if store.storage.exists(store.layout.scores_json):
        (folder / "scores.json").write_text(_without_groups(read_scores(store)), encoding="utf-8")


def _portable(tree: Any) -> Any:
    """Return the study's values with the last part of every path alone."""
    if isinstance(tree, dict):
        return {
            key: _last(value) if key in ("path", "images", "ids") else _portable(value) for key, value in tree.items()
        }
    if isinstance(tree, list):
        return [_portable(one) for one in tree]
    return _last(tree) if isinstance(tree, str) and PurePath(tree).is_absolute() else tree


def _last(value: Any) -> Any:
    if isinstance(value, list):
        return [_last(one) for one in value]
    return PurePath(value).name if isinstance(value, str) else value


def _without_groups(scores: Scores) -> str:
    """Return scores.json without accuracies by group: a group is a person."""
    populations = {
        name: one.model_copy(update={"slices": tuple(part for part in one.slices if part.by != "group")})
        for name, one in scores.populations.items()
    }
    return scores.model_copy(update={"populations": populations}).model_dump_json(indent=1)


def _public(record: Record) -> Record:
    """Return a record of outputs, without the host's name, sealed anew; an original's names its checkpoint, too."""
    names = (OUTPUTS, CHECKPOINT) if record.population == ORIGINAL else (OUTPUTS,)
    kept = {name: record.payloads[name] for name in names if name in record.payloads}
    return record.model_copy(update={"host": "", "payloads": kept}).sealed()


def _copy_splits(store: StudyStore, splits: str, folder: Path) -> None:
    name = store.layout.splits(splits)
    folder.mkdir(exist_ok=True)
    (folder / PurePath(name).name).write_bytes(without_groups(store.storage.read(name)))


def read_pack(folder: Path) -> Pack:
    """Open a packed folder.

    Raises:
        StoreError: it is none, or one of an earlier version, which held no identities, or of several forget sets.

    """
    study_json = folder / FOLDER / "study.json"
    if not study_json.is_file():
        raise StoreError(
            f"{folder}: expected a folder that `ray-unlearn export STUDY {folder} --format hub` wrote; found no "
            f"{FOLDER}/study.json, which earlier versions, and studies with several forget sets, do not have"
        )
    study = parse_object("study", study_json.read_bytes(), str(study_json))
    files = sorted((folder / FOLDER).glob("*/population.json"))
    populations = {file.parent.name: _parsed(file) for file in files}
    _check_originals(folder, populations)
    name = study.get("name")
    if not isinstance(name, str) or not re.fullmatch(NAME_PATTERN, name):
        raise StoreError(f"{study_json}: expected the name of a study; found {name!r}")
    return Pack(folder=folder, study=name, populations=populations)


def _parsed(file: Path) -> dict[str, Any]:
    """Return digest and identity of a packed population, whose name a study could have."""
    content = parse_object("population", file.read_bytes(), str(file))
    identity = content.get("identity")
    data = identity.get("data") if isinstance(identity, dict) else None
    splits = data.get("splits") if isinstance(data, dict) else None
    if not isinstance(content.get("digest"), str) or not isinstance(splits, str):
        raise StoreError(f"{file}: expected a digest, and an identity with data.splits; found others; export it again")
    if not re.fullmatch(POPULATION_PATTERN, file.parent.name):
        raise StoreError(f"{file}: expected a folder with the name of a population; found {file.parent.name!r}")
    if "://" not in json.dumps(identity):  # a URI is kept without its credentials and options, which the digest covers
        _check_digest(f"{file}: the identity", digest(identity), content["digest"])
    return content


def _check_originals(folder: Path, populations: Mapping[str, Mapping[str, Any]]) -> None:
    """Check that populations which start from the packed originals name the digest of these."""
    if (original := populations.get(ORIGINAL)) is None:
        return
    for name, content in populations.items():
        if is_unlearned(content["identity"]):
            stated = str(content["identity"]["original_digest"])
            _check_digest(f"{folder}: the originals of population {name}", original["digest"], stated)


def _check_digest(what: str, found: str, stated: str) -> None:
    if found != stated:
        raise StoreError(
            f"{what}: expected the digest {stated[:16]}, as the folder states it; found {found[:16]}; the folder is "
            "damaged, or was changed; export it again"
        )


def check_same_study(store: StudyStore, pack: Pack, population: str) -> None:
    """Check that a packed population was made of the study that a store holds.

    Raises:
        StoreError: its images, net, seed, originals or their number are those of no population of the store; the
            message names the first differences.

    """
    where = f"{pack.folder}: population {population}"
    names = store.populations()
    for name in sorted({*pack.populations} & {*names}):
        ours = (store.held(name) or {})["digest"]
        if (theirs := pack.populations[name]["digest"]) != ours and name != population:
            raise StoreError(
                f"{pack.folder}: {name} was made differently than in {store.uri}: expected the digest {ours[:16]}; "
                f"found {theirs[:16]}; add rows to the study that they were made in"
            )
    theirs = pack.populations[population]["identity"]
    own = [one for name in names if is_unlearned(one := _identity(store, name))]
    if not own:
        raise StoreError(f"{where}: {store.uri} holds no unlearned population yet; a row is added beside its own")
    found = [diff({key: ours.get(key) for key in _SHARED}, {key: theirs.get(key) for key in _SHARED}) for ours in own]
    if lines := min(found, key=len):
        raise StoreError(
            f"{where} is of another study than {store.uri} holds: {'; '.join(lines[:3])}; add it to the study that it "
            "was made in"
        )
    _check_runs(store, pack, population)


def is_unlearned(identity: Mapping[str, Any]) -> bool:
    """Return whether runs of a population start from the study's originals; those of shadows do not."""
    return "original_digest" in identity and identity.get("starts_from", ORIGINAL) == ORIGINAL


def _identity(store: StudyStore, population: str) -> Mapping[str, Any]:
    return dict((store.held(population) or {}).get("identity") or {})


def _check_runs(store: StudyStore, pack: Pack, population: str) -> None:
    """Check that each run has its population's digest, and started from one of the store's originals."""
    where, stated = f"{pack.folder}: population {population}", pack.populations[population]["digest"]
    starts = {one.payloads[CHECKPOINT].sha256 for one in store.made(ORIGINAL).values() if CHECKPOINT in one.payloads}
    for record in pack.records(population):
        if record.digest != stated:
            raise StoreError(
                f"{where}, run {record.index}: expected the digest {stated[:16]}, as population.json has it; found "
                f"{record.digest[:16]}; export it again"
            )
        if starts and record.original_sha256 and record.original_sha256 not in starts:
            raise StoreError(
                f"{where}, run {record.index}: started from the original {record.original_sha256[:16]}; expected one "
                f"of {store.uri}; another kind of machine makes other originals: make all populations of a study on one"
            )


def unpack(pack: Pack, populations: Sequence[str], storage: str, runs: int | None = None) -> StudyStore:
    """Write packed populations into a storage, where they can be scored; return the store.

    Args:
        pack: the folder.
        populations: which.
        storage: folder of the new store's storage.
        runs: the first so many of each; default all.

    Raises:
        StoreError: outputs are missing, or not those that the records name.

    """
    store = StudyStore(open_storage(storage), pack.study)
    for name in populations:
        content = json.dumps(pack.populations[name]).encode()
        store.storage.publish_file(store.layout.population_json(name), content)
        splits = pack.populations[name]["identity"]["data"]["splits"]
        _unpack_splits(pack, store, splits)
        names = read_image_names(store, splits).ids
        positions = {split: {one: i for i, one in enumerate(ids)} for split, ids in names.items()}
        outputs = _outputs(pack, name)
        for record in pack.records(name)[:runs]:
            rows = outputs.filter(pc.equal(outputs["run"], record.index))
            data = _encoded(rows, positions) if len(rows) else b""
            expected = record.payloads[OUTPUTS].sha256 if OUTPUTS in record.payloads else "none"
            found = payload_of(data).sha256
            if expected != found:
                raise StoreError(
                    f"{pack.folder}: population {name}, run {record.index}: expected outputs of the sha256 "
                    f"{expected[:16]}, as its record has it; found {found[:16]}; the folder is damaged, or was changed"
                )
            store.publish(Run(population=name, index=record.index), {OUTPUTS: data}, record)
    return store


def _unpack_splits(pack: Pack, store: StudyStore, splits: str) -> None:
    file = pack.folder / FOLDER / "splits" / PurePath(store.layout.splits(splits)).name
    if not file.is_file():
        raise StoreError(f"{file}: missing; expected the ids of the images; export the folder again")
    data = file.read_bytes()
    _check_splits(file, data, splits)
    store.storage.publish_file(store.layout.splits(splits), data)


def _check_splits(file: Path, data: bytes, stated: str) -> None:
    """Check that the images of each split have the digest that names the file; it does not list empty splits."""
    try:
        ids = decode_ids(data)
    except UNREADABLE as error:
        raise StoreError(
            f"{file}: cannot be read as the ids of images: {first_line(error)}; export it again"
        ) from error
    empty = [name for name in ("validation", "test") if name not in ids]
    added = [some for count in range(len(empty) + 1) for some in combinations(empty, count)]
    possible = [digest({**ids, **{name: [] for name in some}}) for some in added]
    _check_digest(f"{file}: the images", stated if stated in possible else possible[0], stated)


def _outputs(pack: Pack, population: str) -> pa.Table:
    """Return the outputs of a population's runs, a row per run and image."""
    tables = []
    for file in sorted((pack.folder / "outputs" / population).glob("*.parquet")):
        with pa.OSFile(str(file)) as opened:
            tables.append(open_parquet_file(opened).read())
    if not tables or any(not {*table.column_names} >= _COLUMNS for table in tables):
        raise StoreError(
            f"{pack.folder}/outputs/{population}: expected Parquet files with {listed(sorted(_COLUMNS))}; found others"
        )
    return pa.concat_tables(tables)


def _encoded(table: pa.Table, positions: Mapping[str, Mapping[str, int]]) -> bytes:
    """Return one run's outputs as the store has them, splits in their order in the file; an unknown image is at -1."""
    splits = table["split"].to_pylist()
    found = {}
    for split in dict.fromkeys(splits):
        rows = table.filter(pa.array([one == split for one in splits]))
        found[split] = SplitLogits(
            np.array([positions.get(split, {}).get(one, -1) for one in rows["image_id"].to_pylist()]),
            rows["label"].to_numpy(),
            np.array(rows["logits"].to_pylist(), np.float32),
        )
    return encode_outputs(found)
