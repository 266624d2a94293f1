"""The subcommand that answers one deletion request: forget.

    ray-unlearn forget --model model.pth --arch resnet18 --data photos --ids delete.csv -o out

Does not cover: the work, which is done in the room `deletion`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ray_unlearn.cli.options import Backend, Overrides, Where
from ray_unlearn.errors import StudyError
from ray_unlearn.terminal import print_error, print_line
from ray_unlearn.wording import listed

_NEEDED = ("model", "arch", "data", "ids")


def forget(
    study: Annotated[
        Path | None,
        typer.Argument(
            metavar="STUDY", help="A request as a study file (`init --template deletion`), instead of --model to --ids."
        ),
    ] = None,
    model: Annotated[str | None, typer.Option(metavar="FILE", help="The trained model: .pth or .safetensors.")] = None,
    arch: Annotated[
        str | None, typer.Option(help="Architecture of the model: resnet18, small_cnn, timm:NAME, or module:factory.")
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="Training images of the model: a folder per class, Parquet, or another source.")
    ] = None,
    ids: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="The images to forget: CSV with a column image_id, .txt, .json or .npy."),
    ] = None,
    test: Annotated[
        str | None, typer.Option(help="Images on which it was not trained. Default: a tenth of --data, with a warning.")
    ] = None,
    method: Annotated[
        str | None, typer.Option(help="Unlearning method; `ray-unlearn methods` lists them. Default: kookmin.")
    ] = None,
    image_size: Annotated[
        int | None, typer.Option(help="Pixels per side of the images on which the model was trained. Default: 32.")
    ] = None,
    normalize: Annotated[
        str | None,
        typer.Option(
            help="Scale of the pixels, as the model was trained: raw (0..255), unit (0..1), standard (mean 0.5, std "
            "0.25), or '{mean: [R, G, B], std: [R, G, B]}'. Default: standard."
        ),
    ] = None,
    expect_accuracy: Annotated[
        float | None, typer.Option(help="Accuracy of the model on test images, 0 to 1, to be checked before any work.")
    ] = None,
    budget: Annotated[str, typer.Option(help="Time for making models: 90s, 30m, 1h30m.")] = "30m",
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="DIR", help="Output folder. Default: deletion; with STUDY, its folder."),
    ] = None,
    thumbnails: Annotated[
        bool, typer.Option("--thumbnails", help="Put pictures of the forgotten images on the page.")
    ] = False,
    backend: Where = Backend.auto,
    overrides: Overrides = [],  # noqa: B006
) -> None:
    """Make a model forget training images, with evidence.

    The command checks the model's accuracy, makes the unlearned model, and as many retrained and unlearned ones as the
    budget allows, because the evidence is a comparison of many models. It leaves model.pth and model.safetensors with
    their sha256, a page, and a study file that repeats the request. `--set training.epochs=20` and the like state how
    the model was trained, which is what the retrained ones follow. The exit code is 3 where one of them failed: the
    page then states the evidence of the others.
    """
    from ray_unlearn.deletion import Request, forget_study
    from ray_unlearn.deletion.request import budget_s, write

    seconds = budget_s(budget)
    values: dict[str, Any] = {
        **{"model": model, "arch": arch, "data": data, "ids": ids, "test": test, "method": method},
        **{"image_size": image_size, "normalize": normalize, "expect_accuracy": expect_accuracy},
    }
    given = {name: value for name, value in values.items() if value is not None}
    if study is None:
        missing = [_option(name) for name in _NEEDED if name not in given]
        if missing:
            form = "a study file of `init --template deletion`"
            needed = listed([_option(name) for name in _NEEDED])
            raise StudyError(f"forget: {', '.join(missing)} missing; expected {needed}, or {form}")
        recipe, overrides = _recipe_of(overrides)
        study = write(Request(**given, training=recipe), out or Path("deletion"))
    elif given or out is not None:
        options = ", ".join([*map(_option, given), *["--out"] * (out is not None)])
        raise StudyError(
            f"forget: expected a study file, or --model, --arch, --data and --ids; found both {study} and {options}; "
            "to change the request, edit the file"
        )
    found = forget_study(
        study, overrides, seconds=seconds, thumbnails=thumbnails, backend=backend.value, log=print_error
    )
    print_line("\n".join(found.lines))
    if found.failed:
        print_error(found.failed)
        raise typer.Exit(3)


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _recipe_of(overrides: list[str]) -> tuple[dict[str, Any], list[str]]:
    """Return the overrides of `training`, which the request's study file keeps, and the others."""
    from ray_unlearn.study.loading import tree_of

    mine = [one for one in overrides if one.startswith("training.")]
    return tree_of(mine).get("training", {}), [one for one in overrides if one not in mine]
