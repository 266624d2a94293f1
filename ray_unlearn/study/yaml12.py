"""YAML as people expect it: `on` is a word, `1e-3` is a number, and a key given twice is an error.

    tree = parse_yaml("training: {on: train, lr: 1e-3}")    # {"training": {"on": "train", "lr": 0.001}}

A document that would unfold to more than 100,000 values (aliases of aliases), or nests deeper than 100, is refused.

PyYAML follows YAML 1.1, where `on`, `off`, `yes` and `no` are booleans, `1e-3` is a string, `010` is eight, `1:30` is
ninety and `2024-01-01` is a date; YAML 1.2 ended all of that. Numbers with leading zeros stay text, as image ids need.

Does not cover: any tag beyond plain values; nothing else is ever constructed.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from typing import Any

import yaml

_MOST_VALUES = 100_000
_MERGE = "tag:yaml.org,2002:merge"


class _Loader(yaml.SafeLoader):
    """SafeLoader with YAML 1.2's scalars, refusing duplicate keys, and merges (`<<`) that multiply without end."""

    _merged = 0

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Copy the keys that `<<` refers to into a mapping, counted first: a few nested merges would copy billions."""
        for key, value in node.value:
            if key.tag == _MERGE:
                for source in value.value if isinstance(value, yaml.SequenceNode) else [value]:
                    self._count_merge(source)
        super().flatten_mapping(node)

    def _count_merge(self, source: yaml.Node) -> None:
        if isinstance(source, yaml.MappingNode):
            self.flatten_mapping(source)
            self._merged += len(source.value)
        if self._merged > _MOST_VALUES:
            raise yaml.YAMLError(f"too many keys copied by `<<`; expected at most {_MOST_VALUES:,}")

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """Compose a mapping and check its keys as written, before `<<` copies others in."""
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


_DEEPEST = 100
_MOST_BITS = 4096  # Python prints no integer of more than 4,300 digits, not even in an error message


def parse_yaml(text: str) -> Any:
    """Parse one YAML document into plain values.

    Raises:
        yaml.YAMLError: not YAML, a key is given twice, or a limit above is exceeded.

    """
    try:
        tree = yaml.load(text, Loader=_Loader)  # noqa: S506 - a SafeLoader
    except yaml.YAMLError:
        raise
    except RecursionError:
        raise yaml.YAMLError(f"nested too deeply; expected at most {_DEEPEST} levels") from None
    except Exception as error:  # `!!int abc`, `!!bool maybe`, an integer of 5,000 digits: each another kind
        raise yaml.YAMLError(f"a value does not fit its tag ({type(error).__name__}: {error})") from error
    _check_size(tree)
    return tree


def line_of(text: str, path: Sequence[str]) -> int:
    """Return the line, from 1, of the key at `path`, else of the innermost mapping or item around it; 0 for neither.

    Args:
        text: a document that `parse_yaml` accepts.
        path: keys, and positions in lists as digits.

    """
    node, line = _composed(text), 0
    for part in path:
        key, inner = _child(node, part)
        if key is None:
            break
        node, line = inner, key.start_mark.line + 1
    return line


@functools.lru_cache(maxsize=1)
def _composed(text: str) -> yaml.Node | None:
    """Return a document's root; the last one is kept, because a message looks for many keys of the same document."""
    return yaml.compose(text, Loader=_Loader)


def _child(node: yaml.Node | None, part: str) -> tuple[yaml.Node | None, yaml.Node | None]:
    """Return the key and the value below a mapping's node, an item twice below a list's; None where there is none."""
    if isinstance(node, yaml.MappingNode):
        return next(((k, v) for k, v in node.value if isinstance(k, yaml.ScalarNode) and k.value == part), (None, None))
    if isinstance(node, yaml.SequenceNode) and part.isdecimal() and int(part) < len(node.value):
        return node.value[int(part)], node.value[int(part)]
    return None, None


def _check_size(tree: Any) -> None:
    """Check depth and number of values; each counts as often as aliases repeat it, as in a walk of the tree."""
    pending, seen = [(tree, 0)], 0
    while pending:
        value, depth = pending.pop()
        seen += 1
        if depth > _DEEPEST:
            raise yaml.YAMLError(f"nested too deeply; expected at most {_DEEPEST} levels")
        if seen > _MOST_VALUES:
            raise yaml.YAMLError(f"too many values; expected at most {_MOST_VALUES:,}, aliases unfolded")
        if isinstance(value, int) and value.bit_length() > _MOST_BITS:
            raise yaml.YAMLError(f"an integer of {value.bit_length():,} bits; expected at most {_MOST_BITS:,}")
        if isinstance(value, dict):
            pending += [(inner, depth + 1) for inner in (*value, *value.values())]
        elif isinstance(value, list | tuple | set):
            pending += [(inner, depth + 1) for inner in value]
