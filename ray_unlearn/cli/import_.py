"""The subcommand that reads outputs of other programs: import.

    ray-unlearn import klom retrained=forget_set_2 ascent=ascent.pt --forget forget_set_2.npy -o klom

Does not cover: the formats (`ray_unlearn.interchange`), and checkpoints, which `weights: FILES` imports.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from ray_unlearn.errors import StudyError
from ray_unlearn.terminal import print_error, print_line


class ImportFormat(StrEnum):
    """Formats that are read."""

    klom = "klom"
    easydub = "easydub"
    datamodels = "datamodels"
    lira = "lira"
    logits = "logits"


def import_(
    form: Annotated[ImportFormat, typer.Argument(metavar="FORMAT", help="klom, easydub, datamodels, lira or logits.")],
    paths: Annotated[
        list[str],
        typer.Argument(
            metavar="NAME=PATH...", help="A population's name and its file or folder; of easydub, its folder alone."
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="Folder of the new study.")],
    forget: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Positions of the forget images among the training images (.npy, .txt, .csv)."
        ),
    ] = None,
    train: Annotated[
        int | None,
        typer.Option(min=1, help="Number of training images, which are the first columns. Default: the files'."),
    ] = None,
    labels: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Classes of the training, then of the test images (.npy).")
    ] = None,
    ids: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Ids of the training, then of the test images (.csv, .txt). Default: train-00000 and so on.",
        ),
    ] = None,
    epoch: Annotated[str | None, typer.Option(help="Epoch to read, where the files hold several.")] = None,
    forget_set: Annotated[int | None, typer.Option(min=0, help="Number of EasyDUB's forget set.")] = None,
    augmentation: Annotated[
        int | None, typer.Option(min=0, help="Number of LiRA's augmentation to read. Default: 0, the image as it is.")
    ] = None,
    reference: Annotated[
        str | None, typer.Option(help="Population to compare others with. Default: retrained, or the only one.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of the study. Default: the format.")] = None,
) -> None:
    """Read outputs that other programs made, as a study.

    DIR/study.yaml names them. What the files do not say stays unknown: measures that need it are left out, with the
    reason.
    """
    from ray_unlearn.interchange import READERS, TAKES
    from ray_unlearn.interchange.brought import repeated
    from ray_unlearn.interchange.request import Request
    from ray_unlearn.interchange.study import write_study
    from ray_unlearn.wording import plural

    wanted = Request(
        paths=_named(paths, form),
        forget=forget,
        train=train,
        labels=labels,
        ids=ids,
        epoch=epoch,
        forget_set=forget_set,
        augmentation=augmentation,
    )
    wanted.check_options(form.value, TAKES[form.value])
    images, populations = READERS[form.value](wanted)
    names = [one.name for one in populations]
    chosen = reference or (names[0] if len(names) == 1 else "retrained")
    file = write_study(output, name or form.value, images, populations, reference=chosen, form=form.value)
    for one in populations:
        print_line(f"{one.name}: {plural(len(one.values), 'run')}" + "".join(f"; {note}" for note in one.notes))
        if copied := repeated(one):
            print_error(f"warning: {one.name}: {copied}")
    sizes = ", ".join(f"{split} {len(images.sets[split]):,}" for split in images.saved)
    print_line(f"images: {sizes}\nwrote {file}; `ray-unlearn evaluate {file}` scores it")


def _named(paths: list[str], form: ImportFormat) -> dict[str, Path]:
    """Return the paths by population; EasyDUB's folder has the empty name, LiRA's the name shadows."""
    alone = {ImportFormat.easydub: "", ImportFormat.lira: "shadows"}.get(form)
    found: dict[str, Path] = {}
    for text in paths:
        name, equals, path = text.partition("=")
        if not equals and alone is None:
            raise StudyError(f"{text}: expected NAME=PATH, such as retrained={text}")
        key, value = (name, path) if equals else (alone or "", text)
        if key in found:
            raise StudyError(f"{text}: population {key or 'of the folder'} is named twice")
        if not Path(value).exists():
            raise StudyError(f"{value}: no such file or folder")
        found[key] = Path(value)
    return found
