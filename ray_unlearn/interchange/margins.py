"""Margins of other benchmarks: the KLOM set, EasyDUB, datamodels.

    images, populations = read_klom(Request(paths={"retrained": folder, "ascent": file}, forget=...))
    images, populations = read_easydub(Request(paths={"": root}, forget_set=2))
    images, populations = read_datamodels(Request(paths={"retrained": folder}, forget=...))

KLOM (RoyRin/data-unlearning-bench at eb261f9, `unlearning_bench/paths.py`, `run.py`): `train_margins_all.pt` and
`val_margins_all.pt` in a folder per forget set, or both side by side in one file, tensors [models, images]; margins of
unlearned models are in a dictionary by epoch. EasyDUB (easydub/EasyDUB-code at 5de3c4c, `easydub/data.py`,
`train_models.py`): one `.npy` per model, split and forget set under `margins/`; forget margins are in the order of
`forget_set_K.npy`; margins of one's own models are in an `.npz`, [epochs, models, images] by split. Both save the
label's logit minus the logarithm of the summed exponentials of the others. Datamodels (MadryLab/datamodels,
`datamodels/training/`, `examples/cifar10/train_cifar.py`): `margins.npy` [models, images], memory-mapped, `masks.npy`
[models, training images], and `_completed.npy`; their example subtracts the largest other logit.

Does not cover: logits (`logits`), and which images a model was trained on, where a format does not say it.
"""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path

import numpy as np

from ray_unlearn.errors import DataError
from ray_unlearn.interchange.arrays import pick, read_array, read_positions, read_tree, sha256_of, stacked
from ray_unlearn.interchange.brought import Brought, Images, Origin, rows_of
from ray_unlearn.interchange.request import Request

KLOM_FILES = ("train_margins_all.pt", "val_margins_all.pt")
PHASES = ("retain", "forget", "val")
"""EasyDUB's names of retain, forget and test images."""
_MODEL = re.compile(r"id_(\d+)_epoch_(\d+)\.npy")


def read_klom(wanted: Request) -> tuple[Images, list[Brought]]:
    """Return the populations of files or folders of the KLOM set.

    Raises:
        DataError: a file is missing, or of another shape.
        StudyError: the command does not say what the files leave open.

    """
    found, num_train = [], None
    for name, path in wanted.paths.items():
        files = [path / file for file in KLOM_FILES] if path.is_dir() else [path]
        parts = [np.asarray(pick(read_tree(file), wanted.epoch, file)) for file in files]
        if any(part.ndim != 2 or len(part) != len(parts[0]) for part in parts):
            shapes = ", ".join(f"{file.name} {list(part.shape)}" for file, part in zip(files, parts, strict=True))
            raise DataError(f"{path}: expected [models, images], equally many models; found {shapes}")
        if path.is_dir():
            num_train = num_train or parts[0].shape[1]
            if parts[0].shape[1] != num_train:
                raise DataError(f"{files[0]}: expected {num_train} training images; found {parts[0].shape[1]}")
        origins = rows_of({file.name: sha256_of(file) for file in files}, range(len(parts[0])))
        found.append(Brought(name=name, values=np.concatenate(parts, axis=1), kind="log_odds", origins=origins))
    images = wanted.images(found[0].values.shape[1], num_train)
    wanted.need_forget(images)
    return images, found


def read_easydub(wanted: Request) -> tuple[Images, list[Brought]]:
    """Return `retrained` and, where it has them, `pretrained` of EasyDUB's folder, and those of one's own `.npz` files.

    Raises:
        DataError: a file is missing, or of another shape.

    """
    root, name = _easydub_root(wanted)
    number = wanted.forget_set or _only_set(root, name)
    file = root / "forget_sets" / name / f"forget_set_{number}.npy"
    oracle = {phase: Path("oracle", f"forget_{number}", phase) for phase in PHASES}
    pretrain = {phase: Path("pretrain", f"forget_{number}" if phase == "forget" else phase) for phase in PHASES}
    base = root / "margins" / name
    read = {
        one: _of_models(base, folders, wanted.epoch_number)
        for one, folders in (("retrained", oracle), ("pretrained", pretrain))
        if one == "retrained" or (base / "pretrain").is_dir()
    }
    sizes = {phase: read["retrained"][0][phase].shape[1] for phase in PHASES}
    num_train = sizes["retain"] + sizes["forget"]
    forget = np.array(read_positions(file, num_train))
    images = wanted.images_of(num_train, sizes["val"], forget.tolist(), _labels(wanted))
    found = []
    for one, (parts, origins, notes) in read.items():
        values = _in_order(parts, forget, num_train, f"{root}: {one}")
        found.append(Brought(name=one, values=values, kind="log_odds", origins=origins, notes=notes))
    for one, path in wanted.paths.items():
        if one:
            values = _in_order(_of_archive(path, wanted.epoch_number), forget, num_train, str(path))
            origins = rows_of({path.name: sha256_of(path)}, range(len(values)))
            found.append(Brought(name=one, values=values, kind="log_odds", origins=origins))
    return images, found


def _labels(wanted: Request) -> np.ndarray | None:
    return np.asarray(read_array(wanted.labels)) if wanted.labels else None


def _easydub_root(wanted: Request) -> tuple[Path, str]:
    """Return EasyDUB's folder, and the name of its data set."""
    root = wanted.paths.get("", Path())
    names = [path.name for path in sorted((root / "margins").glob("*")) if path.is_dir()]
    if "" not in wanted.paths or len(names) != 1:
        raise DataError(
            f"{root}: expected EasyDUB's folder, with margins/cifar10 and forget_sets/cifar10; found "
            f"{', '.join(names) or 'no folder in margins'}"
        )
    return root, names[0]


