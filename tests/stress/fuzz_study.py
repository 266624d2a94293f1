"""Study files that no one should write: the schema's keys with values of the wrong kind, and YAML that bites.

    text = odd_study(rng, TREE)                  # rng: anything with random.Random's methods
    YAML_BOMBS["billion laughs"]

Shared by fuzz.py and tests/test_fuzz.py. Where to change what comes from the study's own JSON schema, so that a
new key is fuzzed from its first day.

Does not cover: what is done with the text (`fuzz_kinds`).
"""

import copy
import json
import math
from collections.abc import Iterator, Mapping
from random import Random
from typing import Any

import yaml
from fuzz_bytes import damaged

from ray_unlearn.methods import METHODS
from ray_unlearn.study import Study

Path = tuple[str, ...]

TREE: dict[str, Any] = {
    "name": "tiny",
    "storage": "store",
    "seed": 0,
    "data": {
        "train": "digits",
        "test": "digits",
        "image_size": 8,
        "limit": 100,
        "validation": 0.1,
        "forget": {"fraction": 0.1},
    },
    "model": {"arch": "small_cnn", "options": {"width": 4}},
    "training": {"epochs": 1, "optimizer": "adam", "lr": 3e-3, "batch_size": 32},
    "populations": {
        "original": {"method": "train", "on": "train"},
        "retrained": {"method": "train", "on": "retain", "count": 4},
        "finetune": {"method": "finetune", "count": 2, "noise_std": 0.01},
    },
    "outputs": {"splits": ["retain", "forget", "test"]},
    "execution": {"device": "cpu"},
    "evaluation": {"reference": "retrained", "resamples": 10},
}
"""A study that is as it should be."""

_LAUGHS = "".join(f"  l{i}: &l{i} [{', '.join([f'*l{i - 1}'] * 10)}]\n" for i in range(1, 10))
_BOMB = f"  l0: &l0 [{', '.join(['x'] * 10)}]\n{_LAUGHS}"
YAML_BOMBS = {
    "billion laughs": f"name: a\nmodel:\n arch: small_cnn\n options:\n{_BOMB}",
    "billion laughs at the top": f"name: a\nx:\n{_BOMB}",
    "contains itself": "name: a\nmodel: {options: {a: &a [*a]}}\n",
    "is itself": "&a {name: a, data: *a}\n",
    "100,000 brackets": "name: " + "[" * 100_000,
    "3,000 lists": "model: {options: {a: " + "[" * 3_000 + "]" * 3_000 + "}}\n",
    "500 lists": "model: {options: {a: " + "[" * 500 + "]" * 500 + "}}\n",
    "deep by indentation": "".join(f"{' ' * i}a:\n" for i in range(2_000)),
    "an integer of 10,000 digits": f"name: a\nseed: {'9' * 10_000}\n",
    "hexadecimal without end": f"name: a\nseed: 0x{'f' * 10_000}\n",
    "runs Python": "name: !!python/object/apply:os.system ['touch pwned']\n",
    "makes a Python object": "name: !!python/name:os.system\n",
    "a tag that lies about an integer": 'seed: !!int "abc"\n',
    "a tag that lies about a float": 'seed: !!float "abc"\n',
    "a tag that lies about a boolean": 'seed: !!bool "maybe"\n',
    "a tag that lies about a date": 'seed: !!timestamp "never"\n',
    "an empty integer": 'seed: !!int ""\n',
    "binary": "name: !!binary AAAA\n",
    "a set": "data: !!set {a, b}\n",
    "an ordered map": "data: !!omap [a: 1]\n",
    "a list as key": "? [a, b]\n: c\n",
    "a mapping as key": "? {a: b}\n: c\n",
    "keys that are no text": "1: 2\nnull: 3\ntrue: 4\n1.5: x\nname: a\n",
    "merges a number": "<<: 3\nname: a\n",
    "a lone surrogate": 'name: "\\ud800"\n',
    "a surrogate as key": '"\\udfff": 1\nname: a\n',
    "a null byte": 'name: "a\\0b"\n',
    "an unknown version": "%YAML 9.9\n---\nname: a\n",
    "two documents": "name: a\n---\nname: b\n",
    "no document": "# nothing\n",
    "an escape sequence": 'name: "\\e[2J\\e]0;owned\\a"\n',
    "a long line": f"name: {'a' * 1_000_000}\n",
    "many keys": "\n".join(f"k{i}: 1" for i in range(5_000)),
}


