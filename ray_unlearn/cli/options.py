"""Arguments and options that subcommands share, with their help.

    def status(study: StudyFile, overrides: Overrides = []) -> None: ...

Does not cover: the subcommands themselves.
"""

from __future__ import annotations

import functools
import re
import shlex
from collections.abc import Callable, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ray_unlearn.errors import RayUnlearnError, StudyError

if TYPE_CHECKING:
    from ray_unlearn.store import StudyStore
    from ray_unlearn.study import Study
    from ray_unlearn.study.plan import Shard


class Backend(StrEnum):
    """Where runs execute."""

    auto = "auto"
    ray = "ray"
    inline = "inline"


StudyFile = Annotated[Path, typer.Argument(metavar="STUDY", help="The study's YAML file.")]
Overrides = Annotated[
    list[str], typer.Option("--set", metavar="KEY.KEY=VALUE", help="Override a key of the study file. Repeatable.")
]
_WHERE = (
    "Where the work is done. inline: in this process{}; auto: in processes forked on this machine where they are "
    "enough, else on Ray."
)
Where = Annotated[Backend, typer.Option(help=_WHERE.format(""))]
WhereWithWorkers = Annotated[
    Backend, typer.Option(help=_WHERE.format(", or with --workers N in N processes forked on this machine"))
]
"""The same of commands that have --workers."""
Address = Annotated[
    str | None, typer.Option(help="Address of a Ray cluster. Default: RAY_ADDRESS, else a local cluster.")
]
Workers = Annotated[int | None, typer.Option(min=1, help="Number of workers. Default: execution.workers.")]
GpusPerWorker = Annotated[
    float | None, typer.Option(help="GPUs per worker; at 0.25, four share one. Default: execution.gpus_per_worker.")
]
ShardOf = Annotated[
    str | None,
    typer.Option(
        "--shard",
        metavar="I/K",
        help="Make part I of K of the runs, I from 1; K such commands, for example a job array's tasks, share a store.",
    ),
]
KeepGoing = Annotated[
    bool,
    typer.Option(
        "--keep-going",
        help="Try every run, also of a population whose runs all fail in the same way: execution.fail_fast=false.",
    ),
]
Every = Annotated[
    float, typer.Option("--every", min=0.1, metavar="SECONDS", help="Seconds between two refreshes of --watch.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]


def typed(command: str, study: Path, overrides: Sequence[str] = (), *more: str) -> str:
    """Return the command line of a subcommand for the same study and overrides, without the credentials of URIs."""
    sets = [word for override in overrides for word in ("--set", _without_keys(override))]
    return shlex.join(["ray-unlearn", command, str(study), *more, *sets])


def with_keep_going(overrides: Sequence[str], keep_going: bool) -> list[str]:
    """Return the overrides, with that of `--keep-going` where it is given."""
    return [*overrides, "execution.fail_fast=false"] if keep_going else list(overrides)


_COMMAND = re.compile(
    r"`ray-unlearn (prepare|generate|status|logs|verify|evaluate|report)(?: STUDY)?((?: --[a-z]+)*(?: [\w-]+/\d+)?)`"
)
"""A command that names no study file yet, with its options, or the run whose log it shows."""


def named(text: str, study: Path, overrides: Sequence[str] = ()) -> str:
    """Return a text whose commands in backquotes name the study file and the overrides, as `typed` writes them.

    >>> named("`ray-unlearn generate` makes them", Path("faces.yaml"))
    '`ray-unlearn generate faces.yaml` makes them'
    """
    return _COMMAND.sub(lambda found: f"`{typed(found[1], study, overrides, *found[2].split())}`", text)


def naming_study(command: Callable[..., None]) -> Callable[..., None]:
    """Return a subcommand whose errors name its study file in the next step that they advise."""

    @functools.wraps(command)
    def run(**arguments: Any) -> None:
        try:
            command(**arguments)
        except RayUnlearnError as error:
            if "study" in arguments:
                error.args = (named(str(error), arguments["study"], arguments.get("overrides", ())),)
            raise

    return run


def _without_keys(override: str) -> str:
    from ray_unlearn.study.uris import label

    key, _, value = override.partition("=")
    plain = "://" not in value or (value == label(value) and "@" not in value)
    return override if plain else f"{key}=..."


def shard_in(text: str | None) -> Shard | None:
    """Return the part that `I/K` means.

    Raises:
        StudyError: it is not of that form, or I is not from 1 to K.

    """
    if text is None:
        return None
    from ray_unlearn.study.plan import Shard

    number, _, count = text.partition("/")
    digits = all(part.isascii() and part.isdecimal() and len(part) <= 6 for part in (number, count))
    if not digits or not 1 <= int(number) <= int(count):
        raise StudyError(f"--shard {text!r}: expected I/K with I from 1 to K, for example 2/3")
    return Shard(int(number), int(count))


def names_in(items: list[str], option: str = "--only") -> list[str]:
    """Return the names given to a repeatable option that also takes lists: `--only a,b --only c`.

    Raises:
        StudyError: a value names none, as that of a shell's variable without a value; all would be meant.

    """
    names = [[name for name in item.split(",") if name] for item in items]
    if not all(names):
        raise StudyError(f"{option}: expected names, such as {option} a,b; found {items[names.index([])]!r}")
    return [name for each in names for name in each]


def store_of(study: Study) -> StudyStore:
    """Return the store of a study; no file is created."""
    from ray_unlearn.store import StudyStore

    return StudyStore.of(study)


def check_ending(file: Path, endings: Sequence[str], what: str) -> None:
    """Check that a file's name ends as its content asks for.

    Args:
        file: the file to be written.
        endings: the endings that fit, in lower case.
        what: the content, for the message.

    Raises:
        StudyError: the name has another ending, or none.

    """
    if file.suffix.lower() not in endings:
        found = f"found {file.suffix}" if file.suffix else "it has no ending"
        raise StudyError(f"{file}: {what}; expected a name that ends in {' or '.join(endings)}; {found}")
