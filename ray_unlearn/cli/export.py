"""Subcommand `export`: a population, one model, outputs or digests in a file that other programs read.

    ray-unlearn export faces.yaml submission.zip --population finetune

Does not cover: how they are written (`ray_unlearn.export`, `ray_unlearn.interchange`).
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ray_unlearn.cli.options import Overrides, StudyFile, check_ending, names_in, store_of
from ray_unlearn.errors import StoreError, StudyError, check_new, did_you_mean
from ray_unlearn.terminal import print_line

if TYPE_CHECKING:
    from ray_unlearn.store import StudyStore
    from ray_unlearn.study import Study


class ExportFormat(StrEnum):
    """File format of an export."""

    competition = "competition"
    model = "model"
    klom = "klom"
    easydub = "easydub"
    lira = "lira"
    hub = "hub"
    digests = "digests"


OUTPUTS = (ExportFormat.klom, ExportFormat.easydub, ExportFormat.lira, ExportFormat.hub)
"""Formats that are folders of several populations' outputs."""

_OVERWRITE = ", or use --overwrite"
MODEL_ENDINGS = (".pth", ".safetensors")


def export(
    study: StudyFile,
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE", help="Output file (.zip, .pth, .safetensors, .csv), or output folder of the other formats."
        ),
    ],
    population: Annotated[
        str | None,
        typer.Option(
            metavar="A,B", help="Population to export; a list, by default of all, where the format holds several."
        ),
    ] = None,
    run: Annotated[
        int | None, typer.Option(min=0, help="The run whose model is written to a .pth or .safetensors file.")
    ] = None,
    form: Annotated[
        ExportFormat | None, typer.Option("--format", help="Format of the export. Default: by the ending of FILE.")
    ] = None,
    licence: Annotated[
        str, typer.Option(metavar="ID", help="Licence on the card of --format hub, such as mit.")
    ] = "unknown",
    checkpoints: Annotated[
        bool, typer.Option("--checkpoints", help="Pack checkpoints into --format hub, too.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace FILE where it exists.")] = False,
    overrides: Overrides = [],  # noqa: B006
) -> None:
    """Export a population, one model, or outputs.

    The competition's zip holds one file unlearned_checkpoint_{i}.pth per planned run; a missing checkpoint is an error.
    With --run, FILE.pth is a state dict in fp32, and FILE.safetensors has the bytes of the run's checkpoint. --format
    klom, easydub or lira writes margins or logits as those programs read them; hub writes a data set with a card;
    digests writes the sha256 of every run's outputs into a .csv file, for `verify --against`. The exit code is 2 if
    FILE exists and --overwrite is not given.
    """
    from ray_unlearn.study import load_study

    if form is not ExportFormat.hub and (checkpoints or licence != "unknown"):
        raise StudyError("export: --checkpoints and --licence are for --format hub")
    populations = names_in([] if population is None else [population], "--population")
    if form is ExportFormat.digests:
        _export_digests(load_study(study, overrides), file, populations, overwrite=overwrite)
        return
    if form in OUTPUTS:
        if run is not None:
            raise StudyError(f"export: --run is for one model; --format {form} holds all runs of a population")
        if overwrite:
            raise StudyError(f"export: --overwrite is for a file; --format {form} writes a folder, which must be new")
        more = {"licence": licence, "checkpoints": checkpoints} if form is ExportFormat.hub else {}
        _export_outputs(load_study(study, overrides), file, populations, form, more)
        return
    if not population:
        raise StudyError("export: expected --population NAME: a .zip file, or a model, is of one population")
    one_model = _is_one_model(file, run, form)
    if not overwrite:
        check_new(file, _OVERWRITE)
    loaded = load_study(study, overrides)
    _check_names([population], loaded)
    from ray_unlearn.export import export_competition, export_model

    if one_model:
        from ray_unlearn.study.plan import Run

        made = Run(population=population, index=run or 0)
        payload = export_model(store_of(loaded), made, file)
        print_line(f"wrote the model of run {made} ({payload.size_bytes:,} bytes, sha256 {payload.sha256}) to {file}")
        return
    count = loaded.populations[population].planned
    size = export_competition(store_of(loaded), population, count, file)
    print_line(f"wrote {count} checkpoints ({size:,} bytes, {ExportFormat.competition.value} format) to {file}")


def _export_digests(study: Study, file: Path, populations: list[str], *, overwrite: bool) -> None:
    """Write a row per finished run."""
    from ray_unlearn.interchange.digests import write_digests

    check_ending(file, (".csv",), "digests are a table")
    if not overwrite:
        check_new(file, _OVERWRITE)
    _check_names(populations, study)
    store = store_of(study)
    chosen = [name for name in populations or study.populations if store.made(name)]
    _check_any(chosen, store)
    count = write_digests(store, chosen, file)
    print_line(f"wrote the digests of {count} runs to {file}")


def _check_names(populations: list[str], study: Study) -> None:
    for name in populations:
        if name not in study.populations:
            hint = did_you_mean(name, study.populations)
            raise StudyError(f"--population {name}: not a population of the study{hint}")


def _check_any(populations: list[str], store: StudyStore) -> None:
    if not populations:
        raise StoreError(f"{store.uri}: no run is made yet; `ray-unlearn generate` makes them")


def _export_outputs(study: Study, folder: Path, populations: list[str], form: ExportFormat, more: Any) -> None:
    """Write outputs of several populations into a folder; `more`: keyword arguments of a hub's export."""
    from ray_unlearn.interchange.hub import export_hub
    from ray_unlearn.interchange.writing import export_outputs
    from ray_unlearn.study.schema import Evaluation

    _check_names(populations, study)
    store = store_of(study)
    chosen = populations or [name for name in study.populations if store.made(name)]
    _check_any(chosen, store)
    if form is ExportFormat.hub:
        written = export_hub(store, study, chosen, folder, **more)
    else:
        reference = (study.evaluation or Evaluation()).reference
        if form is ExportFormat.lira and not populations:
            chosen = [name for name in chosen if study.populations[name].on_halves][:1] or chosen
        written = export_outputs(store, chosen, form.value, folder, reference)
    print_line(f"wrote {', '.join(chosen)} to {folder} ({form.value}): {', '.join(path.name for path in written)}")


def _is_one_model(file: Path, run: int | None, form: ExportFormat | None) -> bool:
    """Return whether one model is asked for; refuse an ending that does not fit the format."""
    ending = file.suffix.lower()
    form = form or (ExportFormat.competition if run is None and ending not in MODEL_ENDINGS else ExportFormat.model)
    if form is ExportFormat.competition:
        check_ending(file, (".zip",), "the competition's format is a zip")
        if run is not None:
            raise StudyError("export: --run is for one model, in a .pth or .safetensors file; the zip holds all runs")
        return False
    check_ending(file, MODEL_ENDINGS, "one model")
    if run is None:
        raise StudyError(f"export: {file} holds one model; --run INDEX names the run, such as --run 0")
    return True
