"""Subcommands that make runs and check them: prepare, generate, status, verify, export.

    ray-unlearn generate faces.yaml --workers 2

Does not cover: how runs are made (`ray_unlearn.generation`), nor scored (`judging`).
"""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ray_unlearn.cli.options import (
    Address,
    AsJson,
    Backend,
    Every,
    GpusPerWorker,
    KeepGoing,
    Overrides,
    ShardOf,
    StudyFile,
    Where,
    Workers,
    check_ending,
    named,
    names_in,
    shard_in,
    store_of,
    typed,
    with_keep_going,
)
from ray_unlearn.errors import StoreError, StudyError, did_you_mean
from ray_unlearn.terminal import print_error, print_line

if TYPE_CHECKING:
    from collections.abc import Iterator

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
MODEL_ENDINGS = (".pth", ".safetensors")


def prepare(
    study: StudyFile,
    backend: Where = Backend.auto,
    address: Address = None,
    overrides: Overrides = [],  # noqa: B006
) -> None:
    """Decode images and draw splits; make no checkpoint."""
    from ray_unlearn.generation.prepare import prepare
    from ray_unlearn.report.text import data_lines
    from ray_unlearn.study import load_study

    print_line("\n".join(data_lines(prepare(load_study(study, overrides), backend=backend.value, address=address))))


def generate(
    study: StudyFile,
    only: Annotated[
        list[str],
        typer.Option(
            "--only", "--populations", metavar="A,B", help="Make only these populations, and their originals."
        ),
    ] = [],  # noqa: B006
    backend: Where = Backend.auto,
    address: Address = None,
    workers: Workers = None,
    gpus_per_worker: GpusPerWorker = None,
    shard: ShardOf = None,
    keep_going: KeepGoing = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", help="Print each run's output when it ends; `logs` shows it later.")
    ] = False,
    overrides: Overrides = [],  # noqa: B006
) -> None:
    """Make every checkpoint that is not made yet.

    With `count: {up_to: N, until: decided}`, that is N of every population: `all` and `submit` look at scores on the
    way and stop early.
    """
    from ray_unlearn.generation import generate
    from ray_unlearn.study import load_study

    loaded = load_study(study, with_keep_going(overrides, keep_going))
    if loaded.adaptive:
        print_line(loaded.adaptive.all_made(typed("all", study, overrides)))
    summary = generate(
        loaded,
        backend=backend.value,
        address=address,
        workers=workers,
        gpus_per_worker=gpus_per_worker,
        only=names_in(only),
        shard=shard_in(shard),
        verbose=verbose,
    )
    for line in summary.lines():
        print_line(named(line, study, overrides))
    raise typer.Exit(summary.exit_code)


def status(
    study: StudyFile,
    as_json: AsJson = False,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Save training curves to FILE (.png, .svg or .pdf).")
    ] = None,
    watch: Annotated[
        bool, typer.Option("--watch", help="Refresh until all runs are made, or no driver has been active for 15 s.")
    ] = False,
    every_s: Every = 5.0,
    overrides: Overrides = [],  # noqa: B006
) -> None:
    """Count planned, finished and failed runs."""
    from dataclasses import asdict

    from ray_unlearn.report.text import status_lines
    from ray_unlearn.store.metrics import study_status
    from ray_unlearn.study import load_study

    loaded = load_study(study, overrides)
    store = store_of(loaded)
    if watch:
        from ray_unlearn.cli.watching import watch_status
        from ray_unlearn.monitor.watch import Watch

        if as_json or plot:
            raise StudyError(
                "status: --watch repeats until all runs are made; --json and --plot read once, so leave one out"
            )
        raise typer.Exit(watch_status(Watch(loaded, store), every_s))
    if plot is not None:
        from ray_unlearn.report.curves import check_picture, save_curves

        check_picture(plot)
    found = study_status(loaded, store)
    if as_json:
        rows = [asdict(one) | {"failed": {i: f.model_dump() for i, f in one.failed.items()}} for one in found]
        print_line(json.dumps({"study": loaded.name, "store": store.uri, "populations": rows}, indent=1))
    else:
        print_line("\n".join(status_lines(found, store.uri)))
        for line in _remarks(loaded, store, typed("all", study, overrides)):
            print_line(line)
    if plot is not None:
        left_out = save_curves(store, list(loaded.populations), plot)
        write = print_error if as_json else print_line
        for line in [*(f"not in {plot}: {name}: {why}" for name, why in left_out.items()), f"wrote {plot}"]:
            write(line)


