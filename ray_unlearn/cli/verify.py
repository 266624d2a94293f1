"""Subcommand `verify`: whether a store is as its records state, or has the digests that another person's store has.

    ray-unlearn verify faces.yaml --repair

Does not cover: what is compared (`store.verify`, `data.integrity`, `interchange.digests`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ray_unlearn.cli.options import Overrides, StudyFile, store_of, typed
from ray_unlearn.errors import StoreError, StudyError
from ray_unlearn.terminal import print_line


def verify(
    study: StudyFile,
    repair: Annotated[
        bool, typer.Option("--repair", help="Make damaged runs pending, so that `generate` makes them again.")
    ] = False,
    against: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Compare the runs with those of another store instead; its `export --format digests` wrote FILE.",
        ),
    ] = None,
    overrides: Overrides = [],  # noqa: B006
) -> None:
    """Check the size and sha256 of every stored file.

    Files of runs are compared with their records, decoded images with their manifests.
    """
    if against is not None and repair:
        raise StudyError("verify: --repair is for damaged files; --against compares runs, and repairs none")
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
