"""A `data.train`, `data.test` or `data.validation` of a study -> an open source.

    source = open_source(study.data.train, "train", study.data.columns)

Does not cover: the formats themselves, each in its own module.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from ray_unlearn.data.archives import is_tar, open_tars
from ray_unlearn.data.arrays import is_arrays, open_arrays
from ray_unlearn.data.embedded import open_cifar10, open_digits
from ray_unlearn.data.folders import is_competition, open_class_folders, open_competition
from ray_unlearn.data.hub import is_hub, pinned
from ray_unlearn.data.parquet import is_parquet, open_parquet
from ray_unlearn.data.rows import OpenSource, Part, Role
from ray_unlearn.data.saved import is_saved, open_saved
from ray_unlearn.data.tables import is_table, open_table
from ray_unlearn.errors import DataError
from ray_unlearn.study.schema import Columns, Source
from ray_unlearn.study.uris import label


def open_source(source: Source, role: Role, columns: Columns) -> OpenSource:
    """Open a source by its format; `auto` decides by the path.

    Args:
        source: the source.
        role: what it is taken for, which is a part of an embedded set, or of a file that holds all.
        columns: names of columns.

    Raises:
        DataError: it cannot be opened, or its format needs a path that is not given.

    """
    part: Part = "train" if role == "train" else "test"
    paths = (source.path,) if isinstance(source.path, str) else source.path or ()
    try:
        form = source.format if source.format != "auto" else _format_of(paths)
    except OSError as error:  # a name too long for a file system, a folder without permission to list it
        raise DataError(f"data.{role}: {label(paths[0])[:80]}: cannot be read ({error.strerror})") from error
    if form == "imported":
        raise DataError(
            f"data.{role}: the study's images are not here: its runs were imported as outputs. evaluate, report, "
            "status, verify and export work on it; runs of other methods need a study with images"
        )
    if form == "digits":
        return open_digits(part)
    if form == "cifar10":
        return open_cifar10(paths[0] if paths else None, part)
    if source.images and form != "csv":
        raise DataError(f"data.{role}.images: is the folder of a CSV file's images; the source is of format {form}")
    if not paths:
        raise DataError(f"data.{role}: format {form} needs a path")
    if any(map(is_hub, paths)):
        found = [pinned(path) if is_hub(path) else (path, "") for path in paths]
        revisions = dict.fromkeys(revision for _, revision in found if revision)
        opened = _open(form, tuple(path for path, _ in found), role, columns, source.images)
        return replace(opened, revision=", ".join(revisions))
    return _open(form, paths, role, columns, source.images)


def _open(form: str, paths: tuple[str, ...], role: Role, columns: Columns, images: str | None) -> OpenSource:
    if form == "parquet":
        return open_parquet(paths, columns)
    if form == "tar":
        return open_tars(paths, columns)
    if len(paths) > 1:
        raise DataError(f"data.{role}: format {form} takes one path; found {len(paths)} paths")
    return {
        "csv": lambda path: open_table(path, columns, images),
        "numpy": lambda path: open_arrays(path, role),
        "arrow": lambda path: open_saved(path, columns),
        "competition": open_competition,
        "folder": open_class_folders,
    }[form](paths[0])


def has_columns(source: Source) -> bool:
    """Return whether the source is a table whose columns `data.columns` names."""
    paths = (source.path,) if isinstance(source.path, str) else source.path or ()
    return (source.format if source.format != "auto" else _format_of(paths)) in {"parquet", "csv", "tar", "arrow"}


def _format_of(paths: tuple[str, ...]) -> str:
    if not paths:
        return "parquet"
    first = paths[0]
    kinds: dict[str, Callable[[], bool]] = {
        "arrow": lambda: is_saved(first),
        "parquet": lambda: is_parquet(first),
        "csv": lambda: is_table(first),
        "competition": lambda: is_competition(first),
        "tar": lambda: is_tar(paths),
        "numpy": lambda: is_arrays(first),
    }
    return next((name for name, fits in kinds.items() if fits()), "folder")
