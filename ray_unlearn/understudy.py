"""A stand-in for torch._dynamo, which every optimiser imports at its first step: 5 s of a core, for nothing here.

    spare_dynamo()                               # before the first optimiser; the real one comes when it is needed

Optimisers ask torch._dynamo for two things: `disable`, which marks a function for the compiler, and `graph_break`,
which means something inside a compiled function only. Nothing is compiled here. Whoever does compile (a user's script,
`torch.compile`) asks for something else, and the real module takes the stand-in's place, its marks forgotten.

Does not cover: other heavy parts of torch, which come with `import torch`.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch

_NAME = "torch._dynamo"
_MARK = "__dynamo_disable"  # where torch._compile keeps what `disable` returned


class _Understudy(ModuleType):
    """Knows its two lines; for all else it calls the real module."""

    def __init__(self) -> None:
        super().__init__(_NAME)
        self.__spec__ = None
        self._marked: list[Callable[..., Any]] = []

    def graph_break(self, *_: object, **__: object) -> None:
        """Break no graph: nothing is compiled."""

    def disable(self, function: Callable[..., Any], *_: object, **__: object) -> Callable[..., Any]:
        """Return the function itself."""
        self._marked.append(function)
        return function

    def __getattr__(self, name: str) -> Any:
        """Make room for the real module."""
        if sys.modules.get(_NAME) is self:
            del sys.modules[_NAME]
            for function in self._marked:
                function.__dict__.pop(_MARK, None)
            torch._dynamo = importlib.import_module(_NAME)
        return getattr(sys.modules[_NAME], name)


def spare_dynamo() -> None:
    """Put the stand-in in place, unless the real module is there already."""
    if _NAME not in sys.modules:
        sys.modules[_NAME] = torch._dynamo = _Understudy()
