"""YAML as people expect it: `on` is a word, `1e-3` is a number, and a key given twice is an error.

    tree = parse_yaml("training: {on: train, lr: 1e-3}")    # {"training": {"on": "train", "lr": 0.001}}

PyYAML follows YAML 1.1, where `on`, `off`, `yes` and `no` are booleans, `1e-3` is a string, `010` is eight, `1:30` is
ninety and `2024-01-01` is a date; YAML 1.2 ended all of that. Numbers with leading zeros stay text, as image ids need.

Does not cover: any tag beyond plain values; nothing else is ever constructed.
"""

from __future__ import annotations

import re
from typing import Any

import yaml


class _Loader(yaml.SafeLoader):
    """SafeLoader with YAML 1.2's scalars, refusing duplicate keys."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """Compose a mapping; here each key is still as written, before `<<` copies others in."""
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            if key.value in seen:
                raise yaml.MarkedYAMLError(problem=f"the key {key.value!r} is given twice", problem_mark=key.start_mark)
            seen.add(key.value)
        return node


_REPLACED = tuple(f"tag:yaml.org,2002:{name}" for name in ("bool", "float", "int", "timestamp"))
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag not in _REPLACED]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:int", re.compile(r"^[-+]?(?:0|[1-9]\d*)$|^0x[0-9a-fA-F]+$"), list("-+0123456789")
)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:(?:\d+\.\d*|\.\d+)(?:[eE][-+]?\d+)?|\d+[eE][-+]?\d+|\.(?:inf|Inf|INF))$|^\.(?:nan|NaN|NAN)$"),
    list("-+0123456789."),
)


def parse_yaml(text: str) -> Any:
    """Parse one YAML document into plain values.

    Raises:
        yaml.YAMLError: not YAML, or a key is given twice.

    """
    return yaml.load(text, Loader=_Loader)  # noqa: S506 - a SafeLoader
