"""Populations in a packed folder, which `export --format hub` writes, and the way back into a store.

    write_study(store, study, {"retrained": records}, folder)        # folder/study, beside what `hub` writes
    pack = read_pack(Path("hub"))
    check_same_study(store, pack, "mine")                            # made of this study, or refused
    unpack(pack, ["mine"], Path("new"))                              # a store that can be scored

    study/study.json                             the study, without folders of this machine
    study/splits/<digest>.arrow                  image ids and classes of every split; no groups (persons)
    study/<population>/population.json           digest and identity
    study/<population>/records.jsonl             a record per line, without the host's name
    study/scores.json                            the last evaluation, where there is one

Outputs come from the Parquet files and are encoded anew: their sha256 has to be that of the run's record.

Does not cover: images, checkpoints, and several forget sets.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ray_unlearn.errors import StoreError
from ray_unlearn.evaluation.outputs import read_image_names
from ray_unlearn.store import Record, StudyStore, open_storage
from ray_unlearn.store.arrow import open_parquet_file, read_table
from ray_unlearn.store.formats import parse_object, stamped
from ray_unlearn.store.outputs import SplitLogits, encode_outputs
from ray_unlearn.store.records import CHECKPOINT, OUTPUTS, parse_record, payload_of
from ray_unlearn.study.identity import diff
from ray_unlearn.study.plan import ORIGINAL, Run
from ray_unlearn.study.schema import Study

FOLDER = "study"
_RECORDS = "records.jsonl"
_SHARED = ("data", "model", "outputs", "seed", "original_digest")
"""What populations of one study have in common; `original_digest` covers the recipe of its originals."""


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
            DamagedFile: one was changed.

        """
        file = self.folder / FOLDER / population / _RECORDS
        lines = file.read_text(encoding="utf-8").splitlines()
        return sorted((parse_record(line, str(file)) for line in lines), key=lambda record: record.index)


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
        (folder / "scores.json").write_bytes(store.storage.read(store.layout.scores_json))


def _portable(tree: Any) -> Any:
    """Return the study's values with the last part of every path alone."""
    if isinstance(tree, dict):
        return {
            key: _last(value) if key in ("path", "images", "ids") else _portable(value) for key, value in tree.items()
        }
    return tree


def _last(value: Any) -> Any:
    if isinstance(value, list):
        return [_last(one) for one in value]
    return PurePath(value).name if isinstance(value, str) else value


def _public(record: Record) -> Record:
    """Return a record of outputs, without the host's name, sealed anew; an original's names its checkpoint, too."""
    names = (OUTPUTS, CHECKPOINT) if record.population == ORIGINAL else (OUTPUTS,)
    kept = {name: record.payloads[name] for name in names if name in record.payloads}
    return record.model_copy(update={"host": "", "payloads": kept}).sealed()


def _copy_splits(store: StudyStore, digest: str, folder: Path) -> None:
    table = read_table(store.storage.read(store.layout.splits(digest)))
    place = table.schema.get_field_index("group")
    table = table.set_column(place, "group", pa.array([""] * len(table), pa.string()))
    folder.mkdir(exist_ok=True)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    (folder / PurePath(store.layout.splits(digest)).name).write_bytes(bytes(sink.getvalue()))


def read_pack(folder: Path) -> Pack:
    """Open a packed folder.

    Raises:
        StoreError: it is none, or one of an earlier version, which held no identities.

    """
    study_json = folder / FOLDER / "study.json"
    if not study_json.is_file():
        raise StoreError(
            f"{folder}: expected a folder that `ray-unlearn export STUDY {folder} --format hub` wrote; found no "
            f"{FOLDER}/study.json; export it again with this version"
        )
    study = parse_object("study", study_json.read_bytes(), str(study_json))
    files = sorted((folder / FOLDER).glob("*/population.json"))
    populations = {file.parent.name: parse_object("population", file.read_bytes(), str(file)) for file in files}
    return Pack(folder=folder, study=str(study["name"]), populations=populations)


def check_same_study(store: StudyStore, pack: Pack, population: str) -> None:
    """Check that a packed population was made of the study that a store holds.

    Raises:
        StoreError: its images, net, seed or originals are others; the message names the first difference.

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
    ours = (store.held(next(name for name in names if "original_digest" in _identity(store, name))) or {})["identity"]
    theirs = pack.populations[population]["identity"]
    keys = [key for key in _SHARED if key in theirs or key == "data"]
    if lines := diff({key: ours.get(key) for key in keys}, {key: theirs.get(key) for key in keys}):
        raise StoreError(
            f"{where} is of another study than {store.uri} holds: {'; '.join(lines[:3])}; add it to the study that it "
            "was made in"
        )
    _check_runs(store, pack, population)


def _identity(store: StudyStore, population: str) -> Mapping[str, Any]:
    return dict((store.held(population) or {}).get("identity") or {})


def _check_runs(store: StudyStore, pack: Pack, population: str) -> None:
    """Check that each run has its population's digest, and started from one of the store's originals."""
    where, digest = f"{pack.folder}: population {population}", pack.populations[population]["digest"]
    starts = {one.payloads[CHECKPOINT].sha256 for one in store.made(ORIGINAL).values() if CHECKPOINT in one.payloads}
    for record in pack.records(population):
        if record.digest != digest:
            raise StoreError(
                f"{where}, run {record.index}: expected the digest {digest[:16]}, as population.json has it; found "
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
    for file in sorted((pack.folder / FOLDER / "splits").iterdir()):
        store.storage.publish_file(f"{store.name}/splits/{file.name}", file.read_bytes())
    for name in populations:
        content = json.dumps(pack.populations[name]).encode()
        store.storage.publish_file(store.layout.population_json(name), content)
        names = read_image_names(store, pack.populations[name]["identity"]["data"]["splits"]).ids
        positions = {split: {one: i for i, one in enumerate(ids)} for split, ids in names.items()}
        outputs = _outputs(pack, name)
        for record in pack.records(name)[:runs]:
            data = _encoded(outputs.filter(pc.equal(outputs["run"], record.index)), positions)
            expected, found = record.payloads[OUTPUTS].sha256, payload_of(data).sha256
            if expected != found:
                raise StoreError(
                    f"{pack.folder}: population {name}, run {record.index}: expected outputs of the sha256 "
                    f"{expected[:16]}, as its record has it; found {found[:16]}; the folder is damaged, or was changed"
                )
            store.publish(Run(population=name, index=record.index), {OUTPUTS: data}, record)
    return store


def _outputs(pack: Pack, population: str) -> pa.Table:
    """Return the outputs of a population's runs, a row per run and image."""
    tables = []
    for file in sorted((pack.folder / "outputs" / population).glob("*.parquet")):
        with pa.OSFile(str(file)) as opened:
            tables.append(open_parquet_file(opened).read())
    if not tables or "logits" not in tables[0].column_names:
        raise StoreError(f"{pack.folder}/outputs/{population}: expected Parquet files with logits; found none")
    return pa.concat_tables(tables)


def _encoded(table: pa.Table, positions: Mapping[str, Mapping[str, int]]) -> bytes:
    """Return one run's outputs as the store has them: splits in their order in the file."""
    splits = table["split"].to_pylist()
    found = {}
    for split in dict.fromkeys(splits):
        rows = table.filter(pa.array([one == split for one in splits]))
        found[split] = SplitLogits(
            np.array([positions[split][one] for one in rows["image_id"].to_pylist()]),
            rows["label"].to_numpy(),
            np.array(rows["logits"].to_pylist(), np.float32),
        )
    return encode_outputs(found)
