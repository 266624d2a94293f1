"""The command line: one subcommand per stage. Heavy imports happen inside the subcommands.

    ray-unlearn generate faces.yaml --workers 2
    sys.exit(main(["status", "faces.yaml"]))

Exit codes: 0 all done, 1 error, 2 usage, 3 finished with failed runs, 130/143 interrupted and resumable. An error is
one line on standard error: what, where, expected, found, what to do.

Does not cover: any work; each subcommand calls the room that does it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ray_unlearn import __version__
from ray_unlearn.errors import Interrupted, RayUnlearnError, StoreError, StudyError, did_you_mean

if TYPE_CHECKING:
    from ray_unlearn.store import StudyStore
    from ray_unlearn.study import Study

app = typer.Typer(
    name="ray-unlearn",
    help="Populations of seeded unlearned and retrained checkpoints, from one study file.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


class Backend(StrEnum):
    """Where runs execute."""

    ray = "ray"
    inline = "inline"


class ExportFormat(StrEnum):
    """What an export looks like."""

    competition = "competition"


StudyFile = Annotated[Path, typer.Argument(metavar="STUDY", help="The study's YAML file.")]
Overrides = Annotated[list[str], typer.Option("--set", metavar="KEY.KEY=VALUE", help="Override a key; repeatable.")]
Where = Annotated[Backend, typer.Option(help="ray, or inline: this process, without Ray.")]
Address = Annotated[str | None, typer.Option(help="A Ray cluster's address. Default: RAY_ADDRESS, else a local one.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    from ray_unlearn.interrupts import interrupts

    try:
        with interrupts():
            app(args=list(arguments) if arguments is not None else None, prog_name="ray-unlearn")
    except SystemExit as done:  # how the command line framework ends, with our exit codes
        return done.code if isinstance(done.code, int) else 1
    except Interrupted as stop:
        _say(f"{stop}; nothing is lost: the same command makes what is missing", error=True)
        return stop.exit_code
    except RayUnlearnError as error:
        _say(f"error: {error}", error=True)
        return error.exit_code
    except OSError as error:
        _say(f"error: {error.filename or 'the system'}: {error.strerror or error}", error=True)
        return 1
    return 0


def _say(text: str, *, error: bool = False) -> None:
    typer.echo(text, err=error)


@app.callback(invoke_without_command=True)
def root(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    """Describe a study in one file; get its checkpoints, made in parallel."""
    if version:
        _say(__version__)
        raise typer.Exit


@app.command()
def generate(
    study: StudyFile,
    only: Annotated[list[str], typer.Option(metavar="POPULATION", help="Only this population; repeatable.")] = [],  # noqa: B006
    backend: Where = Backend.ray,
    address: Address = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Workers; default: execution.workers.")] = None,
    overrides: Overrides = [],  # noqa: B006
) -> None:
    """Make every checkpoint that is not made yet."""
    from ray_unlearn.driver import generate
    from ray_unlearn.study import load_study

    names = [name for item in only for name in item.split(",")]
    loaded = load_study(study, overrides)
    summary = generate(loaded, backend=backend.value, address=address, workers=workers, only=names)
    for line in summary.lines():
        _say(line)
    raise typer.Exit(summary.exit_code)


@app.command()
def status(
    study: StudyFile,
    as_json: AsJson = False,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Save training curves as .png, .svg or .pdf.")
    ] = None,
    overrides: Overrides = [],  # noqa: B006
) -> None:
    """Say how many runs are planned, done and failed."""
    from dataclasses import asdict

    from ray_unlearn.report.tables import study_status
    from ray_unlearn.report.text import status_lines
    from ray_unlearn.study import load_study

    loaded = load_study(study, overrides)
    store = _store(loaded)
    found = study_status(loaded, store)
    if as_json:
        rows = [asdict(one) | {"failed": {i: f.model_dump() for i, f in one.failed.items()}} for one in found]
        _say(json.dumps({"study": loaded.name, "store": store.uri, "populations": rows}, indent=1))
    else:
        _say("\n".join(status_lines(found, store.uri)))
    if plot is not None:
        from ray_unlearn.report.curves import save_curves

        save_curves(store, list(loaded.populations), plot)
        _say(f"wrote {plot}")


@app.command()
def verify(
    study: StudyFile,
    repair: Annotated[bool, typer.Option("--repair", help="Make bad runs pending again.")] = False,
    overrides: Overrides = [],  # noqa: B006
) -> None:
    """Check runs and decoded images: sizes and sha256."""
    from ray_unlearn.data import integrity
    from ray_unlearn.report.text import plural
    from ray_unlearn.store import verify as check
    from ray_unlearn.study import load_study

    store = _store(load_study(study, overrides))
    result = check.verify(store, store.populations())
    shards = integrity.damaged(store.storage)
    for problem in (*result.problems, *shards):
        _say(f"bad: {problem}")
    counts = f"{plural(result.runs, 'run')}, {plural(result.files, 'file')}, {result.size_bytes:,} bytes"
    _say(f"verified {counts} in {store.uri}, and the decoded images")
    found = len(result.problems) + len(shards)
    if found and not repair:
        raise StoreError(f"{plural(found, 'problem')}; `ray-unlearn verify {study} --repair` makes it pending again")
    if found:
        runs = check.repair(store, result.problems)
        integrity.prepare_again(store.storage, shards)
        _say(f"repaired: {plural(len(runs), 'run')} pending again; `ray-unlearn generate` makes what is pending")


@app.command()
def prepare(study: StudyFile, backend: Where = Backend.ray, address: Address = None, overrides: Overrides = []) -> None:  # noqa: B006
    """Decode images and draw splits; make no checkpoint."""
    from ray_unlearn.driver.generation import prepare
    from ray_unlearn.report.text import data_lines
    from ray_unlearn.study import load_study

    _say("\n".join(data_lines(prepare(load_study(study, overrides), backend=backend.value, address=address))))


@app.command()
def methods(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="Only this method.")] = None,
    as_json: AsJson = False,
) -> None:
    """List methods and their options."""
    from ray_unlearn.methods import METHODS
    from ray_unlearn.report.text import method_lines, method_values

    if name is not None and name not in METHODS:
        raise StudyError(f"no method {name!r}{did_you_mean(name, METHODS)}")
    chosen = [method for key, method in METHODS.items() if name in (None, key)]
    if as_json:
        _say(json.dumps([method_values(method) for method in chosen], indent=1))
    else:
        _say("\n\n".join("\n".join(method_lines(method)) for method in chosen))


@app.command()
def init(
    file: Annotated[Path | None, typer.Argument(metavar="FILE", help="Where to write the study.")] = None,
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON schema of study files instead.")] = False,
) -> None:
    """Write a commented study to start from."""
    from ray_unlearn.study import Study
    from ray_unlearn.study.template import TEMPLATE

    if schema:
        _say(json.dumps(Study.model_json_schema(), indent=1))
        return
    if file is None:
        raise StudyError("init: expected the FILE to write, or --schema")
    if file.exists():
        raise StudyError(f"{file}: exists already and is not overwritten; choose another name")
    file.write_text(TEMPLATE, encoding="utf-8")
    _say(f"wrote {file}; next: ray-unlearn generate {file}")


@app.command()
def export(
    study: StudyFile,
    file: Annotated[Path, typer.Argument(metavar="FILE.zip")],
    population: Annotated[str, typer.Option(help="The population to export.")],
    form: Annotated[ExportFormat, typer.Option("--format", help="What to write.")] = ExportFormat.competition,
    overrides: Overrides = [],  # noqa: B006
) -> None:
    """Export a population as the competition asked it.

    Exactly N files unlearned_checkpoint_{i}.pth in one zip; refused when a checkpoint is missing.
    """
    from ray_unlearn.export import export_competition
    from ray_unlearn.study import load_study

    loaded = load_study(study, overrides)
    if population not in loaded.populations:
        hint = did_you_mean(population, loaded.populations)
        raise StudyError(f"--population {population}: not a population of the study{hint}")
    count = loaded.populations[population].planned
    size = export_competition(_store(loaded), population, count, file)
    _say(f"wrote {count} checkpoints ({size:,} bytes, {form.value} format) to {file}")


@app.command()
def quickstart(
    folder: Annotated[Path, typer.Argument(metavar="[DIR]")] = Path("ray-unlearn-quickstart"),
    backend: Where = Backend.ray,
) -> None:
    """Try everything on scikit-learn's digits, in DIR.

    Trains an original, makes 16 unlearned and 16 retrained checkpoints with two workers, prints their accuracies.
    """
    from ray_unlearn.quickstart import quickstart
    from ray_unlearn.report.tables import accuracy_table
    from ray_unlearn.report.text import accuracy_lines
    from ray_unlearn.study import load_study

    file, summary = quickstart(folder, backend.value)
    loaded = load_study(file)
    store = _store(loaded)
    for line in [
        *summary.lines(),
        "",
        *accuracy_lines(accuracy_table(store, list(loaded.populations))),
    ]:
        _say(line)
    _say(f"\nstudy        {file}\ncheckpoints  {store.uri}/<population>/<run>/model.safetensors")
    _say(f"metrics      {store.uri}/metrics.parquet\nnext         edit the study, then: ray-unlearn generate {file}")
    raise typer.Exit(summary.exit_code)


def _store(study: Study) -> StudyStore:
    from ray_unlearn.store import StudyStore, open_storage

    return StudyStore(open_storage(study.storage), study.name)


if __name__ == "__main__":
    sys.exit(main())
