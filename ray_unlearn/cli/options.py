"""What subcommands share: arguments and options with their help.

    def status(study: StudyFile, overrides: Overrides = []) -> None: ...

Does not cover: any subcommand.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from ray_unlearn.store import StudyStore
    from ray_unlearn.study import Study


class Backend(StrEnum):
    """Where runs execute."""

    ray = "ray"
    inline = "inline"


StudyFile = Annotated[Path, typer.Argument(metavar="STUDY", help="The study's YAML file.")]
Overrides = Annotated[list[str], typer.Option("--set", metavar="KEY.KEY=VALUE", help="Override a key; repeatable.")]
Where = Annotated[Backend, typer.Option(help="ray, or inline: this process, without Ray.")]
Address = Annotated[str | None, typer.Option(help="A Ray cluster's address. Default: RAY_ADDRESS, else a local one.")]
Workers = Annotated[int | None, typer.Option(min=1, help="Workers; default: execution.workers.")]
GpusPerWorker = Annotated[
    float | None, typer.Option(help="GPUs of a worker; 0.25: four share one. Default: execution.gpus_per_worker.")
]
Every = Annotated[float, typer.Option("--every", min=0.1, metavar="SECONDS", help="How often --watch looks.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def typed(command: str, study: Path, overrides: Sequence[str] = (), *more: str) -> str:
    """Return another command about the same study, overrides included, as one would type it; keys of URIs left out."""
    sets = [word for override in overrides for word in ("--set", _without_keys(override))]
    return shlex.join(["ray-unlearn", command, str(study), *more, *sets])


def _without_keys(override: str) -> str:
    from ray_unlearn.study.uris import label

    key, _, value = override.partition("=")
    plain = "://" not in value or (value == label(value) and "@" not in value)
    return override if plain else f"{key}=..."


def names_in(items: list[str]) -> list[str]:
    """Return the names of a repeatable option that takes lists, too: `--only a,b --only c`."""
    return [name for item in items for name in item.split(",") if name]


def store_of(study: Study) -> StudyStore:
    """Return the study's folder; nothing is created."""
    from ray_unlearn.store import StudyStore, open_storage

    return StudyStore(open_storage(study.storage), study.name)
