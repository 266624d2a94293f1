"""The subcommand that compares methods over studies: leaderboard.

    ray-unlearn leaderboard studies/cifar10 studies/faces -o leaderboard.html --add their-hub

Does not cover: the table (`ray_unlearn.report.leaderboard`), and what may be added (`ray_unlearn.interchange.packed`).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ray_unlearn.cli.options import check_ending, store_of
from ray_unlearn.errors import StoreError, write_text
from ray_unlearn.terminal import print_error, print_line

if TYPE_CHECKING:
    from ray_unlearn.store import StudyStore

_ENDINGS = (".html", ".htm", ".md", ".markdown")


def leaderboard(
    stores: Annotated[
        list[str],
        typer.Argument(metavar="STORE...", help="Folders of evaluated studies, STORAGE/STUDY, or their study files."),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE", help="Output file: .html for a page, .md for Markdown.")
    ] = Path("leaderboard.html"),
    add: Annotated[
        list[Path],
        typer.Option(
            "--add",
            metavar="DIR",
            help="Folder that `export --format hub` wrote: its unlearned populations become rows of their study. "
            "Repeatable.",
        ),
    ] = [],  # noqa: B006
) -> None:
    """Compare methods over several studies in one table.

    Every cell is a score with N, 95 % interval and null. A place is the set of places that the runs allow. A packed
    folder is refused where its study or its digests differ.
    """
    from ray_unlearn.interchange.added import with_added
    from ray_unlearn.interchange.packed import read_pack
    from ray_unlearn.report.leaderboard import Entry, leaderboard_markdown, leaderboard_page

    check_ending(output, _ENDINGS, "a leaderboard is a page or Markdown")
    opened = [_store(text) for text in stores]
    packs = [read_pack(folder) for folder in add]
    names = [store.name for store in opened]
    if twice := next((name for name in names if names.count(name) > 1), ""):
        raise StoreError(f"leaderboard: the study {twice} is named twice; expected different studies")
    for pack in packs:
        if pack.study not in names:
            raise StoreError(
                f"{pack.folder}: is of the study {pack.study}; expected one of {', '.join(names)}; name its store, too"
            )
    board = []
    for store in opened:
        scores, added = with_added(store, [pack for pack in packs if pack.study == store.name], log=print_error)
        board.append(Entry(scores, added))
    text = leaderboard_markdown(board) if output.suffix.lower() in (".md", ".markdown") else leaderboard_page(board)
    write_text(output, text)
    print_line(f"wrote {output}")


def _store(text: str) -> StudyStore:
    """Return the store of a study's folder in its storage, or of a study file."""
    from ray_unlearn.store import StudyStore, open_storage
    from ray_unlearn.study import load_study

    if text.endswith((".yaml", ".yml")):
        return store_of(load_study(Path(text)))
    storage, _, name = text.rstrip("/").rpartition("/")
    return StudyStore(open_storage(storage or "."), name)
