"""Where the keys of a study are written: the lines of its file, for messages about them.

    places = Places(file="faces.yaml", text=text)
    places.of(["training", "lr"])                # faces.yaml:12
    places.before("training.lr: expected ...")   # faces.yaml:12: training.lr: expected ...

A key that `<<` copied in, or that is missing, has the line of the block around it; one of `--set` has no line.

Does not cover: the message itself (`loading`, and the rooms that check values).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from ray_unlearn.study.yaml12 import line_of

_KEY = re.compile(r"([A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*): ")


@dataclass(frozen=True, slots=True, eq=False)
class Places:
    """A study's file and text. All are equal: where a study is written makes no difference between two studies."""

    file: str = ""
    """File, as messages name it; empty for a study without one."""
    text: str = ""
    overridden: tuple[str, ...] = ()
    """Dotted keys that `--set` gave."""

    def __eq__(self, other: object) -> bool:
        """Return whether the other is of this class, too."""
        return isinstance(other, Places)

    def __hash__(self) -> int:
        return 0

    def of(self, path: Sequence[str]) -> str:
        """Return `file:line` of a key; the file alone where the key has no line."""
        key = ".".join(path)
        if any(f"{key}.".startswith(f"{one}.") for one in self.overridden):
            return self.file
        line = self.line(path)
        return f"{self.file}:{line}" if line else self.file

    def line(self, path: Sequence[str]) -> int:
        """Return the line of a key, or of the innermost block around it, from 1; 0 where there is none."""
        return line_of(self.text, path) if self.text else 0

    def before(self, message: str) -> str:
        """Return a message that begins with a key of the study, with the key's place before it; others unchanged."""
        found = _KEY.match(message)
        if not (self.file and found):
            return message
        path = found[1].split(".")
        known = self.line(path[:1]) or any(one.split(".")[0] == path[0] for one in self.overridden)
        return f"{self.of(path)}: {message}" if known else message
