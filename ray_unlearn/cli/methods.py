"""Subcommand `methods`: the methods, and what each one's options, presets and sources are.

    ray-unlearn methods scrub

Does not cover: their texts (`report.text`).
"""

from __future__ import annotations

import json
from typing import Annotated

import typer

from ray_unlearn.cli.options import AsJson
from ray_unlearn.errors import StudyError, did_you_mean
from ray_unlearn.terminal import print_line


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
