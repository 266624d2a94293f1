"""Subcommands to start with: quickstart, init, methods.

    ray-unlearn init study.yaml

Does not cover: the work itself, which is done in the rooms that they call.
"""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from ray_unlearn.cli.options import AsJson, Backend, Where, store_of
from ray_unlearn.errors import StudyError, did_you_mean
from ray_unlearn.terminal import print_line


class StudyTemplate(StrEnum):
    """Studies that `init` writes."""

    study = "study"
    deletion = "deletion"


def quickstart(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Output folder.")] = Path("ray-unlearn-quickstart"),
    backend: Where = Backend.auto,
) -> None:
    """Run a complete study on scikit-learn's digits, in DIR.

    It trains an original, makes 16 retrained checkpoints and 16 of each of two unlearning methods, scores them, and
    writes the report.
    """
    from ray_unlearn.evaluation.evaluate import evaluate
    from ray_unlearn.quickstart import quickstart, why
    from ray_unlearn.report.publish import publish
    from ray_unlearn.report.text import accuracy_lines, score_lines
    from ray_unlearn.store.metrics import accuracy_table
    from ray_unlearn.study import load_study

    file, summary = quickstart(folder, backend.value)
    loaded = load_study(file)
    store = store_of(loaded)
    for line in [
        *summary.lines(),
        "",
        *accuracy_lines(accuracy_table(store, list(loaded.populations))),
    ]:
        print_line(line)
    if summary.exit_code:
        raise typer.Exit(summary.exit_code)
    for line in ["", *score_lines(evaluate(loaded, store)), *why(file)]:
        print_line(line)
    print_line(f"\nreport       {publish(store, 'html')}\nstudy        {file}")
    print_line(
        f"checkpoints  {store.uri}/<population>/<run>/model.safetensors\nmetrics      {store.uri}/metrics.parquet"
    )
    print_line(f"next         edit the study, then: ray-unlearn all {file}")


def init(
    file: Annotated[Path | None, typer.Argument(metavar="FILE", help="Output file.")] = None,
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON schema of study files instead.")] = False,
    template: Annotated[
        StudyTemplate, typer.Option(help="study: methods compared on digits; deletion: the form of one request.")
    ] = StudyTemplate.study,
) -> None:
    """Write a commented study to start from.

    FILE is never overwritten: the exit code is 2 if it exists.
    """
    from ray_unlearn.study import Study
    from ray_unlearn.study.template import DELETION, PLACEHOLDERS, TEMPLATE

    if schema and file is not None:
        raise StudyError(f"init: --schema is printed, and writes no file; found {file}, too; leave one out")
    if schema:
        print_line(json.dumps(Study.model_json_schema(), indent=1))
        return
    if file is None:
        raise StudyError("init: expected the FILE to write, or --schema")
    if file.exists():
        raise StudyError(f"{file}: exists already and is not overwritten; choose another name")
    if template is StudyTemplate.deletion:
        file.write_text(DELETION.substitute(PLACEHOLDERS), encoding="utf-8")
        print_line(f"wrote {file}; fill it in, then: ray-unlearn forget {file}")
        return
    file.write_text(TEMPLATE, encoding="utf-8")
    print_line(f"wrote {file}; next: ray-unlearn all {file}")


def methods(
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="Show this method with its options.")] = None,
    as_json: AsJson = False,
) -> None:
    """List the methods, or show one with its options."""
    from ray_unlearn.methods import METHODS
    from ray_unlearn.report.text import method_lines, method_list, method_values

    name = name and METHODS.called(name)[0]
    if name is not None and name not in METHODS:
        raise StudyError(f"no method {name!r}{did_you_mean(name, METHODS.names())}")
    chosen = [method for key, method in METHODS.items() if name in (None, key)]
    if as_json:
        print_line(json.dumps([method_values(method) for method in chosen], indent=1))
    else:
        print_line("\n".join(method_list(chosen) if name is None else method_lines(chosen[0])))