def _remarks(study: Study, store: StudyStore, everything: str) -> Iterator[str]:
    """Yield what stands below the counts of `status`; `everything`: the command that runs all stages."""
    from ray_unlearn.monitor.utilisation import utilisation, utilisation_line
    from ray_unlearn.store.agreement import changed_scripts, disagreements
    from ray_unlearn.store.arithmetic import mixtures
    from ray_unlearn.store.events import EventReader

    if study.adaptive:
        yield study.adaptive.all_made(everything)
    events, unread = EventReader(store).newest_or_error("begun")
    if unread:
        yield f"events cannot be read: {unread}"
    elif (use := utilisation(events)).share is not None:
        yield f"last generate: {utilisation_line(use)}"
    reference = study.evaluation.reference if study.evaluation else ""
    for line in mixtures({name: store.made(name) for name in study.populations}, reference):
        yield f"warning: {line}"
    for line in disagreements(study, store):
        yield f"warning: made from another value than the study has: {line}; `generate` will refuse it"
    for line in changed_scripts(study, store):
        yield f"warning: made with another script than the study names: {line}; `generate` will refuse it"


def verify(
    study: StudyFile,
    repair: Annotated[
        bool, typer.Option("--repair", help="Make damaged runs pending, so that `generate` makes them again.")
    ] = False,
    against: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Compare the runs with those of somebody else instead: a file of `export --format digests`.",
        ),
    ] = None,
    overrides: Overrides = [],  # noqa: B006
) -> None:
    """Check the size and sha256 of every stored file.

    Files of runs are compared with their records, decoded images with their manifests.
    """
    if against is not None:
        _verify_against(study, against, overrides)
        return
    from ray_unlearn.data import integrity
    from ray_unlearn.store import verify as check
    from ray_unlearn.store.leftovers import remove_old
    from ray_unlearn.study import load_study
    from ray_unlearn.wording import plural

    store = store_of(load_study(study, overrides))
    result = check.verify(store, store.populations(), integrity.shards_sha256(store.storage))
    shards = integrity.damaged(store.storage)
    for problem in (*result.problems, *shards):
        print_line(f"bad: {problem}")
    found, decoded = len(result.problems) + len(shards), integrity.is_any(store.storage)
    if not (found or result.runs):
        images = "; the decoded images are whole" if decoded else ""
        print_line(f"no run is made in {store.uri} yet{images}; `{typed('generate', study, overrides)}` makes the runs")
        return
    counts = f"{plural(result.runs, 'run')}, {plural(result.files, 'file')}, {result.size_bytes:,} bytes"
    images = ", and the decoded images" if decoded else ""
    print_line(f"{'checked' if found else 'verified'} {counts} in {store.uri}{images}")
    if result.leftovers:
        size_bytes = sum(stamp.size_bytes for stamp in result.leftovers.values())
        removed = f"removed {remove_old(store, result.leftovers)}" if repair else "--repair removes them"
        print_line(
            f"{plural(len(result.leftovers), 'object')} of {size_bytes:,} bytes that no record names, left by drivers "
            f"that were killed or made the same run; {removed} (those older than a day)"
        )
    if found and not repair:
        raise StoreError(
            f"{plural(found, 'problem')}; `{typed('verify', study, overrides, '--repair')}` makes the affected runs "
            "pending again"
        )
    if found:
        runs = check.repair(store, result.problems)
        integrity.prepare_again(store.storage, shards)
        again = f" and {plural(len({shard.folder for shard in shards}), 'source')} to decode again" if shards else ""
        next_step = f"`{typed('generate', study, overrides)}` does it"
        print_line(f"repaired: {plural(len(runs), 'run')} pending again{again}; {next_step}")
        if doubtful := [run for run in result.silent if shards and run not in runs]:
            print_line(
                f"unknown: whether {plural(len(doubtful), 'run')} of version 0.1, such as {doubtful[0]}, read the "
                "damaged images: records of that version do not name the images; to make such a run again, remove "
                "its folder and generate"
            )


