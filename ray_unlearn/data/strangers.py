"""Explanations of paths that are no supported source: the kind of file or folder, and the next step.

    raise DataError(f"{path}: {explain(Path(path))}")

Also: which files of a folder an operating system or an editor left there.

Does not cover: reading sources.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable
from pathlib import Path, PurePath

from ray_unlearn.wording import plural

_MOST_FILES = 10_000
"""Files of a folder that are looked at to say what it holds."""

_KINDS = {
    (".npy",): ("a NumPy file", "name its folder, with data.npy and label.npy in it"),
    (".tgz", ".gz", ".bz2", ".xz", ".zst", ".7z", ".rar"): (
        "a compressed archive",
        "unpack it and name the folder; an uncompressed .tar is read as it is",
    ),
    (".zip",): ("a zip archive", "unzip it and name the folder"),
    (".arrow", ".feather"): ("an Arrow file", "write it as Parquet: datasets.Dataset.from_file(...).to_parquet(...)"),
    (".txt",): ("a table of text", "images are read from Parquet or from folders; name one of those"),
    (".json", ".jsonl"): ("a JSON file", "images are read from Parquet or from folders; name one of those"),
    (".h5", ".hdf5", ".mat", ".tfrecord", ".beton", ".mdb"): ("a data set of another library", "write it as Parquet"),
    (".pkl", ".pickle", ".pt", ".pth"): ("a pickle, which may run code when read", "write its images as Parquet"),
}
_CIFAR_FILES = {"test_batch", "batches.meta", *(f"data_batch_{number}" for number in range(1, 6))}
_SYSTEM = {"__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information", "lost+found", "__pycache__"}


def is_system(path: PurePath) -> bool:
    """Return whether a path, relative to its source, is hidden, or in a folder that an operating system left there."""
    return any(part.startswith(".") or part in _SYSTEM for part in path.parts)


def explain(path: Path) -> str:
    """Return the kind of a path that holds no images in a supported form, and what to do."""
    if path.is_dir():
        return _explain_folder(path)
    expected = "expected one folder per class, retain.csv and images/, or *.parquet"
    if not path.is_file():
        return f"no such folder; {expected}"
    if path.name.startswith("cifar-10-"):
        return f"this is CIFAR-10's archive of pickles; unpack it there, and {_cifar(path.parent)}"
    if path.name in _CIFAR_FILES:
        return f"this is one of CIFAR-10's pickles; {_cifar(path.parent.parent)}"
    for suffixes, (kind, step) in _KINDS.items():
        if path.suffix.lower() in suffixes:
            return f"this is {kind}, not a folder; {step}"
    return f"this is a file, not a folder; {expected}"


def _cifar(folder: Path) -> str:
    """Return how CIFAR-10 is read from the folder of cifar-10-batches-py: torchvision compares its checksums."""
    return f"write data.train: {{format: cifar10, path: {folder}}}"


def _explain_folder(path: Path) -> str:
    names = {item.name for item in path.iterdir()}
    if "data.mdb" in names:
        return "this folder is an LMDB data base; write its images as Parquet"
    if "data_batch_1" in names or "cifar-10-batches-py" in names:
        return f"these are CIFAR-10's pickles; {_cifar(path.parent if 'data_batch_1' in names else path)}"
    if {"train", "test", "meta"} <= names or "cifar-100-python" in names:
        step = "write them as Parquet, or as .npz with images and labels, where you trust the files"
        return f"these are CIFAR-100's pickles, which may run code when read; {step}"
    expected = f"no images in class folders; expected {path}/<class name>/<image>.png or .jpg"
    return f"{expected}; {_found_in(path)}"


def _found_in(path: Path) -> str:
    """Return what a folder without images in class folders holds, and how to name it."""
    files = [file for file in itertools.islice(path.rglob("*"), _MOST_FILES) if file.is_file()]
    files = sorted(file.relative_to(path) for file in files if not is_system(file.relative_to(path)))
    if tables := [file for file in files if file.suffix.lower() == ".parquet"]:
        return f"it holds Parquet files: name them, as {path / tables[0].parent}/*.parquet"
    if tables := [file for file in files if file.suffix.lower() == ".csv"]:
        return f"it holds {tables[0]}: where that names images and classes, name it, {path / tables[0]}"
    if any(file.name.removesuffix(".gz").endswith("-ubyte") for file in files):
        return "it holds MNIST's files: write them as .npz, with images and labels"
    if loose := [file for file in files if len(file.parts) == 1]:
        return f"{plural(len(loose), 'file')} such as {str(loose[0])!r} are in no class folder, or of no kind of image"
    return f"found {_by_suffix(files)}" if files else "it is empty"


def ignored(paths: Iterable[PurePath]) -> str:
    """Return the number of ignored files, by suffix; an empty text for none."""
    found = list(paths)
    if not found:
        return ""
    ignored = f"{plural(len(found), 'file')} ignored, because they are no images of a supported kind"
    return f"{ignored}: {_by_suffix(found)}"


def unfollowed(links: Iterable[Path], root: Path) -> list[str]:
    """Return a line about symbolic links that lead nowhere, and one about those to folders, which are not searched."""
    found = sorted(links)
    folders = [link for link in found if link.is_dir()]
    broken = [link for link in found if not link.exists()]
    lines = []
    if broken:
        first = f"{str(broken[0].relative_to(root))!r} to {str(broken[0].readlink())!r}"
        lines.append(f"{plural(len(broken), 'broken symbolic link')} ignored, such as {first}: no such file")
    if folders:
        what = f"{plural(len(folders), 'symbolic link')} to a folder inside of a class folder ignored"
        lines.append(f"{what}, such as {str(folders[0].relative_to(root))!r}: put the images there, or link each")
    return lines


def _by_suffix(paths: Iterable[PurePath]) -> str:
    counts = Counter(path.suffix.lower() or "without a suffix" for path in paths)
    return ", ".join(f"{count} {suffix}" for suffix, count in counts.most_common(8)) + ", ..." * (len(counts) > 8)