def _only_set(root: Path, name: str) -> int:
    found = [int(path.stem.rpartition("_")[2]) for path in (root / "forget_sets" / name).glob("forget_set_*.npy")]
    if len(found) != 1:
        raise DataError(f"{root}: holds forget sets {', '.join(map(str, sorted(found))) or 'none'}; --forget-set K")
    return found[0]


def _of_models(
    base: Path, folders: dict[str, Path], epoch: int | None
) -> tuple[dict[str, np.ndarray], list[Origin], tuple[str, ...]]:
    """Return margins [models, images] by split of the models that have all splits, their files, and notes."""
    by_phase: dict[str, dict[int, Path]] = {}
    for phase, folder in folders.items():
        epochs: dict[int, dict[int, Path]] = defaultdict(dict)
        for path in sorted((base / folder).glob("*/id_*_epoch_*.npy")):
            if match := _MODEL.fullmatch(path.name):
                first = epochs[int(match[2])].setdefault(int(match[1]), path)
                if first != path:
                    raise DataError(f"{path}: {first} is of the same model and epoch; keep the folder of one net")
        chosen = epoch if epoch is not None else max(epochs, default=0)
        if chosen not in epochs or (epoch is None and len(epochs) > 1):
            shown = ", ".join(map(str, sorted(epochs))) or "none"
            raise DataError(f"{base / folder}: expected id_N_epoch_E.npy; holds epochs {shown} (--epoch chooses one)")
        by_phase[phase] = epochs[chosen]
    models = sorted(set.intersection(*({*paths} for paths in by_phase.values())))
    left = sorted(set.union(*({*paths} for paths in by_phase.values())) - {*models})
    parts = {
        phase: stacked([read_array(paths[i]) for i in models], [paths[i] for i in models])
        for phase, paths in by_phase.items()
    }
    files = [[paths[i] for paths in by_phase.values()] for i in models]
    origins = [Origin({str(path.relative_to(base)): sha256_of(path) for path in own}) for own in files]
    notes = (f"{len(left)} models without margins of every split are left out, such as {left[0]}",) if left else ()
    return parts, origins, notes


def _of_archive(path: Path, epoch: int | None) -> dict[str, np.ndarray]:
    """Return margins [models, images] by split of an `.npz` file as EasyDUB's train_models.py writes it."""
    tree = read_tree(path)
    keys = {phase: f"margins_{phase}" for phase in PHASES}
    if isinstance(tree, np.ndarray) or not tree.keys() >= {*keys.values()}:
        raise DataError(f"{path}: expected {', '.join(keys.values())}")
    parts = {phase: tree[key] for phase, key in keys.items()}
    epochs = {len(part) for part in parts.values() if part.ndim == 3}
    if not epochs:
        return parts
    if epoch is None and epochs != {1}:
        raise DataError(f"{path}: holds {max(epochs)} epochs; --epoch, from 0, chooses one")
    if not 0 <= (epoch or 0) < min(epochs):
        raise DataError(f"{path}: no epoch {epoch}; expected 0 to {min(epochs) - 1}")
    return {phase: part[epoch or 0] for phase, part in parts.items()}


def _in_order(parts: dict[str, np.ndarray], forget: np.ndarray, num_train: int, where: str) -> np.ndarray:
    """Return margins [models, images] in the order of the data set: training images, then test images."""
    retain = np.setdiff1d(np.arange(num_train), forget)
    own = parts["retain"]
    if own.shape[1] == num_train:  # pretrained models saved all training images as retain
        own = own[:, retain]
    if own.shape[1] != len(retain) or parts["forget"].shape[1] != len(forget):
        raise DataError(
            f"{where}: expected margins of {len(retain)} retain and {len(forget)} forget images; found "
            f"{own.shape[1]} and {parts['forget'].shape[1]}"
        )
    train = np.empty((len(own), num_train), own.dtype)
    train[:, retain], train[:, forget] = own, parts["forget"]
    return np.concatenate([train, parts["val"]], axis=1)


def read_datamodels(wanted: Request) -> tuple[Images, list[Brought]]:
    """Return the finished models of stores of datamodels, a folder per population.

    Raises:
        DataError: a file is missing or of another shape, or the margins are of test images alone.

    """
    found = []
    for name, folder in wanted.paths.items():
        files = {key: folder / f"{key}.npy" for key in ("margins", "masks", "_completed")}
        arrays = {key: read_array(file) for key, file in files.items() if file.is_file() or key == "margins"}
        models = len(arrays["margins"])
        if wrong := [key for key, array in arrays.items() if len(array) != models]:
            raise DataError(
                f"{files[wrong[0]]}: expected a row for each of {models} models; found {len(arrays[wrong[0]])}"
            )
        made = np.flatnonzero(arrays.get("_completed", np.ones(models, np.bool_)))
        left = models - len(made)
        found.append(
            Brought(
                name=name,
                values=np.asarray(arrays["margins"][made]),
                kind="top_two",
                origins=rows_of({files[key].name: sha256_of(files[key]) for key in arrays}, made),
                members_RN=np.asarray(arrays["masks"][made]).astype(np.bool_) if "masks" in arrays else None,
                notes=(f"{left} of {models} models are not completed, and left out",) if left else (),
            )
        )
    members = next((one.members_RN for one in found if one.members_RN is not None), None)
    count, num_train = found[0].values.shape[1], members.shape[1] if members is not None else None
    if num_train is not None and count < num_train:
        raise DataError(
            f"margins are of {count:,} images and masks of {num_train:,} training images: margins of test images alone "
            "do not show what models forgot; save margins of the training images, then of test images"
        )
    images = wanted.images(count, num_train)
    wanted.need_forget(images)
    return images, found
