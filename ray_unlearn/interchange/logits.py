"""Logits of other programs: those of LiRA's shadow models, and plain arrays with labels.

    images, populations = read_lira(Request(paths={"shadows": logdir}))
    images, populations = read_logits(Request(paths={"retrained": file, "scrub": folder}, labels=..., forget=...))

LiRA (tensorflow/privacy, research/mi_lira_2021 at 3d499e6, `train.py`, `inference.py`, `score.py`): `y_train.npy`, and
a folder per model with `keep.npy`, bool [images], and `logits/<epoch>.npy` [images, 1, augmentations, classes]. Ports
to PyTorch write `logits.npy` [images, augmentations, classes] instead. One augmentation is read, by default the first:
the image as it is.

Does not cover: attacks on several augmentations at once; LiRA's `scores`, which are computed anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ray_unlearn.errors import DataError
from ray_unlearn.interchange.arrays import pick, read_array, read_tree, sha256_of, stacked
from ray_unlearn.interchange.brought import Brought, Images, Origin, rows_of
from ray_unlearn.interchange.request import Request


def read_lira(wanted: Request) -> tuple[Images, list[Brought]]:
    """Return the models below LiRA's folders, with the images that each was trained on.

    Raises:
        DataError: a file is missing, or of another shape.
        StudyError: there are no labels.

    """
    found, labels = [], None
    for name, folder in wanted.paths.items():
        models = sorted({path.parent for path in folder.glob("*/keep.npy")})
        unkept = sorted({path.parent.name for path in folder.glob("*/logits*")} - {path.name for path in models})
        if not models:
            raise DataError(
                f"{folder}: expected a folder per model with keep.npy and logits; found {len(unkept)} with logits alone"
            )
        keeps, logits = [model / "keep.npy" for model in models], _logits_of(models, wanted.epoch_number)
        shown = wanted.augmentation or 0
        values = stacked([_augmentation(file, shown) for file in logits], logits)
        members = stacked([np.asarray(read_array(keep)) for keep in keeps], keeps)
        if members.dtype != np.bool_ or members.shape != values.shape[:2]:
            raise DataError(
                f"{folder}: keep.npy: expected bool [{values.shape[1]}], one per image of the logits; found "
                f"{members.dtype} {list(members.shape[1:])}"
            )
        pairs = zip(keeps, logits, strict=True)
        origins = [Origin({str(file.relative_to(folder)): sha256_of(file) for file in pair}) for pair in pairs]
        notes = _notes(unkept, shown, _by_augmentation(logits[0]).shape[1])
        found.append(Brought(name=name, values=values, kind=None, origins=origins, members_RN=members, notes=notes))
        if (folder / "y_train.npy").is_file() and labels is None:
            labels = np.asarray(read_array(folder / "y_train.npy"))[: values.shape[1]]  # models are of the first images
    labels = np.asarray(read_array(wanted.labels)) if wanted.labels else labels
    count = found[0].values.shape[1]
    forget = wanted.images(count, count).sets["forget"].tolist() if wanted.forget else []
    return wanted.images_of(count, 0, forget, labels), found


def _logits_of(models: Sequence[Path], epoch: int | None) -> list[Path]:
    """Return the file of each model's logits: of an epoch, else of the last, which is the same for all."""
    found = []
    last: tuple[Path, int] | None = None
    for model in models:
        if (plain := model / "logits.npy").is_file():
            found.append(plain)
            continue
        files = {int(path.stem): path for path in (model / "logits").glob("*.npy") if path.stem.isdecimal()}
        chosen = epoch if epoch is not None else max(files, default=-1)
        if chosen not in files:
            shown = ", ".join(map(str, sorted(files))) or "none"
            raise DataError(f"{model}: expected logits.npy or logits/<epoch>.npy; holds epochs {shown}")
        last = last or (model, chosen)
        if chosen != last[1]:
            raise DataError(
                f"{model}: expected logits of epoch {last[1]}, the last of {last[0].name}; the last here is {chosen}. "
                "--epoch chooses one that all models have; or leave out the models that are not finished"
            )
        found.append(files[chosen])
    return found


def _notes(unkept: Sequence[str], shown: int, augmentations: int) -> tuple[str, ...]:
    """Return what was left out: folders with logits that do not say what was trained on, and other augmentations."""
    one = len(unkept) == 1
    count = f"{len(unkept)} folder{'' if one else 's'} with logits and no keep.npy {'is' if one else 'are'} left out"
    return (
        *([f"{count}, such as {unkept[0]}"] if unkept else []),
        *([f"augmentation {shown} of {augmentations} is read, from 0"] if augmentations > 1 else []),
    )


def _augmentation(file: Path, number: int) -> np.ndarray:
    """Return logits [images, classes] of one augmentation."""
    found = _by_augmentation(file)
    if number >= found.shape[1]:
        raise DataError(f"{file}: no augmentation {number}; expected --augmentation 0 to {found.shape[1] - 1}")
    return np.asarray(found[:, number])


def _by_augmentation(file: Path) -> np.ndarray:
    """Return logits [images, augmentations, classes]."""
    found = read_array(file)
    if found.ndim == 4:
        found = found[:, 0]
    if found.ndim != 3 or found.dtype.kind != "f":
        raise DataError(
            f"{file}: expected [images, augmentations, classes] of a floating type; found {found.dtype} "
            f"{list(found.shape)}"
        )
    return found


def read_logits(wanted: Request) -> tuple[Images, list[Brought]]:
    """Return populations of plain arrays: [models, images, classes] in a file, or a file [images, classes] per model.

    Raises:
        DataError: a file is missing, or of another shape.
        StudyError: the command does not say what the files leave open.

    """
    found = []
    for name, path in wanted.paths.items():
        files = sorted(one for one in path.iterdir() if one.suffix in (".npy", ".pt")) if path.is_dir() else [path]
        if not files:
            raise DataError(f"{path}: expected a file .npy or .pt per model; found none")
        arrays = [np.asarray(pick(read_tree(file), wanted.epoch, file)) for file in files]
        values = stacked(arrays, files) if path.is_dir() else arrays[0]
        hashes = [{file.name: sha256_of(file)} for file in files]
        origins = [Origin(one) for one in hashes] if path.is_dir() else rows_of(hashes[0], range(len(values)))
        found.append(Brought(name=name, values=values, kind=None, origins=origins))
    if found[0].values.ndim != 3:
        raise DataError(f"{found[0].name}: expected [models, images, classes]; found {list(found[0].values.shape)}")
    images = wanted.images(found[0].values.shape[1])
    wanted.need_forget(images)
    return images, found
