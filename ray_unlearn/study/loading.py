"""A study file and its overrides -> a `Study`, or one `StudyError` with a line for each wrong key.

    study = load_study("faces.yaml", overrides=["training.lr=1e-4", "storage=/scratch"])
    study = parse_study({"name": "faces", ...}, where="a test")
    study, wrong = examine("faces.yaml")         # the rest of a study without its wrong keys, to find further errors
    with located(study):                         # checks that know keys, but not the file
        check_model(study)

Relative paths in the file are relative to the file; those in overrides, to the current folder. An architecture's
`package.module:factory` that is not installed is looked for in the file's folder.

Does not cover: whether a path exists; the room that opens it reports that.
"""

from __future__ import annotations

import copy
import functools
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from ray_unlearn.errors import DataError, MethodError, ModelError, StudyError, did_you_mean
from ray_unlearn.study.places import Places
from ray_unlearn.study.schema import Study
from ray_unlearn.study.uris import label, without_keys
from ray_unlearn.study.weights_files import expanded
from ray_unlearn.study.wrong_keys import describe_first, key_named, keys_of, lines_of
from ray_unlearn.study.yaml12 import parse_yaml

_EMBEDDED = ("digits", "cifar10", "given")
_ROUNDS = 4
"""Times that a study is validated without the keys that were wrong: blocks, and then the whole, are checked last."""


def load_study(path: str | Path, overrides: Sequence[str] = ()) -> Study:
    """Read and validate a study file.

    Args:
        path: the YAML file.
        overrides: `a.b=value` strings; the value is YAML.

    Raises:
        StudyError: the file cannot be read, is not YAML, or holds invalid values.

    """
    places = places_of(path, overrides)
    study = parse_study(read_tree(path, overrides), where=places)
    return study.with_file(places, str(Path(path).parent.absolute()))


def examine(path: str | Path, overrides: Sequence[str] = ()) -> tuple[Study | None, list[str]]:
    """Return a study without its wrong keys, and one line for each of these; None where too little is left.

    Raises:
        StudyError: the file cannot be read, is not YAML, or is no mapping.

    """
    places, tree = places_of(path, overrides), copy.deepcopy(read_tree(path, overrides))
    wrong, names = list[str](), _populations(tree)
    for _ in range(_ROUNDS):
        try:
            return Study.model_validate(tree).with_file(places, str(Path(path).parent.absolute())), wrong
        except ValidationError as error:
            of_all = all(not one["loc"] for one in error.errors()) and _populations(tree) == names
            if not wrong or of_all:  # else a key that was removed may be what is missed
                wrong += lines_of(error, places)
            for one in error.errors():
                _drop(tree, keys_of(one) or _without_default(key_named(one)))
            if isinstance(tree.get("data"), dict):
                tree["data"].setdefault("forget", {"fraction": 0.1})  # so that the rest is looked at
    return None, wrong


def _without_default(path: tuple[str, ...]) -> tuple[str, ...]:
    """Return what to remove for a key that other keys contradict: its block, where the default may be wrong, too."""
    return path[:1] if path[:1] == ("evaluation",) else path


def _populations(tree: dict[str, Any]) -> list[str]:
    found = tree.get("populations")
    return list(found) if isinstance(found, dict) else []


def places_of(path: str | Path, overrides: Sequence[str] = ()) -> Places:
    """Return the lines of a study file.

    Raises:
        StudyError: the file cannot be read.

    """
    return Places(str(path), _read(Path(path)), tuple(one.partition("=")[0].strip() for one in overrides))


@contextmanager
def located(study: Study) -> Iterator[None]:
    """Add the file and the line to errors of a block that begin with a key of the study."""
    try:
        yield
    except (StudyError, DataError, MethodError, ModelError) as error:
        text = "\n".join(map(study.places.before, str(error).split("\n")))
        if text == str(error):
            raise
        raise type(error)(text) from error


