"""Where a case of fuzzing takes place, and which commands it runs.

    bench = Bench(root, template)
    Attack([["prepare", bench.study(train="faces"), "--backend", "inline"]])

Does not cover: what is damaged (`fuzz_sources`, `fuzz_stores`), nor what counts as a violation (`fuzz_judge`).
"""

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pyarrow as pa
import yaml
from fuzz_study import TREE

ESCAPES = (
    "../outside",
    "../../../outside",
    "a/../../outside",
    "..",
    "a-b/../../outside",
    "a\\..\\outside",
    "a\0b-c",
    "/{root}/outside",
)


@dataclass(frozen=True, slots=True)
class Bench:
    """Where one case takes place: only the storage below `here` may change."""

    root: Path
    template: Path
    """A folder with the storage of `TREE`, generated and evaluated."""

    @property
    def here(self) -> Path:
        """The folder of the study file."""
        return self.root / "a" / "b"

    @property
    def store(self) -> Path:
        """The study's folder."""
        return self.here / "store" / "tiny"

    def write(self, name: str, data: bytes) -> Path:
        """Write an input."""
        file = self.here / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
        return file

    def study(self, **data: Any) -> str:
        """Write `TREE` with another `data` block; return the file."""
        return self.study_of({**TREE, "data": {"image_size": 8, "forget": {"fraction": 0.2}, **data}})

    def study_of(self, tree: Mapping[str, Any]) -> str:
        """Write a study; return the file."""
        return str(self.write("study.yaml", yaml.safe_dump(dict(tree), sort_keys=False).encode()))

    def made(self) -> str:
        """Bring the finished study here; return its file."""
        shutil.copytree(self.template / "store", self.here / "store", dirs_exist_ok=True)
        return self.study_of(TREE)


@dataclass(frozen=True, slots=True)
class Attack:
    """Commands that meet the damaged files, and what else they may write."""

    commands: list[list[str]]
    may_write: list[Path] = field(default_factory=list)
    refused: bool = False
    """Whether to accept it would be wrong."""


Kind = Callable[[Bench, Random], Attack]


def odd_column(rng: Random, count: int) -> pa.Array:
    """Return a column of a type that few expect."""
    makers: tuple[Callable[[], Any], ...] = (
        lambda: pa.array([None] * count),
        lambda: pa.array([float(i) for i in range(count)]),
        lambda: pa.array([2**64 - 1 - i for i in range(count)], pa.uint64()),
        lambda: pa.array([2**62 + i for i in range(count)], pa.int64()),
        lambda: pa.array([f"n{i % 2}" for i in range(count)]).dictionary_encode(),
        lambda: pa.array([[i] for i in range(count)]),
        lambda: pa.array([{"a": i} for i in range(count)]),
        lambda: pa.array([{"bytes": i} for i in range(count)]),
        lambda: pa.array([{"bytes": "text", "path": i} for i in range(count)]),
        lambda: pa.array([{"bytes": None, "path": rng.choice(ESCAPES)} for _ in range(count)]),
        lambda: pa.array([b"\xff\xfe" for i in range(count)], pa.binary()),
        lambda: pa.array(list(range(count)), pa.timestamp("ns")),
        lambda: pa.array(list(range(count)), pa.duration("s")),
        lambda: pa.array([i % 2 == 0 for i in range(count)]),
        lambda: pa.array([rng.choice((None, -1, 0, 1, 2**40)) for _ in range(count)], pa.int64()),
        lambda: pa.array([rng.choice((None, "", "a\0b", "x" * 10_000, "\u202e")) for _ in range(count)]),
        lambda: pa.array([str(i) for i in range(count)], pa.large_string()),
        lambda: pa.array([np.nan] * count),
    )
    made: pa.Array = rng.choice(makers)()
    return made
