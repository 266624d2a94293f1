"""What pydantic says of a study's values, in words: one line for each wrong key.

    lines_of(error, Places(file="faces.yaml", text=text))    # ["faces.yaml:12: training.lr: input should be ...", ...]
    describe_first(error, Options)                           # of the key that is closest to the cause

Does not cover: reading the file (`loading`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from ray_unlearn.errors import did_you_mean
from ray_unlearn.study.forget import NAME_PATTERN, POPULATION_PATTERN
from ray_unlearn.study.places import Places
from ray_unlearn.study.schema import PopulationSpec, Study
from ray_unlearn.study.uris import labelled, without_keys

_MOST_LINES = 100  # of an error message
# What pydantic adds to a key's path: the member of a union that failed, and `[key]` where the key itself is wrong.
_NOT_KEYS = re.compile(
    r"(constrained-)?(int|float|str)|Source|Normalize|HalfOf|UpTo|\[key\]|(function-|literal|tuple)\S*\[.*"
)

_LETTERS = "expected 1 to 64 English letters, digits, `_`, `-`{}, and a letter or digit first"
_SPELLED = {NAME_PATTERN: _LETTERS.format(" or `.`"), POPULATION_PATTERN: _LETTERS.format("")}
"""What is said of names instead of the pattern that they have to match."""


def lines_of(error: ValidationError, places: Places) -> list[str]:
    """Return one line for each wrong key, in the file's order.

    A union reports an error per member: of those about one key, an unknown key inside it, then the deepest, is closest
    to the cause.
    """
    chosen: dict[tuple[str, ...], ErrorDetails] = {}
    blocks = set[tuple[str, ...]]()
    """Paths of the chosen keys and of all blocks around them."""
    for one in sorted(error.errors(), key=_distance):
        path = keys_of(one) or key_named(one)
        if path not in blocks:
            chosen[path] = one
            blocks |= {path[:length] for length in range(len(path) + 1)}
    shown = sorted(list(chosen)[:_MOST_LINES], key=places.line)
    lines = [without_keys(f"{places.of(path)}: {describe(chosen[path], Study)}") for path in shown]
    left = len(chosen) - len(shown)
    return [*lines, f"{places.file}: {left:,} more wrong keys"] if left else lines


def describe_all(error: ValidationError, model: type[BaseModel], also: Iterable[str] = ()) -> list[str]:
    """Describe every wrong key of a block; of the members of a union about one key, the error closest to the cause.

    Args:
        error: what pydantic found.
        model: the block.
        also: further keys that may be written in the block, which an unknown key may be meant for.

    """
    chosen: dict[str, ErrorDetails] = {}
    for one in sorted(error.errors(), key=_distance):
        chosen.setdefault((keys_of(one) or ("",))[0], one)
    return [describe(one, model, also) for one in chosen.values()]


def describe_first(error: ValidationError, model: type[BaseModel]) -> str:
    """Describe the error that is closest to the cause: an unknown key, where there is one, else the deepest key."""
    return describe(min(error.errors(), key=_distance), model)


def _distance(error: ErrorDetails) -> tuple[bool, int]:
    """Return how far an error is from the cause: a union reports one per member, the member that was meant deepest."""
    return error["type"] != "extra_forbidden", -len(keys_of(error))


def describe(error: ErrorDetails, model: type[BaseModel], also: Iterable[str] = ()) -> str:
    """Describe one pydantic error: the key's path, what was expected, what was found, the nearest valid name."""
    path = keys_of(error)
    key, found = ".".join(path), error.get("input")
    if error["type"] == "extra_forbidden":
        if model is Study and key in PopulationSpec.model_fields:
            return f"{key}: unknown key; a population has it: populations.NAME.{key}"
        own = also if len(path) == 1 else ()
        return f"{key}: unknown key{did_you_mean(path[-1], [*_fields(model, path[:-1]), *own])}"
    if error["type"] == "missing":
        return f"{key}: missing; this key is required"
    message = error["msg"].removeprefix("Value error, ")
    if error["type"] == "value_error":
        return f"{key}: {message}" if key else message
    hint = ""
    if error["type"] == "literal_error":
        hint = did_you_mean(str(found), error["ctx"]["expected"].replace("'", "").replace(" or ", ", ").split(", "))
    if error["type"] == "invalid_key" and isinstance(found, bool):  # written by a program of YAML 1.1, which PyYAML is
        hint = f": programs that read YAML 1.1 turn {'on and yes' if found else 'off and no'} into it; write the word"
    if error["type"] == "string_pattern_mismatch":
        message = _SPELLED.get(error["ctx"]["pattern"], message)
    return f"{key}: {message[0].lower()}{message[1:]}; found {_short(found)}{hint}"


def keys_of(error: ErrorDetails) -> tuple[str, ...]:
    """Return the path of an error's key, without the members of unions that pydantic adds to it."""
    parts = [" ".join(str(part).split()) for part in error["loc"]]  # one line, also where a key has line ends
    named = 2 if parts[:1] == ["populations"] else 0  # a population may have any name, `int` too
    return (*parts[:named], *(part for part in parts[named:] if not _NOT_KEYS.fullmatch(part)))


def _short(value: Any) -> str:
    text = repr(labelled(value))
    return text if len(text) <= 60 else text[:57] + "..."


def _fields(model: type[BaseModel], path: Iterable[str]) -> list[str]:
    """Return the valid keys at `path` below `model`; none where the path leaves the schema."""
    for part in path:
        field = model.model_fields.get(part)
        candidates = [field.annotation, *get_args(field.annotation)] if field else []
        blocks = [c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)]
        if not blocks:
            return []
        model = blocks[0]
    return list(model.model_fields)


def key_named(error: ErrorDetails) -> tuple[str, ...]:
    """Return the key that the message of an error about the whole study begins with; empty without one."""
    key, colon, _ = error["msg"].removeprefix("Value error, ").partition(": ")
    return tuple(key.split(".")) if colon and " " not in key else ()
