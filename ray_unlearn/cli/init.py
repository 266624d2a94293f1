"""Subcommand `init`: a commented study to start from.

    ray-unlearn init study.yaml

Does not cover: the texts (`study.template`).
"""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from ray_unlearn.errors import StudyError, check_new, write_text
from ray_unlearn.terminal import print_line


class StudyTemplate(StrEnum):
    """Studies that `init` writes."""

    study = "study"
    deletion = "deletion"


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
        raise StudyError(f"init: --schema prints the schema and writes no file; found {file}, too; leave one out")
    if schema and template is StudyTemplate.deletion:
        raise StudyError("init: --schema is that of all study files, requests too; leave --template out")
    if schema:
        print_line(json.dumps(Study.model_json_schema(), indent=1))
        return
    if file is None:
        raise StudyError("init: expected the FILE to write, or --schema")
    check_new(file)
    if template is StudyTemplate.deletion:
        write_text(file, DELETION.substitute(PLACEHOLDERS))
        print_line(f"wrote {file}; fill it in, then: ray-unlearn forget {file}")
        return
    write_text(file, TEMPLATE)
    print_line(f"wrote {file}; next: ray-unlearn all {file}")
