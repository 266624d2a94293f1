"""Tar files of images, read in place: WebDataset's samples, or a folder per class. Nothing is unpacked.

    open_tars(("faces-{00..12}.tar",), Columns())

A sample of WebDataset is the members with one name before the first dot: an image (`0001.jpg`), and its class in
`0001.cls` or in `0001.json` under `data.columns.label`, which may also hold id, group and age. Without such members,
the folders in the file are classes, below the one folder that holds all, if there is one.

An uncompressed tar file is a list of files one after another, so each is read by itself from its place.

Does not cover: compressed files, whose images can only be read all in a row; tar files on object stores.
"""

from __future__ import annotations

import itertools
import json
import re
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from ray_unlearn.data.class_names import in_order, is_split, reordered
from ray_unlearn.data.csv_files import packed_as
from ray_unlearn.data.files import SourceFile, expand
from ray_unlearn.data.folders import SUFFIXES, check_splits, numbered, size_and_time
from ray_unlearn.data.rows import OpenSource, Row
from ray_unlearn.data.strangers import ignored, is_system
from ray_unlearn.errors import DataError, first_line
from ray_unlearn.store.disk import check_regular_file
from ray_unlearn.study.identity import digest
from ray_unlearn.study.schema import Columns
from ray_unlearn.study.uris import label

_SLICE_ROWS = 2048
_LARGEST_BYTES = 2**30  # of one image
_END_BYTES = 2**16  # looked at behind the last member; writers fill up to 10,240 or so with zeros
_LARGEST_TEXT = 2**20  # bytes of a .cls or .json
_ABOUT = {"cls", "json"}  # what a sample has of its image's class
_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Member:
    """A file in a tar file."""

    tar: str
    name: str
    offset: int
    size: int

    @property
    def where(self) -> str:
        """Tar file and name, for messages."""
        return f"{label(self.tar)}: {self.name}"

    def read(self) -> bytes:
        """Return its bytes."""
        with Path(self.tar).open("rb") as file:
            file.seek(self.offset)
            return file.read(self.size)


@dataclass(frozen=True, kw_only=True, slots=True)
class TarImage(Row):
    """An image in a tar file, not read yet."""

    member: Member


@dataclass(frozen=True, slots=True)
class TarSlice:
    """Some images of tar files."""

    images: tuple[TarImage, ...]

    @property
    def num_rows(self) -> int:
        """Number of images."""
        return len(self.images)

    def rows(self) -> Iterator[Row]:
        """Read one image after another from its place."""
        for tar, images in itertools.groupby(self.images, lambda one: one.member.tar):
            with Path(tar).open("rb") as file:
                for one in images:
                    file.seek(one.member.offset)
                    data = file.read(one.member.size)
                    torn = len(data) < one.member.size
                    yield (
                        replace(one, problem="the tar file ends inside this image")
                        if torn
                        else replace(one, image=data)
                    )


def is_tar(paths: Sequence[str]) -> bool:
    """Return whether paths are those of tar files, or of a folder that holds only such."""
    first = Path(paths[0])
    if "://" not in paths[0] and first.is_dir():
        return any(first.glob("*.tar")) and not any(item.is_dir() for item in first.iterdir())
    return paths[0].lower().endswith(".tar")


def open_tars(paths: Sequence[str], columns: Columns) -> OpenSource:
    """Open the images in tar files: files, globs, ranges `{000..012}`, or a folder of them.

    Raises:
        DataError: a file is no plain tar file, or its images have no class each.

    """
    name = ", ".join(map(label, paths))
    if any("://" in path for path in paths):
        raise DataError(f"{name}: tar files are read from a local disk or mount only; copy them there")
    files = expand([one for path in paths for one in _ranged(path)], ".tar")
    _check_one_split(name, files)
    members = [member for file in files for member in _members(file.uri)]
    samples = _samples(members)
    if any(_pictures(parts) and _ABOUT & parts.keys() for parts in samples.values()):
        images = [image for (_, key), parts in samples.items() for image in _sample(key, parts, columns)]
        others = [part for parts in samples.values() if not _pictures(parts) for part in parts.values()]
        images = numbered(images) or images
    else:
        if lone := [member.where for member in members if member.name.lower().endswith(".cls")]:
            raise DataError(
                f"{lone[0]}: a class without an image; a sample's files have one name before the first dot, 0001.jpg "
                "and 0001.cls"
            )
        images = _in_folders([member for member in members if _is_picture(member)], name)
        read = {image.member.name for image in images}
        others = [member for member in members if member.name not in read]
    if not images:
        raise DataError(
            f"{name}: no images; expected samples of WebDataset (0001.jpg and 0001.cls or .json), or a folder per class"
        )
    _check_sizes(images)
    return _source(name, files, images, others, columns)


