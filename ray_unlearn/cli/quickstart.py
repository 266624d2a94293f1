"""Subcommand `quickstart`: a complete study on embedded data.

    ray-unlearn quickstart

Does not cover: the study itself (`ray_unlearn.quickstart`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ray_unlearn.cli.options import Backend, Where, store_of
from ray_unlearn.terminal import print_line


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
    for line in [*summary.lines(), "", *accuracy_lines(accuracy_table(store, list(loaded.populations)))]:
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
