"""Differences between a study file and what its store was made from, found without data and torch.

    differences = disagreements(study, store)    # ["training.lr: 0.003 -> 0.01"]; empty where all agree
    changed = changed_scripts(study, store)      # ["populations.mine.method: mine.py was edited (sha256 ...)"]

`generate` compares digests, which cover all; this compares the values of the files: with study.json, which holds the
study of the last `generate`, and for populations that it left out, with their own population.json. Paths are not
compared, because data and scripts may have moved, nor keys that change no result: counts, evaluation, execution.

Does not cover: changed images or modules of a factory under the same values, and of a population that the last
`generate` left out, defaults that its method had then; `generate` detects those.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import PurePath
from typing import Any

from ray_unlearn.errors import MethodError
from ray_unlearn.store import StudyStore
from ray_unlearn.study.identity import diff, identity_of
from ray_unlearn.study.plan import ORIGINAL
from ray_unlearn.study.schema import Study
from ray_unlearn.study.uris import labelled
from ray_unlearn.usercode.imports import is_script, read_script
from ray_unlearn.usercode.sources import script_identity

_TRAINED = ("train", "retrain")
"""Methods whose options are the whole `training` block."""


def disagreements(study: Study, store: StudyStore) -> list[str]:
    """Return one line `key: made -> study` for each value that differs; none where nothing was made.

    Raises:
        StoreError: study.json, or a population.json that is compared, cannot be read.

    """
    made = store.study()
    both = set(study.populations) & set(made.populations) if made else set()
    lines = diff(labelled(_values(made, both)), labelled(_values(study, both))) if made and both else []
    if lines and (replaced := {name for name in both if store.is_given_up(name)}):
        both -= replaced
        lines = diff(labelled(_values(made, both)), labelled(_values(study, both))) if made and both else []
    shared = _shared(store, both) if both and not lines else {}
    for name in [name for name in study.populations if name not in both]:
        lines += [f"population {name}: {line}" for line in _left_out(study, store, name, shared) if line not in lines]
    return lines


def changed_scripts(study: Study, store: StudyStore) -> list[str]:
    """Return one line for each script, or module that it imports, whose text is not that of the runs that are made.

    A script that is not on this machine, or is no longer Python, is left out: `generate` reports it.

    Raises:
        StoreError: a population.json cannot be read.

    """
    lines = []
    for name, spec in study.populations.items():
        method = spec.method_name
        held = store.held(name) if is_script(method) and not store.is_given_up(name) else None
        before = held["identity"].get("method") if held else None
        if isinstance(before, dict) and "script_sha256" in before:
            try:
                now = script_identity(method, read_script(method))
            except MethodError:
                continue
            lines += [
                f"populations.{name}.method: {line}" for line in _edited(before, now, _file(method).partition(":")[0])
            ]
    return lines


def _edited(before: Mapping[str, Any], now: Mapping[str, Any], script: str) -> Iterator[str]:
    """Yield a line for each file of a script whose sha256 differs between two identities."""
    hashes = [(script, before.get("script_sha256"), now.get("script_sha256"))]
    old, new = before.get("modules", {}), now.get("modules", {})
    hashes += [(f"{module}, which {script} imports,", old.get(module), new.get(module)) for module in {**old, **new}]
    for file, was, found in hashes:
        if was and found and was != found:
            yield f"{file} was edited (sha256 {was[:12]} -> {found[:12]})"
        elif was != found:
            yield f"{file} was {'no module of it' if found else 'a module of it'} when the runs were made"


def _values(study: Study, populations: set[str]) -> dict[str, Any]:
    values = study.model_dump(mode="json", include={"seed", "data", "model", "training", "outputs", "checkpoint_dtype"})
    for role in ("train", "test", "validation"):
        if isinstance(values["data"][role], dict):
            del values["data"][role]
    values["data"]["forget"].pop("ids")
    for key in ("strict", "near_duplicates"):  # they decide what is warned of, or refused
        values["data"].pop(key)
    values["model"]["pretrained"] = bool(values["model"]["pretrained"])
    return values | {"populations": {name: _population(study, name) for name in sorted(populations)}}


def _population(study: Study, name: str) -> dict[str, Any]:
    spec = study.populations[name]
    values = spec.model_dump(mode="json", exclude={"count", "keep_checkpoints", "weights"})
    return values | {"method": _file(spec.method_name)}


def _file(method: str) -> str:
    """Return a method's name without a script's folder; of a script's method, `script.py:function`."""
    return PurePath(method).name


def _shared(store: StudyStore, agreeing: set[str]) -> dict[str, Any]:
    """Return data and original's digest as identities of the study hold them, from populations that agree with it."""
    held = next((found for name in sorted(agreeing) if (found := store.held(name))), None)
    original = store.held(ORIGINAL) if ORIGINAL in agreeing else None
    data = {"data": held["identity"].get("data")} if held else {}
    return data | ({"original_digest": original["digest"]} if original else {})


def _left_out(study: Study, store: StudyStore, name: str, shared: Mapping[str, Any]) -> list[str]:
    """Return the differences between a population's own population.json and the study; none where there is no file."""
    held = store.held(name)
    if held is None or store.is_given_up(name):
        return []
    if study.populations[name].starts_from:  # it starts from shadows, not from the original
        shared = {key: value for key, value in shared.items() if key != "original_digest"}
    now = labelled(json.loads(json.dumps({**_stated(study, name), **shared}, default=str)))
    before = {key: value for key, value in held["identity"].items() if key in now}
    return [line.removeprefix("options.") for line in _differing(before, now)]


def _stated(study: Study, name: str) -> dict[str, Any]:
    """Return the part of a population's identity that its study file states, in the identity's form."""
    spec, normalize = study.populations[name], study.data.normalize
    training = identity_of(study.training) if spec.method in _TRAINED and not spec.preset else {}
    return {
        "seed": study.seed,
        "data": {
            "image_size": study.data.image_size,
            "normalize": normalize if isinstance(normalize, str) else identity_of(normalize),
        },
        "model": identity_of(study.model),
        "checkpoint_dtype": study.checkpoint_dtype,
        "outputs": identity_of(study.outputs),
        "originals": spec.originals,
        "starts_from": spec.starts_from,
        "options": {**training, **{key: value for key, value in spec.options.items() if key != "weights"}},
    }


def _differing(before: Any, now: Any, path: str = "") -> list[str]:
    """Return one line `key.path: before -> now` for each value of both trees that differs, if its kind is the same.

    Values of other kinds may mean the same: the study file has short forms of some.
    """
    if isinstance(before, dict) and isinstance(now, dict):
        keys = sorted(before.keys() & now.keys())
        return [line for key in keys for line in _differing(before[key], now[key], f"{path}.{key}".lstrip("."))]
    return diff(before, now, path) if _kind(before) == _kind(now) and before != now else []


def _kind(value: Any) -> str:
    return "number" if isinstance(value, int | float) and not isinstance(value, bool) else type(value).__name__