def _ranged(path: str) -> list[str]:
    """Return the paths that a range in braces stands for; the path itself without one."""
    found = _RANGE.search(path)
    if found is None:
        return [path]
    first, last = found.groups()
    numbers = range(int(first), int(last) + 1)
    ends = [f"{path[: found.start()]}{number:0{len(first)}d}{path[found.end() :]}" for number in numbers]
    return [one for end in ends for one in _ranged(end)]


def _check_one_split(name: str, files: Sequence[SourceFile]) -> None:
    splits = sorted({is_split(file.name) for file in files} - {""})
    if len(splits) > 1:
        raise DataError(
            f"{name}: files of several splits ({', '.join(splits)}); name those of one, such as train-*.tar"
        )


def _members(path: str) -> list[Member]:
    """Return the regular files in a tar file, by its headers alone."""
    try:
        check_regular_file(Path(path))
        with Path(path).open("rb") as file:
            packed = packed_as(file.read(8))
        if packed:
            raise DataError(
                f"{label(path)}: compressed ({packed}), so no image can be read by itself; decompress it first"
            )
        with tarfile.open(path, "r:") as tar:
            found = [one for one in tar if not one.isdir() and not is_system(_inside(one.name))]
            end = tar.offset
        _check_whole(path, end)
        _check_plain(path, found)
    except (OSError, tarfile.TarError, ValueError) as error:
        reason = first_line(error)
        raise DataError(f"{label(path)}: not a readable tar file: {reason}") from error
    return [
        Member(tar=path, name=str(_inside(one.name)), offset=one.offset_data, size=one.size)
        for one in sorted(found, key=lambda one: one.name)
        if one.isreg()
    ]


def _check_whole(path: str, end: int) -> None:
    """Check that zeros follow the last header that was read: tarfile ends at a damaged one as at the file's end."""
    with Path(path).open("rb") as file:
        file.seek(end)
        rest = file.read(_END_BYTES)
    if rest.strip(b"\0"):
        raise DataError(
            f"{label(path)}: something follows the end of the tar file (byte {end:,}): it is damaged there, or several "
            "files were joined into one; copy it again, or name the parts"
        )


def _check_plain(path: str, members: Sequence[tarfile.TarInfo]) -> None:
    """Check that no image is a link, a sparse file or a device: it would be missing without a word."""
    for one in members:
        if PurePosixPath(one.name).suffix.lower() in SUFFIXES and (not one.isreg() or one.issparse()):
            what = f"a link to {one.linkname!r}" if one.islnk() or one.issym() else "a sparse or special file"
            raise DataError(
                f"{label(path)}: {one.name}: {what}, which is not read; write the tar file with the images themselves "
                "(GNU tar: --dereference --hard-dereference)"
            )


def _inside(name: str) -> PurePosixPath:
    """Return a member's path without `./` or a slash before it."""
    return PurePosixPath(*[part for part in PurePosixPath(name).parts if part not in ("/", ".", "..")])


def _is_picture(member: Member) -> bool:
    return PurePosixPath(member.name).suffix.lower() in SUFFIXES