def _verify_against(study: Path, file: Path, overrides: list[str]) -> None:
    """Compare runs with those of a file of digests."""
    from ray_unlearn.interchange.digests import compare_digests
    from ray_unlearn.study import load_study
    from ray_unlearn.wording import plural

    store = store_of(load_study(study, overrides))
    found = compare_digests(store, file)
    for line in found.lines:
        print_line(f"differs: {line}")
    print_line(f"{plural(found.equal, 'run')} equal to {file}, {len(found.lines)} different, {found.not_made} not made")
    if found.lines:
        raise StoreError(
            f"{plural(len(found.lines), 'difference')} from {file}: other data, options or versions, or another kind "
            f"of machine; `{typed('status', study, overrides)}` shows what made these runs"
        )
    if not found.equal:
        raise StoreError(f"{store.uri}: no run of {file} is made; `{typed('generate', study, overrides)}` makes them")


def export(
    study: StudyFile,
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE", help="Output file: .zip, or .pth or .safetensors for one model; of other formats, a folder."
        ),
    ],
    population: Annotated[
        str,
        typer.Option(metavar="A,B", help="The population to export; of formats that hold several, default: all made."),
    ] = "",
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
    if form is ExportFormat.digests:
        _export_digests(load_study(study, overrides), file, names_in([population]), overwrite=overwrite)
        return
    if form in OUTPUTS:
        if run is not None:
            raise StudyError(f"export: --run is for one model; --format {form} holds all runs of a population")
        more = {"licence": licence, "checkpoints": checkpoints} if form is ExportFormat.hub else {}
        _export_outputs(load_study(study, overrides), file, names_in([population]), form, more)
        return
    if not population:
        raise StudyError("export: a .zip file, or one model, is of one population; --population NAME says of which")
    one_model = _is_one_model(file, run, form)
    if file.exists() and not overwrite:
        raise StudyError(f"{file}: exists already and is not overwritten; choose another name, or use --overwrite")
    loaded = load_study(study, overrides)
    if population not in loaded.populations:
        hint = did_you_mean(population, loaded.populations)
        raise StudyError(f"--population {population}: not a population of the study{hint}")
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
    if file.exists() and not overwrite:
        raise StudyError(f"{file}: exists already and is not overwritten; choose another name, or use --overwrite")
    count = write_digests(store_of(study), populations or list(study.populations), file)
    print_line(f"wrote the digests of {count} runs to {file}")


def _export_outputs(study: Study, folder: Path, populations: list[str], form: ExportFormat, more: Any) -> None:
    """Write outputs of several populations into a folder; `more`: keyword arguments of a hub's export."""
    from ray_unlearn.interchange.hub import export_hub
    from ray_unlearn.interchange.writing import export_outputs
    from ray_unlearn.study.schema import Evaluation

    for name in populations:
        if name not in study.populations:
            raise StudyError(
                f"--population {name}: not a population of the study{did_you_mean(name, study.populations)}"
            )
    store = store_of(study)
    chosen = populations or [name for name in study.populations if store.made(name)]
    if not chosen:
        raise StoreError(f"{store.uri}: no run is made yet; `ray-unlearn generate` makes them")
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