def odd_value(rng: Random) -> Any:
    """Return a value that few keys expect."""
    nested: Any = []
    for _ in range(rng.choice((1, 5, 60))):
        nested = [nested] if rng.random() < 0.5 else {"a": nested}
    return rng.choice(
        (
            *(None, True, False, 0, -1, 1, 2, 2**31, 2**63, 2**64, 10**30, 10**400, -(10**400)),
            *(0.0, -0.0, 1e308, -1e308, 5e-324, math.inf, -math.inf, math.nan, 0.5, 1.5),
            *(
                "",
                " ",
                "a" * 20_000,
                "a\nb",
                "\x00",
                "\x1b[2J",
                "é\u202e",
                "../../outside",
                "/etc/passwd",
                "~",
                "~root/x",
            ),
            *(
                "${HOME}",
                "%s{0}%n",
                "[",
                "*.parquet",
                "[!",
                "nan",
                "1e999",
                "digits",
                "original",
                "con",
                "a.py:f",
                "a:b",
            ),
            *("os:system", "torch.nn:Linear", "builtins:eval", "file:///etc", "x://y", "://", "s3", "a" * 300, "."),
            *([], [[]], {}, {"a": {}}, [None] * 300, ["a", "a"], [1, "a", None], {"": ""}, nested),
        )
    )


def keys_of(schema: Mapping[str, Any], node: Mapping[str, Any], above: Path = (), depth: int = 0) -> Iterator[Path]:
    """Yield the path of every key that the schema knows; populations by the names of `TREE`."""
    if depth > 6:
        return
    if "$ref" in node:
        yield from keys_of(schema, schema["$defs"][node["$ref"].rpartition("/")[2]], above, depth + 1)
    for branch in node.get("anyOf", ()):
        yield from keys_of(schema, branch, above, depth + 1)
    for name, inner in node.get("properties", {}).items():
        yield (*above, name)
        yield from keys_of(schema, inner, (*above, name), depth + 1)
    if isinstance(node.get("patternProperties"), Mapping) or isinstance(node.get("additionalProperties"), Mapping):
        inner = node.get("additionalProperties") or next(iter(node["patternProperties"].values()))
        for name in TREE["populations"] if above == ("populations",) else ():
            yield from keys_of(schema, inner, (*above, name), depth + 1)


def all_keys() -> list[Path]:
    """Return every key of a study file, and every option of a method as one of `finetune`'s."""
    schema = Study.model_json_schema()
    options = {name for method in METHODS.values() for name in method.options.model_fields}
    found = {*keys_of(schema, schema), *(("populations", "finetune", name) for name in options)}
    return sorted(found - {("storage",)})  # where a study may write is for its author to state


KEYS = all_keys()


def odd_tree(rng: Random, tree: Mapping[str, Any] = TREE) -> dict[str, Any]:
    """Return a study with one to three keys changed to something odd, removed, or misspelt."""
    changed = copy.deepcopy(dict(tree))
    for _ in range(rng.choice((1, 1, 2, 3))):
        *above, key = rng.choice(KEYS)
        place: Any = changed
        for name in above:
            if not isinstance(place.get(name), dict):
                place[name] = {}
            place = place[name]
        what = rng.random()
        if what < 0.15:
            place.pop(key, None)
        elif what < 0.25:
            place[key + rng.choice(("s", "_", " ", "\u0430"))] = place.pop(key, odd_value(rng))
        elif what < 0.3:
            place[rng.choice(("", "a.b", "../x", "x" * 70, "null", "splits", "data-cache"))] = place.get(key, {})
        elif key == "method":
            place[key] = rng.choice((*METHODS, odd_value(rng)))
        else:
            place[key] = odd_value(rng)
    return changed


def text_of(rng: Random, tree: Mapping[str, Any]) -> str:
    """Return a tree as YAML in one of its styles."""
    if rng.random() < 0.3:
        return json.dumps(tree, ensure_ascii=rng.random() < 0.5)
    return yaml.safe_dump(dict(tree), sort_keys=False, allow_unicode=True, width=10**9)


def odd_study(rng: Random) -> bytes:
    """Return a study file that is wrong somewhere, or not even YAML."""
    what = rng.random()
    if what < 0.7:
        return text_of(rng, odd_tree(rng)).encode("utf-8", "surrogatepass")
    if what < 0.85:
        return damaged(rng, text_of(rng, TREE).encode())
    bomb = YAML_BOMBS[rng.choice(list(YAML_BOMBS))].encode("utf-8", "surrogatepass")
    return bomb if rng.random() < 0.7 else text_of(rng, TREE).encode() + bomb