def _samples(members: Sequence[Member]) -> dict[tuple[str, str], dict[str, Member]]:
    """Return (tar file, name before the first dot) -> what follows the dot -> member."""
    samples: dict[tuple[str, str], dict[str, Member]] = {}
    for member in members:
        folder, slash, file = member.name.rpartition("/")
        key, _, kind = file.partition(".")
        kind = kind.lower() if kind.lower() in _ABOUT else kind  # 1.jpg and 1.JPG are two images
        samples.setdefault((member.tar, f"{folder}{slash}{key}"), {})[kind] = member
    return samples


def _pictures(parts: Mapping[str, Member]) -> list[Member]:
    """Return the images of a sample."""
    return [member for member in parts.values() if _is_picture(member)]


def _sample(key: str, parts: Mapping[str, Member], columns: Columns) -> Iterator[TarImage]:
    """Yield the image of a sample of WebDataset, if it has one."""
    pictures = _pictures(parts)
    if not pictures:
        return
    where = pictures[0].where
    if len(pictures) > 1:
        raise DataError(f"{where}: the sample {key!r} has {len(pictures)} images; expected one")
    about = _about(parts["json"]) if "json" in parts else {}
    found = _text(parts["cls"]).strip() if "cls" in parts else _plain(about.get(columns.label))
    if not found:
        raise DataError(
            f"{where}: the sample {key!r} has no class; expected {key}.cls, or {columns.label!r} in {key}.json "
            "(data.columns.label names another key)"
        )
    yield TarImage(
        member=pictures[0],
        where=where,
        image_id=_plain(about.get(columns.id)) or key,
        label=found,
        group=_plain(about.get(columns.group)),
        age=_number(about.get(columns.age)),
    )


def _text(member: Member) -> str:
    if member.size > _LARGEST_TEXT:
        raise DataError(f"{member.where}: {member.size:,} bytes; expected a text of at most {_LARGEST_TEXT:,}")
    try:
        return member.read().decode()
    except UnicodeDecodeError as error:
        raise DataError(f"{member.where}: not a text ({error})") from error


def _about(member: Member) -> dict[str | None, Any]:
    try:
        found = json.loads(_text(member))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{member.where}: not JSON ({str(error)[:80]})") from error
    return found if isinstance(found, dict) else {}


def _plain(value: Any) -> str:
    """Return a class, an id or a group as text; empty for no value, or one of another kind."""
    return str(value) if isinstance(value, str | int | float) and not isinstance(value, bool) else ""


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) and abs(value) < 2**53 else float("nan")


def _in_folders(pictures: Sequence[Member], name: str) -> list[TarImage]:
    """Return images whose classes are the folders they are in, below the one that holds all."""
    paths = [PurePosixPath(member.name) for member in pictures]
    while paths and len({path.parts[0] for path in paths}) == 1 and all(len(path.parts) > 2 for path in paths):
        paths = [PurePosixPath(*path.parts[1:]) for path in paths]
    inside = [(path, member) for path, member in zip(paths, pictures, strict=True) if len(path.parts) > 1]
    check_splits(name, sorted({path.parts[0] for path, _ in inside}))
    return [
        TarImage(member=member, image_id=str(path), label=path.parts[0], where=member.where) for path, member in inside
    ]


def _source(
    name: str, files: Sequence[SourceFile], images: list[TarImage], others: list[Member], columns: Columns
) -> OpenSource:
    named = {str(one.label) for one in images if not isinstance(one.label, int)}
    names = in_order(named) if named else None
    stats = [[str(Path(file.uri).absolute()), *size_and_time(file.uri)] for file in files]
    remarks = (reordered(names or ()), ignored([PurePosixPath(one.name) for one in others]))
    return OpenSource(
        name=name,
        fingerprint=digest(["tar", stats, columns.model_dump()]),
        class_names=names,
        slices=tuple(TarSlice(tuple(images[i : i + _SLICE_ROWS])) for i in range(0, len(images), _SLICE_ROWS)),
        num_rows=len(images),
        remarks=tuple(filter(None, remarks)),
    )


def _check_sizes(images: Sequence[TarImage]) -> None:
    for one in images:
        if one.member.size > _LARGEST_BYTES:
            raise DataError(f"{one.where}: {one.member.size:,} bytes; expected an image of at most {_LARGEST_BYTES:,}")