def read_tree(path: str | Path, overrides: Sequence[str] = (), *, absolute: bool = True) -> dict[str, Any]:
    """Return a study file's plain values, overrides merged in; nothing is validated but that it is a mapping.

    Args:
        path: the YAML file.
        overrides: `a.b=value` strings; the value is YAML.
        absolute: whether relative paths are resolved; else every path stays as it is written.

    Raises:
        StudyError: the file cannot be read, is not YAML, or is no mapping.

    """
    file = Path(path)
    try:
        tree = parse_yaml(_read(file))
    except yaml.YAMLError as error:
        raise StudyError(f"{file}: not YAML: {_place(error)}") from error
    if not isinstance(tree, dict):
        raise StudyError(f"{file}: expected a mapping with name, data and populations; found {type(tree).__name__}")
    tree = {
        "storage": Study.model_fields["storage"].default
    } | tree  # relative to the file's folder, as if it were written out
    trees = [(tree, file.parent.absolute()), *((_override(override), Path.cwd()) for override in overrides)]
    merged: dict[str, Any] = {}
    for part, folder in trees:
        merged = _merge(merged, _absolute_paths(part, folder) if absolute else part)
    for override in overrides:
        _check_population(override, tree.get("populations"), merged.get("populations"))
    return merged


def resolved(tree: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Return a study's plain values with relative paths resolved against a folder, as those of a file are."""
    return _absolute_paths({"storage": Study.model_fields["storage"].default} | tree, folder)


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        hint = "; `ray-unlearn init FILE` writes one to start from" if isinstance(error, FileNotFoundError) else ""
        raise StudyError(f"{file}: cannot be read ({getattr(error, 'strerror', None) or error}){hint}") from error


def parse_study(tree: dict[str, Any], where: str | Places) -> Study:
    """Validate a mapping; `where` opens every line of the error message.

    Raises:
        StudyError: it holds invalid values; the message has one line for each wrong key, in the file's order.

    """
    try:
        return Study.model_validate(tree)
    except ValidationError as error:
        raise StudyError("\n".join(lines_of(error, Places(where) if isinstance(where, str) else where))) from None


def parse_stored(tree: dict[str, Any]) -> Study:
    """Validate a study as a store holds it; keys that only a later version knows are left out.

    Raises:
        StudyError: this version cannot read it as a study.

    """
    tree = copy.deepcopy(tree)
    while True:
        try:
            return Study.model_validate(tree)
        except ValidationError as error:
            unknown = [one["loc"] for one in error.errors() if one["type"] == "extra_forbidden"]
            if not any(_drop(tree, loc) for loc in unknown):
                raise StudyError(describe_first(error, Study)) from None


def _drop(tree: Any, path: tuple[int | str, ...]) -> bool:
    """Remove a key; parts of its path that name a member of a union are skipped. Return whether the key existed."""
    if not path:
        return False
    for part in path[:-1]:
        inner = tree.get(part) if isinstance(tree, dict) else None
        tree = inner if isinstance(inner, dict) else tree
    return isinstance(tree, dict) and tree.pop(path[-1], tree) is not tree


def tree_of(overrides: Sequence[str]) -> dict[str, Any]:
    """Return overrides alone as plain values: `["a.b=1", "a.c=2"]` gives {"a": {"b": 1, "c": 2}}.

    Raises:
        StudyError: one is not `KEY=VALUE`, or its value is not YAML.

    """
    return functools.reduce(_merge, map(_override, overrides), {})


def _override(text: str) -> dict[str, Any]:
    key, equals, value = text.partition("=")
    parts = key.strip().split(".")
    if not equals or not all(parts):
        raise StudyError(f"--set {_typed(text)!r}: expected KEY.KEY=VALUE, for example training.lr=1e-4")
    try:
        tree: Any = parse_yaml(value)
    except yaml.YAMLError as error:
        raise StudyError(f"--set {_typed(text)!r}: the value is not YAML: {_place(error)}") from error
    for part in reversed(parts):
        tree = {part: tree}
    return dict(tree)


def _check_population(override: str, known: Any, populations: Any) -> None:
    """Check that an override of a population's key names a population of the file, or one that overrides make whole.

    Raises:
        StudyError: it names another, which has neither a method nor weights.

    """
    block, _, rest = override.partition("=")[0].strip().partition(".")
    name, _, key = rest.partition(".")
    made = populations.get(name) if isinstance(populations, dict) else None
    if block != "populations" or not key or not isinstance(known, dict) or name in known or not isinstance(made, dict):
        return
    if not {"method", "weights"} & set(made):
        hint = did_you_mean(f"populations.{name}.{key}", [f"populations.{one}.{key}" for one in known])
        raise StudyError(f"--set {_typed(override)!r}: the study has no population {name!r}{hint}")


def _typed(override: str) -> str:
    """Return an override for a message, without the credentials of a URI."""
    key, equals, value = override.partition("=")
    return key + equals + label(value) if "://" in value else override


def _place(error: yaml.YAMLError) -> str:
    """Return the error and its place, without the line itself, which may hold the credentials of a URI."""
    if not isinstance(error, yaml.MarkedYAMLError):
        return " ".join(without_keys(str(error)).split())
    mark = error.problem_mark or error.context_mark
    where = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
    text = ", ".join(filter(None, (error.context, error.problem, error.note)))
    return " ".join(without_keys(text).split()) + where


def _merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        both = isinstance(merged.get(key), dict) and isinstance(value, dict)
        merged[key] = _merge(merged[key], value) if both else value
    return merged


def _absolute_paths(tree: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Resolve what names a file against `folder`: storage, sources, id lists, weights and scripts."""
    tree = dict(tree)
    if "storage" in tree:
        tree["storage"] = _absolute(tree["storage"], folder)
    if isinstance(tree.get("data"), dict):
        data = tree["data"] = dict(tree["data"])
        for role in ("train", "test", "validation"):
            if role in data:
                data[role] = _absolute_source(data[role], folder)
        if isinstance(data.get("forget"), dict) and isinstance(data["forget"].get("ids"), str):
            data["forget"] = {**data["forget"], "ids": _absolute(data["forget"]["ids"], folder)}
    if isinstance(tree.get("model"), dict) and isinstance(tree["model"].get("pretrained"), str):
        tree["model"] = {**tree["model"], "pretrained": _absolute(tree["model"]["pretrained"], folder)}
    if isinstance(tree.get("execution"), dict) and isinstance(tree["execution"].get("track"), list):
        places = [_absolute_place(entry, folder) for entry in tree["execution"]["track"]]
        tree["execution"] = {**tree["execution"], "track": places}
    if isinstance(tree.get("evaluation"), dict) and isinstance(tree["evaluation"].get("populations"), dict):
        others = {name: _absolute(path, folder) for name, path in tree["evaluation"]["populations"].items()}
        tree["evaluation"] = {**tree["evaluation"], "populations": others}
    if isinstance(tree.get("populations"), dict):
        populations = {name: _absolute_population(spec, folder) for name, spec in tree["populations"].items()}
        tree["populations"] = {
            name: expanded(spec, f"populations.{name}") if isinstance(spec, dict) else spec
            for name, spec in populations.items()
        }
    return tree


def _absolute_place(entry: Any, folder: Path) -> Any:
    """Resolve the folder of a tracker, `name=FOLDER`."""
    name, equals, where = entry.partition("=") if isinstance(entry, str) else (entry, "", "")
    return f"{name}={_absolute(where, folder)}" if equals else entry


def _absolute_source(value: Any, folder: Path) -> Any:
    if isinstance(value, dict) and "path" in value:
        images = {"images": _absolute(value["images"], folder)} if "images" in value else {}
        return {**value, "path": _absolute_paths_of(value["path"], folder), **images}
    return value if value in _EMBEDDED else _absolute_paths_of(value, folder)


def _absolute_population(spec: Any, folder: Path) -> Any:
    if not isinstance(spec, dict):
        return spec
    spec = dict(spec)
    if "weights" in spec:
        spec["weights"] = _absolute_paths_of(spec["weights"], folder)
    if isinstance(spec.get("method"), str) and ".py:" in spec["method"]:
        spec["method"] = _absolute(spec["method"], folder)
    return spec


def _absolute_paths_of(value: Any, folder: Path) -> Any:
    return [_absolute(item, folder) for item in value] if isinstance(value, list) else _absolute(value, folder)


def _absolute(value: Any, folder: Path) -> Any:
    if not isinstance(value, str) or "://" in value or not value:
        return value
    return str(folder / os.path.expanduser(value))  # noqa: PTH111 - leaves an unknown ~user as it is
