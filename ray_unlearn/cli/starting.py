"""Subcommands to start with: quickstart, init, methods.

    ray-unlearn init study.yaml

Does not cover: the work itself; each calls the room that does it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from ray_unlearn.cli.options import AsJson, Backend, Where, store_of
from ray_unlearn.errors import StudyError, did_you_mean
from ray_unlearn.terminal import say


def quickstart(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where to.")] = Path("ray-unlearn-quickstart"),
    backend: Where = Backend.ray,
) -> None:
    """Try everything on scikit-learn's digits, in DIR.

    Trains an original, makes 16 unlearned and 16 retrained checkpoints with two workers, scores them, makes the page.
    """
    from ray_unlearn.evaluation.evaluate import evaluate
    from ray_unlearn.quickstart import quickstart
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
        say(line)
    if summary.exit_code:
        raise typer.Exit(summary.exit_code)
    for line in ["", *score_lines(evaluate(loaded, store))]:
        say(line)
    say(f"\nreport       {publish(store, 'html')}\nstudy        {file}")
    say(f"checkpoints  {store.uri}/<population>/<run>/model.safetensors\nmetrics      {store.uri}/metrics.parquet")
    say(f"next         edit the study, then: ray-unlearn generate {file}; ray-unlearn evaluate {file}")


def init(
    file: Annotated[Path | None, typer.Argument(metavar="FILE", help="Where to write the study.")] = None,
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON schema of study files instead.")] = False,
) -> None:
    """Write a commented study to start from."""
    from ray_unlearn.study import Study
    from ray_unlearn.study.template import TEMPLATE

    if schema:
        say(json.dumps(Study.model_json_schema(), indent=1))
        return
    if file is None:
        raise StudyError("init: expected the FILE to write, or --schema")
    if file.exists():
        raise StudyError(f"{file}: exists already and is not overwritten; choose another name")
    file.write_text(TEMPLATE, encoding="utf-8")
    say(f"wrote {file}; next: ray-unlearn generate {file}")


def methods(
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="This method, with its options.")] = None,
    as_json: AsJson = False,
) -> None:
    """List methods, a line each; with NAME, one and its options."""
    from ray_unlearn.methods import ALIASES, METHODS
    from ray_unlearn.report.text import method_lines, method_list, method_values

    name = ALIASES[name][0] if name is not None and name in ALIASES else name
    if name is not None and name not in METHODS:
        raise StudyError(f"no method {name!r}{did_you_mean(name, [*METHODS, *ALIASES])}")
    chosen = [method for key, method in METHODS.items() if name in (None, key)]
    if as_json:
        say(json.dumps([method_values(method) for method in chosen], indent=1))
    else:
        say("\n".join(method_list(chosen) if name is None else method_lines(chosen[0])))
