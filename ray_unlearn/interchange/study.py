"""Populations of other programs -> a study file and its store, on which evaluate, report, status and verify work.

    written = write_study(Path("out"), "klom", images, populations, reference="retrained", form="klom")

The store has what is known and no more: outputs, the files' sha256, and the accuracies where logits give them. A record
has no seeds, no recipe, no times and no device.

Does not cover: reading the files (`margins`, `logits`).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from ray_unlearn import __version__
from ray_unlearn.data.splits import ImageTable, Splits, splits_of
from ray_unlearn.errors import DataError, StudyError, did_you_mean
from ray_unlearn.evaluation.outputs import SplitOutputs, scored
from ray_unlearn.interchange.brought import Brought, Images, check
from ray_unlearn.store import Record, StudyStore, open_storage
from ray_unlearn.store.formats import stamped
from ray_unlearn.store.membership import HALVED, fingerprint, packed
from ray_unlearn.store.outputs import SplitLogits, SplitMargins, encode_margins, encode_outputs
from ray_unlearn.store.records import IMPORTED, OUTPUTS, payload_of
from ray_unlearn.study.identity import digest
from ray_unlearn.study.loading import parse_study
from ray_unlearn.study.plan import IDENTITY_FORMAT, Run

STUDY = "study.yaml"
_HEAD = """\
# Outputs of models that other programs made, written by `ray-unlearn import`. `evaluate`, `report`, `status`, `verify`
# and `export` work on this study; its runs cannot be made here, and their seeds, recipe and times are not known.
"""


def write_study(
    folder: Path, name: str, images: Images, populations: Sequence[Brought], *, reference: str, form: str
) -> Path:
    """Write the study's file and its store; return the file.

    Args:
        folder: where; it must not hold a study.
        name: the study's.
        images: the images, training images first.
        populations: one or more.
        reference: name of the population that the others are compared with.
        form: name of the format, for the records.

    Raises:
        StudyError: the folder holds a study, or no population is the reference.
        DataError: numbers are not of the images, or the reference was trained on forget images.

    """
    file = folder / STUDY
    if file.exists():
        raise StudyError(f"{file}: exists already; name another folder, and compare the two by evaluation.populations")
    names = [one.name for one in populations]
    if reference not in names:
        raise StudyError(
            f"--reference {reference}: no population of this name is imported{did_you_mean(reference, names)}"
        )
    check(images, populations)
    for one in populations:
        _check_members(images, one, retrained=one.name == reference)
    tree = {
        "name": name,
        "storage": ".",
        "data": {"train": {"format": IMPORTED}, "forget": {"given": True}},
        "populations": {one.name: {"method": IMPORTED, "count": len(one.values)} for one in populations},
        "outputs": {"splits": images.saved},
        "evaluation": {"reference": reference},
    }
    study = parse_study(tree, where=str(file))
    folder.mkdir(parents=True, exist_ok=True)
    store = StudyStore(open_storage(str(folder)), name)
    if store.storage.exists(store.layout.study_json):
        raise StudyError(
            f"{store.uri}: holds a study already, whose runs would be replaced; choose another --name or -o"
        )
    table = ImageTable(
        ids=images.ids,
        labels_N=images.labels_N,
        groups=[""] * len(images.ids),
        given=[""] * len(images.ids),
        num_train=images.num_train,
        num_validation=0,
        class_names=None,
    )
    splits = splits_of(images.sets, table)
    store.storage.publish_file(store.layout.splits(splits.digest), splits.arrow(table))
    for one in populations:
        _write_population(store, one, images, splits, form)
    stored = study.model_dump(mode="json") | {"storage": store.storage.uri}
    store.storage.publish_file(store.layout.study_json, json.dumps(stamped("study", stored), indent=2).encode())
    pending = file.with_name(f".{STUDY}.part")
    pending.write_text(_HEAD + yaml.safe_dump(tree, sort_keys=False))
    pending.replace(file)  # last: a study that can be named is whole
    return file


def _check_members(images: Images, one: Brought, *, retrained: bool) -> None:
    members, forget = one.members_RN, images.sets["forget"]
    if members is None:
        return
    if members.shape != (len(one.values), images.num_train):
        raise DataError(
            f"{one.name}: expected which of {images.num_train} training images each of {len(one.values)} runs was "
            f"trained on; found {list(members.shape)}"
        )
    if retrained and len(forget) and members[:, forget].any():
        run, place = (int(axis[0]) for axis in np.nonzero(members[:, forget]))
        raise DataError(
            f"{one.name}: run {run} was trained on forget image {int(forget[place])}, and the reference is to be of "
            "models that were not; choose forget images that no run was trained on, or another --reference"
        )


def is_shadows(one: Brought) -> bool:
    """Return whether the runs were trained on different images, with logits: models for attacks by shadows."""
    return one.kind is None and one.members_RN is not None and bool((one.members_RN != one.members_RN[0]).any())


def _write_population(store: StudyStore, one: Brought, images: Images, splits: Splits, form: str) -> None:
    files = {name: sha256 for origin in one.origins for name, sha256 in origin.files.items()}
    options: dict[str, Any] = {"format": form, "files": files}
    if is_shadows(one):
        options["on"] = {"half_of": "train"}
    classes = {} if one.kind else {"classes": int(one.values.shape[2])}
    identity = {
        "format": IDENTITY_FORMAT,
        "name": one.name,
        "data": {"splits": splits.digest, **classes},
        "method": IMPORTED,
        "options": options,
        "outputs": {"splits": images.saved, "retain_sample": None},
    }
    known = digest(identity)
    content = stamped("population", {"digest": known, "identity": identity})
    store.storage.publish_file(
        store.layout.population_json(one.name), json.dumps(content, indent=2, sort_keys=True).encode()
    )
    for index in range(len(one.values)):
        data, metrics = _encoded(one, images, index)
        membership = {}
        origin = one.origins[index]
        own: dict[str, Any] = {"format": form, "files": dict(origin.files), "row": origin.row}
        if is_shadows(one) and one.members_RN is not None:
            members = {split: one.members_RN[index][images.sets[split]] for split in HALVED}
            own["on"] = {"half_of": "train", "members": packed(members)}
            membership = {"membership": fingerprint(members)}
        record = Record(
            population=one.name,
            index=index,
            original=0,
            digest=known,
            method=IMPORTED,
            options=own,
            seeds={},
            original_sha256="",
            payloads={OUTPUTS: payload_of(data)},
            metrics=metrics,
            epoch_loss=[],
            stages=[],
            seconds={},
            started_at="",
            device="",
            threads=0,
            host="",
            versions={"ray-unlearn": __version__},
            attempt=1,
            checksum="",
            **membership,
        )
        store.publish(Run(population=one.name, index=index), {OUTPUTS: data}, record)


def _encoded(one: Brought, images: Images, index: int) -> tuple[bytes, dict[str, float]]:
    """Return one run's outputs.arrow, and its accuracies and losses as far as they are known."""
    values = np.asarray(one.values[index])
    sets = {split: images.sets[split] for split in images.saved}
    if one.kind is not None:
        kept = values if values.dtype in (np.float32, np.float64) else values.astype(np.float32)
        margins = {s: SplitMargins(np.arange(len(i)), images.labels_N[i], kept[i]) for s, i in sets.items()}
        return encode_margins(margins, one.kind), _metrics({s: scored(m, one.kind) for s, m in margins.items()})
    logits = {s: SplitLogits(np.arange(len(i)), images.labels_N[i], values[i]) for s, i in sets.items()}
    return encode_outputs(logits), _metrics({s: scored(each) for s, each in logits.items()})


def _metrics(splits: dict[str, SplitOutputs]) -> dict[str, float]:
    found = {}
    for name, split in splits.items():
        if "answers" not in split.lacks:
            found[f"{name}_accuracy"] = float(split.accuracy_R[0])
        if "probabilities" not in split.lacks:
            found[f"{name}_loss"] = float(split.loss_RN.mean())
    return found
